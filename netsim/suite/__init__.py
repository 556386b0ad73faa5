"""A protocol proves itself, in its author's own pytest::

    from netsim.suite import protocol_suite

    test_two_chain = protocol_suite(TWO_CHAIN)

pytest collects one test per check (``test_two_chain[safety]`` and so on). Each failure names the rule that was broken,
what was seen, and how it is usually mended; where it came from one run also the seed, the file of the explicit schedule
and the command that replays it. Without pytest, :func:`run_suite` gives a report; ``netsim suite`` prints it.

=================  =====================================================================================================
``messages``       wire round trips, statements that verify, subjects that decode, tags, kinds and bulk as declared
``safety``         random schedules with a puppet: equivocation, loss, drops, partitions, crashes: no oracle fires
``actors``         mutators, impersonators, liars, twins and the outdated around a core; nobody honest is blamed
``silent-leaders`` the first leader is silent, and every fourth of four and of eight: commits go on
``partitions``     nobody hears anybody; random partitions, cuts, held messages; delays above the timeout; they end
``clocks``         timers ten times as fast as others' where both are needed, a hundred times where not
``one-way``        a node that is heard and hears nothing; a link that is slow in one direction
``restart``        kill -9 at each boundary of storing, signing and sending, and at random
``restart-all``    all nodes die in the middle of views
``catch-up``       a node that was away, for longer than any window of views too, fetches what it missed
``equivocation``   two proposals and two votes in one slot are reported, with both signatures, and name the guilty alone
``determinism``    one seed is one trace: twice here, and in two processes under two PYTHONHASHSEEDs
``bounds``         a flood of four times as many messages leaves no more behind
``pacing``         an idle chain is quiet; a payload that comes then commits as under light load
``costs``          message delays, views to a commit and messages per block are those declared, for n = 4 and 7
``proofs``         a stranger's engine accepts each commit's proof, and refuses it with any byte changed
=================  =====================================================================================================

What it cannot see: the real node, its disks and its network (``sequencer demo --protocol NAME`` runs those); more than
one epoch; and what a puppet might propose in a protocol with messages of its own, for which nobody wrote a craft
(``netsim/actors/crafts``): there the puppet only votes, and a second copy of a validator equivocates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from consensus.protocols.definition import ProtocolDefinition
from netsim.suite import declarations, faults, measures, replay
from netsim.suite.subject import SCHEDULES, Origin, Subject, SuiteError

__all__ = ["CHECKS", "Outcome", "Report", "SuiteError", "protocol_suite", "run_suite"]

Check = Callable[[Subject], None]
CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "messages": declarations.messages,
        "safety": faults.safety,
        "actors": faults.actors,
        "silent-leaders": faults.silent_leaders,
        "partitions": faults.partitions,
        "clocks": faults.clocks,
        "one-way": faults.one_way,
        "restart": faults.restart,
        "restart-all": faults.restart_all,
        "catch-up": faults.catch_up,
        "equivocation": faults.equivocation,
        "determinism": replay.determinism,
        "bounds": measures.bounds,
        "pacing": measures.pacing,
        "costs": measures.costs,
        "proofs": declarations.proofs,
    }
)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one check ended; ``text`` is empty when it passed, ``seconds`` are of the processor."""

    check: str
    passed: bool
    seconds: float
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`run_suite` found."""

    protocol: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Every check passed."""
        return all(outcome.passed for outcome in self.outcomes)


def protocol_suite(
    definition: ProtocolDefinition,
    *,
    schedules: int = SCHEDULES,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Callable[[str], None]:
    """A parametrized pytest function that holds ``definition`` to the contract; bind it to a name ``test_...``.

    ``schedules`` is how many random schedules the checks share (half of them are ``safety``'s), ``seed`` the first
    one's. Schedules of failures are written into ``folder``, or into a new temporary one. Failures raise
    :class:`SuiteError`. ``determinism`` needs the definition at the top level of a module.
    """
    import pytest  # a test's business: the command line does without

    subject = Subject(definition=definition, schedules=schedules, seed=seed, folder=_path(folder))

    @pytest.mark.parametrize("check", list(CHECKS))
    def test(check: str) -> None:
        CHECKS[check](subject)

    return test


def run_suite(
    definition: ProtocolDefinition,
    *,
    schedules: int = SCHEDULES,
    seed: int = 0,
    folder: str | Path | None = None,
    origin: Origin | None = None,
    told: Callable[[Outcome], None] | None = None,
) -> Report:
    """Every check in turn, without pytest; arguments as of :func:`protocol_suite`. ``origin`` says where another
    process finds a definition that no loaded module names; ``told`` hears of each outcome as it is known."""
    subject = Subject(definition=definition, schedules=schedules, seed=seed, folder=_path(folder), origin=origin)
    outcomes: list[Outcome] = []
    for name, check in CHECKS.items():
        began = time.process_time()
        text = ""
        try:
            check(subject)
        except SuiteError as error:
            text = str(error)
        except Exception as error:  # the author's code may raise anything, and the other checks still run
            text = f"the check ends\n  seen: {type(error).__name__}: {error}\n  mend: see what `messages` says first"
        seconds = round(time.process_time() - began, 3)
        outcomes.append(Outcome(check=name, passed=not text, seconds=seconds, text=text))
        if told is not None:
            told(outcomes[-1])
    return Report(protocol=definition.name, outcomes=tuple(outcomes))


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)
