"""Writes tests/consensus/data/finality_vectors.json: what the executable Ethereum consensus specification justifies and
finalizes over random histories, and which pairs of votes it calls slashable.

The specification is not a dependency; it wants packages of 2022, so it gets an environment of its own. The commands and
versions are in tests/consensus/data/README.md.

Each history is one chain. In every epoch, each validator votes for the epoch's checkpoint in time (its vote is in a
block of that epoch), late (in a block of the next) or never. The votes go through the specification's own
``process_attestation`` and are weighed by its ``process_justification_and_finalization``; signatures are switched off.
Total stakes are no multiples of three, where "at least two thirds" (Ethereum) and "more than two thirds" (ours) differ.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from eth2spec.phase0 import minimal as spec  # type: ignore[import-not-found]
from eth2spec.utils import bls  # type: ignore[import-not-found]

VERSION = "eth2spec 1.1.10, phase0, minimal preset"
FILE = Path(__file__).parent.parent / "tests" / "consensus" / "data" / "finality_vectors.json"
VALIDATORS = 16
HISTORIES = 150
EPOCHS = 16
FIRST_EPOCH = 2
"""The specification weighs nothing at the end of epochs 0 and 1."""
PAIRS = 400
GWEI = 10**9


def root(text: str) -> bytes:
    return bytes(spec.hash(text.encode()))


def bits_of(validators: set[int]) -> int:
    """Bit i is validator i."""
    return sum(1 << index for index in validators)


def state_of(stakes: list[int]) -> Any:
    """A state in which all validators have been active since genesis, with these effective balances."""
    state = spec.BeaconState()
    for index, stake in enumerate(stakes):
        state.validators.append(
            spec.Validator(
                pubkey=index.to_bytes(48, "big"),
                effective_balance=stake * GWEI,
                activation_epoch=0,
                exit_epoch=spec.FAR_FUTURE_EPOCH,
                withdrawable_epoch=spec.FAR_FUTURE_EPOCH,
            )
        )
        state.balances.append(stake * GWEI)
    for slot in range(len(state.block_roots)):
        state.block_roots[slot] = root(f"block {slot}")
    return state


def include(state: Any, epoch: int, voters: set[int]) -> None:
    """Put the votes of ``voters`` for the checkpoint of ``epoch`` into blocks: one slot later when ``epoch`` is the
    current one, an epoch later otherwise."""
    current = epoch == spec.get_current_epoch(state)
    source = state.current_justified_checkpoint if current else state.previous_justified_checkpoint
    target = spec.Checkpoint(epoch=epoch, root=spec.get_block_root(state, epoch))
    start, at = spec.compute_start_slot_at_epoch(epoch), state.slot
    for slot in range(start, start + spec.SLOTS_PER_EPOCH):
        for index in range(spec.get_committee_count_per_slot(state, epoch)):
            bits = [member in voters for member in spec.get_beacon_committee(state, slot, index)]
            if not any(bits):
                continue
            state.slot = slot + (spec.MIN_ATTESTATION_INCLUSION_DELAY if current else spec.SLOTS_PER_EPOCH)
            data = spec.AttestationData(slot=slot, index=index, source=source, target=target)
            spec.process_attestation(state, spec.Attestation(aggregation_bits=bits, data=data))
    state.slot = at


def in_time_possible(state: Any, epoch: int) -> set[int]:
    """Whose committee is not that of the epoch's last slot: their votes can be in a block of the epoch."""
    start = spec.compute_start_slot_at_epoch(epoch)
    found: set[int] = set()
    for slot in range(start, start + spec.SLOTS_PER_EPOCH - 1):
        for index in range(spec.get_committee_count_per_slot(state, epoch)):
            found |= {int(member) for member in spec.get_beacon_committee(state, slot, index)}
    return found


def history(seed: int) -> dict[str, object]:
    draw = random.Random(seed)
    while True:
        stakes = [draw.randint(1, 32) for _ in range(VALIDATORS)]
        if sum(stakes) % 3:
            break
    state = state_of(stakes)
    epochs = []
    late: set[int] = set()
    mood = 0
    for epoch in range(FIRST_EPOCH, FIRST_EPOCH + EPOCHS):
        if draw.random() < 0.4:
            mood = draw.randrange(4)  # good times, late votes, half of them away, anything
        chance_in_time, chance_late = ((0.97, 0.5), (0.55, 0.9), (0.5, 0.1), (draw.random(), draw.random()))[mood]
        state.slot = spec.compute_start_slot_at_epoch(epoch + 1) - 1
        include(state, epoch - 1, late)
        able = in_time_possible(state, epoch)
        in_time = {index for index in sorted(able) if draw.random() < chance_in_time}
        late_next = {index for index in range(VALIDATORS) if index not in in_time and draw.random() < chance_late}
        include(state, epoch, in_time)
        spec.process_justification_and_finalization(state)
        epochs.append(
            {
                "in_time": bits_of(in_time),
                "late_from_before": bits_of(late),
                "justified": int(state.current_justified_checkpoint.epoch),
                "finalized": int(state.finalized_checkpoint.epoch),
            }
        )
        spec.process_participation_record_updates(state)
        late = late_next
    return {"stakes": stakes, "epochs": epochs}


def pairs(seed: int) -> list[list[object]]:
    draw = random.Random(seed)
    found: list[list[object]] = []
    for _ in range(PAIRS):
        numbers = []
        votes = []
        for _ in range(2):
            source, target = sorted(draw.sample(range(8), 2))
            fork = draw.randrange(2)
            numbers.append([source, target, fork])
            votes.append(
                spec.AttestationData(
                    source=spec.Checkpoint(epoch=source, root=root(f"fork 0 {source}")),
                    target=spec.Checkpoint(epoch=target, root=root(f"fork {fork} {target}")),
                )
            )
        slashable = spec.is_slashable_attestation_data(*votes) or spec.is_slashable_attestation_data(*reversed(votes))
        found.append([*numbers, bool(slashable)])
    return found


def main() -> None:
    bls.bls_active = False
    document = {
        "source": VERSION,
        "first_epoch": FIRST_EPOCH,
        "histories": [history(seed) for seed in range(HISTORIES)],
        "pairs": pairs(0),
    }
    lines = (
        json.dumps(document, separators=(",", ":")).replace('{"stakes"', '\n{"stakes"').replace('"pairs"', '\n"pairs"')
    )
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
