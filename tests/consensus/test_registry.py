"""The registry: when a change takes effect, what is refused and why, and that nothing counts twice.

Epochs can end at each multiple of 8 heights; two of three governors are needed; each test's chain has four validators
of stake 1 unless it says otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from consensus import registry as registry_module
from consensus.codec import Malformed
from consensus.genesis import Reconfiguration, check_chain_spec
from consensus.reconfiguration import (
    LIFETIME_HEIGHTS_MAX,
    Change,
    ChangeAccepted,
    ChangeIgnored,
    ChangeStake,
    SystemTransaction,
    system_transactions,
)
from consensus.registry import (
    CHANGES_PER_BLOCK_MAX,
    OWN_REMEMBERED_MAX,
    Registry,
)
from consensus.validators import ValidatorSet
from tests.support.committee import committee
from tests.support.governed import GOVERNORS, Governed, fold, governed, names, reason


def named_at(registry: Registry, height: int) -> list[str] | None:
    """Whom a block at ``height`` must name."""
    validators = registry.next_validators(height)
    return None if validators is None else [validator.name for validator in validators.validators]


FIRST = ["validator-0", "validator-1", "validator-2", "validator-3"]

# --- when ------------------------------------------------------------------------------------------------------------


def test_an_addition_takes_effect_at_the_next_boundary() -> None:
    chain = governed()
    registry, outcomes = fold(chain.registry(), range(1, 8), {5: [chain.add("late"), chain.add("later")]})
    assert outcomes == [ChangeAccepted(effective_at=8)] * 2
    assert names(registry) == FIRST
    assert registry.epoch == 0
    assert named_at(registry, 8) == [*FIRST, "late", "later"]
    # The boundary's own transactions come after the switch: this one waits for the next.
    registry, outcomes = fold(registry, [8], {8: [chain.remove(chain.first(0))]})
    assert (names(registry), registry.epoch) == ([*FIRST, "late", "later"], 1)
    assert outcomes == [ChangeAccepted(effective_at=16)]
    registry, _ = fold(registry, range(9, 17))
    assert (names(registry), registry.epoch) == (["validator-1", "validator-2", "validator-3", "late", "later"], 2)


def test_only_a_due_boundary_names_a_set() -> None:
    chain = governed()
    registry, _ = fold(chain.registry(), [1], {1: [chain.add("late")]})
    assert [height for height in range(2, 40) if registry.next_validators(height)] == [8, 16, 24, 32]
    registry, _ = fold(registry, range(2, 9))
    assert not any(registry.next_validators(height) for height in range(9, 40))


def test_a_change_in_the_block_before_a_boundary_is_in_time_and_one_in_the_boundary_is_not() -> None:
    chain = governed()
    registry, _ = fold(chain.registry(), range(1, 8), {7: [chain.add("late")]})
    assert named_at(registry, 8) == [*FIRST, "late"]
    registry, _ = fold(chain.registry(), range(1, 9), {8: [chain.add("late")]})
    assert (registry.epoch, named_at(registry, 16)) == (0, [*FIRST, "late"])


def test_delays_count_from_the_block_that_orders_the_change() -> None:
    chain = governed(activation_heights=7, exit_heights=20)
    blocks = {2: [chain.add("late"), chain.remove(chain.first(0)), chain.restake(chain.first(1), 5)]}
    registry, outcomes = fold(chain.registry(), range(1, 3), blocks)
    assert outcomes == [
        ChangeAccepted(effective_at=16),
        ChangeAccepted(effective_at=24),
        ChangeAccepted(effective_at=16),
    ]
    # Due from 2 + 7 on, so the boundary at 8 is too early; from then on blocks need not wait for work.
    assert [height for height in range(3, 17) if registry.is_due(height)] == list(range(9, 17))
    assert named_at(registry, 8) is None
    assert named_at(registry, 16) == [*FIRST, "late"]
    registry, _ = fold(registry, range(3, 17))
    assert [validator.stake for validator in registry.validators] == [1, 5, 1, 1, 1]
    assert [height for height in range(17, 25) if registry.is_due(height)] == [22, 23, 24]
    assert named_at(registry, 24) == [*FIRST[1:], "late"]


def test_who_joins_later_waits() -> None:
    chain = governed(activation_heights=5)
    registry, _ = fold(chain.registry(), range(1, 9), {1: [chain.add("a")], 5: [chain.add("b")]})
    assert names(registry) == [*FIRST, "a"]
    assert named_at(registry, 16) == [*FIRST, "a", "b"]
    registry, _ = fold(registry, range(9, 17))
    assert (names(registry), registry.epoch) == ([*FIRST, "a", "b"], 2)


def test_a_smaller_stake_takes_the_exit_delay() -> None:
    chain = governed(stakes=(5, 1, 1, 1), exit_heights=9)
    registry, outcomes = fold(chain.registry(), [1], {1: [chain.restake(chain.first(0), 2)]})
    assert outcomes == [ChangeAccepted(effective_at=16)]
    registry, _ = fold(registry, range(2, 17))
    assert [validator.stake for validator in registry.validators] == [2, 1, 1, 1]


def test_an_epoch_may_end_with_every_block() -> None:
    chain = governed(epoch_heights=1)
    registry, _ = fold(chain.registry(), [1], {1: [chain.add("a")]})
    registry, _ = fold(registry, [2], {2: [chain.add("b")]})
    assert (names(registry), registry.epoch) == ([*FIRST, "a"], 1)
    registry, _ = fold(registry, [3])
    assert (names(registry), registry.epoch) == ([*FIRST, "a", "b"], 2)
    assert registry.after(4).registry is registry


def test_a_member_rotates_its_key_and_keeps_its_place() -> None:
    chain = governed()
    registry, outcomes = fold(chain.registry(), [3], {3: [chain.rotate(chain.first(1), "fresh", peer=b"\x07" * 32)]})
    assert outcomes == [ChangeAccepted(effective_at=8)]
    assert registry.validators == chain.spec.validators
    registry, _ = fold(registry, range(4, 9))
    before, after = chain.spec.validators[1], registry.validators[1]
    assert after == replace(
        before,
        public_key=chain.key("fresh").public_key,
        possession_proof=chain.key("fresh").prove_possession(),
        peer=b"\x07" * 32,
    )
    assert names(registry) == FIRST
    # The old key speaks for nobody any more; the new one does.
    assert "no member" in reason(registry, chain.leave(before.public_key), 9)
    assert registry.judge(9, chain.leave(after.public_key)) == ChangeAccepted(effective_at=16)
    # Without a new TLS key the old one stays.
    registry, _ = fold(registry, range(9, 17), {9: [chain.rotate(after.public_key, "fresher")]})
    assert registry.validators[1].peer == b"\x07" * 32


def test_a_member_leaves_by_its_own_signature() -> None:
    chain = governed()
    registry, _ = fold(chain.registry(), range(1, 9), {1: [chain.leave(chain.first(2))]})
    assert names(registry) == ["validator-0", "validator-1", "validator-3"]


def test_who_is_removed_before_it_joins_never_does() -> None:
    chain = governed(activation_heights=20)
    added, removed = chain.add("late"), chain.remove(chain.key("late").public_key)
    registry, outcomes = fold(chain.registry(), [1, 2], {1: [added], 2: [removed]})
    assert outcomes == [ChangeAccepted(effective_at=24)] * 2
    assert registry.members == chain.registry().members
    assert not any(registry.next_validators(height) for height in range(3, 80))


def test_a_pending_member_rotates_before_it_joins() -> None:
    chain = governed()
    late = chain.key("late").public_key
    registry, _ = fold(chain.registry(), range(1, 9), {1: [chain.add("late"), chain.rotate(late, "fresh")]})
    assert registry.validators[-1].public_key == chain.key("fresh").public_key


def test_a_set_is_replaced_within_one_epoch() -> None:
    chain = governed()
    changes = [chain.add(f"next-{index}") for index in range(4)] + [chain.remove(chain.first(i)) for i in range(4)]
    registry, outcomes = fold(chain.registry(), range(1, 9), {1: changes})
    assert outcomes == [ChangeAccepted(effective_at=8)] * 8
    assert names(registry) == ["next-0", "next-1", "next-2", "next-3"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_names_and_keys_stay_different() -> None:
    chain = governed()
    first = chain.spec.validators[0]
    registry = chain.registry()
    assert "name validator-0 is taken" in reason(registry, chain.add("validator-0"))
    held = chain.addition("other", public_key=first.public_key, possession_proof=first.possession_proof)
    assert "validator-0 has, or will have, the public key" in reason(registry, chain.governed(held))
    assert "validator-0 has, or will have, the TLS key" in reason(registry, chain.add("other", peer=first.peer))
    rotated = chain.rotate(first.public_key, "fresh", peer=b"\x07" * 32)
    registry, _ = fold(registry, [1], {1: [rotated]})
    assert "will have, the public key" in reason(registry, chain.governed(chain.addition("fresh", name="other")), 2)
    assert "will have, the TLS key" in reason(registry, chain.add("other", peer=b"\x07" * 32), 2)
    assert "will have, the public key" in reason(registry, chain.rotate(chain.first(1), "fresh"), 2)
    assert "will have, the TLS key" in reason(registry, chain.rotate(chain.first(1), "b", peer=first.peer), 2)
    # Once the old keys are nobody's, they are free.
    registry, _ = fold(registry, range(2, 9))
    assert isinstance(registry.judge(9, chain.add("other", peer=first.peer)), ChangeAccepted)


def test_a_rotation_to_the_own_tls_key_keeps_it() -> None:
    chain = governed()
    own_peer = chain.spec.validators[0].peer
    registry, _ = fold(chain.registry(), range(1, 9), {1: [chain.rotate(chain.first(0), "fresh", peer=own_peer)]})
    assert (registry.validators[0].public_key, registry.validators[0].peer) == (chain.key("fresh").public_key, own_peer)


def test_nobody_left_is_refused() -> None:
    chain = governed(1, activation_heights=9)
    registry = chain.registry()
    assert "nobody is left after height 8" in reason(registry, chain.leave(chain.first(0)))
    # An addition that joins too late does not help; one that has joined does.
    registry, _ = fold(registry, [1], {1: [chain.add("late")]})
    assert "nobody is left after height 8" in reason(registry, chain.leave(chain.first(0)), 2)
    assert registry.judge(9, chain.leave(chain.first(0))) == ChangeAccepted(effective_at=16)
    # And who was to be left cannot be taken away again.
    registry, _ = fold(registry, range(2, 10), {9: [chain.leave(chain.first(0))]})
    assert "nobody is left after height 16" in reason(registry, chain.remove(chain.key("late").public_key), 9)


def test_one_change_of_a_kind_at_a_time() -> None:
    chain = governed()
    first, second = chain.first(0), chain.first(1)
    blocks = {1: [chain.rotate(first, "a"), chain.restake(first, 2), chain.leave(second)]}
    registry, _ = fold(chain.registry(), [1], blocks)
    assert "rotates its key already" in reason(registry, chain.rotate(first, "b"), 2)
    assert "changes already" in reason(registry, chain.restake(first, 3), 2)
    for change in (chain.rotate(second, "b"), chain.restake(second, 2), chain.remove(second, expires_at=9)):
        assert "validator-1 leaves already" in reason(registry, change, 2)
    assert "is 1 already" in reason(registry, chain.restake(chain.first(2), 1), 2)
    assert isinstance(registry.judge(2, chain.leave(first)), ChangeAccepted)


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "VALIDATORS_MAX", 5)
    chain = governed()
    registry, outcomes = fold(chain.registry(), [1], {1: [chain.add("a"), chain.add("b"), chain.leave(chain.first(0))]})
    assert [type(outcome) for outcome in outcomes] == [ChangeAccepted, ChangeIgnored, ChangeAccepted]
    # The leaving one counts until it has left.
    assert "5 members, as many as there may be" in reason(registry, chain.add("b"), 2)
    registry, _ = fold(registry, range(2, 9))
    assert isinstance(registry.judge(9, chain.add("b")), ChangeAccepted)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"possession_proof": b"\x01" * 64}, "possession proof"),
        ({"public_key": bytes(32)}, "possession proof"),  # a point of order 4
        ({"public_key": b"\x01" + bytes(31)}, "possession proof"),  # the identity
        ({"public_key": b"\xec" + b"\xff" * 30 + b"\x7f"}, "possession proof"),  # a point of order 2
        ({"public_key": b"short"}, "possession proof"),
        ({"name": ""}, "not a system transaction"),
        ({"name": " a"}, "not a system transaction"),
        ({"name": "a\n"}, "not a system transaction"),
        ({"name": "a\x1b[2J"}, "not a system transaction"),
        ({"name": "ä"}, "not a system transaction"),
        ({"name": "a" * 65}, "not a system transaction"),
        ({"operator": ""}, "not a system transaction"),
        ({"stake": 0}, "not a system transaction"),
        ({"stake": 2**53 + 1}, "not a system transaction"),
        ({"peer": b"\x01" * 31}, "not a system transaction"),
        ({"address": "a b"}, "not a system transaction"),
        ({"address": "a" * 256}, "not a system transaction"),
        ({"expires_at": 0}, "expired at height 0, this is 1"),
        ({"expires_at": LIFETIME_HEIGHTS_MAX + 2}, "more than 1048576 heights ahead of 1"),
    ],
)
def test_an_addition_that_cannot_be(change: dict[str, Any], fault: str) -> None:
    chain = governed(scheme="ed25519")
    assert fault in reason(chain.registry(), chain.add("late", **change))


def test_an_addition_at_its_edges() -> None:
    chain = governed()
    for edge in ({"name": "a"}, {"name": "a" * 64}, {"address": ""}, {"stake": 2**53}, {"expires_at": 1}):
        assert isinstance(chain.registry().judge(1, chain.add("late", **edge)), ChangeAccepted)
    latest = chain.add("late", expires_at=1 + LIFETIME_HEIGHTS_MAX)
    assert isinstance(chain.registry().judge(1, latest), ChangeAccepted)


def test_a_bls_key_at_infinity_is_refused() -> None:
    chain = governed(scheme="bls")
    infinity = {"public_key": b"\xc0" + bytes(47), "possession_proof": b"\xc0" + bytes(95)}
    assert "possession proof" in reason(chain.registry(), chain.add("late", **infinity))
    assert isinstance(chain.registry().judge(1, chain.add("late")), ChangeAccepted)


def test_a_rotation_to_a_key_without_its_secret_is_refused() -> None:
    chain = governed(scheme="ed25519")
    rotation = chain.rotation(chain.first(0), "fresh")
    stolen = replace(rotation, next_possession_proof=chain.key("other").prove_possession())
    assert "possession proof" in reason(chain.registry(), chain.own(stolen))
    for size in (1, 31):
        assert "next_peer has" in reason(chain.registry(), chain.own(replace(rotation, next_peer=bytes(size))))
    assert isinstance(chain.registry().judge(1, chain.own(rotation)), ChangeAccepted)


def test_a_block_has_so_many_changes_at_most() -> None:
    chain = governed()
    changes = [chain.add(f"a{index}") for index in range(CHANGES_PER_BLOCK_MAX + 1)]
    registry, outcomes = fold(chain.registry(), [1], {1: changes})
    assert [type(outcome) for outcome in outcomes] == [ChangeAccepted] * CHANGES_PER_BLOCK_MAX + [ChangeIgnored]
    # Ones that do nothing count too: they cost as much.
    registry, outcomes = fold(registry, [2], {2: [b"nonsense"] * CHANGES_PER_BLOCK_MAX + changes[-1:]})
    assert [type(outcome) for outcome in outcomes] == [ChangeIgnored] * (CHANGES_PER_BLOCK_MAX + 1)
    assert isinstance(registry.judge(3, changes[-1]), ChangeAccepted)


# --- once only -------------------------------------------------------------------------------------------------------


def test_an_old_addition_does_not_undo_a_removal() -> None:
    chain = governed()
    added = chain.add("late", expires_at=100)
    late = chain.key("late").public_key
    registry, _ = fold(chain.registry(), range(1, 17), {1: [added], 9: [chain.remove(late)]})
    assert names(registry) == FIRST
    for height in range(17, 101):
        assert "accepted before" in reason(registry, added, height)
    assert "expired at height 100" in reason(registry, added, 101)
    # Other signatures do not make it another change; another expiry does.
    assert "accepted before" in reason(registry, chain.governed(chain.addition("late", expires_at=100), 1, 2), 17)
    assert isinstance(registry.judge(17, chain.add("late", expires_at=101)), ChangeAccepted)


def test_an_old_rotation_does_not_come_back_with_the_old_key() -> None:
    chain = governed()
    first = chain.first(0)
    there = chain.rotate(first, "b", expires_at=100)
    back = chain.own(replace(chain.rotation(chain.key("b").public_key, "a"), **own_key(chain, first)))
    registry, _ = fold(chain.registry(), range(1, 17), {1: [there], 9: [back]})
    assert registry.validators == chain.spec.validators
    assert "accepted before" in reason(registry, there, 17)
    assert "accepted before" in reason(registry, back, 17)


def own_key(chain: Governed, public_key: bytes) -> dict[str, bytes]:
    return {"next_public_key": public_key, "next_possession_proof": chain.keys[public_key].prove_possession()}


def test_an_old_exit_does_not_remove_who_was_added_again() -> None:
    chain = governed()
    late = chain.key("late").public_key
    leave = chain.leave(late, expires_at=100)
    again = chain.add("late", expires_at=200)
    registry, _ = fold(chain.registry(), range(1, 25), {1: [chain.add("late")], 9: [leave], 17: [again]})
    assert names(registry) == [*FIRST, "late"]
    for height in range(25, 101):
        assert "accepted before" in reason(registry, leave, height)


def test_what_is_remembered_is_bounded_and_members_do_not_fill_it_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "GOVERNED_REMEMBERED_MAX", 3)
    chain = governed(epoch_heights=1)
    registry, key = chain.registry(), chain.first(0)
    for height in range(1, OWN_REMEMBERED_MAX + 1):
        registry, outcomes = fold(
            registry, [height], {height: [chain.rotate(key, f"r{height}", expires_at=50 + height)]}
        )
        assert isinstance(outcomes[0], ChangeAccepted)
        key = chain.key(f"r{height}").public_key
    registry, _ = fold(registry, [9])
    assert "4 such changes are still remembered: wait until after height 51" in reason(registry, chain.leave(key), 10)
    assert isinstance(registry.judge(10, chain.leave(chain.first(1))), ChangeAccepted)
    registry, outcomes = fold(registry, [10], {10: [chain.add(f"a{i}", expires_at=60) for i in range(3)]})
    assert [type(outcome) for outcome in outcomes] == [ChangeAccepted] * 3
    assert "3 such changes are still remembered: wait until after height 60" in reason(registry, chain.add("b"), 11)
    registry, _ = fold(registry, range(11, 61))
    assert isinstance(registry.judge(52, chain.leave(key)), ChangeAccepted)
    registry, outcomes = fold(registry, [61], {61: [chain.add("b")]})
    assert isinstance(outcomes[0], ChangeAccepted)
    assert len(registry.state.remembered) == 1


# --- concentration ---------------------------------------------------------------------------------------------------


def test_an_operator_grows_up_to_the_cap() -> None:
    chain = governed(stakes=(30, 30, 30, 10), concentration_percent=40)
    registry = chain.registry()
    # 30 + s <= 40 % of 100 + s:  s <= 16
    assert isinstance(registry.judge(1, chain.add("a", operator="validator-0", stake=16)), ChangeAccepted)
    assert "operator validator-0 would hold 47 of 117 stake after height 8, more than 40 %" in reason(
        registry, chain.add("a", operator="validator-0", stake=17)
    )
    assert isinstance(registry.judge(1, chain.restake(chain.first(0), 46)), ChangeAccepted)
    assert "would hold 47 of 117" in reason(registry, chain.restake(chain.first(0), 47))
    # Several small ones are one operator.
    half = [chain.add("a", operator="validator-0", stake=8), chain.add("b", operator="validator-0", stake=8)]
    registry, _ = fold(registry, [1], {1: half})
    assert "would hold 47 of 117" in reason(registry, chain.add("c", operator="validator-0", stake=1), 2)


def test_the_cap_looks_at_every_set_to_come() -> None:
    chain = governed(stakes=(30, 30, 30, 10), concentration_percent=40, exit_heights=20)
    registry, _ = fold(chain.registry(), [1], {1: [chain.remove(chain.first(3))]})
    # Fine at height 8, but not when validator-3 is gone: 30 + s <= 40 % of 90 + s:  s <= 10
    assert isinstance(registry.judge(2, chain.add("a", operator="validator-0", stake=10)), ChangeAccepted)
    assert "41 of 101 stake after height 24" in reason(registry, chain.add("a", operator="validator-0", stake=11), 2)


def test_the_cap_does_not_look_at_sets_before_the_growth() -> None:
    chain = governed(stakes=(30, 30, 30, 10), concentration_percent=40, activation_heights=9)
    changes = [chain.remove(chain.first(0)), chain.remove(chain.first(1)), chain.add("a", stake=20)]
    registry, _ = fold(chain.registry(), [1], {1: [*changes, chain.add("b", stake=20)]})
    # validator-2 has 30 of 40 after height 8, and 31 of 81 after 16, when it would have grown.
    assert registry.judge(2, chain.restake(chain.first(2), 31)) == ChangeAccepted(effective_at=16)


def test_a_removal_is_not_held_by_the_size_of_others() -> None:
    chain = governed(stakes=(30, 30, 30, 10), concentration_percent=40)
    registry, outcomes = fold(chain.registry(), range(1, 9), {1: [chain.remove(chain.first(i)) for i in (0, 1)]})
    assert outcomes == [ChangeAccepted(effective_at=8)] * 2
    assert [validator.stake for validator in registry.validators] == [30, 10]
    # validator-2 has 75 % now: it stays, cannot grow, and does not keep others out; nor may it shrink only to the cap.
    assert "would hold 31 of 41" in reason(registry, chain.restake(chain.first(2), 31), 9)
    assert isinstance(registry.judge(9, chain.add("a", stake=20)), ChangeAccepted)
    assert isinstance(registry.judge(9, chain.restake(chain.first(2), 20)), ChangeAccepted)


# --- any order of anything -------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
actions = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.integers(1, 60), st.sampled_from(("x", "y", "validator-0"))),
    st.tuples(st.just("remove"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("rotate"), st.integers(0, 9), st.sampled_from(NAMES)),
    st.tuples(st.just("restake"), st.integers(0, 9), st.integers(1, 60)),
    st.tuples(st.just("replay"), st.integers(0, 99)),
    st.tuples(st.just("bytes"), st.binary(max_size=80)),
)
rules = st.fixed_dictionaries(
    {
        "epoch_heights": st.sampled_from((1, 2, 5)),
        "activation_heights": st.sampled_from((0, 1, 7)),
        "exit_heights": st.sampled_from((0, 3, 11)),
        "concentration_percent": st.sampled_from((40, 60, 100)),
    }
)
histories = st.lists(st.lists(actions, max_size=4), min_size=1, max_size=25)


class Story:
    """Turns actions into signed changes; each expiry is another one, so that only replays repeat."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.chain = governed(3, stakes=(10, 10, 10), **rules)
        self.registry = self.chain.registry()
        self.accepted: list[bytes] = []
        self.count = 0

    def transaction(self, action: tuple[Any, ...]) -> bytes:
        self.count += 1
        chain, expires_at = self.chain, 1_000 + self.count
        members = self.registry.members
        key = members[action[1] % len(members)].validator.public_key if isinstance(action[1], int) else b""
        match action:
            case ("add", name, stake, operator):
                return chain.add(name, stake=stake, operator=operator, expires_at=expires_at)
            case ("remove", _, own):
                return (chain.leave if own else chain.remove)(key, expires_at=expires_at)
            case ("rotate", _, name):
                return chain.rotate(key, name, expires_at=expires_at)
            case ("restake", _, stake):
                return chain.restake(key, stake, expires_at=expires_at)
            case ("replay", index):
                return self.accepted[index % len(self.accepted)] if self.accepted else b""
            case (_, data):
                return bytes(data)
        raise AssertionError(action)

    def block(self, height: int, transactions: list[bytes]) -> None:
        """One block, and everything that must hold after it."""
        before = self.registry
        self.registry, outcomes = before.after(height, transactions)
        named = before.next_validators(height)
        assert (self.registry.epoch, self.registry.validators) == (
            (before.epoch, before.validators) if named is None else (before.epoch + 1, named.validators)
        )
        for transaction, outcome in zip(transactions, outcomes, strict=True):
            if isinstance(outcome, ChangeAccepted):
                assert transaction not in self.accepted
                assert outcome.effective_at > height
                self.accepted.append(transaction)
        for ahead in range(height, height + 25):
            chosen = ValidatorSet(self.registry.due(ahead))  # raises for a set that cannot be
            assert chosen.quorum + chosen.faulty_max == chosen.total
            assert 3 * chosen.quorum > 2 * chosen.total
        assert before.decode(self.registry.encode()) == self.registry


