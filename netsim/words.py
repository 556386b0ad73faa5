"""A schedule in words, for people who read a counterexample: what decides the run and is not the default is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

from netsim.numbering import numbered
from netsim.schedule import (
    Actor,
    Announce,
    Begins,
    CastVote,
    Clock,
    Clog,
    Commits,
    Constant,
    Crash,
    Cut,
    Disk,
    Drop,
    Empirical,
    Enters,
    Exponential,
    Fault,
    GiveUp,
    Heal,
    Hold,
    Latency,
    Link,
    Liveness,
    Move,
    NextEpoch,
    Normal,
    Partition,
    Propose,
    Prune,
    Schedule,
    Sends,
    Stop,
    Submit,
    Timed,
    Times,
    Trigger,
    Uniform,
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


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``12th``."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def rank(number: int) -> str:
    """A puppet's certificate: ``the highest``, ``the second highest``, ``the 4th highest``."""
    return (
        ("the highest", "the second highest", "the third highest")[number]
        if number < 3
        else (f"the {ordinal(number + 1)} highest")
    )


def when(fault: Timed) -> str:
    """When it begins, and how long it lasts."""
    if fault.on is not None:
        begin = trigger_in_words(fault.on)
    elif fault.at_view is not None:
        begin = f"When view {fault.at_view} begins"
    elif fault.at_height is not None:
        begin = f"When height {fault.at_height} commits"
    else:
        begin = f"At {fault.at_ms or 0:g} ms"
    return begin if fault.for_ms is None else f"{begin}, for {fault.for_ms:g} ms"


def trigger_in_words(trigger: Trigger) -> str:
    """What a fault waits for."""
    who = "the first honest node" if trigger.node is None else f"node {trigger.node}"
    match trigger:
        case Commits():
            return f"When {who} commits height {trigger.height}"
        case Enters():
            return f"When {who} enters {view_in_words(trigger.view, trigger.epoch)}"
        case Begins():
            return f"When {who} begins epoch {trigger.epoch}"
        case Sends():
            who = "any node" if trigger.node is None else who
            article = "an" if trigger.message[:1] in tuple("AEIO") else "a"
            message = f"{article} {trigger.message or 'message'}"
            where = "" if trigger.view is None else f" of {view_in_words(trigger.view, trigger.epoch or 0)}"
            if trigger.view is None and trigger.epoch is not None:
                where = f" of epoch {trigger.epoch}"
            often = "" if trigger.nth == 1 else f" for the {ordinal(trigger.nth)} time"
            return f"When {who} sends {message}{where}{often}"
        case _:
            assert_never(trigger)


def view_in_words(view: int, epoch: int) -> str:
    """``view 3``, ``view 3 of epoch 1``."""
    return f"view {view} of epoch {epoch}" if epoch else f"view {view}"


def move_in_words(node: int, move: Move) -> str:
    """What a puppet does."""
    late = f", {move.after_ms:g} ms later" if move.after_ms else ""
    to = f"to {nodes(move.to)}{late}"
    at = view_in_words(move.view, move.epoch).capitalize()
    match move:
        case Propose():
            block = f"block {move.variant + 1}" if move.variant else "a block"
            proof = "" if move.proof == "honest" else f", with {move.proof} proof that the view before was given up,"
            early = "" if move.begins is None else f", when view {move.begins} begins"
            return f"{at}: node {node} proposes {block} on {rank(move.parent)} certificate{proof} {to}{early}."
        case CastVote():
            times = f" {move.times} times" if move.times > 1 else ""
            kind = "" if not move.kind else f" (a vote of the {_place(move.kind)} kind)"
            return f"{at}: node {node} votes for the {_place(move.choice)} block{times}{kind}, {to}."
        case GiveUp():
            return f"{at}: node {node} times out with {rank(move.high)} certificate {to}."
        case Announce():
            return f"{at}: node {node} shows {rank(move.high)} certificate {to}."
        case _:
            assert_never(move)


def _place(number: int) -> str:
    return ("first", "second", "third")[number] if number < 3 else ordinal(number + 1)


def fault_in_words(fault: Fault) -> str:
    """What goes wrong."""
    match fault:
        case Drop():
            kind = fault.message or "every"
            often = "" if fault.times is None else f", {fault.times} times"
            at = view_in_words(fault.view, fault.epoch).capitalize()
            return f"{at}: {kind} message from node {fault.source} to {nodes(fault.to)} is lost{often}."
        case ViewPartition():
            at = view_in_words(fault.view, fault.epoch).capitalize()
            return f"{at}: messages pass inside {groups(fault.groups)} only."
        case Partition():
            return f"{when(fault)}: partition {groups(fault.groups)}."
        case Cut():
            return f"{when(fault)}: messages {pairs(fault.pairs)} are lost."
        case Hold():
            released = "" if fault.for_ms is None else ", then released"
            return f"{when(fault)}: messages {pairs(fault.pairs)} are kept{released}."
        case Clog():
            return f"{when(fault)}: messages {pairs(fault.pairs)} take {fault.extra_ms:g} ms longer."
        case Heal():
            return f"{when(fault)}: the network heals, and what was held is released."
        case Crash():
            return _crash_in_words(fault)
        case Prune():
            return f"{when(fault)}: {nodes(fault.nodes)} keep only the last {fault.keep} committed blocks from then on."
        case Disk():
            return f"{when(fault)}: the disk of node {fault.node} {_disk(fault)}."
        case _:
            assert_never(fault)


