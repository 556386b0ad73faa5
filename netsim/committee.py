"""The validators of a simulated chain, epoch by epoch: spec, first epoch and everybody's secrets, made once per shape.

What an epoch's signatures cover is known before the run (its number and its validators); its genesis certificate is
not: that names the boundary block.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.election import LeaderSchedule
from consensus.engine import Engine
from consensus.epochs import EpochInfo, first_epoch
from consensus.genesis import CHECKPOINT_INTERVAL_DEFAULT, ChainSpec, Pacing, check_chain_spec
from consensus.protocols.definition import EngineFactory, ProtocolDefinition
from consensus.replica import LinkReader, Replica
from consensus.signing import SigningDomain
from consensus.types import PeerId, Subject, ValidatorIndex, View
from consensus.validators import Validator, ValidatorSet
from netsim.numbering import turn_bases
from netsim.schedule import NextEpoch, Schedule, Times
from netsim.validation import copies

ReplicaFactory = Callable[..., Replica]
"""``Replica``, or what a mutant has for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """One epoch, as far as it is known before the run. ``nodes`` are who sits where, ``height`` is that of the block
    before the epoch's first, ``leaders`` the seats that lead the first views."""

    epoch: int
    height: int
    validators: ValidatorSet
    nodes: tuple[int, ...]
    keys: tuple[SecretKey, ...]
    domain: SigningDomain
    leaders: tuple[int, ...]

    def seat(self, node: int) -> ValidatorIndex | None:
        """The index of a node in this epoch; None where it observes."""
        return self.nodes.index(node) if node in self.nodes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """A chain's first epoch with everybody's secret. ``eras`` are all epochs, the first one included; ``sets`` has the
    next validators by the height of the boundary."""

    spec: ChainSpec
    epoch: EpochInfo
    scheme: Scheme
    eras: tuple[Era, ...]
    sets: Mapping[int, ValidatorSet]

    def sign(self, signer: ValidatorIndex, subject: Subject) -> bytes:
        """What the signer port of validator ``signer`` of the subject's epoch answers. Raises ``ValueError`` for an
        epoch that the chain does not have."""
        if not 0 <= subject.epoch < len(self.eras):
            raise ValueError(f"subject of epoch {subject.epoch}, of {len(self.eras)}")
        era = self.eras[subject.epoch]
        return era.keys[signer].sign(era.domain.bytes_to_sign(subject))

    def seat(self, node: int, epoch: int) -> ValidatorIndex | None:
        """The index of a node in an epoch; None where it observes, and in an epoch that the schedule does not have."""
        return self.eras[epoch].seat(node) if epoch < len(self.eras) else None

    def keys_of(self, node: int) -> dict[bytes, SecretKey]:
        """All keys of a node, by their public keys."""
        return {
            key.public_key: key
            for era in self.eras
            for holder, key in zip(era.nodes, era.keys, strict=True)
            if holder == node
        }

    def replica(
        self,
        definition: ProtocolDefinition,
        node: int,
        make: ReplicaFactory = Replica,
        links: LinkReader | None = None,
    ) -> Replica:
        """The replica of one node, with all the keys that it ever has. ``links`` reads link certificates: with it, and
        an interval of checkpoints, finality runs."""
        return make(
            engine=self._engine(definition),
            spec=self.spec,
            scheme=self.scheme,
            epoch=self.epoch,
            own_keys=tuple(self.keys_of(node)) if len(self.eras) > 1 else self._first_key(node),
            link_certificates=links,
            offences=definition,
        )

    def _first_key(self, node: int) -> tuple[bytes, ...]:
        seat = self.eras[0].seat(node)
        return () if seat is None else (self.epoch.validators.public_keys[seat],)

    def _engine(self, definition: ProtocolDefinition) -> EngineFactory:
        """The protocol's engines, with the leaders that the schedule names."""
        if not any(era.leaders for era in self.eras[1:]):
            return definition.engine

        def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine:
            return definition.engine(spec=spec, epoch=self.with_leaders(definition, epoch), scheme=scheme, me=me)

        return engine

    def with_leaders(self, definition: ProtocolDefinition, info: EpochInfo) -> EpochInfo:
        """An epoch after the first, with the leaders that the schedule names."""
        number = info.epoch
        if not 0 < number < len(self.eras) or not self.eras[number].leaders:
            return info
        bases = turn_bases(definition, tuple(era.height for era in self.eras[1:]))
        return dataclasses.replace(info, leaders=LeaderTable(self.eras[number].leaders, info.leaders, bases[number]))


