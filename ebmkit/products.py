"""Matrix products of a graph, each computed by what is fastest for its size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ebmkit.loops import loops_in
from ebmkit.operations import operation

LEAST_WORK = 2**21
"""Multiplications of a product that oneDNN is called for; below, calling it takes longer."""
NARROW = 8
"""Columns of a factor that is turned round."""
FEWEST_ROWS = 32
"""Rows for which turning the other factor round pays, or writing a product out."""
THIN = 4
"""Numbers that are summed up in a product which is written out."""

_aten = torch.ops.aten
_REPLACED = {_aten.mm.default, _aten.addmm.default}


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _shaped(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty((len(x), len(weight)))


def _kernel(x: Any, weight: Any, bias: Any) -> Any:
    """The operation in the compiler's own terms."""
    from torch._inductor.ir import TensorBox
    from torch._inductor.mkldnn_ir import LinearUnary

    linear: Any = LinearUnary
    return TensorBox.create(linear.create(x, weight, bias, "none", [], ""))


def onednn_usable() -> bool:
    """Whether there is oneDNN, and something to gain by it."""
    backends: Any = torch.backends
    there: bool = backends.mkldnn.is_available() and backends.mkldnn.enabled
    gains: bool = backends.mkl.is_available()
    return there and gains and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product() -> Any:
    """x Wᵀ + b by oneDNN as an operation of its own, for torch's compiler takes its own to be of
    constant weights; compiled code calls oneDNN's kernel without a way round."""
    signature = "product(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
    return operation(signature, _linear, _shaped, _kernel)


def with_fast_products(graph: GraphModule) -> GraphModule:
    """The graph with its large products of float32 on CPUs computed by oneDNN, those that sum up few
    numbers written out, and the factor of few columns turned round where a product has one.

    torch leaves them to MKL, which takes up to twice as long for the first on CPUs not of its maker
    (where these have AVX-512, which it does not use there; without, they are equals), and four times
    for the last where a row of the factor is not a row of memory.
    """
    if onednn_usable():
        for part in (graph, *loops_in(graph)):
            _with_fast_products(part)
    return graph


def _with_fast_products(graph: GraphModule) -> None:
    turned: dict[Any, Node] = {}
    changed = False
    for node in list(graph.graph.nodes):
        if node.target not in _REPLACED or node.kwargs:
            continue
        factors: tuple[Any, ...] = node.args
        *biases, left, right = factors
        kind = _kind(biases, left, right)
        if kind is None:
            continue
        if kind != "thin" and right not in turned:
            turned[right] = _turned(graph, right)
        with graph.graph.inserting_before(node):
            if kind == "thin":
                new = _written_out(graph, biases, left, right)
            elif kind == "large":
                given = (left, turned[right], biases[0] if biases else None)
                new = graph.graph.call_function(_product(), given)
            else:
                back = graph.graph.call_function(_aten.t.default, (turned[right],))
                new = graph.graph.call_function(node.target, (*biases, left, back))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
        changed = True
    if changed:
        graph.graph.eliminate_dead_code()
        graph.recompile()


def _written_out(graph: GraphModule, biases: list[Any], left: Node, right: Node) -> Any:
    """A product as a sum of outer products, which the compiler makes part of what comes after it."""
    call = graph.graph.call_function
    total: Any = biases[0] if biases else None
    for i in range(left.meta["val"].shape[1]):
        column = call(_aten.slice.Tensor, (left, 1, i, i + 1))
        row = call(_aten.select.int, (right, 0, i))
        outer = call(_aten.mul.Tensor, (column, row))
        total = outer if total is None else call(_aten.add.Tensor, (total, outer))
    return total


def _kind(biases: list[Any], left: Any, right: Any) -> Literal["thin", "large", "narrow"] | None:
    """Whether few numbers are summed up in a product, whether it is large, and whether it has a narrow
    factor that lies the wrong way; None where it stays as it is."""
    factors = [*biases, left, right]
    values: list[Any] = [f.meta.get("val") if isinstance(f, Node) else None for f in factors]
    for value in values:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return None
        if value.device.type != "cpu" or value.layout != torch.strided:
            return None
    *added, a, b = values
    (rows, inner), columns = a.shape, b.shape[1]
    if rows < FEWEST_ROWS or not a.is_contiguous() or any(y.shape != (columns,) for y in added):
        return None
    if 0 < inner <= THIN:
        return "thin"
    if rows * inner * columns >= LEAST_WORK:
        return "large"
    return "narrow" if 1 < columns <= NARROW and b.is_contiguous() else None


def _turned(graph: GraphModule, right: Node) -> Node:
    """The transpose of a node, in rows."""
    if right.target is _aten.t.default:
        (weight,) = right.args
        assert isinstance(weight, Node)
        if weight.meta["val"].is_contiguous():
            return weight
    with graph.graph.inserting_after(right):
        back = graph.graph.call_function(_aten.t.default, (right,))
    with graph.graph.inserting_after(back):
        return graph.graph.call_function(
            _aten.clone.default, (back,), {"memory_format": torch.contiguous_format}
        )
