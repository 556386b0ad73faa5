"""Frozen bytes of system transactions and of the registry, as ``docs/wire-format.md`` describes them.

After a deliberate change, write them anew with ``python -m tests.consensus.test_reconfiguration_vectors`` and say in a
newsfragment that chains made before cannot be continued.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgpack

from consensus.codec import encode
from consensus.reconfiguration import (
    Change,
    ChangeAccepted,
    ChangeIgnored,
    ChangeStake,
    RemoveValidator,
    approved_by_validator,
    change_digest,
    system_transactions,
)
from consensus.registry import _states
from tests.support.governed import governed

FILE = Path(__file__).parent / "reconfiguration_vectors.json"
CHAIN = governed(scheme="ed25519")
OWN = (
    RemoveValidator(public_key=CHAIN.first(1), expires_at=1_000),
    CHAIN.rotation(CHAIN.first(2), "fresh", peer=b"\x07" * 32, expires_at=1_000),
)
GOVERNED = (
    CHAIN.addition("late", expires_at=1_000),
    RemoveValidator(public_key=CHAIN.first(0), expires_at=1_001),
    ChangeStake(public_key=CHAIN.first(3), stake=300, expires_at=1_000),
)


def signed() -> dict[str, bytes]:
    """Transactions by the name of their change."""
    own = {
        f"{type(change).__name__}, own": encode(
            approved_by_validator(CHAIN.domain, change, CHAIN.keys[change.public_key])
        )
        for change in OWN
    }
    return own | {f"{type(change).__name__}, governed": CHAIN.governed(change) for change in GOVERNED}


def vectors() -> dict[str, str]:
    """Hex of every change, what is signed, every transaction, and a registry with something of each kind."""
    result = {name: transaction.hex() for name, transaction in signed().items()}
    changes: tuple[Change, ...] = (*OWN, *GOVERNED)
    for change in changes:
        name = f"{type(change).__name__} {change.expires_at}"
        result[f"digest of {name}"] = change_digest(change).hex()
        result[f"signed by governors: {name}"] = CHAIN.domain.bytes_to_sign(change, "governor").hex()
        result[f"signed by a validator: {name}"] = CHAIN.domain.bytes_to_sign(change, "validator").hex()
    result["registry"] = CHAIN.registry().after(1, list(signed().values())).registry.encode().hex()
    result["accepted"] = encode(ChangeAccepted(effective_at=128)).hex()
    result["ignored"] = encode(ChangeIgnored(reason="why")).hex()
    return result


def test_system_transactions_have_not_changed() -> None:
    assert vectors() == json.loads(FILE.read_text())


def test_an_independent_codec_reads_and_writes_them() -> None:
    for transaction in signed().values():
        read = msgpack.unpackb(transaction, raw=False)
        assert msgpack.packb(read, use_bin_type=True) == transaction
        assert encode(system_transactions.decode(transaction)) == transaction
    state = bytes.fromhex(vectors()["registry"])
    assert msgpack.packb(msgpack.unpackb(state, raw=False), use_bin_type=True) == state
    assert encode(_states.decode(state)) == state


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=2, sort_keys=True) + "\n")
