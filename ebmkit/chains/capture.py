"""Steps recorded once and replayed: on CUDA a graph, whose replay costs one launch for all kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Recording(Protocol):
    """Records a call whose tensors stay where they are, and makes it again."""

    def record(self, call: Callable[[], Any]) -> Any:
        """Make the call once and keep it; its results are written anew by each replay."""
        ...

    def replay(self) -> None:
        """Make the call again, on what its tensors hold now."""
        ...


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, call: Callable[[], Any]) -> Any:
        # Libraries set up their workspaces in a first call, which must not be recorded.
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            call()
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(self.graph):
            return call()

    def replay(self) -> None:
        self.graph.replay()


class Captured:
    """A function of tensors that always reads and writes the same memory, so that it can be replayed.

    A model's tensors are read where they are, and the call is recorded anew where they have moved.
    Other arguments are copied in before each replay, and results copied out, since the next replay
    overwrites them.
    """

    def __init__(self, function: Callable[..., Any], recording: Callable[[], Recording]) -> None:
        self.function = function
        self.new_recording = recording
        self.recorded = 0
        """How often the call was recorded."""
        self._recording: Recording | None = None
        self._places: list[int] = []
        self._inputs: list[Tensor] = []
        self._outputs: list[Any] = []
        self._structure: Any = None

    def __call__(self, model: Mapping[str, Tensor], *arguments: Any) -> Any:
        places = [tensor.data_ptr() for tensor in model.values()]
        if self._recording is None or places != self._places:
            self._record(model, arguments)
            self._places = places
        assert self._recording is not None
        given = [x for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)]
        if given:
            torch._foreach_copy_(self._inputs, given)
        self._recording.replay()
        copied = [x.clone() if isinstance(x, Tensor) else x for x in self._outputs]
        return pytree.tree_unflatten(copied, self._structure)

    def _record(self, model: Mapping[str, Tensor], arguments: Any) -> None:
        leaves, form = pytree.tree_flatten(arguments)
        own = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
        self._inputs = [x for x in own if isinstance(x, Tensor)]
        inner = pytree.tree_unflatten(own, form)
        self._recording = self.new_recording()
        self.recorded += 1
        result = self._recording.record(lambda: self.function(model, *inner))
        self._outputs, self._structure = pytree.tree_flatten(result)
