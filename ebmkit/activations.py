"""Activations of a graph whose derivatives are needed too: both are computed at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ebmkit.loops import loops_in
from ebmkit.operations import PRODUCTS, VIEWS, operation

_aten = torch.ops.aten
_BACKWARDS: dict[Any, Any] = {
    _aten.silu_backward.default: _aten.silu.default,
    _aten.gelu_backward.default: _aten.gelu.default,
    _aten.softplus_backward.default: _aten.softplus.default,
    _aten.mish_backward.default: _aten.mish.default,
}
"""What makes gradients of (gradient, x, *settings): the activation of (x, *settings)."""


def _keep() -> Any:
    """An operation that writes a tensor to memory as soon as it is known."""
    return operation("kept(Tensor x) -> Tensor", Tensor.clone, torch.empty_like, _kept)


def _kept(x: Any) -> Any:
    """The operation in the compiler's own terms."""
    x.realize()
    return x


def with_derivatives(graph: GraphModule) -> GraphModule:
    """The graph with the derivative of each activation that a matrix product reads computed along with
    it, on CPUs.

    torch computes it where the gradient comes back, from x anew, and with it the exponential that the
    activation has had already, which takes longer than to write the derivative down and to read it.
    """
    for part in (graph, *loops_in(graph)):
        _with_derivatives(part)
    return graph


def _with_derivatives(graph: GraphModule) -> None:
    forward: dict[Any, Node] = {}
    derivatives: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.target in _BACKWARDS.values() and _on_cpu(node) and _multiplied(node):
            forward.setdefault((node.target, *_settings(node)), node)
        if node.target not in _BACKWARDS:
            continue
        gradient, key = node.args[0], (_BACKWARDS[node.target], *_settings(node)[1:])
        if key not in forward:
            continue
        if key not in derivatives:
            derivatives[key] = _derivative(graph, forward[key], node)
        with graph.graph.inserting_before(node):
            new = graph.graph.call_function(_aten.mul.Tensor, (gradient, derivatives[key]))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    if derivatives:
        graph.graph.eliminate_dead_code()
        graph.recompile()


def _settings(node: Node) -> tuple[Any, ...]:
    """A node's arguments, those included that were left out."""
    target: Any = node.target
    given = dict(zip((a.name for a in target._schema.arguments), node.args, strict=False))
    given |= node.kwargs
    return tuple(given.get(a.name, a.default_value) for a in target._schema.arguments)


def _derivative(graph: GraphModule, activation: Node, backward: Node) -> Node:
    """The derivative of an activation, right after it."""
    x, before = activation.args[0], activation

    def call(target: Any, *arguments: Any, **named: Any) -> Node:
        nonlocal before
        with graph.graph.inserting_after(before):
            before = graph.graph.call_function(target, arguments, named)
        before.meta = dict(activation.meta)
        return before

    if activation.target is _aten.silu.default:
        # Of one sigmoid, which torch has written in two ways.
        s = call(_aten.sigmoid.default, x)
        h = call(_aten.mul.Tensor, x, s)
        activation.replace_all_uses_with(h)
        found = call(_aten.add.Tensor, s, call(_aten.mul.Tensor, h, call(_aten.rsub.Scalar, s, 1)))
    else:
        one = call(_aten.full_like.default, x, 1)
        found = call(backward.target, one, *backward.args[1:], **backward.kwargs)
    return call(_keep(), found)


def _on_cpu(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _multiplied(node: Node) -> bool:
    """Whether a matrix product reads the node, so that it is written to memory anyway."""
    names = ((user, getattr(user.target, "_opname", "")) for user in node.users)
    return any(name in PRODUCTS or (name in VIEWS and _multiplied(user)) for user, name in names)
