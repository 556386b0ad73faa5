"""Headers that stand on each other, for those who judge headers and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.types import BlockHeader, Certificate
from tests.support.committee import Committee


def headers_at(
    members: Committee, views: Sequence[int], certified: Callable[[BlockHeader], Certificate]
) -> list[BlockHeader]:
    """Headers of empty blocks at these views, each on the one before by the certificate that ``certified`` makes."""
    found: list[BlockHeader] = []
    justify = members.epoch.genesis
    for view in views:
        header = BlockHeader(
            chain=members.epoch.chain,
            epoch=0,
            view=view,
            height=justify.height + 1,
            parent=justify.block_id,
            justify=justify,
            entry_proof_hash=b"",
            payload_root=bytes(32),
            payload_size=0,
            next_validators_hash=b"",
            timestamp_ms=view,
            proposer=0,
        )
        found.append(header)
        justify = certified(header)
    return found
