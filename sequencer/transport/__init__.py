"""TLS 1.3 between nodes with pinned keys: two streams per pair, bounded queues, fair reading."""

from sequencer.transport.framing import EVIDENCE, TRANSACTIONS
from sequencer.transport.limits import Limits
from sequencer.transport.peers import PeerState
from sequencer.transport.port import NodeTransport
from sequencer.transport.tls import TlsIdentity, peer_id_of
from sequencer.transport.transport import TlsTransport, TransportConfig, TransportState, open_transport

__all__ = [
    "EVIDENCE",
    "TRANSACTIONS",
    "Limits",
    "NodeTransport",
    "PeerState",
    "TlsIdentity",
    "TlsTransport",
    "TransportConfig",
    "TransportState",
    "open_transport",
    "peer_id_of",
]
