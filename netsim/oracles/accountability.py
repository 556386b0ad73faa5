"""Accountability: A1, no honest signer is ever in valid evidence; A2, two conflicting commits name the guilty.

A1 looks at all that an honest signer signed and asks whether any two of it would be evidence, with sweeps of its own:
the predicates of ``consensus/offences.py`` are not called. A2 hands two conflicting histories to the extractor and
judges what comes out, with own arithmetic and own reading of every piece of evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Final

import msgspec

from consensus.engine import Commit, ReportEvidence
from consensus.epochs import EpochInfo, epoch_after
from consensus.evidence import Evidence
from consensus.finality.types import FfgVote, LinkCertificate
from consensus.forensics import Extraction, History, extract
from consensus.types import NIL_BLOCK, BlockHeader, BlockId, Slot, Subject, VoteSubject
from consensus.validators import ValidatorSet
from netsim.oracles.judge import Judge, Seats, SignedFact, members
from netsim.world import Host

_encode: Final = msgspec.msgpack.Encoder().encode
_SLOT: Final = attrgetter("slot")


class Said(msgspec.Struct, frozen=True):
    """What a signed subject says, whatever its type. ``shown`` is the view of the certificate that it rests on: a
    vote's ``justify_view``, a timeout's ``high_qc_view``."""

    kind: str
    slot: Slot
    view: int
    block_id: bytes
    height: int
    shown: int | None
    subject: Subject


def said(subject: Subject) -> Said:
    """Read a subject by its field names."""
    slot = subject.slot
    if type(subject) is VoteSubject:
        vote = subject
        return Said(vote.kind, slot, slot.major, vote.block_id, vote.height, vote.justify_view, vote)
    shown = getattr(subject, "justify_view", getattr(subject, "high_qc_view", None))
    block_id, height = getattr(subject, "block_id", b""), getattr(subject, "height", 0)
    return Said(subject.kind, slot, slot.major, block_id, height, shown, subject)


Lock = Callable[[BlockId], int | None]
"""The view of what the parent of a block stands on; None when the headers were never seen."""
Sweep = Callable[[Sequence[Said], Lock], tuple[Said, Said] | None]
"""Over one signer's words, ascending by view: two that are the offence."""


