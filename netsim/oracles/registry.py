"""The oracles by id. ``S12`` also reports as X1, ``L2`` also as L3; R2 (determinism) is judged by running twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from netsim.oracles.accountability import Accountable, Convicted
from netsim.oracles.epochs import Boundaries, NoLongPause
from netsim.oracles.finality import FinalityHolds
from netsim.oracles.judge import Oracle
from netsim.oracles.others import (
    Bounded,
    Milestones,
    NoFalseBlame,
    NoTimer,
    OneStream,
    Progress,
    Responsive,
    Retrievable,
    ViewsInStep,
)
from netsim.oracles.safety import (
    Agreement,
    AppendOnly,
    CertificatesVerify,
    CertifiedExtendsCommitted,
    DurableFirst,
    FinalizedOrGivenUp,
    Monotone,
    NoExceptions,
    NoOrderAfterTimeout,
    OneCertificatePerView,
    OneSubjectPerSlot,
)

OracleFactory = Callable[[], Oracle]
ORACLES: Final[tuple[OracleFactory, ...]] = (
    Agreement, AppendOnly, OneSubjectPerSlot, DurableFirst, Monotone, OneCertificatePerView, CertificatesVerify,
    CertifiedExtendsCommitted, FinalizedOrGivenUp, NoOrderAfterTimeout, Boundaries, NoExceptions, Retrievable,
    ViewsInStep, Progress, NoTimer, Responsive, NoLongPause, Accountable, Convicted, FinalityHolds, OneStream, Bounded,
    Milestones, NoFalseBlame,
)  # fmt: skip
ALSO: Final = {"L3": "L2", "X1": "S12"}
"""What an oracle reports beside its own id."""
NAMEABLE_IDS: Final = tuple(sorted([*(factory().id for factory in ORACLES), *ALSO]))
"""What a schedule may name: R2 takes two runs, which only a sweep makes."""
ORACLE_IDS: Final = tuple(sorted([*NAMEABLE_IDS, "R2"]))


def oracles_named(names: tuple[str, ...]) -> tuple[Oracle, ...]:
    """Fresh oracles: all of ours, or those named. Raises ``ValueError`` for an unknown name."""
    unknown = [name for name in names if name not in NAMEABLE_IDS]
    if unknown:
        raise ValueError(f"oracle {unknown[0]!r} is unknown; known are {', '.join(NAMEABLE_IDS)}")
    wanted = frozenset(ALSO.get(name, name) for name in names)
    oracles = tuple(factory() for factory in ORACLES)
    return tuple(oracle for oracle in oracles if oracle.id in wanted) if names else oracles
