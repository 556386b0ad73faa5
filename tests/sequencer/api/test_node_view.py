"""The real node is what the API asks for; mypy holds it, this names it."""

from __future__ import annotations

from sequencer.api.node_view import NodeView
from sequencer.node import Node


def as_view(node: Node) -> NodeView:
    """Type checks."""
    return node


def test_the_real_node_has_every_method() -> None:
    wanted = {name for name in vars(NodeView) if not name.startswith("_")}
    attributes = {"genesis"}  # set when it is made
    assert {name for name in wanted if hasattr(Node, name)} == wanted - attributes
