"""Committees that read: ``committee(4)`` gives a chain spec, its validators and their keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import msgspec

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.engine import Engine
from consensus.epochs import EpochChange, EpochInfo, epoch_after, first_epoch
from consensus.genesis import ChainSpec, Pacing, check_chain_spec
from consensus.protocols.definition import EngineFactory
from consensus.protocols.registry import protocol_named
from consensus.replica import Replica
from consensus.types import EMPTY_PAYLOAD_ROOT, BlockHeader, CommitProof, PeerId, Subject
from consensus.validators import Validator


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """An epoch of a chain, the first one unless ``change`` says how it began, with everybody's secret."""

    spec: ChainSpec
    epoch: EpochInfo
    scheme: Scheme
    keys: tuple[SecretKey, ...]
    change: EpochChange | None = None

    def sign(self, signer: int, subject: Subject) -> bytes:
        """What validator ``signer``'s signer port answers."""
        return self.keys[signer].sign(self.epoch.domain.bytes_to_sign(subject))

    def peer(self, index: int) -> PeerId:
        """The transport's name of validator ``index``."""
        return self.epoch.validators.peer_of(index)

    def engine(self, me: int | None) -> Engine:
        """The bare engine of one validator, or of an observer."""
        definition = protocol_named(self.spec.protocol)
        return definition.engine(spec=self.spec, epoch=self.epoch, scheme=self.scheme, me=me)

    def replica(self, engine: EngineFactory, me: int | None) -> Replica:
        """The replica of one validator, or of an observer."""
        own_keys = () if me is None else (self.epoch.validators.public_keys[me],)
        return Replica(engine=engine, spec=self.spec, scheme=self.scheme, epoch=self.epoch, own_keys=own_keys)


def in_epoch(members: Committee, epoch: int, height: int) -> Committee:
    """The same validators in a later epoch, which begins above a boundary block at ``height``. What proves that block
    is not real: no engine looks at it."""
    justify = msgspec.structs.replace(members.epoch.genesis, epoch=epoch - 1, view=6, height=height - 1)
    boundary = BlockHeader(
        chain=members.epoch.chain,
        epoch=epoch - 1,
        view=7,
        height=height,
        parent=justify.block_id,
        justify=justify,
        entry_proof_hash=b"",
        payload_root=EMPTY_PAYLOAD_ROOT,
        payload_size=0,
        next_validators_hash=members.epoch.validators.hash,
        timestamp_ms=members.spec.genesis_time_ms,
        proposer=0,
    )
    proof = CommitProof(epoch=epoch - 1, headers=(), certificate=justify)
    validators = members.epoch.validators
    return replace(
        members,
        epoch=epoch_after(members.spec, boundary, validators),
        change=EpochChange(boundary=boundary, validators=validators.validators, proof=proof),
    )


def committee(
    count: int = 4,
    *,
    protocol: str = "jolteon",
    scheme: str = "simulated",
    stakes: tuple[int, ...] | None = None,
    pacing: Pacing | None = None,
    chain_id: str = "test-chain",
    election: str = "round-robin",
) -> Committee:
    """``count`` validators of stake 1 (or ``stakes``), with keys derived from their index."""
    chosen = scheme_named(scheme, allow_simulated=True)
    keys = tuple(chosen.generate(hashlib.sha256(f"key {index}".encode()).digest()) for index in range(count))
    spec = ChainSpec(
        chain_id=chain_id,
        genesis_time_ms=1_000,
        protocol=protocol,
        scheme=scheme,
        validators=tuple(
            Validator(
                name=f"validator-{index}",
                stake=1 if stakes is None else stakes[index],
                public_key=key.public_key,
                possession_proof=key.prove_possession(),
                peer=hashlib.sha256(f"peer {index}".encode()).digest(),
            )
            for index, key in enumerate(keys)
        ),
        rollups=(1, 2, 3),
        election=election,
        pacing=Pacing() if pacing is None else pacing,
    )
    return Committee(spec=spec, epoch=first_epoch(spec, check_chain_spec(spec, chosen)), scheme=chosen, keys=keys)
