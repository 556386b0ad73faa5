"""How old a trusted checkpoint may be.

Whoever left the validator set long ago can sign another history with nothing at stake. A joiner is safe from that when
it starts from a finalized checkpoint young enough that its signers can still be punished for a second history, and
others have had time to report it:

    period + reporting delay <= maximum evidence age <= unbonding period
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.engine import Refusal


class UntrustedChain(Exception):
    """What the validators committed contradicts the trusted checkpoint, or the checkpoint is too old to begin from.
    The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakSubjectivity:
    """The four durations of a chain, in milliseconds. ``period_ms``: how old a joiner's checkpoint may be.
    ``reporting_delay_ms``: how long it may take until evidence is in a committed block. ``evidence_age_max_ms``: how
    old an offence may be to be punished. ``unbonding_period_ms``: how long stake stays bound after its validator
    left."""

    period_ms: int
    reporting_delay_ms: int
    evidence_age_max_ms: int
    unbonding_period_ms: int

    def __post_init__(self) -> None:
        """Raises ``ValueError`` naming the field when the durations do not protect a joiner."""
        for name in ("period_ms", "reporting_delay_ms", "evidence_age_max_ms", "unbonding_period_ms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1 ms")
        if self.period_ms + self.reporting_delay_ms > self.evidence_age_max_ms:
            raise ValueError(
                "evidence_age_max_ms: must be at least period_ms + reporting_delay_ms, or a joiner can be led onto a "
                "history whose signers can no longer be reported in time"
            )
        if self.evidence_age_max_ms > self.unbonding_period_ms:
            raise ValueError(
                "unbonding_period_ms: must be at least evidence_age_max_ms, "
                "or the stake is gone before the evidence comes"
            )

    def check_start(self, checkpoint_timestamp_ms: int, now_ms: int) -> Refusal | None:
        """None when a node may start from a trusted finalized checkpoint of this timestamp; the reason otherwise.
        Both are milliseconds since the Unix epoch; a checkpoint ahead of the own clock counts as new."""
        age_ms = now_ms - checkpoint_timestamp_ms
        if age_ms > self.period_ms:
            return Refusal(
                f"trusted checkpoint: {age_ms} ms old, more than the {self.period_ms} ms of weak subjectivity; "
                "take a newer one from someone you trust"
            )
        return None
