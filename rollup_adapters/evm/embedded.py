"""The embedded execution client: py-evm in this process, its blocks and state in the adapter's own store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import apsw
from eth.vm.forks.cancun.state import CancunState
from eth_hash.auto import keccak

from rollup_adapters.base import JsonValue, Outcome
from rollup_adapters.evm.chain import Header, Receipt, base_fee_after, included_detail, logs_bloom, next_base_fee
from rollup_adapters.evm.encoding import EMPTY_TRIE_ROOT, encode, list_of_encoded, ordered_root
from rollup_adapters.evm.execution_client import Budget, BudgetExceeded, BuiltSection, Head, PayloadAttributes
from rollup_adapters.evm.rpc import answer
from rollup_adapters.evm.settings import EvmSettings
from rollup_adapters.evm.state import (
    EMPTY_STATE_ROOT,
    Environment,
    NodeDatabase,
    ancestors,
    execute,
    open_state,
    receipt_of,
    record_beacon_root,
    refusal,
    write_genesis,
)
from rollup_adapters.evm.store import Store, StoreError
from rollup_adapters.evm.transactions import Malformed, Transaction, decode


class EmbeddedClient:
    """An :class:`~rollup_adapters.evm.execution_client.ExecutionClient` on py-evm. Writes genesis into an empty store.

    Raises ``ValueError`` where the store holds a chain with another genesis.
    """

    def __init__(self, settings: EvmSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._nodes = NodeDatabase(store)
        if store.head_number() is None:
            with store.writing():
                self._write_genesis()
        self._head = self._stored_head()
        self._check_genesis()

    def _stored_head(self) -> Header:
        number = self._store.head_number()
        header = None if number is None else self._store.header(number)
        if header is None:
            raise StoreError(f"{self._store.path}: no blocks, not even genesis")
        return header

    def _genesis(self, nodes: NodeDatabase) -> Header:
        settings = self._settings
        environment = Environment(
            chain_id=settings.chain_id,
            number=0,
            timestamp_s=settings.timestamp_s,
            fee_recipient=settings.fee_recipient,
            prev_randao=bytes(32),
            gas_limit=settings.gas_limit,
            base_fee_per_gas=settings.base_fee_per_gas,
            ancestors=(),
        )
        root = write_genesis(open_state(nodes, environment, EMPTY_STATE_ROOT), settings.alloc.items())
        return Header(
            parent_hash=bytes(32),
            fee_recipient=settings.fee_recipient,
            state_root=root,
            transactions_root=EMPTY_TRIE_ROOT,
            receipts_root=EMPTY_TRIE_ROOT,
            bloom=0,
            number=0,
            gas_limit=settings.gas_limit,
            gas_used=0,
            timestamp_s=settings.timestamp_s,
            prev_randao=bytes(32),
            base_fee_per_gas=settings.base_fee_per_gas,
            parent_beacon_block_root=bytes(32),
        )

    def _fingerprint(self) -> bytes:
        """What must not change between starts: the settings themselves, since a chain id is not in any header."""
        settings = self._settings
        alloc = [
            [address.hex(), str(account.balance), account.nonce, account.code.hex(), sorted(account.storage.items())]
            for address, account in sorted(settings.alloc.items())
        ]
        head = [settings.chain_id, settings.gas_limit, str(settings.base_fee_per_gas), settings.timestamp_s]
        return keccak(json.dumps([*head, settings.fee_recipient.hex(), alloc]).encode())

    def _write_genesis(self) -> None:
        genesis = self._genesis(self._nodes)
        self._nodes.flush(self._store)
        self._store.put_block(genesis, (), len(_block_encoding(genesis, ())))
        self._store.put_blob("genesis", self._fingerprint())

    def _check_genesis(self) -> None:
        if self._store.blob_in("genesis") != self._fingerprint():
            raise ValueError(
                f"settings: {self._store.path} holds a chain with other settings; restore them, or give the rollup an "
                "empty directory and let it execute from the first height"
            )

    def head(self) -> Head:
        """The newest block."""
        return Head(number=self._head.number, hash=self._head.hash, state_root=self._head.state_root)

    def forget_uncommitted(self) -> None:
        """Return to the stored head after a rollback."""
        self._nodes.forget()
        self._head = self._stored_head()

    def set_forkchoice(self, safe: int, finalized: int) -> None:
        """Remember which blocks the tags ``safe`` and ``finalized`` name."""
        self._store.put_number("safe", safe)
        self._store.put_number("finalized", finalized)

    def query(self, method: str, params: JsonValue, budget: Budget) -> JsonValue:
        """Answer from a snapshot of the last commit; never waits for a block that is being built."""
        try:
            with self._store.reader(budget.is_spent) as snapshot:
                return answer(self._settings, snapshot, method, params, budget)
        except apsw.InterruptError:
            raise BudgetExceeded(budget.message) from None

    def build(self, attributes: PayloadAttributes, transactions: Sequence[bytes]) -> BuiltSection:
        """Execute one section on top of the head, inside the store's open transaction."""
        draft = self._open(attributes)
        outcomes: list[Outcome] = []
        for raw in map(bytes, transactions):
            decoded = decode(raw, self._settings.chain_id, self._settings.gas_limit)
            if isinstance(decoded, Malformed):
                outcomes.append(Outcome(status="skipped", detail=decoded.reason))
                continue
            fits = decoded.gas <= draft.gas_left
            # What refuses a sender does not change between blocks, the base fee does: judge before anything is closed.
            reason = refusal(draft.state, decoded, draft.base_fee_per_gas if fits else draft.base_fee_after)
            if reason is not None:
                outcomes.append(Outcome(status="skipped", detail=reason))
                continue
            if not fits:
                self._close(draft)
                attributes = replace(attributes, prev_randao=keccak(attributes.prev_randao))
                draft = self._open(attributes)
            outcomes.append(Outcome(status="included", detail=included_detail(draft.execute(decoded, raw))))
        self._close(draft)
        return BuiltSection(number=self._head.number, outcomes=tuple(outcomes))

    def _open(self, attributes: PayloadAttributes) -> _Draft:
        parent, settings = self._head, self._settings
        environment = Environment(
            chain_id=settings.chain_id,
            number=parent.number + 1,
            # Two blocks may share a second, as on Arbitrum; Ethereum would demand a later timestamp.
            timestamp_s=max(parent.timestamp_s, attributes.timestamp_s),
            fee_recipient=settings.fee_recipient,
            prev_randao=attributes.prev_randao,
            gas_limit=settings.gas_limit,
            base_fee_per_gas=next_base_fee(parent),
            ancestors=ancestors(self._store, parent.number),
        )
        state = open_state(self._nodes, environment, parent.state_root)
        record_beacon_root(state, environment.timestamp_s, attributes.parent_beacon_block_root)
        return _Draft(environment, attributes.parent_beacon_block_root, state)

    def _close(self, draft: _Draft) -> None:
        header, executed = draft.seal(self._head), draft.executed
        size_bytes = len(_block_encoding(header, [(transaction, raw) for transaction, raw, _ in executed]))
        self._nodes.flush(self._store)
        self._store.put_block(header, executed, size_bytes)
        self._head = header


