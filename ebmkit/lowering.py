"""What compiled losses and chains have in common: the compiler, and what a graph is good for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ebmkit.activations import with_derivatives
from ebmkit.columns import with_columns
from ebmkit.layers import layer_name, modules_of
from ebmkit.loops import lean_loops, while_tracing
from ebmkit.products import with_fast_products

_OPTIONS: dict[str, Any] = {
    # What the compiled code would look at again in every call is in the key that a graph is found by.
    "size_asserts": False,
    # One column that is read across would keep hundreds of operations from being done in vectors.
    "cpp.enable_tiling_heuristics": False,
    # What calls the kernels need not be optimised as they are, which takes a third of the time.
    "cpp_wrapper_build_separate": True,
    # Calling a second thread for less costs more than it saves, and a hundred times as much where other
    # programs keep it from coming.
    "cpp.min_chunk_size": 4096,
}
_PLAIN = (bool, int, float, str, type(None))


class Unsuitable(Exception):  # noqa: N818
    """Why something is not compiled, where that is nobody's mistake."""


class CompileWarning(UserWarning):
    """A loss, or a chain, that runs eagerly because it could not be compiled.

    It does something that a graph cannot hold, or there is no compiler. The numbers are the same,
    later.
    Remedy: ``compile = "off"`` where it does not matter; else what the message says of the
    operation.
    """


class _Compiled:
    """A graph as compiled code.

    The compiler is given the graph itself and not a function, which it would have to read first and
    look at again in each call.
    """

    def __init__(self, graph: GraphModule, options: dict[str, Any], columns: bool) -> None:
        self._graph = graph
        self._columns = columns
        self._options = options
        self._run: Callable[..., Any] | None = None
        self._form: Any = None
        self._layout: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        given = tensors_in(arguments)
        if self._run is None:
            self._run = self._compile(given)
            self._layout = [(x.shape, x.stride()) for x in given]
        else:
            pairs = zip(given, self._layout, strict=True)
            given = [x if (x.shape, x.stride()) == as_ else _laid(x, *as_) for x, as_ in pairs]
        return _filled(self._form, self._run(*given))

    def _compile(self, given: list[Tensor]) -> Callable[..., Any]:
        import torch._inductor

        graph = self._graph
        # What takes and returns no trees has none written down.
        written = getattr(graph.graph._codegen, "pytree_info", None)
        (output,) = graph.graph.find_nodes(op="output")
        leaves, structure = pytree.tree_flatten(output.args[0])
        output.args = (tuple(leaves),)
        if written is not None:
            structure = written.out_spec
        self._form = pytree.tree_unflatten(range(len(leaves)), structure)
        # Of the arguments' leaves those that are no tensors are part of the graph.
        for node in graph.graph.find_nodes(op="placeholder"):
            if not isinstance(node.meta.get("val"), Tensor):
                graph.graph.erase_node(node)
        graph.graph.set_codegen(CodeGen())
        graph.recompile()
        if self._columns:
            graph = with_columns(graph)
        graph = with_derivatives(with_fast_products(graph))
        compile: Any = torch._inductor.compile  # noqa: A001
        # From kernel to kernel in Python, half the time of small chains would be the calling.
        wrapped = self._options | {"cpp_wrapper": all(x.device.type == "cpu" for x in given)}
        with lean_loops():
            return compile(graph, given, options=wrapped)  # type: ignore[no-any-return]


