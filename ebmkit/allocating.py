"""Memory that a run asks for, refused before it is given where there is not so much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ebmkit.errors import MemoryNeededError
from ebmkit.memory import expect_memory
from ebmkit.plan import Planner
from ebmkit.sections import Training

_MAKERS = {
    torch.empty,
    torch.empty_like,
    torch.zeros,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.full,
}


class Allocations(TorchFunctionMode):
    """While it is entered, tensors that torch's functions are to make are counted before they are made.

    The system gives more memory than there is, and ends a process that goes on to write to it.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._given = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            n_bytes = _bytes(args, kwargs)
            expect_memory(self._what, self._given + n_bytes)
            if func in (torch.empty, torch.empty_like):  # weights are made so; others come and go
                self._given += n_bytes
        return func(*args, **kwargs)


def _bytes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    if str(kwargs.get("device")) == "meta":
        return 0
    like = args[0] if args and isinstance(args[0], torch.Tensor) else None
    size = like.shape if like is not None else kwargs.get("size", args)
    flat = size[0] if size and isinstance(size[0], list | tuple) else size
    default = torch.get_default_dtype() if like is None else like.dtype
    dtype = kwargs.get("dtype") or default
    return math.prod(n for n in flat if isinstance(n, int)) * int(dtype.itemsize)


def points_fit(
    planner: Planner,
    event_shape: tuple[int, ...] | None,
    training: Training,
    loss: Any,
    evaluation: Any,
) -> None:
    """What a run holds as many points of as its spec says fits into the machine's memory."""
    each = math.prod(event_shape or ()) * torch.get_default_dtype().itemsize
    counts = {
        "training.batch_size": training.batch_size,
        "loss.buffer_size": getattr(loss, "buffer_size", None),
        "loss.n_negatives": getattr(loss, "n_negatives", None),
        "evaluation.n_samples": getattr(evaluation, "n_samples", None),
        "evaluation.annealing_chains": getattr(evaluation, "annealing_chains", None),
    }
    for path, n in counts.items():
        if not isinstance(n, int):
            continue
        try:
            expect_memory(f"{n:,} points of shape {event_shape}", n * each)
        except MemoryNeededError as error:
            planner.report(path, f"{error}; state fewer")
