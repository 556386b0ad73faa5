"""A process that signs for ever, to be killed or to compete. Run as ``python -m tests.sequencer.slashing_child FILE
NAME FIRST``.

From slot and epoch ``FIRST`` on it asks for one block and one vote each, with roots that only a signer of this ``NAME``
has, and prints what was permitted once the call has returned: ``block SLOT`` or ``vote SOURCE``.
"""

from __future__ import annotations

import hashlib
import sys
from itertools import count
from pathlib import Path

from sequencer.slashing_protection import SlashingProtection, SlashingRefusal
from tests.sequencer.slashing_world import ANNA, CHAIN


def signing_root(name: str, kind: str, number: int) -> bytes:
    return hashlib.sha256(f"{name} {kind} {number}".encode()).digest()


def main(path: Path, name: str, first: int) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        for number in count(first):
            try:
                protection.check_and_record_block(ANNA, number, signing_root(name, "block", number))
                print("block", number, flush=True)
            except SlashingRefusal:
                print("refused", number, flush=True)
            try:
                protection.check_and_record_attestation(ANNA, number, number + 1, signing_root(name, "vote", number))
                print("vote", number, flush=True)
            except SlashingRefusal:
                print("refused", number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
