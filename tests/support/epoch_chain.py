"""Chains of several epochs, signed by the keys of each, made without an engine: for whoever verifies them.

::

    chain = epoch_chain([(0, 1, 2, 3), (2, 3, 4, 5)], lengths=(3, 4))   # key numbers; heights 1-3 and 4-7
    chain.change(1)                                                      # how epoch 1 began
    chain.at(5)                                                          # a header and its commit proof
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from consensus.codec import digest
from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochChange, EpochInfo, epoch_after, first_epoch
from consensus.genesis import ChainSpec, Reconfiguration
from consensus.protocols.tendermint_types import view_at
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    BlockHeader,
    Certificate,
    CommitProof,
    Subject,
    VoteSubject,
    bitmap_of,
)
from consensus.validators import Validator, ValidatorSet

GENESIS_TIME_MS: Final = 1_000
_DESCENDANTS: Final = {"hotstuff": 2, "jolteon": 1, "hotstuff2": 1, "streamlet": 1, "simplex": 0, "tendermint": 0}
"""Blocks above a committed one in the proof of it."""
_COMMITS: Final = {"simplex": "finalize", "tendermint": "precommit"}
_CERTIFIES: Final = {"simplex": "notarize", "tendermint": "precommit"}

Content = tuple[bytes, int]
"""A payload's root and its size."""


