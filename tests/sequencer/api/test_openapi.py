"""The OpenAPI document: every route, every reference, every status and every answer of the real server fits it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Route

from sequencer.api.app import build_app, endpoints
from sequencer.api.gate import Gate
from sequencer.api.limits import ApiLimits
from sequencer.api.metrics import ApiMetrics
from sequencer.transactions import transaction_id
from tests.sequencer.api.fake_node import FakeNode, Served, served


async def document(api: Served) -> Any:
    return (await api.http.get("/openapi.json")).json()


def references(value: object) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    match value:
        case dict():
            yield from (each for name, each in value.items() if name == "$ref")
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


def mismatch(value: Any, schema: Any, schemas: Any, where: str = "$") -> str | None:
    """Why ``value`` does not fit a schema, of the keywords that the document uses."""
    if "$ref" in schema:
        return mismatch(value, schemas[schema["$ref"].rpartition("/")[2]], schemas, where)
    if "oneOf" in schema:
        misses = [mismatch(value, each, schemas, where) for each in schema["oneOf"]]
        return None if None in misses else f"{where}: none of {misses}"
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if "type" in schema and (
        not isinstance(value, types[schema["type"]]) or (isinstance(value, bool) and schema["type"] == "integer")
    ):
        return f"{where}: {value!r} is no {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where}: {value!r} is none of {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{where}: {value!r} does not match"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{where}: {value} is out of range"
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}: lacks {name}"
    inner = [
        (value[name], each, f"{where}.{name}") for name, each in schema.get("properties", {}).items() if name in value
    ]
    if isinstance(value, list) and "items" in schema:
        inner += [(each, schema["items"], f"{where}[]") for each in value]
    return next((miss for each in inner if (miss := mismatch(*each[:2], schemas, each[2]))), None)


async def test_every_route_is_described_and_nothing_else() -> None:
    async with served() as api:
        paths = (await document(api))["paths"]
        described = {(method.upper(), path) for path, operations in paths.items() for method in operations}
        gate = Gate(ApiLimits(), 1000)
        routes = {
            (method, route.path)
            for route in build_app(api.node, gate).routes
            if isinstance(route, Route)
            for method in route.methods or ()
        }
        assert {each for each in routes if each[0] not in ("HEAD", "OPTIONS")} == described
        names = [each.name for each in endpoints(api.node, gate, ApiMetrics())]
        assert len(set(names)) == len(names)


async def test_path_parameters_are_described() -> None:
    async with served() as api:
        for path, operations in (await document(api))["paths"].items():
            for operation in operations.values():
                named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
                assert named == set(re.findall(r"{(\w+)}", path))


async def test_references_lead_somewhere() -> None:
    async with served() as api:
        whole = await document(api)
        schemas = whole["components"]["schemas"]
        assert {each.rpartition("/")[2] for each in references(whole)} == set(schemas)


ASKED = [
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/3/transactions", {"data": "00"}),
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/3/transactions", [{"data": "0x01"}, {"data": "00"}]),
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/4/transactions", {"data": "00"}),
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/3/transactions", {"data": "00", "valid_until": 1}),
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/3/transactions", {"data": "zz"}),
    ("POST", "/v1/rollups/{rollup_id}/transactions", "/v1/rollups/3/transactions?wait=confirmed", {"data": "aa"}),
    ("GET", "/v1/transactions/{transaction_id}", f"/v1/transactions/{transaction_id(3, 0, b'x').hex()}?proof=1", None),
    ("GET", "/v1/transactions/{transaction_id}", f"/v1/transactions/{'00' * 32}", None),
    ("GET", "/v1/transactions/{transaction_id}", "/v1/transactions/0", None),
    ("GET", "/v1/rollups/{rollup_id}/sections/{height}", "/v1/rollups/3/sections/1", None),
    ("GET", "/v1/rollups/{rollup_id}/sections/{height}", "/v1/rollups/3/sections/9", None),
    ("GET", "/v1/blocks/{height}", "/v1/blocks/1", None),
    ("GET", "/v1/blocks/{height}", "/v1/blocks/-1", None),
    ("GET", "/v1/blocks", "/v1/blocks", None),
    ("GET", "/v1/chain", "/v1/chain", None),
    ("GET", "/v1/status", "/v1/status", None),
    ("GET", "/health", "/health", None),
    ("GET", "/ready", "/ready", None),
    ("GET", "/openapi.json", "/openapi.json", None),
    ("POST", "/rollups/{rollup_id}/rpc", "/rollups/3/rpc", {}),
    ("GET", "/", "/", None),
    ("GET", "/assets/{name}", "/assets/page.css", None),
    ("GET", "/assets/{name}", "/assets/page.py", None),
    ("GET", "/metrics", "/metrics", None),
]


@pytest.mark.parametrize(("method", "route", "path", "body"), ASKED)
async def test_answers_fit_the_document(method: str, route: str, path: str, body: object) -> None:
    node = FakeNode()
    node.submit_batch(3, [(0, b"x")])
    await node.order()
    async with served(node) as api:
        api.nursery.start_soon(node.order_forever)
        whole = await document(api)
        response = await api.http.request(method, path, json=body)
        answers = whole["paths"][route][method.lower()]["responses"]
        assert str(response.status_code) in answers, response.text
        content = answers[str(response.status_code)]["content"]
        kind = response.headers["content-type"].partition(";")[0]
        assert kind in content
        if kind == "application/json":
            schema = content[kind]["schema"]
            assert mismatch(response.json(), schema, whole["components"]["schemas"]) is None


def test_the_mismatch_finder_finds() -> None:
    schemas: Any = {"A": {"type": "integer", "minimum": 0, "maximum": 9}}
    schema: Any = {"type": "object", "properties": {"a": {"$ref": "#/x/A"}, "b": {"oneOf": [{"type": "null"}]}}}
    assert mismatch({"a": 1, "b": None}, {**schema, "required": ["a"]}, schemas) is None
    bad: Any
    for bad in ({"a": 10}, {"a": True}, {"a": "1"}, {"b": 1}, [], None):
        assert mismatch(bad, schema, schemas)
    assert mismatch({}, {**schema, "required": ["a"]}, schemas)
    assert mismatch("x", {"type": "string", "pattern": "^y$"}, schemas)
    assert mismatch(["x"], {"type": "array", "items": {"enum": ["y"]}}, schemas)
