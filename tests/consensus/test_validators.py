"""Stake arithmetic, bitmaps, elections, epochs and chain specs."""

from __future__ import annotations

import hashlib
from collections import Counter
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Malformed, encode
from consensus.crypto.registry import scheme_named
from consensus.election import RoundRobin, StakeWeighted, leader_schedule
from consensus.epochs import first_epoch, genesis_certificate
from consensus.genesis import ChainSpec, Pacing, Reconfiguration, chain_specs, check_chain_spec
from consensus.pacemaker import view_duration
from consensus.types import bitmap_of, is_canonical_bitmap, signers_of
from consensus.validators import Validator, ValidatorSet, quorum
from tests.support.committee import committee

stakes = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


def validators(*stake: int) -> ValidatorSet:
    return ValidatorSet(
        tuple(
            Validator(
                name=f"v{index}",
                stake=amount,
                public_key=index.to_bytes(4, "little"),
                possession_proof=b"",
                peer=hashlib.sha256(index.to_bytes(4, "little")).digest(),
            )
            for index, amount in enumerate(stake)
        )
    )


@given(stakes, st.data())
def test_any_two_quorums_share_more_than_a_third(amounts: list[int], data: st.DataObject) -> None:
    chosen = validators(*amounts)
    indices = st.sets(st.integers(0, len(amounts) - 1))
    first, second = data.draw(indices), data.draw(indices)
    if min(chosen.stake_of(first), chosen.stake_of(second)) >= chosen.quorum:
        assert 3 * chosen.stake_of(first & second) > chosen.total


@given(st.integers(1, 10**15))
def test_the_quorum_is_the_least_above_two_thirds(total: int) -> None:
    least = quorum(total)
    assert 3 * least > 2 * total
    assert 3 * (least - 1) <= 2 * total
    assert Fraction(least, total) > Fraction(2, 3)


@given(stakes)
def test_quorum_amplification_and_faulty_stake_fit_together(amounts: list[int]) -> None:
    chosen = validators(*amounts)
    assert chosen.total == sum(amounts)
    assert chosen.amplification == chosen.faulty_max + 1
    assert chosen.quorum + chosen.faulty_max == chosen.total
    assert 3 * chosen.faulty_max < chosen.total
    # without the faulty there is still a quorum, and the amplifying stake cannot be all faulty
    assert chosen.total - chosen.faulty_max >= chosen.quorum
    assert chosen.amplification > chosen.faulty_max


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 1, 0)), (3, (3, 1, 0)), (4, (3, 2, 1)), (7, (5, 3, 2)), (10, (7, 4, 3))]
)
def test_equal_stakes(count: int, expected: tuple[int, int, int]) -> None:
    chosen = validators(*[1] * count)
    assert (chosen.quorum, chosen.amplification, chosen.faulty_max) == expected


def test_sets_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="1 to 1024"):
        ValidatorSet(())
    one = validators(1).validators[0]
    for field, other in (
        ("name", {"public_key": b"x", "peer": bytes(32)}),
        ("peer", {"name": "x", "public_key": b"x"}),
    ):
        with pytest.raises(ValueError, match=f"share one {field}"):
            ValidatorSet((one, msgspec.structs.replace(one, **other)))
    with pytest.raises(ValueError, match="at least 1"):
        ValidatorSet((msgspec.structs.replace(one, stake=0),))


@given(st.sets(st.integers(0, 1023), max_size=40))
def test_bitmaps(signers: set[int]) -> None:
    bitmap = bitmap_of(tuple(signers))
    assert signers_of(bitmap) == tuple(sorted(signers))
    assert is_canonical_bitmap(bitmap)
    assert not is_canonical_bitmap(bitmap + b"\x00")
    assert signers_of(bitmap + b"\x00") == signers_of(bitmap)


def test_round_robin_takes_turns() -> None:
    assert [RoundRobin(validators(1, 1, 1), 1).leader(view) for view in range(1, 7)] == [0, 1, 2, 0, 1, 2]
    assert [RoundRobin(validators(1, 1, 1), 2).leader(view) for view in range(1, 7)] == [0, 0, 1, 1, 2, 2]


def test_stake_weighted_leaders_follow_their_stake() -> None:
    schedule = StakeWeighted(validators(1, 2, 7), 1, b"seed")
    turns = Counter(schedule.leader(view) for view in range(1, 20_001))
    for index, share in enumerate((0.1, 0.2, 0.7)):
        assert abs(turns[index] / 20_000 - share) < 0.01
    again = StakeWeighted(validators(1, 2, 7), 1, b"seed")
    assert [again.leader(view) for view in range(1, 50)] == [schedule.leader(view) for view in range(1, 50)]
    other = StakeWeighted(validators(1, 2, 7), 1, b"tree")
    assert [other.leader(view) for view in range(1, 50)] != [schedule.leader(view) for view in range(1, 50)]
    with pytest.raises(ValueError, match="election"):
        leader_schedule("lottery", validators(1), 1, b"")


