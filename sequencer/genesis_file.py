"""The chain spec as a JSON file that people read, compare and send to each other.

Bytes are lower-case hexadecimal digits, times milliseconds, sizes bytes. Fields with a default in
:class:`~consensus.genesis.ChainSpec` may be left out. ``genesis_hash`` is written for people and checked when it is
there, so that a slip of the editor is noticed before it parts a node from its chain. Without ``reconfiguration`` the
validators never change::

    {
      "genesis_hash": "5f0c…",
      "chain_id": "testnet-1",
      "genesis_time_ms": 1767225600000,
      "protocol": "jolteon",
      "scheme": "ed25519",
      "election": "round-robin",
      "rollups": [1, 2, 3],
      "pacing": {"view_timeout_ms": 1500, "idle_interval_ms": 1000, …},
      "payload_size_max": 2097152,
      …
      "checkpoint_interval": 32,
      "reconfiguration": {"epoch_heights": 64, "governors": ["…"], "governors_needed": 1, …},
      "validators": [
        {"name": "validator-0", "stake": 1, "public_key": "…", "possession_proof": "…", "peer": "…"}
      ]
    }
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from consensus.codec import Malformed, encode
from consensus.genesis import GOVERNORS_MAX, LINKS_ROLLUP, ChainSpec, Pacing, Reconfiguration, chain_specs
from consensus.types import HASH_SIZE, INTEGER_MAX
from consensus.validators import STAKE_MAX, Validator
from rollup_adapters.base import JsonValue
from sequencer.json_form import DEPTH_MAX, is_nested_deeper
from sequencer.tables import KeyPathError, Table, hexadecimal

FILE_SIZE_MAX: Final = 4 * 1024 * 1024
_POSITIVE_MAX: Final = 2**53
_TEXT_SIZE_MAX: Final = 64
_PACING_BOUNDS: Final = {"exponent_max": (0, 64), "views_per_leader": (1, 1_000_000)}
_RECONFIGURATION_BOUNDS: Final = {
    "epoch_heights": (1, _POSITIVE_MAX),
    "activation_heights": (0, _POSITIVE_MAX),
    "exit_heights": (0, _POSITIVE_MAX),
    "governors_needed": (1, GOVERNORS_MAX),
    "concentration_percent": (1, 100),
}
_SIZES: Final = ("payload_size_max", "transaction_size_max", "deduplication_heights", "timestamp_drift_ms")
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in msgspec.structs.fields(ChainSpec)}


def chain_spec_to_json(spec: ChainSpec) -> str:
    """The text of a genesis file."""
    document: dict[str, JsonValue] = {
        "genesis_hash": spec.hash.hex(),
        "chain_id": spec.chain_id,
        "genesis_time_ms": spec.genesis_time_ms,
        "protocol": spec.protocol,
        "scheme": spec.scheme,
        "election": spec.election,
        "rollups": list(spec.rollups),
        "pacing": {name: getattr(spec.pacing, name) for name in Pacing.__struct_fields__},
        **{name: getattr(spec, name) for name in _SIZES},
        "checkpoint_interval": spec.checkpoint_interval,
    }
    if spec.reconfiguration is not None:
        document["reconfiguration"] = _reconfiguration_to_json(spec.reconfiguration)
    document["validators"] = [validator_to_json(validator) for validator in spec.validators]
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def chain_spec_from_json(text: str | bytes) -> ChainSpec:
    """The chain spec of a genesis file. Raises :class:`~sequencer.tables.KeyPathError` naming the bad key.

    What is checked is the form; ``sequencer.genesis.genesis_of`` judges the rest.
    """
    try:
        if is_nested_deeper(text.encode() if isinstance(text, str) else text, DEPTH_MAX):
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
        table = Table(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, KeyPathError):
            raise
        raise KeyPathError("the document", f"not JSON: {error}") from None
    spec = ChainSpec(
        chain_id=_text(table, "chain_id"),
        genesis_time_ms=table.integer("genesis_time_ms", 0, INTEGER_MAX),
        protocol=_text(table, "protocol"),
        scheme=_text(table, "scheme"),
        validators=tuple(_validator(validator) for validator in table.tables("validators")),
        rollups=tuple(_rollup(value, index) for index, value in enumerate(table.list_at("rollups"))),
        election=_text(table, "election", default=_DEFAULTS["election"]),
        pacing=_pacing(table.table("pacing")),
        checkpoint_interval=table.integer(
            "checkpoint_interval", 0, INTEGER_MAX, default=_DEFAULTS["checkpoint_interval"]
        ),
        reconfiguration=_reconfiguration(table.table("reconfiguration")) if table.has("reconfiguration") else None,
        **{name: table.integer(name, 1, _POSITIVE_MAX, default=_DEFAULTS[name]) for name in _SIZES},
    )
    named_hash = table.hexadecimal("genesis_hash", HASH_SIZE) if table.has("genesis_hash") else None
    table.finish()
    checked = chain_specs.decode(encode(spec))  # the bounds that the wire form sets
    if isinstance(checked, Malformed):
        raise KeyPathError("the document", f"not a chain spec: {checked.reason}")
    if named_hash is not None and named_hash != spec.hash:
        raise table.error(
            "genesis_hash",
            f"this names {named_hash.hex()}, but the content hashes to {spec.hash.hex()}: the file was changed. "
            "Fetch the original, or delete this line to begin another chain",
        )
    return spec


def validator_to_json(validator: Validator) -> dict[str, JsonValue]:
    """One entry of ``validators``."""
    return {
        "name": validator.name,
        "stake": validator.stake,
        "public_key": validator.public_key.hex(),
        "possession_proof": validator.possession_proof.hex(),
        "peer": validator.peer.hex(),
    }


def read_chain_spec(file: Path) -> ChainSpec:
    """The chain spec in ``file``. Raises :class:`~sequencer.tables.KeyPathError`, and ``OSError`` when it cannot be
    read."""
    with file.open("rb") as source:
        text = source.read(FILE_SIZE_MAX + 1)
    if len(text) > FILE_SIZE_MAX:
        raise KeyPathError("the document", f"larger than {FILE_SIZE_MAX} bytes")
    return chain_spec_from_json(text)


def _validator(table: Table) -> Validator:
    validator = Validator(
        name=_text(table, "name"),
        stake=table.integer("stake", 1, STAKE_MAX),
        public_key=table.hexadecimal("public_key"),
        possession_proof=table.hexadecimal("possession_proof"),
        peer=table.hexadecimal("peer", HASH_SIZE),
    )
    table.finish()
    return validator


def _pacing(table: Table) -> Pacing:
    default = Pacing()
    pacing = Pacing(
        **{
            name: table.integer(name, *_PACING_BOUNDS.get(name, (1, _POSITIVE_MAX)), default=getattr(default, name))
            for name in Pacing.__struct_fields__
        }
    )
    table.finish()
    return pacing


def _reconfiguration_to_json(reconfiguration: Reconfiguration) -> dict[str, JsonValue]:
    return {
        **{name: getattr(reconfiguration, name) for name in _RECONFIGURATION_BOUNDS},
        "governors": [governor.hex() for governor in reconfiguration.governors],
    }


def _reconfiguration(table: Table) -> Reconfiguration:
    default = Reconfiguration()
    governors = tuple(
        hexadecimal(governor, f"{table.path('governors')}[{index}]", HASH_SIZE)
        for index, governor in enumerate(table.list_at("governors"))
    )
    if len(governors) > GOVERNORS_MAX:
        raise table.error("governors", f"{len(governors)} of them, more than {GOVERNORS_MAX}")
    reconfiguration = Reconfiguration(
        governors=governors,
        **{
            name: table.integer(name, low, high, default=getattr(default, name))
            for name, (low, high) in _RECONFIGURATION_BOUNDS.items()
        },
    )
    table.finish()
    return reconfiguration


def _rollup(value: object, index: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LINKS_ROLLUP:
        raise KeyPathError(f"rollups[{index}]", "expected a rollup id, a whole number from 0 to 2**64 - 3")
    return value


def _text(table: Table, key: str, *, default: str | None = None) -> str:
    text = table.text(key, default=default)
    if len(text) > _TEXT_SIZE_MAX:
        raise table.error(key, f"longer than {_TEXT_SIZE_MAX} characters")
    return text
