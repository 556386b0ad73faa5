"""``/health``, ``/ready`` and ``/metrics``: what supervisors, balancers and Prometheus ask."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sequencer.api.limits import ApiLimits
from sequencer.api.metrics import ApiMetrics
from sequencer.api.node_view import NodeView
from sequencer.api.representation import answer
from sequencer.api.status_document import unready_reasons


class Health:
    """Answers that cost next to nothing."""

    def __init__(self, node: NodeView, limits: ApiLimits, metrics: ApiMetrics) -> None:
        self._node = node
        self._limits = limits
        self._metrics = metrics

    async def health(self, request: Request) -> Response:
        """200 as long as this process answers."""
        return answer(request, {"status": "alive", "name": self._node.name})

    async def ready(self, request: Request) -> Response:
        """200 when this node may be asked and submitted to, else 503 with the reasons."""
        status = self._node.status()
        reasons = unready_reasons(status, self._limits.ready_lag_heights_max)
        document: dict[str, object] = {
            "ready": not reasons,
            "reasons": reasons,
            "ledger_height": status.ledger_height,
            "seen_height": status.consensus.seen_height,
            "pruned_below": status.archive_from,
        }
        if status.archive_from > 1:
            document["history"] = f"pruned below {status.archive_from}"
        return answer(request, document, status=503 if reasons else 200)

    async def metrics(self, request: Request) -> Response:
        """The Prometheus text format."""
        content_type, body = self._metrics.render(self._node)
        return Response(body, headers={"content-type": content_type})
