"""Slashing protection with real processes: killed with SIGKILL, and two at once on one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from sequencer.slashing_protection import SlashingProtection, SlashingRefusal
from tests.sequencer.children import said_before_kill
from tests.sequencer.slashing_child import signing_root
from tests.sequencer.slashing_world import ANNA, CHAIN

Permitted = list[tuple[str, int]]


async def signed_before_kill(path: Path, name: str, first: int, after_lines: int) -> Permitted:
    """Run a child, kill it after so many lines, and return what it was permitted and said so."""
    said = await said_before_kill(
        "tests.sequencer.slashing_child", str(path), name, str(first), after_lines=after_lines
    )
    lines = [line.split() for line in said]
    return [(kind, int(number)) for kind, number in lines if kind != "refused"]


def contradicts(protection: SlashingProtection, name: str, kind: str, number: int) -> None:
    """Whoever asks for the same slot or target with another root is refused; the signer itself may repeat."""

    def ask(who: str) -> None:
        root = signing_root(who, kind, number)
        if kind == "block":
            protection.check_and_record_block(ANNA, number, root)
        else:
            protection.check_and_record_attestation(ANNA, number, number + 1, root)

    with pytest.raises(SlashingRefusal):
        ask("somebody else")
    ask(name)


async def kill_and_check(path: Path, kills: range) -> None:
    first, signed = 1, Permitted()
    for kill in kills:
        found = await signed_before_kill(path, "anna", first, after_lines=5 + 37 * kill % 101)
        assert len(found) >= 5, "nothing is refused: each child goes on behind the last"
        signed += found
        with SlashingProtection.open(path, CHAIN) as protection:
            for kind, number in signed:
                contradicts(protection, "anna", kind, number)
        first = found[-1][1] + 2  # past what may have been recorded and not said


async def test_two_kills_lose_no_permission_that_was_given(tmp_path: Path) -> None:
    await kill_and_check(tmp_path / "slashing.db", range(2))


@pytest.mark.sweep
async def test_thirty_kills_lose_no_permission_that_was_given(tmp_path: Path) -> None:
    await kill_and_check(tmp_path / "slashing.db", range(30))


async def compete(path: Path, after_lines: int) -> dict[str, Permitted]:
    """Two signers of one key begin at once, on a file that neither finds."""
    found: dict[str, Permitted] = {}

    async def sign(name: str) -> None:
        found[name] = await signed_before_kill(path, name, 1, after_lines)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign, "anna")
        nursery.start_soon(sign, "anna's twin")
    return found


async def competition(path: Path, after_lines: int) -> None:
    found = await compete(path, after_lines)
    one, two = found.values()
    assert one or two
    assert set(one) & set(two) == set(), "nothing was permitted to both"
    with SlashingProtection.open(path, CHAIN) as protection:
        for name, signed in found.items():
            for kind, number in signed:
                contradicts(protection, name, kind, number)


async def test_two_processes_never_sign_the_same_slot(tmp_path: Path) -> None:
    await competition(tmp_path / "slashing.db", 300)


@pytest.mark.sweep
async def test_two_processes_never_sign_the_same_slot_for_long(tmp_path: Path) -> None:
    for number in range(10):
        await competition(tmp_path / f"{number}.db", 3_000)