@settings(deadline=None)
@given(rules, histories)
def test_no_order_of_changes_gives_a_set_that_cannot_be(rules: dict[str, Any], history: list[Any]) -> None:
    story = Story(rules)
    for height, block in enumerate(history, 1):
        story.block(height, [story.transaction(action) for action in block])
    # Everything that ever had an effect has none any more.
    height = len(history) + 1
    folded, outcomes = story.registry.after(height, story.accepted[:CHANGES_PER_BLOCK_MAX])
    assert folded == story.registry.after(height).registry
    for transaction in story.accepted:
        assert isinstance(story.registry.judge(height, transaction), ChangeIgnored)
    assert all(isinstance(outcome, ChangeIgnored) for outcome in outcomes)


@settings(deadline=None)
@given(rules, histories)
def test_who_grows_stays_under_the_cap(rules: dict[str, Any], history: list[Any]) -> None:
    percent = rules["concentration_percent"]
    story = Story(rules)
    for height, block in enumerate(history, 1):
        for action in block:
            transaction = story.transaction(action)
            before = story.registry
            story.registry, (outcome,) = before.after(height, [transaction])
            if not isinstance(outcome, ChangeAccepted):
                continue
            grown = grown_operator(before.after(height).registry, transaction)
            for ahead in range(outcome.effective_at, outcome.effective_at + 25):
                stakes: dict[str, int] = {}
                by_key = {each.validator_at(ahead).public_key: each.operator for each in story.registry.members}
                for validator in story.registry.due(ahead):
                    operator = by_key[validator.public_key]
                    stakes[operator] = stakes.get(operator, 0) + validator.stake
                assert grown is None or stakes[grown] * 100 <= percent * sum(stakes.values())
        story.registry = story.registry.after(height).registry


