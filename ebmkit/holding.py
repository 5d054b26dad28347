"""A model held as it is for a while: in evaluation mode, its parameters frozen by construction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ebmkit.graphs import places_of
from ebmkit.layers import module_of, modules_of
from ebmkit.protocols import Energy, Model

_locks: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()


class _Around(nn.Module):
    """A module around a model, so that ``functional_call`` reaches the model while work is done."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode for a while, so that chains change no BatchNorm statistics; every submodule
    is left in the mode in which it was."""
    training = [m for m in modules_of(model) if m.training] if isinstance(model, nn.Module) else []
    # Past nn.Module's own __setattr__, which takes as long as a small layer.
    for module in training:
        object.__setattr__(module, "training", False)
    try:
        yield
    finally:
        for module in training:
            object.__setattr__(module, "training", True)


def frozen(energy: Energy, work: Callable[[], Any]) -> Any:
    """The result of ``work``, during which the energy's parameters are detached tensors that share
    their memory: nothing that it computes can reach the parameters' gradients, and no flag of theirs
    is touched."""
    module = module_of(energy)
    inside = [] if module is None else modules_of(module)
    if module is None or not _take_others(inside):
        return work()
    swapped: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    # Two threads that swap tensors in and out of one module would put back each other's. Into the
    # modules' own tables, past their __setattr__, which takes as long as a small layer.
    with _locks.setdefault(module, RLock()):
        try:
            for inner in inside:
                table: Any = inner._parameters
                if not table:
                    continue
                for name, tensor in table.items():
                    if tensor is not None:
                        swapped.append((table, name, tensor))
                        table[name] = tensor.detach()
            return work()
        finally:
            for table, name, tensor in swapped:
                table[name] = tensor


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor], work: Callable[[], Any]) -> Any:
    """The result of ``work``, during which the module has these parameters and buffers, by the names
    that ``tensors_of`` gives them."""
    with _locks.setdefault(module, RLock()):
        around = _Around(module)
        placed = {place: tensors[name] for place, name in places_of(around).items()}
        return torch.func.functional_call(around, placed, (work,), tie_weights=False)


def _take_others(modules: list[nn.Module]) -> bool:
    """Whether parameters can be swapped. Compiled and scripted modules are bound to the very parameters
    that they have, and lazy ones have none yet."""
    dynamo: Any = sys.modules.get("torch._dynamo")
    bound: tuple[type, ...] = (torch.jit.ScriptModule, nn.modules.lazy.LazyModuleMixin)
    if dynamo is not None:
        bound = (*bound, dynamo.OptimizedModule)
    return not any(isinstance(inner, bound) for inner in modules)
