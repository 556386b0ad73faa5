"""The checks of what a definition declares: messages and their wire form, statements and subjects, commit proofs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from consensus.codec import commit_proofs, digest, encode, headers
from consensus.engine import Engine, Refusal
from consensus.types import (
    NIL_BLOCK,
    SYNC_MESSAGES,
    BlockHeader,
    BlockId,
    Certificate,
    CommitProof,
    Slot,
    Vote,
    VoteSubject,
)
from netsim.committee import committee_of
from netsim.reading import parts
from netsim.schedule import Actor, Crash, Heal, Partition, Schedule, Stop, Submit
from netsim.suite.notes import Notes
from netsim.suite.subject import Subject, expect_silent, fail

TAG_LIMIT: Final = 16
"""Tags from here on are block sync's."""
EVENTFUL_MS: Final = 1_500
LARGE_BYTES: Final = 64 * 1024
"""A message of more than this must be declared bulk, or it stands before votes in a queue."""


def messages(subject: Subject) -> None:
    """Every message goes over the wire and comes back; what it states verifies and decodes; tags, kinds and bulk are
    as declared."""
    _check_tags(subject)
    for schedule in _eventful(subject):
        notes = Notes()
        subject.run(schedule.replace(oracles=("S1",)), oracles=(notes,), watchers=(notes,))
        for known in notes.messages.values():
            for message in known:
                _check_wire(subject, message)
                _check_statement(subject, notes, message)
                _check_kinds(subject, message)
        for record in notes.safety:
            signed = subject.definition.subject_codec().decode(record.subject)
            if getattr(signed, "kind", None) != record.kind:
                fail(
                    "every subject that is signed decodes through subject_codec()",
                    f"the stored subject of kind {record.kind!r} gives {signed!r}",
                    "list its type in ProtocolDefinition.subjects; its record's kind is its own",
                )


def _eventful(subject: Subject) -> Iterator[Schedule]:
    """Runs in which everything is said: large payloads, a silent leader, a partition, a restart."""
    large = "x" * (2 * LARGE_BYTES)
    yield subject.plain(
        "eventful",
        actors=(Actor(node=1, kind="silent"),),
        workload=(Submit(at_ms=0, payload="small"), Submit(at_ms=30, payload=large)),
        faults=(
            Partition(at_ms=200, for_ms=300, groups=((0, 1, 2), (3,))),
            Crash(at_ms=700, nodes=(2,), restart_ms=30),
            Heal(at_ms=900),
        ),
        stop=Stop(view=2**40, time_ms=EVENTFUL_MS),
    )
    yield subject.named("short-outage").replace(stop=Stop(view=2**40, time_ms=EVENTFUL_MS), liveness=None)


def _check_tags(subject: Subject) -> None:
    tags = [kind.__struct_config__.tag for kind in subject.definition.messages]
    numbers = [tag for tag in tags if isinstance(tag, int) and 0 <= tag < TAG_LIMIT]
    if len(dict.fromkeys(numbers)) != len(tags):
        fail(f"messages have distinct tags below {TAG_LIMIT}", f"tags {tags}", "tag=3 and so on in the struct's line")
    loose = [kind.__name__ for kind in subject.definition.bulk if kind not in subject.definition.messages]
    if loose:
        fail("bulk names messages of the protocol", f"{', '.join(loose)}", "list them in ProtocolDefinition.messages")


def _check_wire(subject: Subject, message: msgspec.Struct) -> None:
    definition, name = subject.definition, type(message).__name__
    if type(message) not in (*definition.messages, *SYNC_MESSAGES):
        fail("only declared messages are sent", name, "list it in ProtocolDefinition.messages")
    wire = definition.wire()
    frame = wire.encode(message)
    back = wire.decode(frame)
    if back != message:
        fail(
            "a message comes back from the wire as it was sent",
            f"{name} gives {back!r}"[:400],
            "a frozen keyword-only array_like Struct with forbid_unknown_fields, tuples for lists, and bounded fields",
        )
    if len(frame) > LARGE_BYTES and not definition.is_bulk(message):
        fail("what carries payloads is declared bulk", f"a {name} of {len(frame)} bytes", "list it in bulk")
    if isinstance(message, Vote) and definition.is_bulk(message):
        fail("votes do not wait behind payloads", f"{name} is bulk", "take it out of bulk")


