"""A schedule and what it gave, in words: for people who read a counterexample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

from netsim.schedule import (
    Announce,
    CastVote,
    Clog,
    Crash,
    Cut,
    Disk,
    Drop,
    Fault,
    GiveUp,
    Heal,
    Hold,
    Move,
    Partition,
    Propose,
    Schedule,
    Timed,
    ViewPartition,
)


def nodes(positions: Sequence[int]) -> str:
    """``nodes 0, 1 and 2``."""
    if not positions:
        return "nobody"
    names = [str(position) for position in positions]
    if len(names) == 1:
        return f"node {names[0]}"
    return f"nodes {', '.join(names[:-1])} and {names[-1]}"


def groups(sides: Sequence[Sequence[int]]) -> str:
    """``{0, 1} | {2, 3}``."""
    return " | ".join("{" + ", ".join(str(node) for node in side) + "}" for side in sides)


def pairs(both: Sequence[tuple[int, int]]) -> str:
    """``0 to 3, 1 to 3``."""
    return ", ".join(f"{source} to {target}" for source, target in both)


def when(fault: Timed) -> str:
    """When it begins, and how long it lasts."""
    if fault.at_view is not None:
        begin = f"When view {fault.at_view} begins"
    elif fault.at_height is not None:
        begin = f"When height {fault.at_height} commits"
    else:
        begin = f"At {fault.at_ms or 0:g} ms"
    return begin if fault.for_ms is None else f"{begin}, for {fault.for_ms:g} ms"


def move_in_words(node: int, move: Move) -> str:
    """What a puppet does."""
    late = f" {move.after_ms:g} ms later" if move.after_ms else ""
    rank = ("the highest certificate", "the second highest certificate", "the third highest certificate")
    match move:
        case Propose():
            parent = rank[move.parent] if move.parent < len(rank) else f"certificate number {move.parent + 1}"
            proof = "" if move.proof == "honest" else f", with {move.proof} proof that the view before was given up"
            return f"View {move.view}: node {node} proposes a block on {parent} to {nodes(move.to)}{proof}{late}."
        case CastVote():
            times = f" {move.times} times" if move.times > 1 else ""
            which = ("first", "second", "third")[min(move.choice, 2)]
            return f"View {move.view}: node {node} votes for the {which} block{times}, to {nodes(move.to)}{late}."
        case GiveUp():
            return (
                f"View {move.view}: node {node} times out with certificate {move.high + 1} to {nodes(move.to)}{late}."
            )
        case Announce():
            return f"View {move.view}: node {node} shows certificate {move.high + 1} to {nodes(move.to)}{late}."
        case _:
            assert_never(move)


def fault_in_words(fault: Fault) -> str:
    """What goes wrong."""
    match fault:
        case Drop():
            kind = fault.message or "every"
            return f"View {fault.view}: {kind} message from node {fault.source} to {nodes(fault.to)} is lost."
        case ViewPartition():
            return f"View {fault.view}: messages pass inside {groups(fault.groups)} only."
        case Partition():
            return f"{when(fault)}: partition {groups(fault.groups)}."
        case Cut():
            return f"{when(fault)}: messages {pairs(fault.pairs)} are lost."
        case Hold():
            return f"{when(fault)}: messages {pairs(fault.pairs)} are kept."
        case Clog():
            return f"{when(fault)}: messages {pairs(fault.pairs)} take {fault.extra_ms:g} ms longer."
        case Heal():
            return f"{when(fault)}: the network heals."
        case Crash():
            back = "and stays down" if fault.restart_ms is None else f"and restarts {fault.restart_ms:g} ms later"
            if fault.boundary:
                return f"{nodes(fault.nodes).capitalize()} crashes {fault.boundary}, the {fault.nth}. time, {back}."
            return f"{when(fault)}: {nodes(fault.nodes)} crashes {back}."
        case Disk():
            return f"{when(fault)}: the disk of node {fault.node}: {fault.fault}."
        case _:
            assert_never(fault)


def in_words(schedule: Schedule) -> Iterator[str]:
    """The whole schedule, by view as far as it goes by views."""
    yield f"{schedule.nodes} validators run {schedule.protocol}, seed {schedule.seed}."
    if schedule.leaders:
        yield f"Leaders of views 1 to {len(schedule.leaders)}: {', '.join(str(node) for node in schedule.leaders)}."
    for actor in schedule.actors:
        yield f"Node {actor.node} is a {actor.kind}."
    dated: list[tuple[int, str]] = []
    for fault in schedule.faults:
        view = fault.view if isinstance(fault, Drop | ViewPartition) else (fault.at_view or 0)
        dated.append((view, fault_in_words(fault)))
    for actor in schedule.actors:
        dated += [(move.view, move_in_words(actor.node, move)) for move in actor.moves]
    for _, text in sorted(dated, key=lambda row: row[0]):
        yield text