def twice(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
    """Two words of one kind in one slot."""
    first: dict[tuple[str, Slot], Said] = {}
    for word in words:
        held = first.setdefault((word.kind, word.slot), word)
        if held.subject != word.subject:
            return held, word
    return None


def denied(kind: str, worth: Callable[[Said], int | None]) -> Sweep:
    """A timeout at the view of a ``kind`` or above shows less than that was worth."""

    def sweep(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
        timeouts = [word for word in words if word.kind == "timeout" and word.shown is not None]
        if not timeouts:
            return None
        worths = [(value, word) for word in words if word.kind == kind and (value := worth(word)) is not None]
        for timeout in timeouts:
            before = [known for known in worths if known[1].view <= timeout.view]
            best = max(before, key=itemgetter(0), default=None)
            if best is not None and timeout.shown is not None and timeout.shown < best[0]:
                return best[1], timeout
        return None

    return sweep


def below_lock(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
    """A vote that stands below what an earlier one locked: what it stood on, or, of three chains, what its parent stood
    on; the headers decide which of the two a protocol means."""
    best: tuple[int, Said] | None = None
    for word in words:
        if word.kind != "vote" or word.shown is None:
            continue
        if best is not None and word.view > best[1].view and word.shown < best[0]:
            return best[1], word
        value = lock(word.block_id)
        if value is not None and (best is None or value > best[0]):
            best = value, word
    return None


def lower(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
    """A vote at a lower height than one of an earlier view."""
    best: Said | None = None
    for word in words:
        if word.kind == "vote":
            if best is not None and word.view > best.view and word.height < best.height:
                return best, word
            if best is None or word.height > best.height:
                best = word
    return None


def both(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
    """A finalize and a nullify of one view."""
    finalized = {word.view: word for word in words if word.kind == "finalize"}
    for word in words:
        if word.kind == "nullify" and word.view in finalized:
            return finalized[word.view], word
    return None


def forgets(words: Sequence[Said], lock: Lock) -> tuple[Said, Said] | None:
    """A prevote for another block than was precommitted in an earlier round of the height, on a round before that."""
    for early in words:
        for late in words:
            if (early.kind, late.kind) != ("precommit", "prevote") or late.view <= early.view:
                continue
            if early.height != late.height or NIL_BLOCK in (early.block_id, late.block_id):
                continue
            if late.block_id != early.block_id and late.shown is not None and late.shown < early.view:
                return early, late
    return None


SWEEPS: Final[dict[str, Sweep]] = {
    "equivocation": twice,
    "timeout-denies-vote": denied("vote", lambda word: word.shown),
    "timeout-denies-order-vote": denied("order", lambda word: word.view),
    "vote-below-lock": below_lock,
    "vote-falls-in-height": lower,
    "finalize-and-nullify": both,
    "amnesia": forgets,
}


class Accountable:
    """A1: what an honest node reports proves the guilt of somebody faulty, and nothing that an honest signer signed
    would be evidence of any form, whatever the others did and however many of them are faulty."""

    id = "A1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.words: dict[tuple[int, int], dict[Subject, None]] = {}
        """By epoch and signer."""
        self.offences = ("equivocation", *(offence.name for offence in judge.definition.offences))
        self.deep = {offence.name for offence in judge.definition.offences if offence.headers_needed}
        judge.on_accused.append(self.accused)
        judge.on_signed.append(self.tell)
        judge.on_end.append(self.end)

    def tell(self, fact: SignedFact) -> None:
        if fact.host.honest:
            self.words.setdefault((fact.subject.epoch, fact.signer), {})[fact.subject] = None

    def end(self) -> None:
        for (epoch, signer), subjects in self.words.items():
            words = sorted(map(said, subjects), key=_SLOT)
            for offence in self.offences:
                sweep = SWEEPS.get(offence)
                found = None if sweep is None else sweep(words, self.lock_of(offence, words))
                if found is not None:
                    where = f" of epoch {epoch}" if epoch else ""
                    text = f"honest validator {signer}{where} signed what convicts it of {offence}: "
                    self.judge.fire(self.id, None, f"{text}{found[0]} and {found[1]}")

    def lock_of(self, offence: str, words: Sequence[Said]) -> Lock:
        """What a vote locks: the view that it shows, or where headers are needed that of its parent's ground."""
        if offence not in self.deep:
            shown: dict[BlockId, int | None] = {}

            def lock_shown(block_id: BlockId) -> int | None:
                if not shown:
                    shown.update((word.block_id, word.shown) for word in words if word.kind == "vote")
                return shown.get(block_id)

            return lock_shown
        blocks = self.judge.blocks

        def lock(block_id: BlockId) -> int | None:
            block = blocks.get(block_id)
            parent = None if block is None else blocks.get(block.parent)
            if block is None or parent is None or parent.epoch != block.epoch:
                return None  # the parent of an epoch's first block has views of the epoch before
            return parent.justify_view

        return lock

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        if not host.honest or isinstance(evidence.first, FfgVote | LinkCertificate):  # finality's are A3's
            return
        first, second = self.read(evidence.first), self.read(evidence.second)
        headers = {hashlib.sha256(_encode(header)).digest(): header for header in evidence.headers}
        if (
            first is None
            or second is None
            or first[0] != second[0]
            or first[1].subject.epoch != second[1].subject.epoch
            or not self.contradict(first[1], second[1], headers)
        ):
            self.judge.fire(self.id, host, f"node {host.position} reports evidence that proves nothing")
        elif is_honest(self.judge, first[0], first[1].subject.epoch):
            self.judge.fire(self.id, host, f"node {host.position} accuses honest validator {first[0]}")

    def contradict(self, first: Said, second: Said, headers: dict[bytes, BlockHeader]) -> bool:
        """Whether no honest signer would have signed both, by what can be seen in the words and those headers."""
        words = sorted((first, second), key=lambda word: word.slot)
        plain = [name for name in (*self.offences, "finalize-and-nullify") if name in SWEEPS and name not in self.deep]
        if any(SWEEPS[name](words, self.lock_of(name, words)) is not None for name in plain):
            return True
        return any(SWEEPS[name](words, shown_lock(words[0], headers)) is not None for name in self.deep if headers)

    def read(self, message: msgspec.Struct) -> tuple[int, Said] | None:
        """Signer and words, if the signature verifies."""
        statement = self.judge.definition.statement(message)
        if statement is None or not self.judge.verifies(statement.signer, statement.subject, statement.signature):
            return None
        return statement.signer, said(statement.subject)


def is_honest(judge: Judge, signer: int, epoch: int = 0) -> bool:
    """Whether every process with that identity is honest."""
    return all(host.honest for host in judge.world.hosts if judge.seat(host, epoch) == signer)


class Convicted:
    """A2: when more than F of the stake is faulty and two honest nodes commit different blocks, the extractor names,
    from their histories and what honest nodes kept, at least ``2Q - W`` of the stake when at most ``2F`` is faulty, and
    never anybody honest, however many are faulty. Each piece of its evidence is read anew."""

    id = "A2"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.chain: dict[int, tuple[BlockId, Host]] = {}
        self.split: tuple[int, Host, Host] | None = None
        self.extraction: Extraction | None = None
        epochs = range(len(judge.epochs))
        if any(self.faulty_stake(epoch) > self.seats(epoch).total - self.seats(epoch).quorum for epoch in epochs):
            # Below that a split is S1's.
            judge.on_committed.append(self.committed)
            judge.on_end.append(self.end)

    def seats(self, epoch: int) -> Seats:
        return self.judge.epochs[epoch]

    def faulty_stake(self, epoch: int) -> int:
        """What the faulty validators of an epoch hold."""
        hosts = self.judge.world.hosts
        faulty = {seat for host in hosts if not host.honest and (seat := self.judge.seat(host, epoch)) is not None}
        return sum(self.seats(epoch).stakes[seat] for seat in faulty)

    def committed(self, host: Host, commit: Commit) -> None:
        height, block_id = commit.block.header.height, commit.block.id
        known, holder = self.chain.setdefault(height, (block_id, host))
        if known != block_id and self.split is None:
            self.split = (height, holder, host)
            self.judge.world.finished = True  # what it takes must be durable by now

    def end(self) -> None:
        if self.split is None:
            return
        height, one, other = self.split
        judge, world = self.judge, self.judge.world
        first, second = history(one, height), history(other, height)
        if first is None or second is None:
            return  # pruned: nothing to compare
        kept = [proof for host in world.hosts if host.honest for proof in host.journal.transcript]
        committee, definition = world.committee, judge.definition
        info = self.info_of(first.headers[0].epoch, one)
        if info is None or first.headers[0].epoch != second.headers[0].epoch:
            return  # one of them skipped a boundary: S11's
        engine = definition.engine(spec=committee.spec, epoch=info, scheme=committee.scheme, me=None)
        result = extract(first, second, kept, epoch=info, definition=definition, scheme=committee.scheme, engine=engine)
        if not isinstance(result, Extraction):
            judge.fire(self.id, other, f"nothing is extracted from a split at height {height}: {result.reason}")
            return
        self.extraction = result
        seats = self.seats(info.epoch)
        named = dict.fromkeys(signer for evidence in result.evidence for signer in self.convicted(evidence, info))
        innocent = [signer for signer in (*result.guilty, *named) if is_honest(judge, signer, info.epoch)]
        stake = sum(seats.stakes[signer] for signer in named)
        expected = 2 * seats.quorum - seats.total
        if innocent:
            judge.fire("A1", other, f"the extractor names honest validators {innocent}")
        elif sorted(named) != list(result.guilty):
            judge.fire(self.id, other, f"the extractor says {result.guilty}, its evidence {sorted(named)}")
        elif stake < expected and self.faulty_stake(info.epoch) <= 2 * (seats.total - seats.quorum):
            text = f"a split at height {height} names stake {stake} of {list(named)}, less than {expected}"
            judge.fire(self.id, other, text)

    def info_of(self, epoch: int, host: Host) -> EpochInfo | None:
        """An epoch as a node began it."""
        committee = self.judge.world.committee
        if not epoch:
            return committee.epoch
        change = next((change for change in host.journal.epochs if change.epoch == epoch), None)
        return None if change is None else epoch_after(committee.spec, change.boundary, ValidatorSet(change.validators))

    def convicted(self, evidence: Evidence, info: EpochInfo) -> list[int]:
        """Who is guilty by that evidence, read without the code that made it; nobody where it does not hold."""
        judge = self.judge
        if (evidence.chain, evidence.epoch, evidence.protocol) != (info.chain, info.epoch, judge.definition.name):
            return []
        decoder: msgspec.msgpack.Decoder[Subject] = msgspec.msgpack.Decoder(subject_types(judge))
        words = []
        for group in (evidence.first, evidence.second):
            subject = decoder.decode(group.subject)
            if not judge.signed_by_all(subject, group.signers, group.signature):
                return []
            words.append(said(subject))
        headers = {hashlib.sha256(_encode(header)).digest(): header for header in evidence.headers}
        sweep = SWEEPS.get(evidence.offence)
        ordered = sorted(words, key=lambda word: word.slot)
        if sweep is None or sweep(ordered, shown_lock(words[0], headers)) is None:
            return []
        held = members(evidence.second.signers)
        return [signer for signer in members(evidence.first.signers) if signer in held]


def subject_types(judge: Judge) -> object:
    """The union of what a protocol signs."""
    union: object = judge.definition.subjects[0]
    for subject in judge.definition.subjects[1:]:
        union = union | subject
    return union


def shown_lock(first: Said, headers: dict[bytes, BlockHeader]) -> Lock:
    """What the first word locked, by the headers that the evidence carries or, where it carries none, by itself."""

    def lock(block_id: BlockId) -> int | None:
        if not headers:
            return first.shown if block_id == first.block_id else None
        block = headers.get(block_id)
        parent = None if block is None else headers.get(block.parent)
        if block is None or parent is None or parent.epoch != block.epoch:
            return None
        return parent.justify.view

    return lock


def history(host: Host, height: int) -> History | None:
    """What a node committed from ``height`` up to the next height that it holds a proof of."""
    found: list[BlockHeader] = []
    journal = host.journal
    while height in journal.commits:
        block_id, proof = journal.commits[height]
        found.append(journal.blocks[block_id].header)
        if proof is not None:
            return History(headers=tuple(found), proof=proof)
        height += 1
    return None
