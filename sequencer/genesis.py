"""What a verifier trusts: a chain spec, checked, with its protocol's rule of what is committed, and the epochs that
were verified since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal
from consensus.epoch_history import Contradiction, EpochHistory, possession_fault
from consensus.epochs import EpochChange, EpochInfo, epoch_after, first_epoch
from consensus.finality.proof import FinalityProof, verify_finality
from consensus.genesis import ChainSpec, check_chain_spec
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named
from consensus.types import BlockHeader, CommitProof, Epoch
from consensus.validators import ValidatorSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """A chain, ready to verify: offline, from its spec and the changes of its validator set. Make one with
    :func:`genesis_of`. ``history`` grows by what is verified: whoever shares this value shares that."""

    spec: ChainSpec
    scheme: Scheme
    protocol: ProtocolDefinition
    history: EpochHistory

    @property
    def epoch(self) -> EpochInfo:
        """The epoch that is trusted: the first one, or the one after a trusted boundary."""
        return self.history.first

    def follow(self, changes: Iterable[EpochChange]) -> Contradiction | Refusal | None:
        """Learn how later epochs began, each verified under the one before: none may be missing. Stops at the first
        that is refused, or that contradicts one that is known."""
        return self.history.extend_all(changes)

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``, which must be known; the reason
        otherwise."""
        return self.history.verify_commit(proof, header, epoch)

    def verify_finality(self, proof: FinalityProof, header: BlockHeader) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block final; the reason otherwise. The validators of its epoch must be
        known; that the block is of this chain, its commit proof shows."""
        return verify_finality(proof, header, self.spec.checkpoint_interval, self.history.info, self.scheme)

    def branch(self) -> Genesis:
        """The same, with a history that goes on by itself."""
        return replace(self, history=self.history.copy())


def genesis_of(spec: ChainSpec) -> Genesis:
    """Check a chain spec and everything it names. Raises ``ValueError`` naming the field."""
    scheme = scheme_named(spec.scheme)
    protocol = protocol_named(spec.protocol)
    epoch = first_epoch(spec, check_chain_spec(spec, scheme))
    history = EpochHistory(spec=spec, scheme=scheme, engine=protocol.engine, first=epoch)
    return Genesis(spec=spec, scheme=scheme, protocol=protocol, history=history)


def trusted_from(genesis: Genesis, change: EpochChange) -> Genesis:
    """The chain from ``change.boundary`` on, which the caller trusts by its id: nothing before it is needed, nothing
    before it can be verified. Raises ``ValueError`` for a boundary of another chain, for validators that it does not
    name, and for one that does not prove that it holds its key."""
    if change.boundary.chain != genesis.spec.hash:
        raise ValueError(f"the boundary is of chain {change.boundary.chain.hex()}, not of {genesis.spec.hash.hex()}")
    first = epoch_after(genesis.spec, change.boundary, ValidatorSet(change.validators))
    fault = possession_fault(first.validators, ValidatorSet(genesis.spec.validators), genesis.scheme)
    if fault is not None:
        raise ValueError(fault)
    history = EpochHistory(spec=genesis.spec, scheme=genesis.scheme, engine=genesis.protocol.engine, first=first)
    return replace(genesis, history=history)
