"""Waiting in real time. The tests do it here and nowhere else (``real_sleeps`` in ``tests/test_walls.py``).

Whatever one process brings about by itself is waited for by an event, or on a clock that jumps (``autojump_clock``).
What is left is what sockets, disks and other processes bring about and no event of ours tells, and moments that chance
chooses. No test asserts that something was quick: the machine is shared.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import trio
import trio.testing

PATIENCE_S: Final = 120.0
"""No bound of anything: what takes so long, on whatever machine, has hung."""
LOOK_S: Final = 0.02
ASK_S: Final = 0.1
"""Longer, for a process that is asked has work to do."""
IDLE_S: Final = 0.002

Answer = TypeVar("Answer")


async def until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return once ``holds``. Looks again when every task waits, and on an ordinary clock at the latest after
    ``LOOK_S``: tasks of whole nodes need never all wait at once. Lets no time pass on a clock that jumps."""
    deadline = time.monotonic() + patience_s  # real seconds, whatever the test's clock says
    while not holds():
        assert time.monotonic() < deadline, f"it did not come about within {patience_s:g} s"
        with trio.move_on_after(LOOK_S):
            await trio.testing.wait_all_tasks_blocked(IDLE_S)


async def until_told(
    ask: Callable[[], Awaitable[Answer]], holds: Callable[[Answer], bool], patience_s: float = PATIENCE_S
) -> Answer:
    """Ask, a process for instance, until the answer ``holds``; that answer."""
    with trio.fail_after(patience_s):
        while not holds(answer := await ask()):  # noqa: ASYNC110 - another process brings it about
            await trio.sleep(ASK_S)
    return answer


async def random_moment(choice: Random, most_s: float, least_s: float = 0.0) -> None:
    """Return at a random moment from now. For kills, where what they interrupt shall not be known, and for users who
    think between two transactions."""
    await trio.sleep(choice.uniform(least_s, most_s))
