"""Where a signature is decided, recorded and made: the one object that holds keys and memory, and no socket.

Everything that can ask for a signature goes through :meth:`SigningAuthority.sign`: today the local socket
(``server.py``). Two things that are not built would attach here:

- a **Web3Signer-compatible HTTP face** (``POST /api/v1/eth2/sign/{id}``; 412 is a :class:`Refusal`) would turn its
  typed requests into a :class:`Request`, and a refusal's rule into a status, as ``server.py`` does with frames;
- **attestation of the signer's build** (a measured enclave) concerns who may be talked to, not what is signed: its
  proof would go into ``Opened`` of ``messages.py``, to be checked by the node beside the pinned key.

*Persist, then sign*: the record of a grant is synced before the key is touched. A process that is killed between any
two steps has lost nothing but an answer, and gives that same answer when asked again. A failure of the disk is an
exception and ends the process.

**In EIP-3076's terms** (``slashing_rules.py``), so that its interchange can carry what it knows:

- the chain's ``genesis_validators_root`` is our genesis hash; a signing root is the SHA-256 of the bytes that are
  signed;
- a vote of finality is an attestation; the heights of its two checkpoints stand for source and target epoch. The epoch
  of ours that it names, and the validators, are left out of its signing root: saying the same link for another epoch
  contradicts nothing (``finality/rules.py``), so it is a repeat;
- a proposal of view v in epoch e is a block of slot ``e * 2**52 + v``. Where that does not fit 64 bits (beyond 4,096
  epochs, or views from 2**52 on: heights from 268 million on in Tendermint) a proposal is in our own table alone, which
  protects it all the same, and in no interchange.

Histories are pruned together with our own table, and imports raise the bounds (``raise_bounds``): what may have been
signed in a gap between two files is not signed. An interchange says nothing of votes, timeouts and order votes: whoever
imports one names the slot below which no key signs them any more (``Stored.begin``), which binds all keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, cast

import msgspec

from consensus.codec import Canonical, Malformed, encode
from consensus.crypto.scheme import SecretKey
from consensus.finality.types import FfgVoteSubject
from consensus.signing import SigningDomain
from consensus.slashing_rules import SignedAttestation, SignedBlock
from consensus.types import HASH_SIZE, Epoch, ProposalSubject, Slot, Subject, VoteSubject
from sequencer.genesis import Genesis
from sequencer.signer.rules import SUBJECTS_KEPT, Entry, Grant, History, KindHistory, Refusal, Rule, decide, shown
from sequencer.storage.database import StorageError
from sequencer.storage.signing_store import Change, SigningStore, Stored, SubjectRow

VIEW_BITS: Final = 52
EPOCH_BITS: Final = 12


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a node asks for: a canonical subject, and what its signature is bound to besides (``SigningDomain``)."""

    public_key: bytes
    validators_hash: bytes
    subject: bytes