def grown_operator(before: Registry, transaction: bytes) -> str | None:
    decoded = system_transactions.decode(transaction)
    assert isinstance(decoded, SystemTransaction)
    change: Change = decoded.change
    if isinstance(change, ChangeStake):
        member = next(each for each in before.members if each.validator.public_key == change.public_key)
        return member.operator if change.stake > member.validator.stake else None
    return getattr(change, "operator", None)


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    assert isinstance(CHAIN.judge(1, data), ChangeIgnored)
    assert isinstance(CHAIN.decode(data), Malformed)


CHAIN = governed().registry()


def test_the_state_has_one_form() -> None:
    chain = governed(activation_heights=9)
    changes = [chain.add("late"), chain.rotate(chain.first(0), "fresh"), chain.restake(chain.first(1), 3)]
    registry, _ = fold(chain.registry(), [1, 2], {1: changes, 2: [chain.leave(chain.first(2))]})
    data = registry.encode()
    assert chain.registry().decode(data) == registry
    assert chain.registry() != registry
    assert isinstance(registry.decode(data + b"\x00"), Malformed)
    assert isinstance(registry.decode(b""), Malformed)


# --- the chain spec --------------------------------------------------------------------------------------------------


def test_a_chain_without_reconfiguration_has_no_registry() -> None:
    made = committee(4)
    with pytest.raises(ValueError, match="reconfiguration"):
        Registry.first(made.spec, made.scheme)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"governors": (b"\x01" + bytes(31),)}, r"reconfiguration.governors\[0\]: .* is no Ed25519 public key"),
        ({"governors": (GOVERNORS[0].public_key,) * 2}, r"reconfiguration.governors\[1\]: .* stands there twice"),
        ({"governors_needed": 4}, "reconfiguration.governors_needed: 4, but there are 3"),
        (
            {"concentration_percent": 24},
            r"validators\[0\] \(validator-0\): holds 1 of 4 stake, more than .*, 24, allows",
        ),
        ({"activation_heights": 2**53 + 1}, "reconfiguration.activation_heights: at most"),
        ({"exit_heights": 2**53 + 1}, "reconfiguration.exit_heights: at most"),
    ],
)
def test_a_reconfiguration_that_cannot_be_names_its_field(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        governed(**change)


def test_a_reconfiguration_at_its_edges() -> None:
    chain = governed(concentration_percent=25, exit_heights=2**53, governors_needed=3)
    _, outcomes = fold(chain.registry(), [1], {1: [chain.leave(chain.first(0))]})
    assert outcomes == [ChangeAccepted(effective_at=2**53 + 8)]
    check_chain_spec(replace(chain.spec, reconfiguration=Reconfiguration()), chain.scheme)
