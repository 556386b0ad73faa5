"""What a verifier trusts: a chain spec, checked, with its protocol's rule of what is committed."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine, Refusal
from consensus.epochs import EpochInfo, first_epoch
from consensus.genesis import ChainSpec, check_chain_spec
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named
from consensus.types import BlockHeader, CommitProof, Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """A chain, ready to verify: offline, from its spec alone. Make one with :func:`genesis_of`."""

    spec: ChainSpec
    scheme: Scheme
    protocol: ProtocolDefinition
    epoch: EpochInfo
    _observer: Engine

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``; the reason otherwise."""
        return self._observer.verify_commit(proof, header, epoch)


def genesis_of(spec: ChainSpec) -> Genesis:
    """Check a chain spec and everything it names. Raises ``ValueError`` naming the field."""
    scheme = scheme_named(spec.scheme)
    protocol = protocol_named(spec.protocol)
    epoch = first_epoch(spec, check_chain_spec(spec, scheme))
    observer = protocol.engine(spec=spec, epoch=epoch, scheme=scheme, me=None)
    return Genesis(spec=spec, scheme=scheme, protocol=protocol, epoch=epoch, _observer=observer)
