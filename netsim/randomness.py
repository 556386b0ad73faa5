"""Random streams: one per concern, so that removing one fault does not reshuffle the rest."""

from __future__ import annotations

import hashlib
import random


def stream(seed: int, concern: str) -> random.Random:
    """The generator of ``concern`` (``latency``, ``loss``, ``actor:3``...) under ``seed``: seeded with
    SHA-256(seed, concern), so neither the interpreter's hash seed nor another stream's use touches it."""
    digest = hashlib.sha256(f"{seed}/{concern}".encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))
