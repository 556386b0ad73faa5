"""When each fault of a schedule held, in virtual nanoseconds: known only after the run, for some begin with a view."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from netsim.network import nanoseconds
from netsim.schedule import Clog, Cut, Disk, Fault, Heal, Hold, Partition, Prune, Schedule, Timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A fault from when to when. ``pairs`` are the directions that it touches, ``nodes`` the positions of a disk's or
    of a group's."""

    kind: str
    text: str
    from_ns: int
    to_ns: int
    groups: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    def stops(self, source: int, target: int, at_ns: int) -> bool:
        """Whether a message of this direction is lost by it."""
        if not self.from_ns <= at_ns <= self.to_ns:
            return False
        if self.kind == "partition":
            return not any(source in group and target in group for group in self.groups)
        return self.kind == "cut" and (source, target) in self.pairs


def spans_of(
    schedule: Schedule,
    views_began: Mapping[int, int],
    heights_began: Mapping[int, int],
    end_ns: int,
    awaited: Mapping[Timed, int] | None = None,
) -> tuple[Span, ...]:
    """Faults that last, in order of their beginning; what never began is left out. ``views_began`` and
    ``heights_began`` tell when an honest node first got there, ``awaited`` when what a fault waits for happened."""
    heals = sorted(
        began
        for fault in schedule.faults
        if isinstance(fault, Heal) and (began := _began(fault, views_began, heights_began, awaited)) is not None
    )
    found: list[Span] = []
    for fault in schedule.faults:
        if not isinstance(fault, Partition | Cut | Hold | Clog | Disk | Prune | Heal):
            continue
        began = _began(fault, views_began, heights_began, awaited)
        healed = bool(heals) and began is not None and began >= heals[0] and fault.at_ms is None
        if began is None or began > end_ns or (healed and not isinstance(fault, Heal)):
            continue
        until = end_ns if fault.for_ms is None else min(end_ns, began + nanoseconds(fault.for_ms))
        if isinstance(fault, Heal):
            until = began
        elif not isinstance(fault, Disk | Prune):
            until = min((until, *(heal for heal in heals if heal >= began)))
        found.append(_span(fault, began, until))
    found.sort(key=lambda span: (span.from_ns, span.kind))
    return tuple(_replaced(found))


def _began(
    fault: Timed,
    views_began: Mapping[int, int],
    heights_began: Mapping[int, int],
    awaited: Mapping[Timed, int] | None,
) -> int | None:
    if fault.on is not None:
        return None if awaited is None else awaited.get(fault)
    if fault.at_ms is not None:
        return nanoseconds(fault.at_ms)
    if fault.at_view is not None:
        return views_began.get(fault.at_view)
    return None if fault.at_height is None else heights_began.get(fault.at_height)


def _span(fault: Fault, began: int, until: int) -> Span:
    match fault:
        case Partition(groups=groups):
            text = "partition " + " | ".join(",".join(map(str, group)) for group in groups)
            return Span(kind="partition", text=text, from_ns=began, to_ns=until, groups=groups)
        case Cut(pairs=pairs):
            return Span(kind="cut", text=f"cut {_arrows(pairs)}", from_ns=began, to_ns=until, pairs=pairs)
        case Hold(pairs=pairs):
            return Span(kind="hold", text=f"hold {_arrows(pairs)}", from_ns=began, to_ns=until, pairs=pairs)
        case Clog(pairs=pairs, extra_ms=extra):
            text = f"clog {_arrows(pairs)} +{extra:g} ms"
            return Span(kind="clog", text=text, from_ns=began, to_ns=until, pairs=pairs)
        case Disk(node=node, fault=name):
            return Span(kind="disk", text=f"disk of {node}: {name}", from_ns=began, to_ns=until, groups=((node,),))
        case Prune(nodes=nodes, keep=keep):
            text = f"{','.join(map(str, nodes))} keep the last {keep} blocks"
            return Span(kind="disk", text=text, from_ns=began, to_ns=until, groups=(nodes,))
        case _:
            return Span(kind="heal", text="network heals", from_ns=began, to_ns=until)


def _arrows(pairs: tuple[tuple[int, int], ...]) -> str:
    return " ".join(f"{source}→{target}" for source, target in pairs)


def _replaced(spans: list[Span]) -> list[Span]:
    """A partition ends where the next begins."""
    begins = [span.from_ns for span in spans if span.kind == "partition"]
    return [
        dataclasses.replace(span, to_ns=min([span.to_ns, *(begin for begin in begins if begin > span.from_ns)]))
        if span.kind == "partition"
        else span
        for span in spans
    ]