def test_the_genesis_certificate_is_a_function_of_all_it_names() -> None:
    base: dict[str, Any] = {"epoch": 0, "boundary_id": bytes(32), "height": 0, "timestamp_ms": 1}
    base["validators_hash"] = bytes(32)
    changes = {"epoch": 1, "boundary_id": b"\x01" * 32, "height": 1, "timestamp_ms": 2, "validators_hash": b"\x01" * 32}
    certificates = {encode(genesis_certificate(**base))}
    certificates |= {encode(genesis_certificate(**{**base, key: value})) for key, value in changes.items()}
    assert len(certificates) == 1 + len(changes)


def test_every_field_of_a_chain_spec_is_in_its_hash() -> None:
    spec = committee(4).spec
    changed = {
        "chain_id": "other",
        "genesis_time_ms": 7,
        "protocol": "hotstuff",
        "scheme": "bls",
        "validators": spec.validators[:3],
        "rollups": (9,),
        "election": "stake-weighted",
        "pacing": Pacing(view_timeout_ms=2000),
        "payload_size_max": 1,
        "transaction_size_max": 1,
        "deduplication_heights": 1,
        "timestamp_drift_ms": 1,
        "checkpoint_interval": 1,
        "reconfiguration": Reconfiguration(),
    }
    assert set(changed) == set(ChainSpec.__struct_fields__)
    hashes = {msgspec.structs.replace(spec, **{field: value}).hash for field, value in changed.items()}
    assert len(hashes | {spec.hash}) == len(changed) + 1
    assert chain_specs.decode(encode(spec)) == spec
    assert isinstance(chain_specs.decode(encode(spec)[:-1]), Malformed)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scheme", {"scheme": "ed25519"}),
        ("rollups", {"rollups": (2, 1)}),
        ("rollups", {"rollups": (1, 1)}),
        ("pacing.idle_interval_ms", {"pacing": Pacing(view_timeout_ms=500, idle_interval_ms=500)}),
        ("pacing.growth_numerator", {"pacing": Pacing(growth_numerator=1, growth_denominator=2)}),
        ("transaction_size_max", {"transaction_size_max": 2**21}),
        ("rollups", {"rollups": (1, 2**64)}),
        ("rollups", {"rollups": (1, 2**64 - 1)}),
        ("payload_size_max", {"payload_size_max": 2**26}),
        ("payload_size_max", {"payload_size_max": 1000}),
        ("election", {"election": "lottery"}),
    ],
)
def test_a_bad_chain_spec_names_its_field(field: str, change: dict[str, Any]) -> None:
    spec = msgspec.structs.replace(committee(4).spec, **change)
    scheme = scheme_named("simulated", allow_simulated=True)
    with pytest.raises(ValueError, match=field):
        first_epoch(spec, check_chain_spec(spec, scheme))


@pytest.mark.parametrize("scheme_name", ["ed25519", "bls", "simulated"])
def test_a_key_without_possession_is_refused_at_registration(scheme_name: str) -> None:
    spec = committee(4, scheme=scheme_name).spec
    stolen = msgspec.structs.replace(spec.validators[1], possession_proof=spec.validators[0].possession_proof)
    bad = msgspec.structs.replace(spec, validators=(spec.validators[0], stolen, *spec.validators[2:]))
    with pytest.raises(ValueError, match=r"validators\[1\] \(validator-1\)"):
        check_chain_spec(bad, scheme_named(scheme_name, allow_simulated=True))


def test_views_grow_longer_only_without_commits() -> None:
    pacing = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=3, growth_denominator=2, exponent_max=4)
    base = 100_000_000
    assert [view_duration(pacing, view, 0, 2) for view in (1, 2, 3, 4, 6, 7, 100)] == [
        base,
        base,
        base * 3 // 2,
        base * 9 // 4,
        base * 81 // 16,
        base * 81 // 16,
        base * 81 // 16,
    ]
    assert view_duration(pacing, 50, 48, 2) == base
    assert view_duration(pacing, 3, 0, 3) == base


def test_a_set_has_up_to_1024_members_of_stake_1_or_more() -> None:
    assert len(validators(*[1] * 1024)) == 1024
    with pytest.raises(ValueError, match=r"^a validator set has 1 to 1024 members, not 1025$"):
        validators(*[1] * 1025)
    with pytest.raises(ValueError, match=r"^every validator's stake is at least 1$"):
        validators(1, 0)


def test_the_genesis_certificate_is_of_view_zero_and_unsigned() -> None:
    genesis = genesis_certificate(epoch=3, boundary_id=b"b" * 32, height=7, timestamp_ms=9, validators_hash=b"v" * 32)
    assert (genesis.kind, genesis.epoch, genesis.view, genesis.justify_view) == ("genesis", 3, 0, 0)
    assert (genesis.block_id, genesis.height, genesis.signers) == (b"b" * 32, 7, b"")
