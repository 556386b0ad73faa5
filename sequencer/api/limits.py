"""Every bound of the API in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """Bounds on what strangers may ask for. Deadlines are seconds."""

    connections_max: int = 1024
    """One more is closed as soon as it is accepted."""
    requests_max: int = 256
    """Requests in work; one more is answered 503. Those that wait for a confirmation count among ``waits_max``."""
    waits_max: int = 1024
    streams_max: int = 256
    """Followers of the rollups' streams; one more is answered 503."""
    bodies_bytes_max: int = 128 * 1024 * 1024
    """All bodies that are being read or worked on, together."""
    batch_transactions_max: int = 16_384
    body_timeout_s: float = 20.0
    request_timeout_s: float = 30.0
    """From the end of the body to the beginning of the answer, unless the request waits for a confirmation."""
    wait_timeout_s: float = 60.0
    """The longest that a request may wait for a confirmation."""
    send_timeout_s: float = 10.0
    """For each 64 KiB: a client that reads nothing for so long is dropped."""
    keep_alive_timeout_s: float = 75.0
    """For an idle connection, and for the head of the next request."""
    shutdown_timeout_s: float = 3.0
    comment_interval_s: float = 15.0
    """A silent stream says so often that it lives."""
    admission_timeout_s: float = 0.25
    """How long an adapter may take to look at what is submitted; later it is accepted unseen."""
    admission_concurrency_max: int = 4
    admission_pause_s: float = 5.0
    """For so long an adapter that was too slow is not asked again."""
    blocks_max: int = 100
    rpc_batch_max: int = 100
    rpc_body_bytes_max: int = 2 * 1024 * 1024
    rpc_answer_bytes_max: int = 16 * 1024 * 1024
    """A batch whose answers exceed this gets errors for the rest."""
    rpc_pending_max: int = 16_384
    """Ethereum transactions remembered by their hash until they are executed."""
    rpc_pending_bytes_max: int = 32 * 1024 * 1024
    ready_lag_heights_max: int = 16
