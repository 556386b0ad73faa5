"""Casper FFG at one node, beside the protocol that commits its blocks: events in, one :class:`Step` out.

It holds two views of its one chain. *What the chain holds* (link certificates in committed blocks, the same at every
node) chooses the source of the own vote. *What this node knows* (those, and certificates made from votes) decides what
is final here.

Whoever runs it feeds every committed block above :attr:`Finality.height`, in order, with the records of the block's
commit and of the step that this gives in one transaction. So the record of kind ``ffg`` (the last vote, empty for an
observer, and :class:`ChainState`) is never behind a block that matters: between it and the committed head no block is a
checkpoint or carries a certificate. The protocol must not be given that record.

**Several sets.** After :meth:`Finality.enter` the validators of both epochs of the boundary vote, each key once per
target, until the chain shows that both finalized a checkpoint at or above it: that is the hand-over, from which on the
new ones decide alone (``rules.needed_sets``; read from the chain, so that all nodes agree on it). Where the validators
change again before that, all sets since the last hand-over are needed: those of :data:`EPOCHS_MAX` epochs at most, and
beyond them nothing becomes final any more. Links from below the last hand-over count no longer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, cast

import msgspec

from consensus.codec import Canonical, Malformed, encode
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    NOTHING,
    Broadcast,
    EngineEvent,
    Finalize,
    LinkRecord,
    OfferLinks,
    PeerConnected,
    Received,
    Recovered,
    Refusal,
    ReportEvidence,
    SafetyRecord,
    Send,
    Signed,
    Step,
    StepBuilder,
)
from consensus.epochs import EpochInfo
from consensus.finality import rules
from consensus.finality.certificates import BadSignature, Counted, Ignored, LinkChecker, LinkTally, Slashable
from consensus.finality.chain_links import LINKS_MAX, Boundary, ChainLinks, ChainState
from consensus.finality.types import EPOCHS_MAX, FFG, Checkpoint, FfgVote, FfgVoteSubject, Link, LinkCertificate
from consensus.safety import Forbidden, SafetyGuard
from consensus.types import VALIDATORS_MAX, Block, Epoch, Height, PeerId

MESSAGES: Final = (FfgVote,)
SUBJECTS: Final = (FfgVoteSubject,)
CERTIFICATES_PER_BLOCK_MAX: Final = 4
"""Link certificates that one block may carry."""
EARLY_MAX: Final = VALIDATORS_MAX
"""Peers of whom one vote of the next epoch is kept until it begins."""

_subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](*SUBJECTS)
_states: Final[Canonical[ChainState]] = Canonical(ChainState)


class Finality:
    """The finality of one chain at one node. ``epochs`` are the last ones, the current one at the end, as many as there
    are up to ``EPOCHS_MAX``; ``own_keys`` the public keys that this node signs with (none for an observer); ``chain``
    is where to begin when the journal holds nothing: ``initial_state`` of the genesis block."""

    def __init__(
        self,
        *,
        epochs: Sequence[EpochInfo],
        scheme: Scheme,
        own_keys: Collection[bytes],
        interval: Height,
        chain: ChainState,
    ) -> None:
        if interval < 1:
            raise ValueError("checkpoint interval: at least 1 block")
        self._epochs = tuple(epochs)
        self._scheme = scheme
        self._own_keys = own_keys
        self._interval = interval
        self._checker = LinkChecker(epochs, scheme)
        self._tally = LinkTally(self._checker, interval, self._needed)
        self._guard = SafetyGuard()
        self._last: Link | None = None
        self._subject = b""
        self._own: list[FfgVote] = []
        self._early: dict[PeerId, FfgVote] = {}
        self._certificates: dict[Link, LinkCertificate] = {}
        self._offered: tuple[LinkCertificate, ...] = ()
        self._pending_changed = False
        self._out = StepBuilder()
        self._height, self._head = chain.height, chain.id
        self._handover, self._boundaries = chain.handover, chain.boundaries
        self._chain, self._known = self._views(chain)

    @property
    def height(self) -> Height:
        """The last committed block that was fed."""
        return self._height

    @property
    def justified(self) -> Checkpoint:
        """The highest checkpoint that the chain itself shows to be justified: the source of the next vote."""
        return self._chain.justified

    @property
    def finalized(self) -> Checkpoint:
        """The highest checkpoint that is final as far as this node knows."""
        return self._known.finalized

    @property
    def epochs(self) -> tuple[EpochInfo, ...]:
        """The epochs whose validators may vote."""
        return self._epochs

    def chain_state(self) -> ChainState:
        """To go on from."""
        return self._chain.state(self._height, self._head, self._known.finalized, self._handover, self._boundaries)

    def pending(self) -> tuple[LinkCertificate, ...]:
        """Certificates of this chain that it does not hold yet and that may still matter: what a proposer puts into
        its block, lowest target first, at most ``CERTIFICATES_PER_BLOCK_MAX``."""
        final = self._chain.finalized.height
        links = [
            link
            for link in self._certificates
            if link.target.height > final and self._chain.holds(link) and not self._chain.has(link)
        ]
        return tuple(self._certificates[link] for link in sorted(links, key=lambda link: link.order))[
            :CERTIFICATES_PER_BLOCK_MAX
        ]

    def check(self, certificate: LinkCertificate) -> Refusal | None:
        """None when a certificate may stand in a block of the current epoch: its signatures verify, and are those of a
        quorum of the validators of one of the last epochs. Whether it counts there, the chain says. A pure function of
        certificate and epochs, so that all who judge a block agree."""
        refusal = self._checker.check_signatures(certificate)
        if refusal is not None:
            return refusal
        if certificate.source.height % self._interval or certificate.target.height % self._interval:
            return Refusal(f"link certificate: checkpoints are {self._interval} blocks apart")
        keys = self._checker.keys(certificate)
        if not any(rules.has_quorum(info.validators, keys) for info in self._epochs):
            return Refusal("link certificate: its signers are no quorum")
        return None

    # --- events -------------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered) -> Step:
        """Resume from the journal: the stored vote is signed and sent again, and what is final is said again. Raises
        ``ValueError`` when the record holds something else than what was written, or lacks checkpoints of the chain."""
        record = next((record for record in recovered.safety if record.kind == FFG), None)
        if record is not None:
            if record.subject:
                self._last = cast("FfgVoteSubject", self._guard.restore(record, _subjects)).link
                self._subject = record.subject
            state = _states.decode(record.state)
            if isinstance(state, Malformed):
                raise ValueError(f"safety record {FFG!r}: state does not decode: {state.reason}")
            if state.height > self._height:
                self._height, self._head = state.height, state.id
                self._handover, self._boundaries = state.handover, state.boundaries
                self._chain, self._known = self._views(state)
        if recovered.committed_id is not None and recovered.committed_height > self._height:
            if recovered.committed_height // self._interval != self._height // self._interval:
                raise ValueError(f"safety record {FFG!r} is of height {self._height}, checkpoints were committed since")
            self._height, self._head = recovered.committed_height, recovered.committed_id
        for certificate in recovered.links:
            self._certificates[certificate.link] = certificate
            self._pending_changed = True
            if self._known.holds(certificate.link):
                self._known.add(certificate.link)
        if self._last is not None:
            self._out.effects += [self._guard.again(subject) for subject in self._subjects_of(self._last)]
        if self.finalized.height:
            self._out.effects.append(Finalize(checkpoint=self.finalized))
        return self._finish()

    def committed(self, block: Block, certificates: Sequence[LinkCertificate] = ()) -> Step:
        """A block is committed; ``certificates`` are the link certificates in its payload. A block that was fed before
        is ignored; one that does not follow is our bug (``ValueError``)."""
        header = block.header
        if header.height <= self._height:
            return NOTHING
        if header.height != self._height + 1 or header.parent != self._head:
            raise ValueError(f"finality at height {self._height} was fed a block that does not follow: {block!r}")
        self._height, self._head = header.height, block.id
        is_checkpoint = header.height % self._interval == 0
        checkpoint = Checkpoint(height=header.height, id=block.id)
        if is_checkpoint:
            self._chain.extend(checkpoint)
            self._known.extend(checkpoint)
            self._tally.advance(header.height)
        for certificate in certificates[:CERTIFICATES_PER_BLOCK_MAX]:
            self._held_by_chain(certificate)
        if is_checkpoint:
            for link in [link for link in self._certificates if link.target == checkpoint]:
                self._apply(link)
            for counted in self._tally.settle(header.height):
                self._counted(counted)
            self._vote(checkpoint)
        if is_checkpoint or certificates:
            self._pending_changed = True
            self._record()
        return self._finish()

    def enter(self, epoch: EpochInfo) -> Step:
        """The epoch after the current one begins; its boundary was fed. Nothing happens for an epoch that is known."""
        if epoch.epoch <= self._epochs[-1].epoch:
            return NOTHING
        if epoch.genesis.height != self._height:
            raise ValueError(f"epoch {epoch.epoch} begins at {epoch.genesis.height}, finality stands at {self._height}")
        boundary = Boundary(epoch=epoch.epoch, height=epoch.genesis.height)
        self._boundaries = (*self._boundaries, boundary)[-EPOCHS_MAX:]
        self._epochs = (*self._epochs, epoch)[-EPOCHS_MAX:]
        self._checker = LinkChecker(self._epochs, self._scheme)
        self._tally.enter(self._checker)
        self._record()
        early, self._early = self._early, {}
        for peer, vote in early.items():
            self._received(peer, vote)
        return self._finish()

    def handle(self, event: EngineEvent) -> Step:
        """A peer's vote, the own signature, a new peer; everything else is none of finality's business."""
        match event:
            case Received(peer, FfgVote() as vote):
                self._received(peer, vote)
            case Signed(FfgVoteSubject() as subject, signature):
                self._signed(subject, signature)
            case PeerConnected(peer):
                self._out.effects += [Send(peer, vote) for vote in self._own]
            case _:
                return NOTHING
        return self._finish()

    # --- voting -------------------------------------------------------------------------------------------------

    def _needed(self, link: Link) -> tuple[EpochInfo, ...]:
        """The epochs of whose validators ``link`` needs a quorum each; none for a link that cannot count any more, nor
        for one that ends above the committed head: whether the validators change below its end is not known yet."""
        if link.source.height < self._handover.height or link.target.height > self._height:
            return ()
        first = last = self._handover.epoch
        for boundary in self._boundaries:
            if boundary.height < link.target.height:
                last = boundary.epoch
        needed = tuple(info for info in self._epochs if first <= info.epoch <= last)
        return needed if len(needed) == last - first + 1 else ()

    def _subjects_of(self, link: Link) -> list[FfgVoteSubject]:
        """What this node signs for ``link``: once with each of its keys that counts, for the latest epoch that it
        belongs to."""
        subjects: dict[bytes, FfgVoteSubject] = {}
        for info in reversed(self._needed(link)):
            for key in info.validators.public_keys:
                if key in self._own_keys and key not in subjects:
                    subjects[key] = FfgVoteSubject(epoch=info.epoch, source=link.source, target=link.target)
        return list(subjects.values())

    def _vote(self, target: Checkpoint) -> None:
        """Sign for ``target`` when the rules allow it. They do not after a restart, for what was voted on before."""
        link = Link(self._chain.justified, target)
        subjects = self._subjects_of(link)
        if not subjects or not rules.may_follow(self._last, link):
            return
        granted = self._guard.authorize(subjects[0], self.chain_state())
        if isinstance(granted, Forbidden):
            raise RuntimeError(f"the guard holds {granted.stored!r}, and the rules allow {subjects[0]!r}")
        self._last = link
        self._subject = encode(subjects[0])
        self._out.effects.append(granted.sign)
        self._out.effects += [self._guard.again(subject) for subject in subjects[1:]]

    def _record(self) -> None:
        """The last vote and where the chain stands, in one record."""
        self._out.records.append(SafetyRecord(kind=FFG, subject=self._subject, state=encode(self.chain_state())))

    def _signed(self, subject: FfgVoteSubject, signature: bytes) -> None:
        info = self._info(subject.epoch)
        if info is None:
            return  # two epochs ago by now
        signer = next((index for index, key in enumerate(info.validators.public_keys) if key in self._own_keys), None)
        if signer is None:
            raise RuntimeError("an observer's vote was signed")
        vote = FfgVote(
            epoch=subject.epoch, source=subject.source, target=subject.target, signer=signer, signature=signature
        )
        self._own = [*(own for own in self._own if own.link == vote.link and own.epoch != vote.epoch), vote]
        self._out.effects.append(Broadcast(vote))
        self._count(vote)

    def _info(self, epoch: Epoch) -> EpochInfo | None:
        return next((info for info in self._epochs if info.epoch == epoch), None)

    # --- the votes of others ------------------------------------------------------------------------------------

    def _received(self, peer: PeerId, vote: FfgVote) -> None:
        info = self._info(vote.epoch)
        if info is None:
            if vote.epoch == self._epochs[-1].epoch + 1 and (peer in self._early or len(self._early) < EARLY_MAX):
                self._early[peer] = vote
            return  # of an epoch that is long over, or far ahead: no fault of theirs
        refusal = self._check_form(peer, vote, info)
        if refusal is not None:
            self._out.reject(peer, refusal)
            return
        self._count(vote)

    def _check_form(self, peer: PeerId, vote: FfgVote, info: EpochInfo) -> str | None:
        if info.validators.index_of(peer) != vote.signer and not self._speaks_for(peer, vote):
            return "finality vote: the sender is not the signer"
        if vote.source.height >= vote.target.height:
            return "finality vote: the source is not below the target"
        if vote.source.height % self._interval or vote.target.height % self._interval:
            return f"finality vote: no checkpoint at this height, they are {self._interval} apart"
        return None

    def _speaks_for(self, peer: PeerId, vote: FfgVote) -> bool:
        """Who has another TLS key since a boundary still votes with its old consensus key for the old set. So what a
        validator of some known epoch sends counts where its signature is the signer's."""
        is_member = any(info.validators.index_of(peer) is not None for info in self._epochs)
        return len(self._epochs) > 1 and is_member and self._checker.knows(vote) and self._checker.check_vote(vote)

    def _count(self, vote: FfgVote) -> None:
        result = self._tally.add(vote)
        match result:
            case Counted():
                self._counted(result)
            case Slashable(first, second):
                self._out.effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._blame(vote)
            case Ignored():
                pass

    def _counted(self, result: Counted) -> None:
        for bad in result.spoiled:
            self._blame(bad)
        if result.certificate is not None:
            self._adopt(result.certificate)

    def _blame(self, vote: FfgVote) -> None:
        if self._checker.key_of(vote) in self._own_keys:
            raise RuntimeError("our own finality vote does not verify: the signer port holds another key")
        info = self._info(vote.epoch)
        assert info is not None, "the tally keeps votes of known epochs alone"
        self._out.reject(info.validators.peer_of(vote.signer), "finality vote: the signature does not verify")

    # --- certificates -------------------------------------------------------------------------------------------

    def _held_by_chain(self, certificate: LinkCertificate) -> None:
        """A committed block carries it: it counts when its link is of this chain and has the quorums that it needs."""
        link = certificate.link
        needed = self._needed(link)
        if not self._chain.holds(link) or not needed:
            return
        if self._checker.check(certificate, [info.validators for info in needed]) is not None:
            return
        self._chain.add(link)
        self._note_handover()
        self._adopt(certificate)

    def _note_handover(self) -> None:
        """The link that finalizes a checkpoint ends above it, so all sets up to the one of its epoch signed that link;
        and those of a boundary at the checkpoint itself."""
        final = self._chain.finalized.height
        passed = [boundary for boundary in self._boundaries if boundary.height <= final]
        if passed:
            self._handover = Boundary(epoch=passed[-1].epoch, height=final)
            self._boundaries = self._boundaries[len(passed) :]

    def _adopt(self, certificate: LinkCertificate) -> None:
        """A verified certificate, of this chain or (then more than F is faulty) of another."""
        if certificate.link in self._certificates:
            return
        for other in self._certificates.values():
            if rules.conflict(other.link, certificate.link) is not None:
                self._out.effects.append(ReportEvidence(other, certificate))
                break
        self._certificates[certificate.link] = certificate
        self._pending_changed = True
        self._apply(certificate.link)
        if len(self._certificates) > LINKS_MAX:
            del self._certificates[min(self._certificates, key=lambda link: link.order)]

    def _apply(self, link: Link) -> None:
        """A link that holds justifies and finalizes once both its ends are committed here."""
        if not self._known.holds(link):
            return
        self._out.records.append(LinkRecord(self._certificates[link]))
        if self._known.add(link) is not None:
            self._out.effects.append(Finalize(checkpoint=self._known.finalized))

    # --- odds and ends ------------------------------------------------------------------------------------------

    def _views(self, state: ChainState) -> tuple[ChainLinks, ChainLinks]:
        self._tally.advance(state.height)
        return ChainLinks(self._interval, state), ChainLinks(self._interval, _with_known(state))

    def _finish(self) -> Step:
        pending = self.pending() if self._pending_changed else self._offered
        self._pending_changed = False
        if pending != self._offered:
            self._offered = pending
            self._out.effects.append(OfferLinks(pending))
        return self._out.finish()


def _with_known(state: ChainState) -> ChainState:
    """What is final is justified, whether or not the chain holds the certificate yet."""
    final = state.known
    checkpoints = {checkpoint.height: checkpoint for checkpoint in (*state.checkpoints, final)}
    return msgspec.structs.replace(
        state,
        finalized=final,
        checkpoints=tuple(checkpoints[height] for height in sorted(checkpoints)),
        justified=tuple(sorted({*state.justified, final.height})),
    )
