"""Events of few numbers as columns: each number of them a tensor of its own in compiled code.

Chains in the plane are tensors (batch, 2). The compiler goes through such a tensor number by number,
and writes it to memory wherever something reads it across; a column of all chains it goes through in
whole vectors, from operation to operation without memory in between.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Interpreter
from torch.utils import _pytree as pytree

from ebmkit.loops import loops_in

MOST = 4
"""Numbers of an event that is taken apart."""
FEWEST_ROWS = 32
"""Rows for which that pays."""

_aten = torch.ops.aten


class Columns:
    """A tensor (…, d) by its columns, each (…)."""

    def __init__(self, each: Sequence[Tensor]) -> None:
        self.each = list(each)
        self.shape = (*self.each[0].shape, len(self.each))
        self.ndim, self.dtype = len(self.shape), self.each[0].dtype

    def map(self, function: Callable[..., Tensor], *arguments: Any, **keywords: Any) -> Columns:
        return Columns([function(column, *arguments, **keywords) for column in self.each])

    @functools.cached_property
    def whole(self) -> Tensor:
        return torch.stack(self.each, -1)


def with_columns(graph: GraphModule) -> GraphModule:
    """The graph, of tensors alone, with narrow tensors as columns wherever its operations go through
    them number by number; as it is where there are none, or where one writes into a tensor.

    So it is too where a loop goes on for as long as a condition holds: there tensors are put together
    and taken apart at each of many short turns, and NUTS in the plane took a tenth longer.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    values = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    if not any(_narrow(x.shape) for x in values) or any(map(_unfit, (graph, *loops_in(graph)))):
        return graph
    run = functools.partial(_run, graph)
    return make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(*values)


def _unfit(graph: GraphModule) -> bool:
    targets = [node.target for node in graph.graph.nodes]
    writes = any(isinstance(op, OpOverload) and op._schema.is_mutable for op in targets)
    loops = any(getattr(op, "_name", "") == "while_loop" for op in targets)
    return writes or loops or _aten.as_strided.default in targets  # strides that must stay


def _run(graph: GraphModule, *given: Tensor) -> Any:
    return _whole(_ByColumns(graph).run(*given))


class _ByColumns(Interpreter):
    """Goes through a graph, and keeps narrow tensors as columns as long as its operations allow."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is operator.getitem:
            return target(*args)
        if isinstance(target, HigherOrderOperator):
            args = pytree.tree_map_only(GraphModule, lambda g: functools.partial(_run, g), args)
        elif isinstance(target, OpOverload):
            rule = _RULES.get(target.overloadpacket)
            if rule is None and torch.Tag.pointwise in target.tags:
                rule = _pointwise
            if rule is not None:
                found = rule(target, *args, **kwargs)
                if found is not NotImplemented:
                    # Numbers as columns would take part in type promotion in another way.
                    return _whole(found) if getattr(found, "ndim", 2) < 2 else found
        return super().call_function(target, _whole(args), _whole(kwargs))


def _whole(tree: Any) -> Any:
    return pytree.tree_map_only(Columns, lambda x: x.whole, tree)


def _narrow(shape: Sequence[int]) -> bool:
    return len(shape) > 1 and 1 < shape[-1] <= MOST and math.prod(shape[:-1]) >= FEWEST_ROWS


def _column(x: Any, i: int) -> Any:
    """What goes with column i of a narrow result."""
    if isinstance(x, Columns):
        return x.each[i if len(x.each) > 1 else 0]
    if not isinstance(x, Tensor) or not x.ndim:
        return x
    i = i if x.shape[-1] > 1 else 0
    # Of a vector a part and no number, for numbers take part in type promotion in another way.
    return x.narrow(0, i, 1) if x.ndim == 1 else x.select(-1, i)


def _pointwise(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    values = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor | Columns)]
    shape = _broadcast(*(x.shape for x in values))
    none = not (_narrow(shape) or any(isinstance(x, Columns) for x in values))
    if none or not 0 < shape[-1] <= 2 * MOST or len(op._schema.returns) > 1:
        return NotImplemented
    columns = []
    for i in range(shape[-1]):
        part, keywords = pytree.tree_map(functools.partial(_column, i=i), (args, kwargs))
        found = op(*part, **keywords)
        columns.append(found if found.shape == shape[:-1] else found.expand(shape[:-1]))
    return Columns(columns)


_broadcast: Any = torch.broadcast_shapes


def _columnwise(op: OpOverload, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of operations that make another of each tensor."""
    kwargs.pop("memory_format", None)
    return x.map(op, *args, **kwargs) if isinstance(x, Columns) else NotImplemented


