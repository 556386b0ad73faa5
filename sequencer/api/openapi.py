"""The OpenAPI 3.1 document of the API, at ``/openapi.json``. A test holds it against the routes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final, TypeAlias

from sequencer.api.representation import BYTES_TYPE, JSON_TYPE, PACKED_TYPE

Json: TypeAlias = Mapping[str, object]


def _text(**fields: object) -> Json:
    return {"type": "string", **fields}


def _number(**fields: object) -> Json:
    return {"type": "integer", "minimum": 0, **fields}


def _object(properties: Mapping[str, Json], *, required: tuple[str, ...] | None = None) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
    }


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _parameter(name: str, where: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


HASH: Final[Json] = _text(pattern="^[0-9a-f]{64}$", description="32 bytes, hex")
HEX: Final[Json] = _text(pattern="^([0-9a-f]{2})*$")
HEIGHT: Final[Json] = _number(maximum=2**63 - 1)

_PARAMETERS: Final[Mapping[str, Json]] = MappingProxyType(
    {
        "rollup_id": _parameter("rollup_id", "path", _number(maximum=2**64 - 1), "A rollup of the chain spec."),
        "height": _parameter("height", "path", HEIGHT, "A committed height, from 1."),
        "transaction_id": _parameter(
            "transaction_id",
            "path",
            _text(pattern="^(0x)?[0-9a-fA-F]{64}$"),
            "SHA-256(0x00 || rollup_id u64le || valid_until u64le || data).",
        ),
        "valid_until": _parameter(
            "valid_until", "query", HEIGHT, "The last height at which to order it; 0, the default, for no expiry."
        ),
        "wait": _parameter(
            "wait", "query", _text(enum=["confirmed", "final"]), "Answer once it is confirmed, or final."
        ),
        "timeout_ms": _parameter(
            "timeout_ms", "query", _number(maximum=60_000, default=10_000), "How long to wait; then 202."
        ),
        "proof": _parameter(
            "proof",
            "query",
            _text(enum=["0", "1", "true", "false", "final"]),
            "With the receipt; final proves that too.",
        ),
        "from": _parameter("from", "query", HEIGHT, "The first height; without it the latest blocks."),
        "from_epoch": _parameter("from", "query", _number(maximum=2**63 - 1, default=1), "The first epoch wanted."),
        "limit": _parameter("limit", "query", _number(maximum=100, default=20), "How many at most."),
        "from_height": _parameter("from_height", "query", HEIGHT, "The first height; without it the next one."),
        "Last-Event-ID": _parameter("Last-Event-ID", "header", HEIGHT, "Go on after this height."),
        "encoding": _parameter(
            "encoding", "query", _text(enum=["json", "msgpack"]), "msgpack: base64 of the section's canonical bytes."
        ),
        "name": _parameter("name", "path", _text(), "A file of the page."),
        "part": _parameter("part", "query", _text(enum=["live"]), "Only what changes."),
    }
)

_SCHEMAS: Final[Mapping[str, Json]] = MappingProxyType(
    {
        "Error": _object(
            {"error": _object({"code": _text(), "message": _text(), "where": _text()}, required=("code", "message"))}
        ),
        "Transaction": _object(
            {"data": _text(pattern="^(0x)?([0-9a-fA-F]{2})*$"), "valid_until": HEIGHT}, required=("data",)
        ),
        "Submission": {
            "description": "What became of one transaction, by its type. In MessagePack ids are bytes.",
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": _text(
                    enum=[
                        "pending",
                        "ordered",
                        "too_large",
                        "full",
                        "unknown_rollup",
                        "expired",
                        "expiry_too_far",
                        "change_refused",
                        "not_admitted",
                    ]
                ),
                "transaction_id": HASH,
                "known": {"type": "boolean"},
                "height": HEIGHT,
            },
        },
        "Position": _object({"rollup_id": _number(maximum=2**64 - 1), "height": HEIGHT, "index": _number()}),
        "State": _object(
            {
                "transaction_id": HASH,
                "level": _text(
                    enum=[
                        "unknown",
                        "expired",
                        "pending",
                        "promised",
                        "certified",
                        "confirmed",
                        "final",
                        "settled",
                    ]
                ),
                "position": {"oneOf": [_reference("Position"), {"type": "null"}]},
                "receipt": _reference("Receipt"),
                "change": _object(
                    {"accepted": {"type": "boolean"}, "effective_at": HEIGHT, "reason": _text()},
                    required=("accepted",),
                ),
            },
            required=("transaction_id", "level", "position"),
        ),
        "Header": _object(
            {"chain": HASH, "epoch": _number(), "view": _number(), "height": HEIGHT, "parent": HASH}
            | {"justify": {"type": "object"}, "entry_proof_hash": HEX, "payload_root": HASH, "payload_size": _number()}
            | {"next_validators_hash": HEX, "timestamp_ms": _number(), "proposer": _number()}
        ),
        "CommitProof": _object(
            {"epoch": _number(), "headers": _list(_reference("Header")), "certificate": {}, "confirmation": {}}
        ),
        "Receipt": _object(
            {"transaction_id": HASH, "rollup_id": _number(), "inclusion": {"type": "object"}}
            | {"header": _reference("Header"), "commit_proof": _reference("CommitProof")}
            | {"finality": {"oneOf": [_reference("FinalityProof"), {"type": "null"}]}},
            required=("transaction_id", "rollup_id", "inclusion", "header", "commit_proof"),
        ),
        "FinalityProof": _object(
            {"headers": _list(_reference("Header")), "certificates": _list(_reference("LinkCertificate"))}
        ),
        "LinkCertificate": _object(
            {"source": _reference("Checkpoint"), "target": _reference("Checkpoint")}
            | {"groups": _list(_object({"epoch": _number(), "signers": HEX, "signature": HEX}))}
        ),
        "Checkpoint": _object({"height": HEIGHT, "id": HASH}),
        "Section": _object(
            {"rollup_id": _number(), "header": _reference("Header"), "valid_untils": _list(HEIGHT)}
            | {"transactions": _list(HEX), "proof": {"type": "object"}, "commit_proof": _reference("CommitProof")}
        ),
        "Block": _object(
            {
                "block_id": HASH,
                "level": _text(enum=["confirmed", "final"]),
                "header": _reference("Header"),
                "commit_proof": _reference("CommitProof"),
            }
            | {"sections": _list(_object({"rollup_id": _number(), "count": _number(minimum=1), "root": HASH}))},
            required=("block_id", "header", "sections"),
        ),
        "EpochChanges": _object(
            {
                "chain": HASH,
                "newest": _number(),
                "changes": _list(
                    _object(
                        {"boundary": _reference("Header"), "validators": _list(_reference("Validator"))}
                        | {"proof": _reference("CommitProof")}
                    )
                ),
            }
        ),
        "Validator": _object(
            {"name": _text(), "stake": _number(minimum=1), "public_key": HEX, "possession_proof": HEX, "peer": HASH}
        ),
        "Readiness": _object(
            {"ready": {"type": "boolean"}, "reasons": _list(_text()), "ledger_height": HEIGHT, "seen_height": HEIGHT}
            | {"pruned_below": HEIGHT, "history": _text()},
            required=("ready", "reasons", "ledger_height", "seen_height", "pruned_below"),
        ),
        "Call": _object(
            {"jsonrpc": _text(const="2.0"), "id": {}, "method": _text(), "params": {}}, required=("jsonrpc", "method")
        ),
    }
)


def _both(schema: Json) -> Json:
    """In JSON and in MessagePack."""
    return {JSON_TYPE: {"schema": schema}, PACKED_TYPE: {"schema": schema}}


def _answers(content: Json, *, errors: str = "", **others: Json) -> Json:
    """A good answer in this form, and refusals in the one shape."""
    refused = {
        status: {"description": _MEANINGS[status], "content": _both(_reference("Error"))}
        for status in (*errors.split(), "503", "504")
    }
    good: Json = {"description": "As asked.", "content": content}
    return {"200": good, **{name.removeprefix("s"): each for name, each in others.items()}, **refused}


_MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "400": "Malformed; `where` names the parameter.",
        "404": "Not of this chain, or not here.",
        "408": "The body came too slowly.",
        "410": "Pruned here; ask a node that keeps more.",
        "413": "Too large.",
        "415": "Another Content-Type belongs here.",
        "422": "It can never be ordered, or executed, as it is.",
        "503": "Full, busy or stopping; `Retry-After` says when to come back.",
        "504": "No answer in time.",
    }
)
_SUBMISSION_ANSWER: Final[Json] = {
    "oneOf": [_reference("Submission"), _reference("State"), _list(_reference("Submission"))]
}
_ACCEPTED: Final[Json] = {"description": "It waits, and is not confirmed yet.", "content": _both(_SUBMISSION_ANSWER)}


def _operation(summary: str, parameters: str, responses: Json, body: Json | None = None) -> Json:
    operation: dict[str, object] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = [_PARAMETERS[name] for name in parameters.split()]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


_OPERATIONS: Final[Mapping[str, Json]] = MappingProxyType(
    {
        "submit": _operation(
            "Submit one transaction, or a batch of a rollup. Submitting again is harmless.",
            "rollup_id valid_until wait timeout_ms",
            _answers(_both(_SUBMISSION_ANSWER), errors="400 404 408 410 413 415 422", s202=_ACCEPTED),
            {
                JSON_TYPE: {"schema": {"oneOf": [_reference("Transaction"), _list(_reference("Transaction"))]}},
                PACKED_TYPE: {
                    "schema": {
                        "description": "A map of data (bin) and valid_until, or an array of bins (fastest) and maps."
                    }
                },
                BYTES_TYPE: {"schema": {"description": "The data of one transaction."}},
            },
        ),
        "transaction": _operation(
            "How far a transaction has come, with its receipt on request.",
            "transaction_id proof wait timeout_ms",
            _answers(_both(_reference("State")), errors="400 404 410 422", s202=_ACCEPTED),
        ),
        "section": _operation(
            "All that one block ordered for one rollup, with the proof that it is all.",
            "rollup_id height",
            _answers(_both(_reference("Section")), errors="400 404 410"),
        ),
        "stream": _operation(
            "A rollup's sections as server-sent events, one of every height.",
            "rollup_id from_height Last-Event-ID encoding",
            _answers({"text/event-stream": {"schema": _text()}}, errors="400 404 410"),
        ),
        "block": _operation(
            "One block without its transactions, with its commit proof.",
            "height",
            _answers(_both(_reference("Block")), errors="400 404 410"),
        ),
        "blocks": _operation(
            "Some blocks, ascending.", "from limit", _answers(_both(_list(_reference("Block"))), errors="400 404 410")
        ),
        "finality": _operation(
            "That a block is final: the headers above it, and the quorum's votes over two checkpoints, or three.",
            "height",
            _answers(_both(_reference("FinalityProof")), errors="400 404"),
        ),
        "epochs": _operation(
            "How the epochs followed each other, each proved by the validators before; those to `from` and later.",
            "from_epoch",
            _answers(_both(_reference("EpochChanges")), errors="400"),
        ),
        "chain": _operation("The chain spec and its hash.", "", _answers(_both({"type": "object"}))),
        "status": _operation("Where this node stands.", "", _answers(_both({"type": "object"}))),
        "ethereum": _operation(
            "Ethereum JSON-RPC of a rollup that is an EVM: one call or a batch.",
            "rollup_id",
            _answers(
                {JSON_TYPE: {"schema": {}}}, errors="400 404 408 413 415", s204={"description": "Only notifications."}
            ),
            {JSON_TYPE: {"schema": {"oneOf": [_reference("Call"), _list(_reference("Call"))]}}},
        ),
        "page": _operation("The live page.", "part", _answers({"text/html": {"schema": _text()}})),
        "asset": _operation(
            "The page's style sheet and script.",
            "name",
            _answers(
                {"text/css": {"schema": _text()}, "text/javascript": {"schema": _text()}},
                errors="404",
            ),
        ),
        "health": _operation("Whether the process answers.", "", _answers(_both({"type": "object"}))),
        "ready": _operation(
            "Whether to ask this node: it compares itself with the highest height seen, and says what is pruned.",
            "",
            {
                "200": {"description": "Ready.", "content": _both(_reference("Readiness"))},
                "503": {
                    "description": "Not now, with the reasons.",
                    "content": _both({"oneOf": [_reference("Readiness"), _reference("Error")]}),
                },
            },
        ),
        "metrics": _operation("Prometheus metrics.", "", _answers({"text/plain": {"schema": _text()}})),
        "openapi": _operation("This document.", "", _answers(_both({"type": "object"}))),
    }
)


def openapi_document(routes: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    """The document of ``routes``: name to method and path. Raises ``KeyError`` for one that is not described here."""
    paths: dict[str, dict[str, object]] = {}
    for name, (method, path) in routes.items():
        paths.setdefault(path, {})[method.lower()] = {"operationId": name, **_OPERATIONS[name]}
    try:
        release = version("shared-sequencer")
    except PackageNotFoundError:
        release = "unknown"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shared sequencer",
            "version": release,
            "description": "JSON, or MessagePack by Accept and Content-Type: there bytes are bytes, and receipts, "
            "sections and blocks are their canonical arrays (a receipt within a state as bytes).",
        },
        "paths": paths,
        "components": {"schemas": dict(_SCHEMAS)},
    }
