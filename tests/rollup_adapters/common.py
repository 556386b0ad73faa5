"""What the tests of this room share: installing adapters as a third party would."""

from __future__ import annotations

from pathlib import Path

from rollup_adapters.base import ENTRY_POINT_GROUP


def install(packages: Path, distribution: str, /, **adapters: str) -> None:
    """Make ``packages``, a folder on ``sys.path``, hold a distribution that declares adapters ``name = target``."""
    metadata = packages / f"{distribution}-1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"[{ENTRY_POINT_GROUP}]", *(f"{name} = {target}" for name, target in adapters.items())]
    metadata.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
