"""What finality signs, sends and hands on.

Message and subject tags begin at 24: those below 16 are the protocols', 16 to 19 block sync's.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from consensus.codec import Canonical
from consensus.genesis import UNFINISHED_EPOCHS_MAX
from consensus.types import AggregateSignature, Bitmap, Epoch, Hash, Index, Integer, Signature, Slot

FFG: Final = "ffg"
"""The signing kind of a vote."""
EPOCHS_MAX: Final = UNFINISHED_EPOCHS_MAX
"""A link is signed by one validator set, or, around changes that are not handed over yet, by those of several
epochs."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A block by its height and id."""

    height: Integer
    id: Hash

    @property
    def order(self) -> tuple[int, bytes]:
        """A key that sorts checkpoints the same way everywhere."""
        return self.height, self.id


class Link(NamedTuple):
    """What a vote says: if ``source`` is justified, so be ``target``."""

    source: Checkpoint
    target: Checkpoint

    @property
    def order(self) -> tuple[int, bytes, int, bytes]:
        """A key that sorts links by target, then source."""
        return *self.target.order, *self.source.order


class FfgVoteSubject(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=24
):
    """Kind ``ffg``. The slot is the target's height and leaves the epoch out: a validator of two sets signs once per
    target, whichever of them it speaks for, and the guard's growing slots are growing targets."""

    epoch: Integer
    source: Checkpoint
    target: Checkpoint

    @property
    def kind(self) -> str:
        return FFG

    @property
    def slot(self) -> Slot:
        return Slot(0, self.target.height, 0)

    @property
    def link(self) -> Link:
        return Link(self.source, self.target)


class FfgVote(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=24):
    """One validator's signature over a :class:`FfgVoteSubject`. ``signer`` is an index into the set of ``epoch``."""

    epoch: Integer
    source: Checkpoint
    target: Checkpoint
    signer: Index
    signature: Signature

    @property
    def link(self) -> Link:
        return Link(self.source, self.target)

    @property
    def subject(self) -> FfgVoteSubject:
        return FfgVoteSubject(epoch=self.epoch, source=self.source, target=self.target)


class LinkGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Those who signed a link as members of one epoch's validator set. ``signers`` is a bitmap as in
    :class:`consensus.types.Certificate`."""

    epoch: Integer
    signers: Bitmap
    signature: AggregateSignature


class LinkCertificate(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A quorum's signatures over one link: one group, or several with ascending epochs where the link needs several
    sets."""

    source: Checkpoint
    target: Checkpoint
    groups: Annotated[tuple[LinkGroup, ...], Meta(min_length=1, max_length=EPOCHS_MAX)]

    @property
    def link(self) -> Link:
        return Link(self.source, self.target)

    def subject(self, epoch: Epoch) -> FfgVoteSubject:
        """What the signers of the group of ``epoch`` signed."""
        return FfgVoteSubject(epoch=epoch, source=self.source, target=self.target)


link_certificates: Final = Canonical(LinkCertificate)