def empty(height: int) -> Content:
    """No payload."""
    return EMPTY_PAYLOAD_ROOT, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """An epoch with its secrets and its blocks, oldest first. ``closing`` are those after its boundary."""

    info: EpochInfo
    keys: tuple[SecretKey, ...]
    scheme: Scheme
    blocks: tuple[BlockHeader, ...]
    closing: tuple[BlockHeader, ...]

    def sign(self, signer: int, subject: Subject) -> bytes:
        """The signature of the validator ``signer`` of this epoch."""
        return self.keys[signer].sign(self.info.domain.bytes_to_sign(subject))

    def certify(self, header: BlockHeader, kind: str, signers: Sequence[int] | None = None) -> Certificate:
        """The certificate of a block by ``signers``: a quorum of equal stakes unless given."""
        chosen = tuple(range(self.info.validators.quorum)) if signers is None else tuple(signers)
        return certificate(self.scheme, self.keys, self.info, header, kind, chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochChain:
    """See :func:`epoch_chain`."""

    spec: ChainSpec
    eras: tuple[Era, ...]

    @property
    def headers(self) -> tuple[BlockHeader, ...]:
        """All committed ones, from height 1."""
        return tuple(header for era in self.eras for header in era.blocks)

    @property
    def top(self) -> int:
        return len(self.headers)

    def era_of(self, height: int) -> Era:
        return self.eras[self.headers[height - 1].epoch]

    def at(self, height: int, signers: Sequence[int] | None = None) -> tuple[BlockHeader, CommitProof]:
        """The committed block at a height, and its proof."""
        header = self.headers[height - 1]
        return header, self.proof_of(header, signers)

    def proof_of(self, header: BlockHeader, signers: Sequence[int] | None = None) -> CommitProof:
        """What commits a block of this chain by the chain's protocol; also a closing one that is not among the last."""
        protocol, era = self.spec.protocol, self.eras[header.epoch]
        line = (*era.blocks, *era.closing)
        position = line.index(header)
        above = line[position + 1 : position + 1 + _DESCENDANTS[protocol]]
        assert len(above) == _DESCENDANTS[protocol], "no block above that would commit it"
        last = above[-1] if above else header
        kind = _COMMITS.get(protocol, "vote")
        return CommitProof(epoch=header.epoch, headers=above, certificate=era.certify(last, kind, signers))

    def change(self, epoch: int, signers: Sequence[int] | None = None) -> EpochChange:
        """How ``epoch`` began; the proof of its boundary by ``signers`` of the epoch before."""
        boundary = self.eras[epoch - 1].blocks[-1]
        validators = self.eras[epoch].info.validators.validators
        return EpochChange(boundary=boundary, validators=validators, proof=self.proof_of(boundary, signers))

    @property
    def changes(self) -> tuple[EpochChange, ...]:
        return tuple(self.change(era.info.epoch) for era in self.eras[1:])


def certificate(
    scheme: Scheme,
    keys: Sequence[SecretKey],
    info: EpochInfo,
    header: BlockHeader,
    kind: str,
    signers: tuple[int, ...],
) -> Certificate:
    """Those signers' joined signatures over a vote for a block."""
    subject = VoteSubject(
        kind=kind,
        epoch=header.epoch,
        view=header.view,
        block_id=digest(header),
        height=header.height,
        justify_view=header.justify.view,
    )
    message = info.domain.bytes_to_sign(subject)
    signature = scheme.aggregate([keys[signer].sign(message) for signer in signers])
    assert signature is not None
    return Certificate(
        **{name: getattr(subject, name) for name in subject.__struct_fields__},
        signers=bitmap_of(signers),
        signature=signature,
    )


def key(scheme: Scheme, number: int) -> SecretKey:
    """The key of that number."""
    return scheme.generate(hashlib.sha256(f"key {number}".encode()).digest())


def members(scheme: Scheme, numbers: Sequence[int]) -> tuple[tuple[Validator, ...], tuple[SecretKey, ...]]:
    """Validators of stake 1 with the keys of these numbers."""
    keys = tuple(key(scheme, number) for number in numbers)
    validators = tuple(
        Validator(
            name=f"validator-{number}",
            stake=1,
            public_key=each.public_key,
            possession_proof=each.prove_possession(),
            peer=hashlib.sha256(f"peer {number}".encode()).digest(),
        )
        for number, each in zip(numbers, keys, strict=True)
    )
    return validators, keys


def chain_spec(
    numbers: Sequence[int],
    *,
    protocol: str = "jolteon",
    scheme: str = "ed25519",
    reconfiguration: Reconfiguration | None = None,
) -> ChainSpec:
    """A chain that begins with the keys of these numbers; an epoch may end at every height unless said otherwise."""
    return ChainSpec(
        chain_id="epochs",
        genesis_time_ms=GENESIS_TIME_MS,
        protocol=protocol,
        scheme=scheme,
        validators=members(scheme_named(scheme, allow_simulated=True), numbers)[0],
        rollups=(1, 2, 3),
        reconfiguration=Reconfiguration(epoch_heights=1) if reconfiguration is None else reconfiguration,
    )


def epoch_chain(
    sets: Sequence[Sequence[int]] = ((0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7)),
    *,
    lengths: Sequence[int] = (3, 4, 3),
    protocol: str = "jolteon",
    scheme: str = "ed25519",
    content: Callable[[int], Content] = empty,
    other_from: int | None = None,
    reconfiguration: Reconfiguration | None = None,
) -> EpochChain:
    """A chain whose epoch k has ``lengths[k]`` committed blocks and the validators with the keys ``sets[k]``.

    ``other_from``: from that height on other blocks than without (an own timestamp). One chain spec, whatever the sets
    and lengths after the first.
    """
    chosen = scheme_named(scheme, allow_simulated=True)
    _, keys = members(chosen, sets[0])
    spec = chain_spec(sets[0], protocol=protocol, scheme=scheme, reconfiguration=reconfiguration)
    info = first_epoch(spec, ValidatorSet(spec.validators))
    eras: list[Era] = []
    for number, end in enumerate(accumulate(lengths)):
        follows = members(chosen, sets[number + 1]) if number + 1 < len(sets) else None
        named = b"" if follows is None else ValidatorSet(follows[0]).hash
        blocks: list[BlockHeader] = []
        justify = info.genesis
        for height in range(info.genesis.height + 1, end + 1 + 3):
            is_closing = follows is not None and height > end
            view = height - info.genesis.height
            root, size = (CLOSING_PAYLOAD_ROOT, 0) if is_closing else content(height) if height <= end else empty(0)
            header = BlockHeader(
                chain=spec.hash,
                epoch=info.epoch,
                view=view_at(height, 0) if protocol == "tendermint" else view,
                height=height,
                parent=justify.block_id,
                justify=justify,
                entry_proof_hash=b"",
                payload_root=root,
                payload_size=size,
                next_validators_hash=named if height == end else b"",
                timestamp_ms=GENESIS_TIME_MS + 10 * height + (other_from is not None and height >= other_from),
                proposer=view % len(keys),
            )
            blocks.append(header)
            quorum = tuple(range(info.validators.quorum))
            justify = certificate(chosen, keys, info, header, _CERTIFIES.get(protocol, "vote"), quorum)
        count = end - info.genesis.height
        era = Era(info=info, keys=keys, scheme=chosen, blocks=tuple(blocks[:count]), closing=tuple(blocks[count:]))
        eras.append(era)
        if follows is not None:
            info, keys = epoch_after(spec, era.blocks[-1], ValidatorSet(follows[0])), follows[1]
    return EpochChain(spec=spec, eras=tuple(eras))