def _crash_in_words(fault: Crash) -> str:
    many = len(fault.nodes) > 1
    back = "stay" if many else "stays"
    back = f"{back} down"
    if fault.restart_ms is not None:
        back = f"{'restart' if many else 'restarts'} {fault.restart_ms:g} ms later"
    crash = "crash" if many else "crashes"
    if not fault.boundary:
        return f"{when(fault)}: {nodes(fault.nodes)} {crash} and {back}."
    timed = any(start is not None for start in (fault.at_ms, fault.at_view, fault.at_height, fault.on))
    who = f"{_from(fault)}, {nodes(fault.nodes)}" if timed else nodes(fault.nodes).capitalize()
    each = ", each" if many else ""
    return f"{who} {crash} {fault.boundary}, the {ordinal(fault.nth)} time{each}, and {back}."


def _from(fault: Timed) -> str:
    return f"From {fault.at_ms:g} ms on" if fault.at_ms is not None else f"{when(fault)}"


def _disk(fault: Disk) -> str:
    match fault.fault:
        case "torn":
            return "loses the last record of the write that a crash interrupts (torn)"
        case "lost-fsync":
            return "forgets at the next crash what is written from now on (lost-fsync)"
        case "bit-rot" | "misdirected":
            return f"damages a record, which its checksum shows at the next start ({fault.fault})"
        case "wrong-host":
            return f"is taken for that of node {fault.other} at the next start (wrong-host)"
        case "slow":
            return f"takes {fault.slow_ms:g} ms longer for every write (slow)"
        case "full":
            return "refuses every write (full)"
        case _:
            assert_never(fault.fault)


def latency_in_words(latency: Latency) -> str:
    """How long a message takes."""
    match latency:
        case Constant(ms=ms):
            return f"{ms:g} ms"
        case Uniform(low_ms=low, high_ms=high):
            return f"{low:g} to {high:g} ms, all alike"
        case Normal(mean_ms=mean, deviation_ms=deviation, least_ms=least):
            return f"about {mean:g} ms (normal, deviation {deviation:g} ms), at least {least:g} ms"
        case Exponential(mean_ms=mean, least_ms=least):
            return f"{least:g} ms and an exponential tail of mean {mean:g} ms"
        case Empirical(table_ms=table):
            return f"one of {len(table)} measured delays, {min(table):g} to {max(table):g} ms"
        case _:
            assert_never(latency)


def link_in_words(link: Link) -> str:
    """A direction's delays and noise."""
    parts = [latency_in_words(link.latency)]
    if link.jitter_ms:
        parts.append(f"up to {link.jitter_ms:g} ms more")
    for share, happens in (
        (link.loss, "are lost"),
        (link.duplication, "arrive twice"),
        (link.reorder, f"come {link.reorder_ms:g} ms late"),
    ):
        if share:
            parts.append(f"{100 * share:g}% {happens}")
    return "; ".join(parts)


def actor_in_words(actor: Actor, schedule: Schedule) -> str:
    """Who plays a node."""
    options = ", ".join(f"{name} {value:g}" for name, value in actor.options.items())
    text = f"Node {actor.node} is a {actor.kind}{f' ({options})' if options else ''}"
    if actor.kind == "twin":
        copied = [other.node for other in schedule.actors if other.kind == "twin"]
        text += f": its second copy is node {schedule.nodes + copied.index(actor.node)}"
    return text + "."


def epoch_in_words(number: int, epoch: NextEpoch) -> str:
    """Who follows, and where."""
    members = ", ".join(
        f"{member.node}"
        + (f" with stake {member.stake}" if member.stake != 1 else "")
        + (f" with key {member.key}" if member.key else "")
        for member in epoch.validators
    )
    led = f" Leaders of its first views: {', '.join(map(str, epoch.leaders))}." if epoch.leaders else ""
    return f"After height {epoch.height} epoch {number} begins; its validators are the nodes {members}.{led}"


def _clock(clock: Clock) -> str:
    parts = []
    if clock.offset_ms:
        parts.append(f"{abs(clock.offset_ms):g} ms {'ahead' if clock.offset_ms > 0 else 'behind'}")
    if clock.drift_ppm:
        parts.append(f"{abs(clock.drift_ppm)} ppm {'fast' if clock.drift_ppm > 0 else 'slow'}")
    return f"The clock of node {clock.node} is {' and '.join(parts) or 'right'}."


