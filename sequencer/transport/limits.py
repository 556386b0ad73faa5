"""Every bound of the transport, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consensus.codec import FRAME_SIZE_MAX

HELLO_SIZE_MAX: Final = 1024
"""Bytes of a frame before both hellos are accepted."""
LINK_FRAME_SIZE_MAX: Final = 1024
"""Bytes of a ping, pong or goodbye."""
LINK_QUEUE_FRAMES_MAX: Final = 16
"""Pings, pongs and goodbyes that wait for one stream's writer."""
KEY_BYTES_MAX: Final = 2**38
"""Bytes encrypted with one TLS key. RFC 8446 section 5.5 allows 2**24.5 records of 2**14 bytes for AES-GCM; OpenSSL
does not rekey by itself, so the connection is made anew."""
OBSERVER_RECORDS_MAX: Final = 1024
"""Observers whose counters are remembered after they left."""
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes are bytes, times are seconds. Queues are per peer; a queue always takes one frame, however large."""

    control_frame_size_max: int = 4 * 1024 * 1024
    bulk_frame_size_max: int = FRAME_SIZE_MAX
    control_queue_bytes_max: int = 8 * 1024 * 1024
    control_queue_frames_max: int = 4096
    bulk_queue_bytes_max: int = 64 * 1024 * 1024
    bulk_queue_frames_max: int = 1024
    channel_queue_bytes_max: int = 16 * 1024 * 1024
    """Each channel other than consensus, out and in."""
    channel_queue_frames_max: int = 4096
    inbox_bytes_max: int = 8 * 1024 * 1024
    """Consensus frames received on one stream and not yet read; reaching it holds back the socket."""
    inbox_frames_max: int = 1024
    observers_max: int = 64
    handshakes_max: int = 256
    """Accepted connections that are not yet part of a link. One more ends the oldest."""
    handshake_timeout_s: float = 5.0
    ping_interval_s: float = 5.0
    silence_timeout_s: float = 20.0
    """A stream that brings no byte for this long while we read is dropped."""
    stall_timeout_s: float = 20.0
    """A stream that takes no byte for this long while we write is dropped."""
    reconnect_first_s: float = 0.1
    reconnect_max_s: float = 10.0
    second_dial_s: float = 3.0
    """How long the validator with the higher peer id leaves the dialling to the other one."""
    rejects_per_minute_max: int = 60
    bar_first_s: float = 5.0
    """How long a peer is kept out after too many rejects; doubles up to ``bar_max_s``."""
    bar_max_s: float = 300.0
