"""Loops in code that may be traced into a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

T = TypeVar("T")

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)
_again: ContextVar[bool] = ContextVar("again", default=False)


def tracing() -> bool:
    """Whether code is being traced into a graph, so that it must not branch on values of tensors."""
    return _tracing.get() or torch.compiler.is_compiling()


@contextmanager
def while_tracing() -> Iterator[None]:
    """Tells for a while that code is being traced into a graph."""
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


def again() -> bool:
    """Whether what runs has run before in the same loop, so that a graph has it already."""
    return _again.get()


def while_loop(goes_on: Callable[[T], Tensor], body: Callable[[T], T], carried: T) -> T:
    """What ``body`` makes of ``carried`` again and again, as long as ``goes_on`` is true of it.

    ``carried`` is a tensor or a tree of such, as a NamedTuple, whose structure, shapes and dtypes stay
    the same; what else it holds stays as it is. ``goes_on`` returns a boolean tensor without
    dimensions. Both are pure, and may use any tensor or energy from around them. Eagerly this is
    Python's own loop, which waits for the device at every turn. In a sampler's step that is compiled
    the loop is part of the graph, where one of Python's would make the step impossible to trace.

    Raises TypeError where ``body`` returns another structure than it is given, or tensors of other
    shapes or dtypes.
    """
    tensors, form = _apart(carried)
    if _tracing.get():
        return form.filled(_traced(goes_on, body, tensors, form))  # type: ignore[no-any-return]
    token = _again.set(_again.get())
    try:
        while bool(goes_on(carried)):
            carried = body(carried)
            _checked(tensors, form, carried)
            _again.set(True)
    finally:
        _again.reset(token)
    return carried


def scanned(
    body: Callable[[Any, Any], tuple[Any, Any]], carried: Any, given: Any
) -> tuple[Any, Any]:
    """While traced: what ``body(carried, part) -> (carried, result)`` leaves after a turn for each part
    of ``given``, a tree of tensors (turns, …); and its results, stacked likewise."""
    from torch._higher_order_ops.scan import scan_op

    tensors, form = _apart(carried)
    parts, form_of_parts = _apart(given)
    # At each turn torch copies the whole of what has gaps in memory.
    parts = [part.contiguous() for part in parts]
    forms: list[_Form] = []

    def flat(*values: Tensor) -> list[Tensor]:
        state = form.filled(values[: len(tensors)])
        after, result = body(state, form_of_parts.filled(values[len(tensors) :]))
        found, form_of_results = _apart(result)
        forms.append(form_of_results)
        return _own([*_checked(tensors, form, after), *found])

    graph, captured = _closed(flat, [*tensors, *(part[0] for part in parts)])
    outputs = scan_op(graph, _own(tensors), parts, captured)
    return form.filled(outputs[: len(tensors)]), forms[0].filled(outputs[len(tensors) :])


def loops_in(graph: GraphModule) -> list[GraphModule]:
    """The graphs of the loops in a graph, those within them included."""
    return [m for m in graph.modules() if isinstance(m, GraphModule) and m is not graph]


_patching = RLock()


@contextmanager
def lean_loops() -> Iterator[None]:
    """Memory that no kernel of a loop's body uses is not asked for at each turn: torch leaves it out of
    a graph, and in 2.13 forgets to within loops."""
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch._inductor.virtualized import V

    plain: Any = CppWrapperCpu.codegen_subgraph

    def told(self: Any, subgraph: Any, *arguments: Any) -> Any:
        found = plain(self, subgraph, *arguments)
        around: Any = V.graph
        around.removed_buffers.update(subgraph.graph.removed_buffers)
        return found

    with _patching:
        CppWrapperCpu.codegen_subgraph = told  # type: ignore[method-assign]
        try:
            yield
        finally:
            CppWrapperCpu.codegen_subgraph = plain  # type: ignore[method-assign]


class _Form(NamedTuple):
    """A tree without its tensors."""

    structure: pytree.TreeSpec
    others: list[Any]
    """The leaves, None in the place of each tensor."""
    places: list[int]
    """Where the tensors were."""

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        leaves = list(self.others)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, self.structure)


def _apart(tree: Any) -> tuple[list[Tensor], _Form]:
    """A tree's tensors, and the rest of it."""
    leaves, structure = pytree.tree_flatten(tree)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    others = [None if isinstance(x, Tensor) else x for x in leaves]
    return [leaves[i] for i in places], _Form(structure, others, places)


