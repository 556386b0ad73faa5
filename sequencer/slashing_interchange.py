"""EIP-3076's interchange format, version 5: between JSON values and signing histories. No files, no database.

Refused, with the path of the offending value: another version or chain, a missing field, a number that is not a
decimal string of an unsigned 64-bit integer (no sign, no leading zeros, no spaces), bytes that are not ``0x`` and
hexadecimal digits of the right length. Allowed: fields that the EIP does not name; ``"signing_root": null``, which
says as much as none; one key or one message several times; messages that contradict each other (they can only make
the signer stricter).

Keys are BLS public keys of 48 bytes, as the EIP says, or Ed25519 public keys of 32 bytes, with which our own chains
may sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from consensus.slashing_rules import SIGNING_ROOT_SIZE, UINT64_MAX, SignedAttestation, SignedBlock, SigningHistory
from rollup_adapters.base import JsonValue

VERSION: Final = "5"
GENESIS_VALIDATORS_ROOT_SIZE: Final = 32
PUBKEY_SIZES: Final = (32, 48)
SHOWN_CHARACTERS_MAX: Final = 80
"""Of an offending value, in an error's message."""

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_HEX: Final = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)


class InterchangeError(Exception):
    """A document that cannot be imported. ``key_path`` names the value, as in ``data[0].signed_blocks[2].slot``."""

    def __init__(self, key_path: str, problem: str) -> None:
        super().__init__(f"{key_path}: {problem}" if key_path else problem)
        self.key_path = key_path
        self.problem = problem


def genesis_validators_root_of(document: object) -> bytes:
    """The chain that a document is of (32 bytes). Raises :class:`InterchangeError`, for another version too."""
    metadata = _object(_field(_object(document, ""), "metadata", ""), "metadata")
    version = _field(metadata, "interchange_format_version", "metadata")
    if version != VERSION:
        raise InterchangeError(
            "metadata.interchange_format_version",
            f'{_shown(version)} is not supported; it must be the string "{VERSION}". Let the other program export '
            "again in version 5 of EIP-3076.",
        )
    root = _field(metadata, "genesis_validators_root", "metadata")
    return _bytes(root, (GENESIS_VALIDATORS_ROOT_SIZE,), "metadata.genesis_validators_root")


def parse_interchange(document: object, genesis_validators_root: bytes) -> tuple[SigningHistory, ...]:
    """One history per key of a document (what ``json.loads`` gives), messages in the order of the document.

    Raises :class:`InterchangeError`.
    """
    found = genesis_validators_root_of(document)
    if found != genesis_validators_root:
        raise InterchangeError(
            "metadata.genesis_validators_root",
            f"is 0x{found.hex()}, but this database belongs to 0x{genesis_validators_root.hex()}: another chain. "
            "Use the file or the database of the same chain.",
        )
    messages: dict[bytes, tuple[list[SignedBlock], list[SignedAttestation]]] = {}
    for index, value in enumerate(_list(_field(_object(document, ""), "data", ""), "data")):
        path = f"data[{index}]"
        entry = _object(value, path)
        pubkey = _bytes(_field(entry, "pubkey", path), PUBKEY_SIZES, f"{path}.pubkey")
        blocks, attestations = messages.setdefault(pubkey, ([], []))
        blocks += _blocks(_field(entry, "signed_blocks", path), f"{path}.signed_blocks")
        attestations += _attestations(_field(entry, "signed_attestations", path), f"{path}.signed_attestations")
    return tuple(
        SigningHistory(pubkey=pubkey, blocks=tuple(blocks), attestations=tuple(attestations))
        for pubkey, (blocks, attestations) in messages.items()
    )


def render_interchange(genesis_validators_root: bytes, histories: Iterable[SigningHistory]) -> dict[str, JsonValue]:
    """The document of histories that have no watermarks."""
    return {
        "metadata": {
            "interchange_format_version": VERSION,
            "genesis_validators_root": _hex(genesis_validators_root),
        },
        "data": [
            {
                "pubkey": _hex(history.pubkey),
                "signed_blocks": [_message({"slot": each.slot}, each.signing_root) for each in history.blocks],
                "signed_attestations": [
                    _message({"source_epoch": each.source_epoch, "target_epoch": each.target_epoch}, each.signing_root)
                    for each in history.attestations
                ],
            }
            for history in histories
        ],
    }


def _blocks(value: object, path: str) -> list[SignedBlock]:
    found = []
    for index, each in enumerate(_list(value, path)):
        here = f"{path}[{index}]"
        block = _object(each, here)
        found.append(SignedBlock(_number(block, "slot", here), _signing_root(block, here)))
    return found


def _attestations(value: object, path: str) -> list[SignedAttestation]:
    found = []
    for index, each in enumerate(_list(value, path)):
        here = f"{path}[{index}]"
        attestation = _object(each, here)
        source, target = _number(attestation, "source_epoch", here), _number(attestation, "target_epoch", here)
        found.append(SignedAttestation(source, target, _signing_root(attestation, here)))
    return found


def _message(numbers: Mapping[str, int], signing_root: bytes | None) -> JsonValue:
    fields: dict[str, JsonValue] = {name: str(number) for name, number in numbers.items()}
    if signing_root is not None:
        fields["signing_root"] = _hex(signing_root)
    return fields


def _object(value: object, path: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise InterchangeError(path, f"must be an object, not {_shown(value)}")
    return value


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise InterchangeError(path, f"must be a list, not {_shown(value)}")
    return value


def _field(value: Mapping[object, object], name: str, path: str) -> object:
    if name not in value:
        raise InterchangeError(f"{path}.{name}" if path else name, "is missing")
    return value[name]


def _number(value: Mapping[object, object], name: str, path: str) -> int:
    text = _field(value, name, path)
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text) or (number := int(text)) > UINT64_MAX:
        raise InterchangeError(
            f"{path}.{name}", f'must be a string of decimal digits from "0" to "{UINT64_MAX}", not {_shown(text)}'
        )
    return number


def _signing_root(value: Mapping[object, object], path: str) -> bytes | None:
    root = value.get("signing_root")
    return None if root is None else _bytes(root, (SIGNING_ROOT_SIZE,), f"{path}.signing_root")


def _bytes(value: object, sizes: tuple[int, ...], path: str) -> bytes:
    if not isinstance(value, str) or not _HEX.fullmatch(value) or (len(value) - 2) // 2 not in sizes:
        digits = " or ".join(str(2 * size) for size in sizes)
        raise InterchangeError(path, f"must be 0x and {digits} hexadecimal digits, not {_shown(value)}")
    return bytes.fromhex(value[2:])


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _shown(value: object) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case str() | int() | float() | None:
            text = repr(value) if isinstance(value, str) else str(value)
            return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
        case _:
            return f"a {type(value).__name__}"
