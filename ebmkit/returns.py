"""What a loss gives back when it is called, held to its protocol."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.errors import PluginError
from ebmkit.protocols import Batch, Loss, Metrics, Model, State


def drawn(loss: Loss, result: Any) -> tuple[Any, State]:
    """What ``draw`` has returned, where that is a pair.

    Raises:
        PluginError: it is not; the message names the loss.
    """
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    remedy = "end it in `return draws, state`"
    raise _fault(loss, "draw", _told(result), "the pair (draws, state)", remedy)


def computed(loss: Loss, model: Model, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
    """The loss on a batch and its metrics.

    Raises:
        PluginError: the loss returns anything else; the message names it.
    """
    result: Any = loss(model, batch, draws)
    if not (isinstance(result, tuple | list) and len(result) == 2):
        remedy = "end it in `return loss, {}` where there are no metrics"
        raise _fault(loss, "__call__", _told(result), "the pair (loss, metrics)", remedy)
    value, metrics = result
    if not isinstance(value, Tensor) or value.ndim:
        rows = isinstance(value, Tensor)
        remedy = (
            "take the mean over the rows, as loss.mean()"
            if rows
            else "return the tensor, without item()"
        )
        wanted = "one without dimensions, whose gradient trains the model"
        raise _fault(loss, "__call__", f"as loss {_told(value)}", wanted, remedy)
    if not isinstance(metrics, dict):
        remedy = "return {} where there are none"
        wanted = "a dict of tensors by name"
        raise _fault(loss, "__call__", f"as metrics {_told(metrics)}", wanted, remedy)
    for name, metric in metrics.items():
        if not isinstance(metric, Tensor):
            remedy = "return the tensor detached, without item()"
            wanted = "a tensor without dimensions"
            raise _fault(loss, "__call__", f"as metric {name!r} {_told(metric)}", wanted, remedy)
    if not value.requires_grad and torch.is_grad_enabled() and _trainable(model):
        raise _fault(
            loss,
            "__call__",
            "a loss that does not depend on the model's parameters",
            "one whose gradient trains them",
            "leave out detach() and no_grad() between the model's energies and the loss",
        )
    return value, metrics


def _trainable(model: Model) -> bool:
    return isinstance(model, nn.Module) and any(p.requires_grad for p in model.parameters())


def _told(value: Any) -> str:
    """What was got: a tensor by its shape, anything else by its type, with its length if it has one."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"an object of type {type(value).__name__}{length}"


def _fault(loss: Loss, method: str, got: str, wanted: str, remedy: str) -> PluginError:
    kind = type(loss)
    return PluginError(
        f"loss: {method} of {kind.__name__} (module {kind.__module__}) returned {got}, expected "
        f"{wanted}; {remedy}"
    )
