"""That a block is final, shown to a stranger: headers from the block up, and one link certificate, or two.

A quorum that signs ``s -> s + E`` held ``s`` to be justified and went on from it, so with at most F of its stake faulty
``s`` is final, and every ancestor of ``s`` with it (k = 2: ``s -> s + 2E``, and any link that justifies ``s + E``). The
headers show that the block, ``s`` and the targets stand on each other. No other certificate is needed: those below are
history.

Over a boundary of validators, the quorum is one of each epoch that the headers up to a link's target belong to. That
the old validators had handed over by then is not shown: the boundary's commit proof, by which the stranger knows the
new ones, stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.finality.certificates import LinkChecker
from consensus.finality.types import Checkpoint, LinkCertificate
from consensus.types import PATH_LENGTH_MAX, BlockHeader, Epoch, Height


class FinalityProof(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """``headers`` are the descendants of the block that is final, its child first, up to the highest target.
    ``certificates`` are the link that finalizes and, for k = 2, one that justifies the checkpoint between."""

    headers: Annotated[tuple[BlockHeader, ...], Meta(min_length=1, max_length=PATH_LENGTH_MAX)]
    certificates: Annotated[tuple[LinkCertificate, ...], Meta(min_length=1, max_length=2)]

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that is final, and with it all below."""
        return self.certificates[0].source


def verify_finality(
    proof: FinalityProof,
    header: BlockHeader,
    interval: Height,
    epoch_of: Callable[[Epoch], EpochInfo | None],
    scheme: Scheme,
) -> Refusal | None:
    """None when ``proof`` shows ``header``'s block final on a chain of this checkpoint interval; the reason otherwise.
    ``epoch_of`` gives the epochs that are known."""
    if not interval:
        return Refusal("finality: this chain has no checkpoints")
    path = _path(proof, header)
    if isinstance(path, Refusal):
        return path
    finalizing = proof.certificates[0]
    source, target = finalizing.link
    steps = len(proof.certificates)
    if source.height % interval or target.height != source.height + steps * interval:
        return Refusal(f"finality: the link {source.height} -> {target.height} finalizes nothing by itself")
    if _id_at(path, source.height) != source.id or _id_at(path, target.height) != target.id:
        return Refusal("finality: a checkpoint of the link is not among the headers")
    if steps == 2:
        between = proof.certificates[1].target
        if between.height != source.height + interval or _id_at(path, between.height) != between.id:
            return Refusal("finality: the second link does not justify the checkpoint between")
    above = [block for block in path.values() if block.height >= source.height]
    needed = [
        (certificate, {block.epoch: None for block in above if block.height <= certificate.target.height})
        for certificate in proof.certificates
    ]
    return _check(needed, epoch_of, scheme)


def _path(proof: FinalityProof, header: BlockHeader) -> dict[Height, BlockHeader] | Refusal:
    path = {header.height: header}
    before = header
    for after in proof.headers:
        if after.parent != digest(before) or after.height != before.height + 1:
            return Refusal(f"finality: the header at height {after.height} does not follow from its predecessor")
        path[after.height] = before = after
    return path


def _id_at(path: dict[Height, BlockHeader], height: Height) -> bytes | None:
    header = path.get(height)
    return None if header is None else digest(header)


def _check(
    needed: Sequence[tuple[LinkCertificate, Collection[Epoch]]],
    epoch_of: Callable[[Epoch], EpochInfo | None],
    scheme: Scheme,
) -> Refusal | None:
    """Each certificate with the epochs of the headers up to its target, of each of which it needs a quorum."""
    named = {group.epoch for certificate, _ in needed for group in certificate.groups}
    infos = {epoch: epoch_of(epoch) for epoch in sorted(named.union(*(epochs for _, epochs in needed)))}
    known = [info for info in infos.values() if info is not None]
    if len(known) != len(infos):
        missing = min(epoch for epoch, info in infos.items() if info is None)
        return Refusal(f"finality: the validators of epoch {missing} are not known; show how it began")
    checker = LinkChecker(known, scheme)
    for certificate, epochs in needed:
        refusal = checker.check(certificate, [info.validators for info in known if info.epoch in epochs])
        if refusal is not None:
            return refusal
    return None
