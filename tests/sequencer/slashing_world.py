"""What the tests of slashing protection share: a database to tell stories about, and a runner for documents in the form
of github.com/eth-clients/slashing-protection-interchange-tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sequencer.slashing_protection import InterchangeError, Rule, SlashingProtection, SlashingRefusal

CHAIN: Final = bytes(range(32))
ANNA: Final = b"\xaa" * 48
BERT: Final = b"\xbb" * 48

Message = tuple[int, ...]


def root(number: int | None) -> bytes | None:
    """A signing root that reads well in a story."""
    return None if number is None else number.to_bytes(32, "big")


def interchange(
    *entries: tuple[bytes, list[tuple[int, int | None]], list[tuple[int, int, int | None]]], chain: bytes = CHAIN
) -> dict[str, Any]:
    """A document of ``(pubkey, [(slot, root)], [(source, target, root)])``."""

    def message(fields: dict[str, str], number: int | None) -> dict[str, str]:
        found = root(number)
        return fields if found is None else {**fields, "signing_root": f"0x{found.hex()}"}

    return {
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": f"0x{chain.hex()}"},
        "data": [
            {
                "pubkey": f"0x{pubkey.hex()}",
                "signed_blocks": [message({"slot": str(slot)}, number) for slot, number in blocks],
                "signed_attestations": [
                    message({"source_epoch": str(source), "target_epoch": str(target)}, number)
                    for source, target, number in attestations
                ],
            }
            for pubkey, blocks, attestations in entries
        ],
    }


class World:
    """A database, told about in terms of one key. Closed and opened again on the way, it is always the same."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.databases = 1
        self.protection = SlashingProtection.open(directory / "0.db", CHAIN)

    def block(self, slot: int, number: int | None, *, key: bytes = ANNA) -> Rule | None:
        try:
            self.protection.check_and_record_block(key, slot, root(number))
        except SlashingRefusal as refusal:
            return refusal.rule
        return None

    def vote(self, source: int, target: int, number: int | None, *, key: bytes = ANNA) -> Rule | None:
        try:
            self.protection.check_and_record_attestation(key, source, target, root(number))
        except SlashingRefusal as refusal:
            return refusal.rule
        return None

    def imports(
        self,
        blocks: list[tuple[int, int | None]],
        votes: list[tuple[int, int, int | None]],
        *,
        key: bytes = ANNA,
        raise_bounds: bool = False,
    ) -> int:
        """The number of contradictions."""
        document = interchange((key, blocks, votes))
        return self.protection.import_interchange(document, raise_bounds=raise_bounds).contradictions

    def prunes(self, slot: int, epoch: int) -> None:
        self.protection.prune(before_slot=slot, before_epoch=epoch)

    def restarts(self) -> None:
        self.protection.close()
        self.protection = SlashingProtection.open(self.protection.path, CHAIN)

    def moves(self, *, minimal: bool = False) -> None:
        """To a new database, as an interchange document."""
        document = self.protection.export_interchange(minimal=minimal)
        self.protection.close()
        self.protection = SlashingProtection.open(self.directory / f"{self.databases}.db", CHAIN)
        self.databases += 1
        self.protection.import_interchange(document)


def run_published(document: Mapping[str, Any], path: Path, *, raise_bounds: bool = False) -> list[str]:
    """Run one test document on a new database at ``path``; what did not go as it says (complete strategy)."""
    wrong = []
    with SlashingProtection.open(path, unhex(document["genesis_validators_root"])) as protection:
        for number, step in enumerate(document["steps"]):
            try:
                protection.import_interchange(step["interchange"], raise_bounds=raise_bounds)
                imported = True
            except InterchangeError:
                imported = False
            if imported != step["should_succeed"]:
                if not imported and step["contains_slashable_data"]:
                    break  # a rejection is allowed, and ends the test
                wrong.append(f"step {number}: imported {imported}")
            if not imported:
                continue
            for message in (*step["blocks"], *step["attestations"]):
                permitted = attempt(protection, message)
                if permitted != message["should_succeed_complete"]:
                    wrong.append(f"step {number}: {message}: permitted {permitted}")
    return wrong


def attempt(protection: SlashingProtection, message: Mapping[str, Any]) -> bool:
    pubkey, given = unhex(message["pubkey"]), message.get("signing_root")
    signing_root = None if given is None else unhex(given)
    try:
        if "slot" in message:
            protection.check_and_record_block(pubkey, int(message["slot"]), signing_root)
        else:
            source, target = int(message["source_epoch"]), int(message["target_epoch"])
            protection.check_and_record_attestation(pubkey, source, target, signing_root)
    except SlashingRefusal:
        return False
    return True


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