def _dims(x: Columns, dim: Any, more: int = 0) -> list[int]:
    given = range(x.ndim) if dim is None else dim if isinstance(dim, list | tuple) else [dim]
    return [d % (x.ndim + more) for d in given]


def _reduced(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def rule(op: OpOverload, x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        if not isinstance(x, Columns) or kwargs.get("dtype") is not None or dim == []:
            return NotImplemented
        dims = _dims(x, dim)
        fit = x.dtype == torch.bool if by in _LOGICAL else x.dtype.is_floating_point
        if dims == [x.ndim - 1] and fit:
            found = functools.reduce(by, x.each)
            if op.overloadpacket is _aten.mean:
                found = found / len(x.each)
            return Columns([found]) if keepdim else found
        if x.ndim - 1 in dims or (not keepdim and len(dims) > x.ndim - 2):
            return NotImplemented
        return x.map(op, dims if isinstance(dim, list | tuple) else dims[0], keepdim)

    return rule


def _viewed(_: OpOverload, x: Any, shape: Any) -> Any:
    if isinstance(shape, torch.dtype):
        return NotImplemented
    # A whole is laid out by rows, which may be why a view of it is not possible.
    if not isinstance(x, Columns):
        return x.reshape(shape)
    known = math.prod(n for n in shape if n != -1)
    size = [math.prod(x.shape) // known if n == -1 else n for n in shape]
    if len(x.each) == 1 and size[-1:] != [1]:
        return x.each[0].reshape(size)
    if len(size) < 2 or size[-1] != len(x.each):
        return x.whole.reshape(size)
    return x.map(torch.reshape, size[:-1])


def _sliced(
    op: OpOverload, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    if not isinstance(x, Columns):
        return NotImplemented
    (at,) = _dims(x, dim)
    if at < x.ndim - 1:
        return x.map(op, at, start, end, step)
    columns = x.each[slice(start, end, step)]
    return Columns(columns) if columns else NotImplemented


def _selected(op: OpOverload, x: Any, dim: int, index: Any) -> Any:
    if not isinstance(x, Columns):
        return NotImplemented
    (at,) = _dims(x, dim)
    if at == x.ndim - 1:
        return x.each[index] if isinstance(index, int) else NotImplemented
    return x.map(op, at, index) if x.ndim > 2 else NotImplemented


def _unsqueezed(op: OpOverload, x: Any, dim: int) -> Any:
    if not isinstance(x, Columns):
        return NotImplemented
    (at,) = _dims(x, dim, 1)
    return x.map(op, at) if at < x.ndim else NotImplemented


def _squeezed(_: OpOverload, x: Any, dim: Any = None) -> Any:
    if not isinstance(x, Columns) or dim is None:
        return NotImplemented
    if (dims := _dims(x, dim)) == [x.ndim - 1]:
        return x.each[0] if len(x.each) == 1 else x
    within = x.ndim - 1 not in dims and x.ndim > 2
    return x.map(torch.squeeze, tuple(dims)) if within else NotImplemented


def _expanded(op: OpOverload, x: Any, size: Sequence[int], **_: Any) -> Any:
    if not isinstance(x, Columns) or len(size) < 2:
        return NotImplemented
    columns = x.each
    if len(columns) == 1 and size[-1] not in (1, -1):
        columns = columns * size[-1] if size[-1] <= MOST else []
    return Columns(columns).map(op, size[:-1]) if columns else NotImplemented


def _joined(op: OpOverload, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Of ``cat`` and ``stack``."""
    stacks = op.overloadpacket is _aten.stack
    first = tensors[0]
    # Where types differ all become one, and an empty vector may stand for a tensor of any shape.
    if len({x.dtype for x in tensors}) > 1 or len({x.ndim for x in tensors}) > 1:
        return NotImplemented
    at = dim % (first.ndim + stacks)
    last = first.ndim - 1 + stacks
    if at == last:
        if stacks:
            shape = (*first.shape, len(tensors))
            plain = all(isinstance(x, Tensor) for x in tensors)
            return Columns(tensors) if plain and _narrow(shape) else NotImplemented
        columns = [_column(x, i) for x in tensors for i in range(x.shape[-1])]
        few = len(columns) <= 2 * MOST and any(isinstance(x, Columns) for x in tensors)
        return Columns(columns) if few else NotImplemented
    if not any(isinstance(x, Columns) for x in tensors):
        return NotImplemented
    return Columns([op([_column(x, i) for x in tensors], at) for i in range(first.shape[-1])])


def _unbound(op: OpOverload, x: Any, dim: int = 0) -> Any:
    if not isinstance(x, Columns) or x.ndim < 3 or dim % x.ndim == x.ndim - 1:
        return NotImplemented
    return [Columns(each) for each in zip(*(op(c, dim % x.ndim) for c in x.each), strict=True)]


def _indexed(op: OpOverload, x: Any, indices: Sequence[Any]) -> Any:
    plain = not any(isinstance(index, Columns) for index in indices)
    if not isinstance(x, Columns) or len(indices) >= x.ndim or not plain:
        return NotImplemented
    return x.map(op, indices)


def _gathered(op: OpOverload, x: Any, dim: int, index: Any, **_: Any) -> Any:
    if not isinstance(x, Columns) or dim % x.ndim == x.ndim - 1 or index.shape[-1] != x.shape[-1]:
        return NotImplemented
    return Columns([op(c, dim % x.ndim, _column(index, i)) for i, c in enumerate(x.each)])


def _product(_: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """Of ``mm`` and ``addmm``: a sum over the columns of the left factor."""
    *biases, left, right = args
    if not isinstance(left, Columns) or kwargs:
        return NotImplemented
    right = _whole(right)
    width = right.shape[1]
    if not 0 < width <= MOST:
        terms = [column.unsqueeze(1) * right.select(0, i) for i, column in enumerate(left.each)]
        return functools.reduce(torch.add, [*_whole(biases), *terms])
    columns = []
    for j in range(width):
        terms = [column * right.select(0, i).narrow(0, j, 1) for i, column in enumerate(left.each)]
        columns.append(functools.reduce(torch.add, [*(_column(b, j) for b in biases), *terms]))
    return Columns(columns)


_LOGICAL: list[Any] = [torch.logical_and, torch.logical_or]
_RULES: dict[Any, Callable[..., Any]] = {
    _aten.sum: _reduced(torch.add),
    _aten.mean: _reduced(torch.add),
    _aten.amax: _reduced(torch.maximum),
    _aten.amin: _reduced(torch.minimum),
    _aten.all: _reduced(torch.logical_and),
    _aten.any: _reduced(torch.logical_or),
    **dict.fromkeys((_aten.view, _aten._unsafe_view, _aten.reshape), _viewed),
    _aten.slice: _sliced,
    _aten.select: _selected,
    _aten.unsqueeze: _unsqueezed,
    _aten.squeeze: _squeezed,
    _aten.expand: _expanded,
    **dict.fromkeys((_aten.cat, _aten.stack), _joined),
    _aten.unbind: _unbound,
    _aten.index: _indexed,
    _aten.gather: _gathered,
    **dict.fromkeys((_aten.mm, _aten.addmm), _product),
    **dict.fromkeys((_aten.clone, _aten.alias, _aten.detach, _aten._to_copy), _columnwise),
    **dict.fromkeys((_aten.zeros_like, _aten.ones_like, _aten.full_like), _columnwise),
}
