"""What must hold of a history of finality votes, worked out anew from the votes, slowly and by other means than the
code that is judged: sets instead of orderings, fixed points instead of passes over sorted links.
"""

from __future__ import annotations

from consensus.finality.forensics import Extraction, extract
from consensus.finality.types import Checkpoint, Link
from consensus.validators import ValidatorSet
from netsim.histories.play import INTERVAL, History, punishable


def two_thirds(members: ValidatorSet, keys: frozenset[bytes]) -> bool:
    stake = sum(member.stake for member in members.validators if member.public_key in keys)
    return 3 * stake > 2 * sum(member.stake for member in members.validators)


def final_by_definition(history: History) -> set[Checkpoint]:
    """The finalized checkpoints, from the definitions."""
    signers = history.signers()
    above = history.tree.ancestors

    def members_above(block: Checkpoint) -> tuple[ValidatorSet | None, Checkpoint | None]:
        for change in history.sets.changes:
            if change.boundary in above[block] - {block}:
                return change.new, change.boundary
        return None, None

    def closure(handed: set[Checkpoint]) -> set[Checkpoint]:
        good: set[Link] = set()
        for link, keys in signers.items():
            if link.source not in above[link.target] - {link.target}:
                continue
            new, _ = members_above(link.target)
            old_needed = new is None or not (above[link.source] & handed)
            if (not old_needed or two_thirds(history.sets.first, keys)) and (new is None or two_thirds(new, keys)):
                good.add(link)
        justified = {history.root}
        while more := {target for source, target in good if source in justified} - justified:
            justified |= more
        final = {history.root}
        for source, target in sorted(good, key=lambda link: link.order):
            span = (target.height - source.height) // INTERVAL
            between = {block for block in above[target] if source.height < block.height < target.height}
            middle = {block for block in between if block.height == source.height + INTERVAL}
            if source in justified and (span == 1 or (span == 2 and middle <= justified)):
                final.add(source)
        return final

    first = closure(set())
    boundaries = [change.boundary for change in history.sets.changes]
    return closure({one for one in first if any(boundary in above[one] for boundary in boundaries)})


def forks(history: History, final: set[Checkpoint]) -> bool:
    above = history.tree.ancestors
    return any(a not in above[b] and b not in above[a] for a in final for b in final)


def honest_offences(history: History) -> list[str]:
    """A3: what the honest have signed holds no double and no surround."""
    return [
        f"the honest {key.decode()} signed {votes[i]} and {votes[j]}"
        for key, votes in history.votes.items()
        if key not in history.faulty
        for i in range(len(votes))
        for j in range(i)
        if punishable(votes[i], votes[j])
    ]


def accountability(history: History) -> list[str]:
    """Two conflicting finalized checkpoints name at least 2Q - W of some set, nobody honest, nobody without proof."""
    finality = history.evaluate()
    found = extract(
        root=history.root,
        interval=INTERVAL,
        sets=history.sets,
        signers=history.signers(),
        ancestry=history.tree,
    )
    if not isinstance(found, Extraction):
        return (
            ["conflicting checkpoints are final, and nobody is accused"]
            if forks(history, set(finality.finalized))
            else []
        )
    wrong = []
    if not forks(history, {found.first, found.second}):
        wrong.append(f"{found.first} and {found.second} do not conflict")
    for guilt in found.guilty:
        if guilt.public_key not in history.faulty:
            wrong.append(f"the honest {guilt.public_key.decode()} is accused")
        votes = history.votes[guilt.public_key]
        if guilt.first not in votes or guilt.second not in votes or not punishable(guilt.first, guilt.second):
            wrong.append(f"{guilt} is no proof")
    named = {guilt.public_key for guilt in found.guilty}
    if not any(enough(members, named) for members in all_sets(history)):
        wrong.append("conflicting checkpoints are final, and less than 2Q - W of every set is accused")
    return wrong


def all_sets(history: History) -> list[ValidatorSet]:
    return [history.sets.first, *(change.new for change in history.sets.changes)]


def enough(members: ValidatorSet, named: set[bytes]) -> bool:
    total = sum(member.stake for member in members.validators)
    quorum = next(stake for stake in range(total + 1) if 3 * stake > 2 * total)
    return sum(member.stake for member in members.validators if member.public_key in named) >= 2 * quorum - total


def complaints(history: History) -> list[str]:
    """Everything that is wrong with a history, but for the rules' answer itself (:func:`final_by_definition`)."""
    wrong = honest_offences(history) + accountability(history)
    if history.rewound:
        wrong.append(f"what was final is not: {history.rewound}")
    return wrong