class _Draft:
    """The block that is open: its environment, the state so far, and what it has executed."""

    def __init__(self, environment: Environment, beacon_root: bytes, state: CancunState) -> None:
        self.state = state
        self.executed: list[tuple[Transaction, bytes, Receipt]] = []
        self._environment, self._beacon_root = environment, beacon_root
        self._gas_used = 0

    @property
    def gas_left(self) -> int:
        """What the next transaction's gas limit may be in this block."""
        return self._environment.gas_limit - self._gas_used

    @property
    def base_fee_per_gas(self) -> int:
        """In wei, of this block."""
        return self._environment.base_fee_per_gas

    @property
    def base_fee_after(self) -> int:
        """In wei, of the next block if this one were closed now."""
        return base_fee_after(self.base_fee_per_gas, self._gas_used, self._environment.gas_limit)

    def execute(self, transaction: Transaction, raw: bytes) -> Receipt:
        """Run a transaction that fits and that :func:`refusal` let pass."""
        receipt = receipt_of(execute(self.state, transaction), self._gas_used)
        self._gas_used = receipt.cumulative_gas_used
        self.executed.append((transaction, raw, receipt))
        return receipt

    def seal(self, parent: Header) -> Header:
        """The header on top of ``parent``; the state is written to its nodes."""
        self.state.persist()
        environment, executed = self._environment, self.executed
        return Header(
            parent_hash=parent.hash,
            fee_recipient=environment.fee_recipient,
            state_root=self.state.state_root,
            transactions_root=ordered_root([raw for _, raw, _ in executed]),
            receipts_root=ordered_root([receipt.encode(transaction.type_id) for transaction, _, receipt in executed]),
            bloom=int(logs_bloom([log for _, _, receipt in executed for log in receipt.logs])),
            number=environment.number,
            gas_limit=environment.gas_limit,
            gas_used=self._gas_used,
            timestamp_s=environment.timestamp_s,
            prev_randao=environment.prev_randao,
            base_fee_per_gas=environment.base_fee_per_gas,
            parent_beacon_block_root=self._beacon_root,
        )


def _block_encoding(header: Header, executed: Sequence[tuple[Transaction, bytes]]) -> bytes:
    """RLP of the whole block, which only its size is wanted of. Typed transactions are byte strings in it
    (EIP-2718)."""
    body = list_of_encoded([encode(raw) if transaction.type_id else raw for transaction, raw in executed])
    return list_of_encoded([header.encode(), body, b"\xc0", b"\xc0"])