class SigningAuthority:
    """The keys of one chain and what they signed."""

    def __init__(self, genesis: Genesis, keys: Iterable[SecretKey], store: SigningStore) -> None:
        """Raises :class:`StorageError` when the store cannot be relied on."""
        self.genesis = genesis
        self._keys: dict[bytes, SecretKey] = {key.public_key: key for key in keys}
        self._store = store
        protocol = genesis.protocol
        self._codec: Canonical[msgspec.Struct] = Canonical(*protocol.subjects, FfgVoteSubject)
        self._vote_kinds = frozenset(vote.name for vote in protocol.votes)
        stored = store.load()
        self._begin = stored.begin
        self._histories = self._load(stored)

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """The keys that are held here."""
        return tuple(self._keys)

    def sign(self, request: Request) -> bytes | Refusal:
        """The signature, once what it says is durable. Blocks for one synced write; raises :class:`StorageError`, after
        which nothing may be signed any more."""
        key = self._keys.get(request.public_key)
        if key is None:
            held = ", ".join(public_key.hex() for public_key in self._keys)
            return Refusal(Rule.KEY, f"key {request.public_key.hex()} is not held here; held are {held}")
        subject = self._subject(request.subject)
        if isinstance(subject, Refusal):
            return subject
        domain = self._domain(subject.epoch, request.validators_hash)
        refusal = self._record(key.public_key, self._entry(subject, domain))
        return key.sign(domain.bytes_to_sign(subject)) if refusal is None else refusal

    def adopt(self, public_key: bytes, encoded: bytes, validators_hashes: Mapping[Epoch, bytes]) -> Refusal | None:
        """Record a subject as signed without signing it: it was, elsewhere. What it was bound to is taken from
        ``validators_hashes`` by its epoch; if that is not known, it is never repeated."""
        subject = self._subject(encoded)
        if isinstance(subject, Refusal):
            return subject
        domain = self._domain(subject.epoch, validators_hashes.get(subject.epoch, bytes(HASH_SIZE)))
        return self._record(public_key, self._entry(subject, domain))

    def _domain(self, epoch: Epoch, validators_hash: bytes) -> SigningDomain:
        spec = self.genesis.spec
        return SigningDomain(
            chain_id=spec.chain_id, genesis_hash=spec.hash, epoch=epoch, validators_hash=validators_hash
        )

    def _entry(self, subject: Subject, domain: SigningDomain) -> Entry:
        """What is remembered of a signature; of a vote of finality its link."""
        if isinstance(subject, FfgVoteSubject):
            subject = msgspec.structs.replace(subject, epoch=0)
            domain = msgspec.structs.replace(domain, epoch=0, validators_hash=bytes(HASH_SIZE))
        return Entry(subject, hashlib.sha256(domain.bytes_to_sign(subject)).digest())

    def _subject(self, encoded: bytes) -> Subject | Refusal:
        """The subject, if it is one that this chain's protocol signs."""
        decoded = self._codec.decode(encoded)
        if isinstance(decoded, Malformed):
            return Refusal(Rule.MALFORMED, f"not a subject of this chain's protocol: {decoded.reason}")
        if isinstance(decoded, VoteSubject) and decoded.kind not in self._vote_kinds:
            return Refusal(Rule.KIND, f"{self.genesis.spec.protocol} has no votes of kind {decoded.kind!r}")
        return cast("Subject", decoded)

    def _record(self, public_key: bytes, new: Entry) -> Refusal | None:
        history = self._histories.get(public_key, History())
        of_protocol = not isinstance(new.subject, FfgVoteSubject)
        verdict = decide(new, history, self.genesis.protocol.offences, of_protocol=of_protocol)
        if isinstance(verdict, Refusal):
            return verdict
        if of_protocol and not verdict.repeat and new.subject.slot < self._begin:
            return Refusal(
                Rule.BEGIN,
                f"asked for {shown(new.subject)}; what was signed below view {self._begin.major} of epoch "
                f"{self._begin.epoch} is not known here, but for what an import brought",
            )
        slashable = as_slashable(new)
        if not verdict.repeat:
            refused = self._store.record(_change(public_key, new, verdict, slashable))
        else:
            refused = None if slashable is None else self._store.check(public_key, slashable)
        if refused is not None and _may_be(refused.known, slashable):
            return Refusal(
                Rule.BEGIN,
                f"asked for {shown(new.subject)}; an import brought a vote for this link without its signing root, so "
                "whether it is the same one is not known here",
            )
        if refused is not None:
            return Refusal(
                Rule.SLASHABLE,
                f"asked for {shown(new.subject)}; EIP-3076, {refused.rule.value}; known: {refused.known}",
            )
        self._histories[public_key] = verdict.history
        return None

    def _load(self, stored: Stored) -> dict[bytes, History]:
        """Of each kind the rows with the highest slots are the latest; what lies before them is kept for what it
        forbids."""
        entries: dict[bytes, dict[str, list[Entry]]] = {}
        for row in stored.rows:
            subject = self._subject(row.subject)
            if isinstance(subject, Refusal) or subject.kind != row.kind or subject.slot != row.slot:
                raise StorageError(
                    f"the protection database holds something else than signed subjects of protocol "
                    f"{self.genesis.spec.protocol!r}: kind {row.kind!r} at {row.slot}. Do not sign with its keys."
                )
            entries.setdefault(row.pubkey, {}).setdefault(row.kind, []).append(Entry(subject, row.signing_root))
        return {
            public_key: History(
                kinds={
                    kind: KindHistory(latest=tuple(each[-SUBJECTS_KEPT:]), bound=tuple(each[:-SUBJECTS_KEPT]))
                    for kind, each in kinds.items()
                },
                floor=stored.floors.get(public_key),
            )
            for public_key, kinds in entries.items()
        }


def as_slashable(entry: Entry) -> SignedBlock | SignedAttestation | None:
    """A proposal or a vote of finality in EIP-3076's terms; None for every other kind, and where it does not fit."""
    match entry.subject:
        case ProposalSubject(epoch=epoch, view=view) if epoch < 2**EPOCH_BITS and view < 2**VIEW_BITS:
            return SignedBlock(epoch << VIEW_BITS | view, entry.signing_root)
        case FfgVoteSubject(source=source, target=target):
            return SignedAttestation(source.height, target.height, entry.signing_root)
        case _:
            return None


def _may_be(known: object, asked: SignedBlock | SignedAttestation | None) -> bool:
    """Whether a known vote of finality whose root nobody remembers, as in a minimal interchange, may be the one that is
    asked for: a node asks again for its last one whenever it starts, and is not to blame."""
    return (
        isinstance(known, SignedAttestation)
        and isinstance(asked, SignedAttestation)
        and known == SignedAttestation(asked.source_epoch, asked.target_epoch)
    )


def proposal_slot(number: int) -> Slot:
    """The slot of the proposal that :func:`as_slashable` gives this number."""
    return Slot(number >> VIEW_BITS, number & (1 << VIEW_BITS) - 1, 0)


def _change(public_key: bytes, new: Entry, grant: Grant, slashable: SignedBlock | SignedAttestation | None) -> Change:
    forget_up_to = None
    for entry in grant.forgotten:
        match as_slashable(entry):
            case SignedBlock(slot=number) | SignedAttestation(target_epoch=number):
                forget_up_to = number
            case None:
                pass
    return Change(
        row=_row(public_key, new),
        forgotten=[_row(public_key, entry) for entry in grant.forgotten],
        floor=grant.history.floor,
        slashable=slashable,
        forget_up_to=forget_up_to,
    )


def _row(public_key: bytes, entry: Entry) -> SubjectRow:
    subject = entry.subject
    return SubjectRow(
        public_key, subject.kind, subject.slot, encode(cast("msgspec.Struct", subject)), entry.signing_root
    )
