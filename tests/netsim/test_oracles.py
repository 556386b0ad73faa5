"""The judge derives for itself what it judges, and each oracle fires when it should."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from consensus.engine import BlockRecord, Commit, Reject, SafetyRecord
from consensus.protocols.registry import protocol_named
from consensus.types import Vote, VoteSubject, bitmap_of
from netsim.committee import committee_of
from netsim.oracles.judge import Judge, Oracle, members
from netsim.oracles.registry import ORACLE_IDS, oracles_named
from netsim.oracles.safety import Monotone, OneSubjectPerSlot
from netsim.schedule import Crash, Schedule
from netsim.simulation import build, run_schedule, run_world
from netsim.world import World


def world_and_judge(*oracles: Oracle) -> tuple[World, Judge]:
    world = build(Schedule(), protocol_named("jolteon"))
    judge = Judge(world, oracles)
    world.watchers.append(judge)
    return world, judge


def vote(world: World, signer: int, block: bytes = b"a" * 32, view: int = 5) -> Vote:
    subject = VoteSubject(kind="vote", epoch=0, view=view, block_id=block, height=1, justify_view=0)
    return Vote(
        kind="vote", epoch=0, view=view, block_id=block, height=1, justify_view=0, signer=signer,
        signature=world.committee.sign(signer, subject),
    )  # fmt: skip


def fired(world: World) -> list[str]:
    return [violation.oracle for violation in world.violations]


def test_the_judge_puts_signed_bytes_together_by_itself() -> None:
    _, judge = world_and_judge()
    committee = committee_of(Schedule())
    subject = VoteSubject(kind="vote", epoch=0, view=3, block_id=b"b" * 32, height=2, justify_view=1)
    assert judge.bytes_signed(subject) == committee.epoch.domain.bytes_to_sign(subject)


def test_the_judge_reads_bitmaps_by_itself() -> None:
    for signers in ((), (0,), (1, 9), tuple(range(17))):
        assert members(bitmap_of(signers)) == list(signers)


def test_a_quorum_is_more_than_two_thirds_and_each_signer_counts_once() -> None:
    world, judge = world_and_judge(*oracles_named(("S6",)))
    for signer in (0, 1, 1, 1):
        judge.sent(world.hosts[signer], vote(world, signer))
    assert judge.certified == {}
    judge.sent(world.hosts[2], vote(world, 2))
    assert list(judge.certified) == [5]


def test_two_blocks_certified_in_one_view_fire_s6_and_a_second_vote_s3() -> None:
    world, judge = world_and_judge(*oracles_named(("S3", "S6")))
    for host in world.hosts:
        judge.sent(host, vote(world, host.position))
    assert fired(world) == []
    for host in world.hosts:
        judge.sent(host, vote(world, host.position, b"b" * 32))
    assert sorted(set(fired(world))) == ["S3", "S6"]


def test_what_others_sign_in_my_name_is_not_mine() -> None:
    world, judge = world_and_judge(OneSubjectPerSlot())
    judge.sent(world.hosts[0], vote(world, 0))
    judge.sent(world.hosts[3], vote(world, 0, b"b" * 32))
    assert fired(world) == []


def test_a_lock_that_falls_fires_s5() -> None:
    world, judge = world_and_judge(Monotone())

    def state(lock: int) -> bytes:
        genesis = msgspec.to_builtins(world.committee.epoch.genesis)
        certificate = [*genesis[:2], lock, *genesis[3:]]
        return msgspec.msgpack.encode([4, certificate, certificate, None])

    judge.stored(world.hosts[1], [SafetyRecord(kind="vote", subject=b"", state=state(3))])
    assert fired(world) == []
    judge.stored(world.hosts[1], [SafetyRecord(kind="vote", subject=b"", state=state(2))])
    assert set(fired(world)) == {"S5"}


def test_blame_of_the_honest_fires_x2_and_of_the_faulty_does_not() -> None:
    world, judge = world_and_judge(*oracles_named(("X2",)))
    world.hosts[2].honest = False
    world.hosts[0].rejects.append(Reject(world.hosts[2].peer, "he is faulty"))
    judge.end()
    assert fired(world) == []
    world.hosts[0].rejects.append(Reject(world.hosts[1].peer, "he is not"))
    judge.end()
    assert fired(world) == ["X2"]


def test_an_exception_at_a_start_is_told_and_the_others_go_on() -> None:
    def no_blocks(record: object) -> bool:
        return not isinstance(record, BlockRecord)

    crash = Crash(at_height=3, nodes=(1,), restart_ms=5)
    result = run_schedule(Schedule(faults=(crash,), oracles=("S12",)), keep=no_blocks)
    assert result.verdict == "X1"
    assert "stops on its start: KeyError" in result.violations[0].text or "ValueError" in result.violations[0].text


class EveryHeight:
    """An oracle of one's own: stops at the first commit of a height."""

    id = "MINE"

    def __init__(self, height: int) -> None:
        self.height = height

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_committed.append(self.committed)

    def committed(self, host: object, commit: Commit) -> None:
        if commit.block.header.height == self.height:
            self.judge.fire(self.id, None, "here")


def test_an_oracle_of_ones_own_joins_ours() -> None:
    result = run_schedule(Schedule(), oracles=(EveryHeight(3),))
    assert result.verdict == "MINE"
    assert result.commits == 3


def test_forged_certificates_do_not_verify() -> None:
    world, judge = world_and_judge()
    run_world(world)
    shown = [judge.world.hosts[0].journal.blocks[block].header.justify for block in list(world.hosts[0].journal.blocks)]
    real = next(certificate for certificate in shown if certificate.view > 1)
    assert judge.certificate_verifies(real)
    changes: Sequence[dict[str, object]] = (
        {"view": real.view + 1}, {"signers": b"\x03"}, {"signers": b""}, {"block_id": bytes(32)},
        {"signers": b"\xff\xff"}, {"justify_view": real.justify_view + 1},
    )  # fmt: skip
    for change in changes:
        assert not judge.certificate_verifies(msgspec.structs.replace(real, **change)), change


def test_an_unknown_oracle_is_refused() -> None:
    assert "S1" in ORACLE_IDS
    with pytest.raises(ValueError, match="S99"):
        oracles_named(("S99",))
