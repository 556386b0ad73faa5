"""System transactions: whose signatures count, over what, and that no byte of one can be changed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from consensus.codec import encode
from consensus.crypto.ed25519 import Ed25519
from consensus.reconfiguration import (
    ByGovernors,
    ByValidator,
    ChangeAccepted,
    ChangeIgnored,
    ChangeStake,
    GovernorSignature,
    RemoveValidator,
    SystemTransaction,
    approved_by_validator,
    sign_as_governor,
)
from consensus.signing import SigningDomain
from consensus.types import VoteSubject
from tests.support.governed import EXPIRES_AT, GOVERNORS, Governed, fold, governed, names, reason


def governors_of(chain: Governed) -> tuple[bytes, ...]:
    assert chain.spec.reconfiguration is not None
    return chain.spec.reconfiguration.governors


def test_enough_different_governors_sign() -> None:
    chain = governed()
    registry, change = chain.registry(), chain.addition("late")
    for enough in ((0, 1), (2, 1), (0, 1, 2)):
        assert isinstance(registry.judge(1, chain.governed(change, *enough)), ChangeAccepted)
    assert "signed by 1 governors, of whom 2 are needed" in reason(registry, chain.governed(change, 1))
    first, second = (sign_as_governor(chain.domain, change, governors_of(chain), GOVERNORS[i]) for i in (0, 1))
    for signatures in ((second, first), (first, first), (first, first, second)):
        transaction = SystemTransaction(change=change, approval=ByGovernors(signatures=signatures))
        assert "ascending, each governor once" in reason(registry, encode(transaction))
    for forged in (replace(second, governor=2), replace(second, signature=first.signature)):
        transaction = SystemTransaction(change=change, approval=ByGovernors(signatures=(first, forged)))
        assert f"signature of governor {forged.governor} is not" in reason(registry, encode(transaction))
    beyond = SystemTransaction(change=change, approval=ByGovernors(signatures=(first, replace(second, governor=3))))
    assert "governor 3 is not in the chain spec" in reason(registry, encode(beyond))
    with pytest.raises(ValueError, match="no governor's"):
        sign_as_governor(chain.domain, change, governors_of(chain), Ed25519().generate(b"x" * 32))


def test_each_change_has_its_signers() -> None:
    chain = governed()
    registry, first = chain.registry(), chain.first(0)
    key = chain.keys[first]
    added = approved_by_validator(chain.domain, chain.addition("late"), chain.key("late"))
    assert "needs the governors' signatures" in reason(registry, encode(added))
    stake = ChangeStake(public_key=first, stake=2, expires_at=EXPIRES_AT)
    assert "needs the governors" in reason(registry, encode(approved_by_validator(chain.domain, stake, key)))
    assert "by its holder's signature" in reason(registry, chain.governed(chain.rotation(first, "fresh")))
    # Nobody speaks for another member, the next key of a rotation not for the present one.
    leave = RemoveValidator(public_key=first, expires_at=EXPIRES_AT)
    stranger = approved_by_validator(chain.domain, leave, chain.keys[chain.first(1)])
    assert "is not that of" in reason(registry, encode(stranger))
    rotation = chain.rotation(first, "fresh")
    assert "is not that of" in reason(
        registry, encode(approved_by_validator(chain.domain, rotation, chain.key("fresh")))
    )


def test_without_governors_members_rotate_and_leave_only() -> None:
    chain = governed(governors=(), governors_needed=1)
    change = chain.addition("late")
    signature = GOVERNORS[0].sign(chain.domain.bytes_to_sign(change, "governor"))
    signed = ByGovernors(signatures=(GovernorSignature(governor=0, signature=signature),))
    transaction = encode(SystemTransaction(change=change, approval=signed))
    assert "not in the chain spec" in reason(chain.registry(), transaction)
    assert isinstance(chain.registry().judge(1, chain.leave(chain.first(0))), ChangeAccepted)


def test_a_signature_is_good_for_one_role_one_chain_and_one_purpose() -> None:
    """Pitfall 17, with a key that is a governor and a validator at once."""
    chain = governed(scheme="ed25519")
    key = GOVERNORS[0]
    proof = key.prove_possession()
    twice = chain.addition("twice", public_key=key.public_key, possession_proof=proof)
    registry, _ = fold(chain.registry(), range(1, 9), {1: [chain.governed(twice)]})
    assert names(registry)[-1] == "twice"
    leave = RemoveValidator(public_key=key.public_key, expires_at=EXPIRES_AT)
    as_governor = sign_as_governor(chain.domain, leave, governors_of(chain), key).signature
    for signature in (as_governor, proof, key.sign(encode(leave)), key.sign(vote_bytes(chain))):
        crossed = SystemTransaction(change=leave, approval=ByValidator(signature=signature))
        assert "is not that of" in reason(registry, encode(crossed), 9)
    other = governed(scheme="ed25519", epoch_heights=9)
    assert "is not that of" in reason(registry, encode(approved_by_validator(other.domain, leave, key)), 9)
    assert isinstance(registry.judge(9, encode(approved_by_validator(chain.domain, leave, key))), ChangeAccepted)
    assert "governor 0 is not over this change on this chain" in reason(registry, other.add("late"), 9)


def vote_bytes(chain: Governed) -> bytes:
    domain = SigningDomain(
        chain_id=chain.spec.chain_id, genesis_hash=chain.spec.hash, epoch=0, validators_hash=bytes(32)
    )
    subject = VoteSubject(kind="vote", epoch=0, view=1, block_id=bytes(32), height=1, justify_view=0)
    return domain.bytes_to_sign(subject)


CHAIN = governed(scheme="ed25519")


def test_every_changed_byte_of_a_transaction_makes_it_void() -> None:
    registry = CHAIN.registry()
    for honest in (CHAIN.add("late"), CHAIN.leave(CHAIN.first(0)), CHAIN.rotate(CHAIN.first(1), "fresh")):
        assert isinstance(registry.judge(1, honest), ChangeAccepted)
        for position in range(len(honest)):
            mutant = bytearray(honest)
            mutant[position] ^= 1
            assert isinstance(registry.judge(1, bytes(mutant)), ChangeIgnored), position
        assert isinstance(registry.judge(1, honest + b"\x00"), ChangeIgnored)
        assert isinstance(registry.judge(1, honest[:-1]), ChangeIgnored)