def _check_statement(subject: Subject, notes: Notes, message: msgspec.Struct) -> None:
    definition, name = subject.definition, type(message).__name__
    statement = definition.statement(message)
    if statement is None:
        if getattr(message, "signature", None):
            fail(
                "a signed message says what it states", f"statement() has nothing for a {name}",
                "return a Statement of its signer, subject and signature: evidence is made of it",
            )  # fmt: skip
        return
    signed = statement.subject
    if not notes.judge.verifies(statement.signer, signed, statement.signature):
        fail(
            "what a message states is what its signer signed",
            f"the signature of a {name} does not verify over {signed!r}",
            "rebuild in statement() the very subject that the engine gave to its guard",
        )
    codec = definition.subject_codec()
    struct = _struct(signed)
    if type(struct) not in definition.subjects or codec.decode(encode(struct)) != struct:
        fail(
            "every subject decodes through subject_codec()", f"{signed!r} of a {name}",
            "a tagged canonical Struct, listed in ProtocolDefinition.subjects",
        )  # fmt: skip
    kinds = [kind.name for kind in definition.votes]
    if isinstance(signed, VoteSubject) and signed.kind not in kinds:
        fail(
            "votes are of declared kinds", f"a {name} of kind {signed.kind!r}", "declare it in ProtocolDefinition.votes"
        )
    slot = signed.slot
    in_epoch = isinstance(slot, Slot) and slot.epoch == signed.epoch == getattr(message, "epoch", signed.epoch)
    if not in_epoch or slot.major < 1:
        fail(
            "a subject's slot is (epoch, view, minor), and its view is above 0", f"{slot!r} of a {name}",
            "slot returns Slot(self.epoch, self.view, 0); the guard keeps one subject per kind and slot",
        )  # fmt: skip


def _struct(value: object) -> msgspec.Struct:
    assert isinstance(value, msgspec.Struct)
    return value


def _check_kinds(subject: Subject, message: msgspec.Struct) -> None:
    kinds = {kind.name: kind for kind in subject.definition.votes}
    for part in (message, *parts(message)):
        if not isinstance(part, Vote | Certificate) or (isinstance(part, Certificate) and part.view == 0):
            continue
        kind = kinds.get(part.kind)
        nil = part.block_id == NIL_BLOCK
        if kind is None or (nil and not kind.nil) or (not nil and not kind.blocks):
            fail(
                "votes and certificates are of declared kinds",
                f"{type(part).__name__} of kind {part.kind!r} for {'no block' if nil else 'a block'}",
                "declare it in ProtocolDefinition.votes: VoteKind(name=..., nil=..., blocks=...)",
            )


def proofs(subject: Subject) -> None:
    """A stranger's engine, that only knows the epoch, accepts each commit's proof and refuses it with any byte changed,
    and for any other block."""
    notes = Notes()
    workload = tuple(Submit(at_ms=20 * number, payload=f"payload {number}") for number in range(10))
    schedule = subject.named("every-fourth-silent").replace(workload=workload, stop=Stop(view=2**40, time_ms=3_000),
                                                            liveness=None)  # fmt: skip
    result = subject.run(schedule, oracles=(notes,), watchers=(notes,))
    expect_silent(subject, schedule, result, "nothing fires while proofs are collected", "see the oracle's line")
    committee = committee_of(schedule)
    stranger = subject.definition.engine(spec=committee.spec, epoch=committee.epoch, scheme=committee.scheme, me=None)
    proved = {
        (commit.block.id, encode(commit.proof)): (commit.block.header, commit.proof)
        for there in notes.commits.values()
        for _, _, commit in there
        if commit.proof is not None
    }
    if not proved:
        fail("commits carry proofs", "none of a run has one", "Commit(proof=...) for the last block of each commit")
    for header, proof in proved.values():
        refusal = stranger.verify_commit(proof, header, header.epoch)
        if refusal is not None:
            fail(
                "a stranger accepts each commit's proof", f"height {header.height}: {refusal.reason}",
                "verify_commit judges by header, proof and epoch alone, and says what the replicas' commit rule says",
            )  # fmt: skip
    ranked = sorted(proved.values(), key=lambda each: len(encode(each[1])))
    for number in dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1)):
        _check_forgeries(stranger, *ranked[number])
    _check_others(stranger, {digest(header): header for header, _ in proved.values()}, ranked[-1][1])


def _check_forgeries(stranger: Engine, header: BlockHeader, proof: CommitProof) -> None:
    for data in _changed(encode(proof)):
        forged = commit_proofs.decode(data)
        if isinstance(forged, CommitProof):
            _expect_refusal(stranger, header, forged, "with a byte changed")
    for data in _changed(encode(header)):
        other = headers.decode(data)
        if isinstance(other, BlockHeader):
            _expect_refusal(stranger, other, proof, "for a header with a byte changed")


def _check_others(stranger: Engine, known: dict[BlockId, BlockHeader], proof: CommitProof) -> None:
    proved = [header for header in known.values() if stranger.verify_commit(proof, header, header.epoch) is None]
    if len(proved) != 1:
        fail(
            "a proof proves one block", f"it proves those of heights {[header.height for header in proved]}",
            "compare the chain of hashes from the header to the block that the certificate names",
        )  # fmt: skip


def _changed(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        for bit in (1, 0x80):
            yield data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]


def _expect_refusal(stranger: Engine, header: BlockHeader, proof: CommitProof, what: str) -> None:
    try:
        refusal = stranger.verify_commit(proof, header, 0)
    except Exception as error:  # whatever the author's code raises is the finding
        fail("a bad proof is refused by value", f"{type(error).__name__}: {error}", "return a Refusal, raise nothing")
    if not isinstance(refusal, Refusal):
        fail(
            "a stranger refuses what was not committed", f"the proof of height {header.height} {what} is accepted",
            "check every field: links, heights, views, the kind, and the quorum's signatures over the subject",
        )  # fmt: skip
