"""The routes, and what stands around each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sequencer.api.ethereum_rpc import EthereumRpc
from sequencer.api.gate import Gate
from sequencer.api.health import Health
from sequencer.api.metrics import ApiMetrics
from sequencer.api.node_view import NodeView
from sequencer.api.openapi import openapi_document
from sequencer.api.page import Page
from sequencer.api.reads import Reads
from sequencer.api.representation import ApiError, answer, refuse
from sequencer.api.stream import Streams
from sequencer.api.submit import AdmissionGate, Submissions

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
ETHEREUM_PATH: Final = "/rollups/{rollup_id}/rpc"


@dataclass(frozen=True)
class Endpoint:
    """One route. ``name`` names it in metrics."""

    name: str
    method: str
    path: str
    handler: Handler


def build_app(node: NodeView, gate: Gate) -> Starlette:
    """The ASGI application that serves ``node``."""
    metrics = ApiMetrics()
    routes = [_route(each, _guarded(each, gate, metrics)) for each in endpoints(node, gate, metrics)]
    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: _no_route, ApiError: _late_refusal, Exception: _our_bug},
    )


def endpoints(node: NodeView, gate: Gate, metrics: ApiMetrics) -> tuple[Endpoint, ...]:
    """Everything that is served."""
    limits = gate.limits
    reads = Reads(node, limits)
    health = Health(node, limits, metrics)
    submissions = Submissions(node, gate, AdmissionGate(limits), metrics)
    streams = Streams(node, gate, metrics)
    ethereum = EthereumRpc(node, gate, metrics)
    page = Page(node, lambda: time.time_ns() // 1_000_000)
    described = (
        Endpoint("submit", "POST", "/v1/rollups/{rollup_id}/transactions", submissions.post),
        Endpoint("transaction", "GET", "/v1/transactions/{transaction_id}", reads.transaction),
        Endpoint("section", "GET", "/v1/rollups/{rollup_id}/sections/{height}", reads.section),
        Endpoint("stream", "GET", "/v1/rollups/{rollup_id}/stream", streams.stream),
        Endpoint("block", "GET", "/v1/blocks/{height}", reads.block),
        Endpoint("blocks", "GET", "/v1/blocks", reads.blocks),
        Endpoint("finality", "GET", "/v1/finality/{height}", reads.finality),
        Endpoint("chain", "GET", "/v1/chain", reads.chain),
        Endpoint("epochs", "GET", "/v1/epochs", reads.epochs),
        Endpoint("status", "GET", "/v1/status", reads.status),
        Endpoint("ethereum", "POST", ETHEREUM_PATH, ethereum.post),
        Endpoint("page", "GET", "/", page.page),
        Endpoint("asset", "GET", "/assets/{name}", page.asset),
        Endpoint("health", "GET", "/health", health.health),
        Endpoint("ready", "GET", "/ready", health.ready),
        Endpoint("metrics", "GET", "/metrics", health.metrics),
    )
    return (*described, _openapi(described))


def _openapi(described: Sequence[Endpoint]) -> Endpoint:
    """The route of the document that describes the others and itself."""
    name, method, path = "openapi", "GET", "/openapi.json"
    routes = {each.name: (each.method, each.path) for each in described} | {name: (method, path)}
    document = openapi_document(routes)

    async def openapi(request: Request) -> Response:
        return answer(request, document)

    return Endpoint(name, method, path, openapi)


def _route(endpoint: Endpoint, handler: Handler) -> Route:
    if endpoint.path != ETHEREUM_PATH:
        return Route(endpoint.path, handler, methods=[endpoint.method])
    # Wallets in browsers ask from the pages of others. There are no cookies and no secrets here that this could betray.
    anybody = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["POST"], allow_headers=["content-type"])
    return Route(endpoint.path, handler, methods=[endpoint.method, "OPTIONS"], middleware=[anybody])


def _guarded(endpoint: Endpoint, gate: Gate, metrics: ApiMetrics) -> Handler:
    """The handler within its bounds: how many at once, how long; counted and timed."""
    limits = gate.limits

    async def guarded(request: Request) -> Response:
        began = trio.current_time()
        waits = "wait" in request.query_params
        slots = gate.waits if waits else gate.requests
        patience_s = limits.body_timeout_s + (limits.wait_timeout_s if waits else limits.request_timeout_s)
        response = None
        try:
            with slots.taken(), trio.move_on_after(patience_s):
                response = await endpoint.handler(request)
        except ApiError as error:
            response = refuse(request, error)
        if response is None:
            response = refuse(request, ApiError(504, "timeout", f"no answer within {patience_s:g} s"))
        metrics.answered(endpoint.name, response.status_code, trio.current_time() - began)
        return response

    return guarded


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = ApiError(405, "method_not_allowed", f"{request.method} is not served at {request.url.path}")
    else:
        refusal = ApiError(error.status_code, "no_route", "nothing is served here; /openapi.json says what is")
    return refuse(request, refusal)


async def _late_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refuse(request, error)


async def _our_bug(request: Request, error: Exception) -> Response:
    """The exception itself goes on to the server, which logs it with its traceback."""
    return refuse(request, ApiError(500, "internal", "a fault of this node; its log says more"))
