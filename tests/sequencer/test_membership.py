"""Whom the transport is told of as a chain goes on: validators, guests, leavers, addresses; and what people see."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from consensus.epochs import EpochChange
from consensus.genesis import CHECKPOINT_INTERVAL_DEFAULT
from consensus.registry import Registry
from consensus.types import CommitProof, Height, PeerId
from sequencer.config import Address
from sequencer.membership import Membership, key_warnings
from tests.sequencer.chains import block
from tests.support.governed import Governed, governed

EPOCH = 8
SERVED = 4 * CHECKPOINT_INTERVAL_DEFAULT
"""Blocks for which leavers are served."""
FOUNDER_AT: Address = ("10.0.0.1", 26_600)
OWN_AT: Address = ("10.0.0.0", 26_600)


@dataclass
class FakeTransport:
    """Remembers what it was told last, and how often."""

    validators: frozenset[PeerId] = frozenset()
    guests: frozenset[PeerId] = frozenset()
    addresses: Mapping[PeerId, Address] = field(default_factory=dict)
    told: int = 0

    def set_members(
        self, *, validators: frozenset[PeerId], guests: frozenset[PeerId], addresses: Mapping[PeerId, Address]
    ) -> None:
        self.validators, self.guests, self.addresses = validators, guests, addresses
        self.told += 1


class Chain:
    """Blocks one after the other, and a membership that looks after each."""

    def __init__(self, made: Governed, *, own: int = 0, keys: Sequence[bytes] | None = None) -> None:
        self.governed = made
        self.registry: Registry | None = made.registry()
        self.height: Height = 0
        self.transport = FakeTransport()
        self.own_keys = list(keys) if keys is not None else [made.first(own)]
        self.membership = self.member(own)

    def member(self, own: int = 0) -> Membership:
        spec = self.governed.spec
        return Membership(
            spec=spec,
            own_peer=spec.validators[own].peer,
            own_keys=self.own_keys,
            own_address=OWN_AT,
            configured={spec.validators[1].peer: FOUNDER_AT},
            transport=self.transport,
            registry=lambda: self.registry,
            height=lambda: self.height,
        )

    def to(self, height: Height, *transactions: bytes) -> None:
        """Blocks up to ``height``; the transactions are in the first."""
        assert self.registry is not None
        while self.height < height:
            self.height += 1
            self.registry = self.registry.after(self.height, transactions).registry
            transactions = ()
            self.membership.update()

    def peer(self, name: str) -> PeerId:
        assert self.registry is not None
        return next(each.validator.peer for each in self.registry.members if each.validator.name == name)

    @property
    def founders(self) -> frozenset[PeerId]:
        return frozenset(validator.peer for validator in self.governed.spec.validators)


def test_who_is_added_is_a_guest_at_once_and_a_validator_with_the_epoch() -> None:
    chain = Chain(governed())
    chain.membership.restore(())
    assert (chain.transport.validators, chain.transport.guests) == (chain.founders, frozenset())
    chain.to(1, chain.governed.add("anna", address="10.0.0.9:7000"))
    anna = chain.peer("anna")
    assert (chain.transport.validators, chain.transport.guests) == (chain.founders, frozenset({anna}))
    assert chain.membership.joining == {anna}
    assert chain.transport.addresses == {chain.governed.spec.validators[1].peer: FOUNDER_AT, anna: ("10.0.0.9", 7000)}
    told = chain.transport.told
    chain.to(EPOCH - 1)
    assert chain.transport.told == told, "nothing changed"
    chain.to(EPOCH)
    assert (chain.transport.validators, chain.transport.guests) == (chain.founders | {anna}, frozenset())
    view = chain.membership.view()
    assert (view.epoch, view.began_after, view.pending) == (1, EPOCH, ())
    assert chain.membership.joining == frozenset()
    assert [entry.validator.name for entry in view.validators][-1] == "anna"
    assert [entry.address for entry in view.validators] == [
        *("10.0.0.0:26600", "10.0.0.1:26600", "", ""),
        "10.0.0.9:7000",
    ]


def test_who_left_is_served_until_finality_needs_it_no_more_and_its_address_is_forgotten() -> None:
    chain = Chain(governed())
    chain.membership.restore(())
    gone = chain.governed.spec.validators[1]
    chain.to(1, chain.governed.remove(gone.public_key))
    assert gone.peer in chain.transport.validators
    chain.to(EPOCH)
    assert gone.peer not in chain.transport.validators
    assert gone.peer in chain.transport.guests
    assert gone.peer in chain.transport.addresses
    # Another epoch ends meanwhile, and a restart comes in between.
    chain.to(EPOCH + 1, chain.governed.remove(chain.governed.first(2)))
    chain.to(EPOCH + SERVED)
    assert gone.peer in chain.transport.guests
    chain.to(EPOCH + SERVED + 1)
    assert gone.peer not in chain.transport.guests
    assert gone.peer not in chain.transport.addresses
    assert chain.governed.spec.validators[2].peer in chain.transport.guests
    chain.to(2 * EPOCH + SERVED + 1)
    assert not chain.transport.guests


def test_who_left_a_chain_without_checkpoints_is_served_for_another_epochs_length() -> None:
    made = governed()
    spec = msgspec.structs.replace(made.spec, checkpoint_interval=0)
    chain = Chain(Governed(spec=spec, scheme=made.scheme, keys=made.keys))
    chain.membership.restore(())
    gone = spec.validators[1]
    chain.to(1, chain.governed.remove(gone.public_key))
    chain.to(2 * EPOCH)
    assert gone.peer in chain.transport.guests
    chain.to(2 * EPOCH + 1)
    assert gone.peer not in chain.transport.guests


def test_a_next_tls_key_is_a_guest_before_it_is_the_validators() -> None:
    chain = Chain(governed())
    chain.membership.restore(())
    next_peer = b"\xcd" * 32
    chain.to(1, chain.governed.rotate(chain.governed.first(2), "next", peer=next_peer))
    assert next_peer in chain.transport.guests
    chain.to(EPOCH)
    assert next_peer in chain.transport.validators
    assert chain.governed.spec.validators[2].peer in chain.transport.guests


@pytest.mark.parametrize("stored", [0, 1])
def test_a_restart_takes_up_where_the_chain_stands(stored: int) -> None:
    """Also between the boundary's commit and the record of the epoch that it begins."""
    chain = Chain(governed())
    gone = chain.governed.spec.validators[3]
    chain.to(1, chain.governed.remove(gone.public_key))
    chain.to(EPOCH)
    assert chain.registry is not None
    header = block(EPOCH).header
    proof = CommitProof(epoch=0, headers=(), certificate=header.justify)
    change = EpochChange(boundary=header, validators=chain.registry.validators, proof=proof)
    again = chain.member()
    again.restore((change,)[:stored])
    assert gone.peer in chain.transport.guests
    assert gone.peer not in chain.transport.validators
    assert (again.view().epoch, again.view().began_after) == (1, EPOCH)
    chain.membership = again
    chain.to(EPOCH + SERVED)
    assert gone.peer in chain.transport.guests
    chain.to(EPOCH + SERVED + 1)
    assert gone.peer not in chain.transport.guests


