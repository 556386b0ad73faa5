"""The validators of a simulated chain: spec, first epoch and everybody's secret, made once per shape."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.election import LeaderSchedule
from consensus.epochs import EpochInfo, first_epoch
from consensus.genesis import ChainSpec, Pacing, check_chain_spec
from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from consensus.types import Subject, ValidatorIndex, View
from consensus.validators import Validator
from netsim.schedule import Schedule, Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """A chain's first epoch with everybody's secret."""

    spec: ChainSpec
    epoch: EpochInfo
    scheme: Scheme
    keys: tuple[SecretKey, ...]

    def sign(self, signer: ValidatorIndex, subject: Subject) -> bytes:
        """What validator ``signer``'s signer port answers."""
        return self.keys[signer].sign(self.epoch.domain.bytes_to_sign(subject))

    def replica(self, definition: ProtocolDefinition, me: ValidatorIndex | None) -> Replica:
        """The replica of one validator, or of an observer."""
        own_keys = () if me is None else (self.epoch.validators.public_keys[me],)
        return Replica(
            engine=definition.engine,
            spec=self.spec,
            scheme=self.scheme,
            epoch=self.epoch,
            own_keys=own_keys,
            offences=definition,
        )


class LeaderTable:
    """The leaders of the first views by name, then by another schedule."""

    __slots__ = ("_table", "_then")

    def __init__(self, table: tuple[int, ...], then: LeaderSchedule) -> None:
        self._table = table
        self._then = then

    def leader(self, view: View) -> ValidatorIndex:
        return self._table[view - 1] if view <= len(self._table) else self._then.leader(view)


@lru_cache(maxsize=64)
def _committee(protocol: str, scheme_name: str, stakes: tuple[int, ...], times: Times) -> Committee:
    scheme = scheme_named(scheme_name, allow_simulated=True)
    keys = tuple(
        scheme.generate(hashlib.sha256(f"netsim key {index}".encode()).digest()) for index in range(len(stakes))
    )
    spec = ChainSpec(
        chain_id="netsim",
        genesis_time_ms=1_000,
        protocol=protocol,
        scheme=scheme_name,
        validators=tuple(
            Validator(
                name=f"validator-{index}",
                stake=stakes[index],
                public_key=key.public_key,
                possession_proof=key.prove_possession(),
                peer=hashlib.sha256(f"netsim peer {index}".encode()).digest(),
            )
            for index, key in enumerate(keys)
        ),
        rollups=(1,),
        pacing=Pacing(
            view_timeout_ms=times.view_timeout_ms,
            growth_numerator=times.growth_numerator,
            growth_denominator=times.growth_denominator,
            exponent_max=times.exponent_max,
            idle_interval_ms=times.idle_interval_ms,
        ),
    )
    epoch = first_epoch(spec, check_chain_spec(spec, scheme))
    return Committee(spec=spec, epoch=epoch, scheme=scheme, keys=keys)


def committee_of(schedule: Schedule) -> Committee:
    """The committee that a schedule describes. Raises ``ValueError`` for an unknown scheme."""
    base = _committee(schedule.protocol, schedule.scheme, schedule.stakes or (1,) * schedule.nodes, schedule.times)
    if not schedule.leaders:
        return base
    leaders = LeaderTable(schedule.leaders, base.epoch.leaders)
    return dataclasses.replace(base, epoch=dataclasses.replace(base.epoch, leaders=leaders))