def _laid(x: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """The tensor with its numbers where the compiled code reads them."""
    if x.shape != shape:
        raise Unsuitable(f"a tensor of shape {tuple(shape)} became one of {tuple(x.shape)}")
    return torch.empty_strided(shape, stride, dtype=x.dtype, device=x.device).copy_(x)


def tensors_in(tree: Any) -> list[Tensor]:
    """A tree's tensors in their order: what pytree does, twenty times as fast."""
    found: list[Tensor] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif isinstance(tree, tuple | list):
        for part in tree:
            if type(part) is Tensor:
                found.append(part)
            elif part is not None:
                _gather(part, found)
    elif type(tree) is dict:
        for part in tree.values():
            _gather(part, found)
    elif not isinstance(tree, _PLAIN):
        found += [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


def _filled(form: Any, values: Sequence[Any]) -> Any:
    """A tree of numbers with the values of those numbers."""
    if type(form) is int:
        return values[form]
    if type(form) is dict:
        return {name: _filled(part, values) for name, part in form.items()}
    if isinstance(form, tuple | list):
        parts = [values[p] if type(p) is int else _filled(p, values) for p in form]
        return form._make(parts) if hasattr(form, "_make") else type(form)(parts)
    numbers, structure = pytree.tree_flatten(form)
    return pytree.tree_unflatten([values[i] for i in numbers], structure)


def compiled(graph: GraphModule, *, columns: bool = False, **options: Any) -> Callable[..., Any]:
    """The graph as compiled code; compiling itself happens in the first call. With ``columns`` events
    of few numbers are taken apart, which pays where little is done to them but number by number."""
    return _Compiled(graph, _OPTIONS | options, columns)


def made_graph(
    function: Callable[..., Any], *arguments: Any, captures: bool = False
) -> GraphModule:
    """A function's operations on such arguments as a graph; with ``captures`` it may use tensors that
    are none of its arguments, and they become part of the graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with while_tracing():
        make = make_fx(
            function,
            decomposition_table=_SPELT_OUT,
            tracing_mode="fake",
            _allow_non_fake_inputs=captures,
        )
        graph = make(*arguments)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _spelt_out(plain: Callable[..., Tensor]) -> Callable[..., Any]:
    def spelt(x: Any, y: Any, *, alpha: float = 1) -> Any:
        return NotImplemented if alpha == 1 else plain(x, y * alpha)

    return spelt


def _product(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    return NotImplemented if alpha == 1 and beta == 1 else x * beta + (a @ b) * alpha


_aten = torch.ops.aten
# torch's compiler fuses a sum with a matrix product and forgets the factor alpha in doing so: seen
# with 2.13 in add(x, a @ b, alpha=0.5), which it computes as x + a @ b. Here no sum has a factor.
_SPELT_OUT: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: _spelt_out(torch.add),
    _aten.add_.Tensor: _spelt_out(Tensor.add_),
    _aten.sub.Tensor: _spelt_out(torch.sub),
    _aten.sub_.Tensor: _spelt_out(Tensor.sub_),
    _aten.addmm.default: _product,
    _aten.baddbmm.default: _product,
}


@contextmanager
def quietly() -> Iterator[None]:
    """The compiler's own use of what torch has deprecated is nothing to the user, and its advice to
    compute with fewer digits is not asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """A graph holds autocast's conversions already."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def layout(tree: Any) -> Any:
    """The structure of a tree, and each tensor's shape, stride, dtype and device."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, tuple | list):
        return type(tree), *map(layout, tree)
    if type(tree) is dict:
        return dict, *tree, *map(layout, tree.values())
    if isinstance(tree, _PLAIN):
        return type(tree), tree
    leaves, structure = pytree.tree_flatten(tree)
    if len(leaves) == 1 and leaves[0] is tree:  # a leaf that is none of these
        return tree
    return structure, *map(layout, leaves)


def surroundings(device: str) -> Any:
    """What a graph has taken from around it."""
    cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return torch.are_deterministic_algorithms_enabled(), cast


def facts(model: nn.Module) -> tuple[Any, ...]:
    """What a graph has followed of a model: of each module its own, and which tensors are the same."""
    numbers: dict[int, int] = {}
    found: list[Any] = []
    for module in modules_of(model):
        _add_facts(module, numbers, found)
    return tuple(found)


def _add_facts(module: nn.Module, numbers: dict[int, int], found: list[Any]) -> None:
    """Add what a graph has followed of a module's own: its class, its hooks, its attributes, which its
    code may branch on, and the layout of its tensors."""
    attributes = vars(module)
    found.append(type(module))
    for name, value in attributes.items():
        if name not in _OWN and not isinstance(value, Tensor):
            found += (name, _fact(value))
    found += attributes["_forward_hooks"]
    found.append(None)
    found += attributes["_forward_pre_hooks"]
    for tensors in (attributes["_parameters"], attributes["_buffers"]):
        for name, x in tensors.items():
            if x is not None:
                same = numbers.setdefault(id(x), len(numbers))
                found += (name, same, x.requires_grad, x.dtype, x.device, x.shape, x.stride())


def _fact(value: Any) -> Any:
    """What a value is, as far as it can be compared; else which it is."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if type(value) in (list, tuple):
        return type(value), tuple(map(_fact, value))
    if type(value) is dict:
        return tuple((_fact(key), _fact(item)) for key, item in value.items())
    return type(value), id(value)


_OWN = frozenset(vars(nn.Module())) - {"training"}
"""What every module has, and is told of otherwise."""


def complaint(error: BaseException, energy: Any, otherwise: str = "") -> str:
    """Why something could not be compiled, with the layer where that showed, in one line."""
    trace: TracebackType | None = error.__traceback__
    where = layer_name(trace, energy)
    if otherwise and not where.startswith("layer "):
        where = otherwise
    # torch's first line may only say that more lines follow.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{where}: {type(error).__name__}: {said}"
