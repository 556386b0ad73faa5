"""Round-trip times between regions of one public cloud, for the geographic preset.

Milliseconds, measured between AWS regions, as published in the repository relab/hotstuff (file
``cmd/latencygen/latencies/aws.csv``, commit 3179c6e62929294961acbfd9bf8445769716a121); row to column. Half of a round
trip is taken as the delay of one direction.
"""

from __future__ import annotations

from typing import Final

REGIONS: Final = (
    "us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-northeast-1", "ap-southeast-1", "sa-east-1",
)  # fmt: skip
_ROUND_TRIPS_MS: Final = (
    (5.06, 72.67, 70.45, 93.01, 156.97, 227.86, 118.54),
    (71.58, 3.08, 123.52, 144.1, 101.12, 177.28, 178.83),
    (69.44, 122.92, 2.66, 27.05, 204.18, 182.15, 181.73),
    (90.98, 143.31, 26.13, 3.05, 232.23, 163.74, 205.5),
    (154.82, 100.51, 203.43, 232.69, 3.69, 78.51, 259.44),
    (225.64, 176.35, 181.07, 163.65, 78.33, 2.47, 334.15),
    (116.92, 178.02, 181.14, 205.43, 259.07, 333.64, 3.91),
)


def one_way_ms(source: str, target: str) -> float:
    """Half of the round trip between two regions. Raises ``ValueError`` for an unknown region."""
    for region in (source, target):
        if region not in REGIONS:
            raise ValueError(f"region {region!r} is unknown; known are {', '.join(REGIONS)}")
    return _ROUND_TRIPS_MS[REGIONS.index(source)][REGIONS.index(target)] / 2