def _times(times: Times) -> str:
    growth = f"{times.growth_numerator}/{times.growth_denominator}"
    return (
        f"A view times out after {times.view_timeout_ms} ms, {growth} as long after each that commits nothing, at most "
        f"{times.exponent_max} times; an idle leader waits {times.idle_interval_ms} ms."
    )


def _committee(schedule: Schedule) -> Iterator[str]:
    count = schedule.nodes + sum(actor.kind == "twin" for actor in schedule.actors)
    signed = "" if schedule.scheme == "simulated" else f" with {schedule.scheme} signatures"
    yield f"{schedule.nodes} validators run {schedule.protocol}{signed}, seed {schedule.seed}."
    if schedule.stakes:
        stakes = ", ".join(map(str, schedule.stakes))
        yield f"Stakes of validators 0 to {schedule.nodes - 1}: {stakes}."
    if schedule.observers:
        watching = nodes(range(count, count + schedule.observers))
        yield f"{schedule.observers} observer{'s' if schedule.observers > 1 else ''}: {watching}."
    if schedule.leaders:
        named = ", ".join(str(node) for node in schedule.leaders)
        yield f"Leaders of views 1 to {len(schedule.leaders)}: {named}; then all in turn."
    for number, epoch in enumerate(schedule.epochs, start=1):
        yield epoch_in_words(number, epoch)
    if schedule.checkpoint_interval:
        yield f"Every {schedule.checkpoint_interval} blocks the validators vote on finality."
    for actor in schedule.actors:
        yield actor_in_words(actor, schedule)
    if schedule.times != Times():
        yield _times(schedule.times)
    for clock in schedule.clocks:
        yield _clock(clock)


def _network(schedule: Schedule) -> Iterator[str]:
    if schedule.regions:
        places = ", ".join(f"node {node} in {region}" for node, region in enumerate(schedule.regions))
        yield f"Delays are those measured between regions: {places}."
        noise = link_in_words(schedule.link).partition("; ")[2]
        if noise:
            yield f"Of all messages: {noise}."
    else:
        yield f"A message takes {link_in_words(schedule.link)}."
    for own in schedule.links:
        yield f"From node {own.source} to node {own.target} it takes {link_in_words(own.link)}."
    if schedule.bandwidth_mbit:
        yield f"Each node sends and receives {schedule.bandwidth_mbit:g} Mbit/s, shared fairly among its peers."


def _submit(submit: Submit) -> str:
    size = len(submit.payload.encode())
    shown = repr(submit.payload) if len(submit.payload) <= 40 else f"{submit.payload[:40]!r}... ({size} bytes)"
    return f"At {submit.at_ms:g} ms: payload {shown} is given to {nodes(submit.to) if submit.to else 'all nodes'}."


def _demands(schedule: Schedule) -> Iterator[str]:
    stop, liveness = schedule.stop, schedule.liveness
    for milestone in schedule.milestones:
        yield (
            f"When view {milestone.view} begins, the committed height must be {milestone.height_min} to "
            f"{milestone.height_max}."
        )
    if liveness is not None:
        yield _progress(liveness)
    if schedule.fault_free:
        yield "Nothing is wrong: no timer may fire, and views follow the real delay."
    if schedule.oracles:
        yield f"Only these judge: {', '.join(schedule.oracles)}."
    if liveness is None:
        height = f" with height {stop.height} committed" if stop.height else ""
        view = view_in_words(stop.view, stop.epoch)
        yield f"The run ends when all live honest nodes are above {view}{height}, or at {stop.time_ms:g} ms."
    elif stop != Stop():
        yield f"The run ends at {stop.time_ms:g} ms at the latest."


def _progress(liveness: Liveness) -> str:
    core = nodes(liveness.core) if liveness.core else "all honest nodes"
    return (
        f"From {liveness.from_ms:g} ms on the network is good for {core}, with delays up to {liveness.delay_ms:g} ms: "
        f"each must commit anew within the views up to three honest leaders in a row and {liveness.timeouts} view "
        f"timeouts, and payloads that all were given within {liveness.payload_ms:g} ms more."
    )


def in_words(schedule: Schedule) -> Iterator[str]:
    """The whole schedule: who and where, then what happens, by view as far as it goes by views, then what is asked."""
    yield from _committee(schedule)
    yield from _network(schedule)
    for submit in schedule.workload:
        yield _submit(submit)
    dated: list[tuple[int, str]] = []
    for fault in schedule.faults:
        view = numbered(fault.epoch, fault.view) if isinstance(fault, Drop | ViewPartition) else (fault.at_view or 0)
        if isinstance(fault, Timed) and isinstance(fault.on, Enters | Begins):
            view = numbered(fault.on.epoch, fault.on.view if isinstance(fault.on, Enters) else 0)
        dated.append((view, fault_in_words(fault)))
    for actor in schedule.actors:
        dated += [(numbered(move.epoch, move.view), move_in_words(actor.node, move)) for move in actor.moves]
    for _, text in sorted(dated, key=lambda row: row[0]):
        yield text
    yield from _demands(schedule)
