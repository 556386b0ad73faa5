"""Signing processes killed with SIGKILL, at each step and at random moments: no protection is lost, and who asks again
gets the same answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from consensus.types import Subject
from sequencer.signer.remote import RemoteSigner
from sequencer.signer.rules import Refusal, Rule
from tests.sequencer.signer.common import Chain, chain, remote, socket_path
from tests.sequencer.signer.signer_child import STEPS
from tests.sequencer.signer.subjects import ffg, proposal, timeout, vote
from tests.support.waiting import random_moment, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def one(tmp_path: Path) -> Chain:
    return chain(tmp_path)


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_path() as found:
        yield found


@asynccontextmanager
async def child(one: Chain, path: Path, step: str = "", countdown: int = 0) -> AsyncIterator[trio.Process]:
    """A signing process that listens. It is gone at the end."""
    command = [sys.executable, "-m", "tests.sequencer.signer.signer_child", str(one.path), str(path)]
    process = await trio.lowlevel.open_process(
        [*command, step, str(countdown)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        async with process.stdout:
            with trio.fail_after(60):
                said = b""
                while not said.endswith(b"\n"):
                    said += await process.stdout.receive_some(16)
                assert said == b"ready\n"
            yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def ask(signer: RemoteSigner, one: Chain, subject: Subject) -> bytes:
    domain = msgspec.structs.replace(one.domain, epoch=subject.epoch)
    signature = await signer.sign(subject, one.key.public_key, domain)
    assert signature is not None
    return signature


def story(view: int, number: int = 1) -> list[Subject]:
    """One of each kind, in the order in which a node asks."""
    return [
        proposal(view, number),
        vote(view, number, justify=view - 1, height=view),
        vote(view, number, kind="order", justify=view - 1, height=view),
        timeout(view, view),
        ffg(view - 1, view, number),
    ]


def check_memory(one: Chain, answers: dict[int, bytes], asked: list[Subject]) -> None:
    """After all that happened: what was answered is repeated, its contradictions are refused."""
    others = [subject for view in range(1, 1 + len(asked) // 5) for subject in story(view, 2)]
    with one.authority() as authority:
        for index, (subject, other) in enumerate(zip(asked, others, strict=True)):
            if index in answers:
                assert authority.sign(one.request(subject)) == answers[index]
                if subject != other:  # a timeout names no block
                    refused = authority.sign(one.request(other))
                    assert isinstance(refused, Refusal)
                    assert refused.rule is Rule.CONTRADICTION


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("countdown", [1, 4])
async def test_a_kill_at_each_step_loses_nothing(one: Chain, path: Path, step: str, countdown: int) -> None:
    asked, answers = [*story(1), *story(2)], dict[int, bytes]()
    with trio.fail_after(120):
        async with remote(one, path) as signer, trio.open_nursery() as nursery:

            async def node() -> None:
                for index, subject in enumerate(asked):
                    answers[index] = await ask(signer, one, subject)
                nursery.cancel_scope.cancel()

            async with child(one, path, step, countdown) as doomed:
                nursery.start_soon(node)
                await doomed.wait()
                assert doomed.returncode == -9
            assert len(answers) == countdown - 1, "what was under way was not answered"
            # It is remembered exactly if the process came so far; a contradiction of it is then refused.
            contradiction = [*story(1, 2), *story(2, 2)][countdown - 1]
            if contradiction != asked[countdown - 1]:
                with one.authority() as authority:
                    recorded = any(
                        entry.subject == asked[countdown - 1]
                        for history in authority._histories.values()
                        for kind in history.kinds.values()
                        for entry in kind.latest
                    )
                    assert recorded == (step != "before persist")
                    if recorded:
                        assert isinstance(authority.sign(one.request(contradiction)), Refusal)
            async with child(one, path):
                await trio.sleep_forever()  # until the node has all its answers
    assert len(answers) == len(asked)
    assert all(one.verifies(signature, asked[index]) for index, signature in answers.items())
    check_memory(one, answers, asked)


async def kill_at_random(one: Chain, path: Path, kills: int, seed: int) -> None:
    """A node goes on asking while its signing process is killed at random moments, and a copy of the node asks for the
    opposite."""
    choice = Random(seed)
    answers: dict[tuple[int, int], set[bytes]] = {}
    views = 0

    async with remote(one, path) as signer, trio.open_nursery() as nursery:

        async def node() -> None:
            nonlocal views
            while True:
                for position, subject in enumerate(story(views + 1)):
                    signature = await ask(signer, one, subject)
                    assert one.verifies(signature, subject)
                    answers.setdefault((views + 1, position), set()).add(signature)
                views += 1

        async def another_view() -> None:
            goal = views + 1
            await until(lambda: views >= goal)

        nursery.start_soon(node)
        for _ in range(kills):
            async with child(one, path) as process:
                await another_view()
                await random_moment(choice, 0.05)
                process.kill()
        nursery.cancel_scope.cancel()
    assert views >= kills
    with one.authority() as authority:
        for (view, position), signatures in sorted(answers.items())[-60:]:
            subject, other = story(view)[position], story(view, 2)[position]
            assert signatures == {authority.sign(one.request(subject))}
            if subject != other:
                assert isinstance(authority.sign(one.request(other)), Refusal)


async def test_two_kills_at_random_moments(one: Chain, path: Path) -> None:
    with trio.fail_after(120):
        await kill_at_random(one, path, 2, seed=1)


@pytest.mark.sweep
async def test_thirty_kills_at_random_moments(one: Chain, path: Path) -> None:
    await kill_at_random(one, path, 30, seed=2)
