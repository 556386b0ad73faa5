"""Ethereum transactions that were submitted here and are not executed yet, by their Ethereum hash.

The sequencer knows a transaction by its own id and does not look inside. Wallets ask by the Keccak-256 of the raw bytes
from the moment of submission, so what passes through here is remembered until it is executed, within bounds: what is
pushed out is still ordered, only not shown as pending.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from rollup_adapters.base import JsonValue
from sequencer.transactions import TransactionId

ENTRY_BYTES: Final = 2048
"""What an entry takes besides its data, roughly."""


@dataclass(frozen=True)
class PendingTransaction:
    """``shape`` is its JSON object as pending, None where the adapter was down when it came."""

    transaction_id: TransactionId
    raw: bytes
    shape: dict[str, JsonValue] | None

    @property
    def account(self) -> tuple[str, int] | None:
        """Sender (lower case) and nonce."""
        if self.shape is None:
            return None
        sender, nonce = self.shape.get("from"), self.shape.get("nonce")
        if not isinstance(sender, str) or not isinstance(nonce, str):
            return None
        return sender.lower(), int(nonce, 16)


class PendingTransactions:
    """The recent submissions to one rollup; what came first goes first."""

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._by_hash: OrderedDict[bytes, PendingTransaction] = OrderedDict()
        self._by_account: dict[tuple[str, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def put(self, transaction_hash: bytes, transaction: PendingTransaction) -> None:
        """Remember one; it replaces what was known by its hash."""
        self.drop(transaction_hash)
        self._by_hash[transaction_hash] = transaction
        self._bytes += _size(transaction)
        if transaction.account is not None:
            self._by_account[transaction.account] = transaction_hash
        while len(self._by_hash) > self._entries_max or (self._bytes > self._bytes_max and len(self._by_hash) > 1):
            self.drop(next(iter(self._by_hash)))

    def get(self, transaction_hash: bytes) -> PendingTransaction | None:
        """What is known by this hash."""
        return self._by_hash.get(transaction_hash)

    def sent_by(self, sender: str, nonce: int) -> bytes | None:
        """The hash of the latest one with this sender (lower case) and nonce."""
        return self._by_account.get((sender, nonce))

    def drop(self, transaction_hash: bytes) -> None:
        """Forget one."""
        transaction = self._by_hash.pop(transaction_hash, None)
        if transaction is None:
            return
        self._bytes -= _size(transaction)
        account = transaction.account
        if account is not None and self._by_account.get(account) == transaction_hash:
            del self._by_account[account]


def _size(transaction: PendingTransaction) -> int:
    # The shape repeats the data as hex.
    return 3 * len(transaction.raw) + ENTRY_BYTES