class LeaderTable:
    """The leaders of the first views by name, then by another schedule. ``base`` is the view before the first."""

    __slots__ = ("_base", "_table", "_then")

    def __init__(self, table: tuple[int, ...], then: LeaderSchedule, base: int = 0) -> None:
        self._table = table
        self._then = then
        self._base = base

    def leader(self, view: View) -> ValidatorIndex:
        place = view - self._base
        return self._table[place - 1] if 0 < place <= len(self._table) else self._then.leader(view)


def key_of(scheme: Scheme, node: int, number: int) -> SecretKey:
    """The key ``number`` of a node."""
    name = f"netsim key {node}.{number}" if number else f"netsim key {node}"
    return scheme.generate(hashlib.sha256(name.encode()).digest())


def peer_of(node: int, nodes: int, twins: int) -> PeerId:
    """What the transport calls a node that is no second copy."""
    if node < nodes:
        return hashlib.sha256(f"netsim peer {node}".encode()).digest()
    return bytes([255]) * 24 + (node - nodes - twins).to_bytes(8, "big")


@lru_cache(maxsize=64)
def _committee(
    protocol: str, scheme_name: str, stakes: tuple[int, ...], times: Times, checkpoint_interval: int
) -> Committee:
    scheme = scheme_named(scheme_name, allow_simulated=True)
    keys = tuple(key_of(scheme, index, 0) for index in range(len(stakes)))
    spec = ChainSpec(
        chain_id="netsim",
        genesis_time_ms=1_000,
        protocol=protocol,
        scheme=scheme_name,
        validators=tuple(
            _validator(index, stakes[index], key, peer_of(index, len(stakes), 0)) for index, key in enumerate(keys)
        ),
        rollups=(1,),
        pacing=Pacing(
            view_timeout_ms=times.view_timeout_ms,
            growth_numerator=times.growth_numerator,
            growth_denominator=times.growth_denominator,
            exponent_max=times.exponent_max,
            idle_interval_ms=times.idle_interval_ms,
        ),
        checkpoint_interval=checkpoint_interval or CHECKPOINT_INTERVAL_DEFAULT,  # without a reader there is no finality
    )
    epoch = first_epoch(spec, check_chain_spec(spec, scheme))
    first = Era(
        epoch=0, height=0, validators=epoch.validators, nodes=tuple(range(len(keys))), keys=keys, domain=epoch.domain,
        leaders=(),
    )  # fmt: skip
    return Committee(spec=spec, epoch=epoch, scheme=scheme, eras=(first,), sets={})


def _validator(node: int, stake: int, key: SecretKey, peer: PeerId) -> Validator:
    return Validator(
        name=f"validator-{node}",
        stake=stake,
        public_key=key.public_key,
        possession_proof=key.prove_possession(),
        peer=peer,
    )


def _later(base: Committee, epochs: tuple[NextEpoch, ...], twins: int) -> tuple[Era, ...]:
    """The epochs after the first."""
    eras: list[Era] = []
    nodes = len(base.eras[0].nodes)
    for number, following in enumerate(epochs, start=1):
        keys = tuple(key_of(base.scheme, member.node, member.key) for member in following.validators)
        validators = ValidatorSet(
            tuple(
                _validator(member.node, member.stake, key, peer_of(member.node, nodes, twins))
                for member, key in zip(following.validators, keys, strict=True)
            )
        )
        seats = tuple(member.node for member in following.validators)
        domain = msgspec.structs.replace(base.epoch.domain, epoch=number, validators_hash=validators.hash)
        eras.append(
            Era(
                epoch=number, height=following.height, validators=validators, nodes=seats, keys=keys, domain=domain,
                leaders=tuple(seats.index(node) for node in following.leaders),
            )
        )  # fmt: skip
    return tuple(eras)


def committee_of(schedule: Schedule) -> Committee:
    """The committee that a schedule describes. Raises ``ValueError`` for an unknown scheme."""
    stakes = schedule.stakes or (1,) * schedule.nodes
    base = _committee(schedule.protocol, schedule.scheme, stakes, schedule.times, schedule.checkpoint_interval)
    if schedule.epochs:
        later = _later(base, schedule.epochs, len(copies(schedule)))
        sets = {era.height: era.validators for era in later}
        base = dataclasses.replace(base, eras=(*base.eras, *later), sets=sets)
    if not schedule.leaders:
        return base
    leaders = LeaderTable(schedule.leaders, base.epoch.leaders)
    return dataclasses.replace(base, epoch=dataclasses.replace(base.epoch, leaders=leaders))