def _checked(before: Sequence[Tensor], form: _Form, tree: Any) -> list[Tensor]:
    """The tensors of what a loop's body returned, which must be as those that it was given."""
    after, form_after = _apart(tree)
    if form_after.structure != form.structure or form_after.places != form.places:
        raise TypeError(
            f"while_loop: body was given {form.structure} and returned {form_after.structure}"
        )
    for one, two in zip(before, after, strict=True):
        if one.shape != two.shape or one.dtype != two.dtype:
            raise TypeError(
                f"while_loop: body was given a tensor {tuple(one.shape)} of {one.dtype} and returned "
                f"one {tuple(two.shape)} of {two.dtype} in its place"
            )
    return after


def _traced(
    goes_on: Callable[[Any], Tensor],
    body: Callable[[Any], Any],
    tensors: Sequence[Tensor],
    form: _Form,
) -> Sequence[Tensor]:
    import torch._higher_order_ops.while_loop

    operation: Any = torch.ops.higher_order.while_loop

    def flat_condition(*values: Tensor) -> Tensor:
        return goes_on(form.filled(values))

    def flat_body(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(_own(_checked(tensors, form, body(form.filled(values)))))

    condition, of_condition = _closed(flat_condition, tensors)
    graph, of_body = _closed(flat_body, tensors)
    n, split = len(tensors), len(tensors) + len(of_condition)
    # Both are given what either uses from around it; not the same memory twice.
    return operation(  # type: ignore[no-any-return]
        lambda *values: condition(*values[:split]),
        lambda *values: graph(*values[:n], *values[split:]),
        tuple(_own(tensors)),
        tuple(_own((*of_condition, *of_body))),
    )


def _closed(
    function: Callable[..., Any], tensors: Sequence[Tensor]
) -> tuple[GraphModule, tuple[Any, ...]]:
    """The operations of a function of tensors as a graph, in which the tensors that it uses from around
    it are further arguments; and those tensors."""
    from torch._higher_order_ops import utils
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    traced_within: Any = utils.reenter_make_fx
    with disable_proxy_modes_tracing():
        graph: GraphModule = traced_within(function)(*(_variable(x) for x in tensors))
    inside = graph.graph
    captured: dict[str, tuple[Node, Tensor]] = {}
    (*_, last) = inside.find_nodes(op="placeholder")
    for node in inside.find_nodes(op="get_attr"):
        tensor = getattr(graph, node.target)
        if not isinstance(tensor, Tensor):
            continue
        if node.target not in captured:
            with inside.inserting_after(last):
                last = inside.placeholder(f"captured_{len(captured)}")
            last.meta = dict(node.meta)
            captured[node.target] = (last, tensor)
        node.replace_all_uses_with(captured[node.target][0])
        inside.erase_node(node)
    for name in captured:
        delattr(graph, name)
    inside.set_codegen(CodeGen())
    graph.recompile()
    return graph, tuple(_traceable(tensor) for _, tensor in captured.values())


def _variable(x: Tensor) -> Tensor:
    """A tensor like x whose values tracing knows nothing of, for they change from turn to turn."""
    x = x.clone()
    if getattr(x, "constant", None) is not None:
        x.constant = None  # type: ignore[attr-defined]
    return x


def _traceable(x: Tensor) -> Tensor:
    """The tensor, made by the graph around the loop where it is a plain number."""
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(x, FakeTensor) or x.ndim:
        return x
    return torch.full((), x.item(), dtype=x.dtype, device=x.device)


def _own(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies: what a loop is given and returns must not share memory."""
    return [x.clone() for x in tensors]