def test_a_restart_knows_all_who_are_still_served() -> None:
    chain = Chain(governed())
    changes: list[EpochChange] = []
    for number in (3, 2):
        gone = chain.governed.spec.validators[number]
        chain.to(chain.height + 1, chain.governed.remove(gone.public_key))
        chain.to(EPOCH * (len(changes) + 1))
        assert chain.registry is not None
        header = msgspec.structs.replace(block(chain.height).header, epoch=len(changes))
        proof = CommitProof(epoch=len(changes), headers=(), certificate=header.justify)
        changes.append(EpochChange(boundary=header, validators=chain.registry.validators, proof=proof))
    for stored in (1, 2):
        chain.member().restore(changes[:stored])
        guests = {validator.peer for validator in chain.governed.spec.validators[2:]}
        assert chain.transport.guests == guests


def test_a_chain_whose_validators_never_change_tells_nothing() -> None:
    chain = Chain(governed())
    chain.registry = None
    chain.membership.restore(())
    chain.membership.update()
    assert chain.transport.told == 0
    view = chain.membership.view()
    assert [entry.validator for entry in view.validators] == list(chain.governed.spec.validators)
    assert view.pending == ()


def test_every_kind_of_pending_change_is_shown_with_its_height() -> None:
    chain = Chain(governed(exit_heights=2 * EPOCH))
    first = chain.governed.first
    chain.to(
        1,
        chain.governed.add("anna", stake=7),
        chain.governed.remove(first(1)),
        chain.governed.rotate(first(2), "next"),
        chain.governed.restake(first(3), 9),
    )
    shown = [(each.name, each.kind, each.stake, each.effective_at) for each in chain.membership.view().pending]
    assert shown == [
        ("validator-1", "leaves", 0, 3 * EPOCH),
        ("validator-2", "rotates", 1, EPOCH),
        ("validator-3", "stake", 9, EPOCH),
        ("anna", "joins", 7, EPOCH),
    ]


def test_the_own_role_follows_the_keys_of_the_epoch(caplog: pytest.LogCaptureFixture) -> None:
    made = governed()
    old, new = made.first(0), made.key("next").public_key
    chain = Chain(made, keys=[old])
    chain.membership.restore(())
    assert chain.membership.own == made.spec.validators[0]
    caplog.set_level(logging.INFO)
    chain.to(1, made.rotate(old, "next"))
    assert f"signs with key {new.hex()} after height {EPOCH}, and this node does not hold it" in caplog.text
    chain.to(EPOCH)
    assert chain.membership.own is None, "it holds the old key alone"
    assert "and not its consensus key" in caplog.text
    assert f"epoch 1 begins after height {EPOCH}: 4 validators (validator-0 changed)" in caplog.text
    chain.own_keys.append(new)
    assert chain.member().own is not None, "restarted with both"


def test_warnings_of_keys_say_what_to_do() -> None:
    made = governed()
    registry, (first, second, *_) = made.registry(), made.spec.validators
    assert key_warnings(registry, first.peer, [first.public_key]) == []
    assert key_warnings(registry, b"\xee" * 32, []) == []
    (missing,) = key_warnings(registry, first.peer, [])
    assert "Name that key's file in keys.consensus" in missing
    one, other = key_warnings(registry, first.peer, [second.public_key])
    assert "the TLS key of validator 'validator-0'" in one
    assert "the consensus key of validator 'validator-1', whose TLS key is another one" in other
