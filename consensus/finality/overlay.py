"""Casper FFG at one node, beside the protocol that commits its blocks: events in, one :class:`FinalityStep` out.

It holds two views of its one chain. *What the chain holds* (link certificates in committed blocks, the same at every
node) chooses the source of the own vote. *What this node knows* (those, and certificates made from votes) decides what
is final here.

Whoever runs it feeds every committed block above :attr:`Finality.height`, in order: after a restart first those of the
archive. ``Recovered.safety`` holds our record under the kind ``ffg``; the protocol must not be given it.

One epoch: a second one needs the two sets of ``rules.needed_sets``, which nothing here asks for yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from consensus.codec import Canonical, Malformed
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    Broadcast,
    Event,
    PeerConnected,
    Received,
    Recovered,
    Refusal,
    Reject,
    ReportEvidence,
    SafetyRecord,
    Send,
    Signed,
)
from consensus.epochs import EpochInfo
from consensus.finality import rules
from consensus.finality.certificates import BadSignature, Counted, Ignored, LinkChecker, LinkTally, Slashable
from consensus.finality.chain_links import LINKS_MAX, ChainLinks, ChainState
from consensus.finality.types import (
    FFG,
    NO_STEP,
    Checkpoint,
    FfgVote,
    FfgVoteSubject,
    FinalityEffect,
    FinalityStep,
    Finalize,
    Link,
    LinkCertificate,
)
from consensus.safety import Forbidden, SafetyGuard
from consensus.types import Block, Height, Nanoseconds, PeerId, ValidatorIndex

MESSAGES: Final = (FfgVote,)
SUBJECTS: Final = (FfgVoteSubject,)
CERTIFICATES_PER_BLOCK_MAX: Final = 4
"""Link certificates that count in one block: the further ones are not looked at."""

_subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](*SUBJECTS)
_states: Final[Canonical[ChainState]] = Canonical(ChainState)


class Finality:
    """The finality of one chain at one node. ``chain`` is where the ledger left it (``initial_state`` of the genesis
    block, or of a joiner's trusted finalized checkpoint); ``me`` is None for an observer, who signs nothing."""

    def __init__(
        self, *, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None, interval: Height, chain: ChainState
    ) -> None:
        if interval < 1:
            raise ValueError("checkpoint interval: at least 1 block")
        self._epoch = epoch
        self._me = me
        self._interval = interval
        self._checker = LinkChecker((epoch,), scheme)
        self._tally = LinkTally(epoch.validators, self._checker, interval)
        self._guard = SafetyGuard()
        self._last: Link | None = None
        self._own: FfgVote | None = None
        self._certificates: dict[Link, LinkCertificate] = {}
        self._records: list[SafetyRecord] = []
        self._effects: list[FinalityEffect] = []
        self._height, self._head = chain.height, chain.id
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

    def chain_state(self) -> ChainState:
        """To go on from: what a ledger stores with its head."""
        return self._chain.state(self._height, self._head, self._known.finalized)

    def pending(self) -> tuple[LinkCertificate, ...]:
        """Certificates of this chain that it does not hold yet: what a proposer puts into its block, lowest target
        first, at most ``CERTIFICATES_PER_BLOCK_MAX``."""
        links = [link for link in self._certificates if self._chain.holds(link) and not self._chain.has(link)]
        return tuple(self._certificates[link] for link in sorted(links, key=lambda link: link.order))[
            :CERTIFICATES_PER_BLOCK_MAX
        ]

    def check(self, certificate: LinkCertificate) -> Refusal | None:
        """None when a certificate may stand in a block: its signatures are those of a quorum."""
        return self._checker.check(certificate, (self._epoch.validators,))

    # --- events -------------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> FinalityStep:
        """Resume from the journal: the stored vote is signed and sent again. Raises ``ValueError`` when the record
        holds something else than what was written."""
        record = next((record for record in recovered.safety if record.kind == FFG), None)
        if record is None:
            return NO_STEP
        subject = cast("FfgVoteSubject", self._guard.restore(record, _subjects))
        state = _states.decode(record.state)
        if isinstance(state, Malformed):
            raise ValueError(f"safety record {FFG!r}: state does not decode: {state.reason}")
        self._last = subject.link
        if state.height > self._height:
            final = max(state.finalized, self._known.finalized, key=lambda checkpoint: checkpoint.height)
            self._height, self._head = state.height, state.id
            self._chain, self._known = self._views(msgspec.structs.replace(state, finalized=final))
        if self._me is not None and subject.epoch == self._epoch.epoch:
            self._effects += self._guard.stored()
        return self._finish()

    def committed(self, block: Block, certificates: Sequence[LinkCertificate] = ()) -> FinalityStep:
        """A block is committed; ``certificates`` are the link certificates in its payload. A block that was fed before
        is ignored; one that does not follow is our bug (``ValueError``)."""
        header = block.header
        if header.height <= self._height:
            return NO_STEP
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
            if self._chain.holds(certificate.link) and self.check(certificate) is None:
                self._chain.add(certificate.link)
                self._adopt(certificate)
        if is_checkpoint:
            for link in [link for link in self._certificates if link.target == checkpoint]:
                self._apply(link)
            self._vote(checkpoint)
        return self._finish()

    def handle(self, event: Event, now: Nanoseconds) -> FinalityStep:
        """A peer's vote, the own signature, a new peer; everything else is none of finality's business."""
        match event:
            case Received(peer, FfgVote() as vote):
                self._received(peer, vote)
            case Signed(FfgVoteSubject() as subject, signature):
                self._signed(subject, signature)
            case PeerConnected(peer) if self._own is not None:
                self._effects.append(Send(peer, self._own))
            case _:
                return NO_STEP
        return self._finish()

    # --- voting -------------------------------------------------------------------------------------------------

    def _vote(self, target: Checkpoint) -> None:
        """Sign for ``target`` when the rules allow it. They do not after a restart, for what was voted on before."""
        link = Link(self._chain.justified, target)
        if self._me is None or not rules.may_follow(self._last, link):
            return
        subject = FfgVoteSubject(epoch=self._epoch.epoch, source=link.source, target=link.target)
        granted = self._guard.authorize(subject, self.chain_state())
        if isinstance(granted, Forbidden):
            raise RuntimeError(f"the guard holds {granted.stored!r}, and the rules allow {subject!r}")
        self._last = link
        self._records += granted.records
        self._effects.append(granted.sign)

    def _signed(self, subject: FfgVoteSubject, signature: bytes) -> None:
        if self._me is None:
            raise RuntimeError("an observer's vote was signed")
        vote = FfgVote(
            epoch=subject.epoch, source=subject.source, target=subject.target, signer=self._me, signature=signature
        )
        self._own = vote
        self._effects.append(Broadcast(vote))
        self._count(vote)

    # --- the votes of others ------------------------------------------------------------------------------------

    def _received(self, peer: PeerId, vote: FfgVote) -> None:
        refusal = self._check_form(peer, vote)
        if refusal is not None:
            self._effects.append(Reject(peer, refusal))
            return
        self._count(vote)

    def _check_form(self, peer: PeerId, vote: FfgVote) -> str | None:
        if vote.epoch != self._epoch.epoch:
            return f"finality vote: epoch {vote.epoch}, expected {self._epoch.epoch}"
        if self._epoch.validators.index_of(peer) != vote.signer:
            return "finality vote: the sender is not the signer"
        if vote.source.height >= vote.target.height:
            return "finality vote: the source is not below the target"
        if vote.source.height % self._interval or vote.target.height % self._interval:
            return f"finality vote: no checkpoint at this height, they are {self._interval} apart"
        return None

    def _count(self, vote: FfgVote) -> None:
        result = self._tally.add(vote)
        match result:
            case Counted(certificate, spoiled):
                for signer in spoiled:
                    self._blame(signer)
                if certificate is not None:
                    self._adopt(certificate)
            case Slashable(first, second):
                self._effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._blame(vote.signer)
            case Ignored():
                pass

    def _blame(self, signer: ValidatorIndex) -> None:
        if signer == self._me:
            raise RuntimeError("our own finality vote does not verify: the signer port holds another key")
        peer = self._epoch.validators.peer_of(signer)
        self._effects.append(Reject(peer, "finality vote: the signature does not verify"))

    # --- certificates -------------------------------------------------------------------------------------------

    def _adopt(self, certificate: LinkCertificate) -> None:
        """A verified certificate, of this chain or (then more than F is faulty) of another."""
        if certificate.link in self._certificates:
            return
        for other in self._certificates.values():
            if rules.conflict(other.link, certificate.link) is not None:
                self._effects.append(ReportEvidence(other, certificate))
                break
        self._certificates[certificate.link] = certificate
        self._apply(certificate.link)
        if len(self._certificates) > LINKS_MAX:
            del self._certificates[min(self._certificates, key=lambda link: link.order)]

    def _apply(self, link: Link) -> None:
        """A link that holds justifies and finalizes once both its ends are committed here."""
        if not self._known.holds(link):
            return
        finalizing = self._known.add(link)
        if finalizing is not None:
            held = [self._certificates.get(part) for part in finalizing]
            proof = tuple(certificate for certificate in held if certificate is not None)
            self._effects.append(Finalize(checkpoint=self._known.finalized, certificates=proof))

    # --- odds and ends ------------------------------------------------------------------------------------------

    def _views(self, chain: ChainState) -> tuple[ChainLinks, ChainLinks]:
        self._tally.advance(chain.height)
        return ChainLinks(self._interval, chain), ChainLinks(self._interval, _with_final(chain))

    def _finish(self) -> FinalityStep:
        step = FinalityStep(tuple(self._records), tuple(self._effects))
        self._records.clear()
        self._effects.clear()
        return step


def _with_final(chain: ChainState) -> ChainState:
    """What is final is justified, whether or not the chain holds the certificate yet."""
    final = chain.finalized
    checkpoints = {checkpoint.height: checkpoint for checkpoint in (*chain.checkpoints, final)}
    return msgspec.structs.replace(
        chain,
        checkpoints=tuple(checkpoints[height] for height in sorted(checkpoints)),
        justified=tuple(sorted({*chain.justified, final.height})),
    )
