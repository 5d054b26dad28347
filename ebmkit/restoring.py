"""What a checkpoint must hold, looked at before and after a pipeline is put to it: a file may have been
written by anybody, and what is wrong in it is to be told here, not steps later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline

_MOST = 2**53


def expect_state(tree: Any) -> None:
    """Expect the counts of a run's state to be counts, and its order of rows to be one.

    Raises:
        ValueError, KeyError, TypeError: they are not; the message names them.
    """
    for name in ("hooks", "made_by", "process"):
        if not isinstance(tree.get(name, {}), Mapping):
            raise ValueError(f"{name}: expected a table, got {_said(tree[name])}")
    order, rollbacks, chains = tree["order"], tree["rollbacks"], tree.get("chains", {})
    others = tree.get("others", [])
    if not isinstance(others, list) or not all(isinstance(other, Mapping) for other in others):
        raise ValueError(f"others: expected a list of tables, got {_said(others)}")
    counts = {
        **{
            f"others.{number}.chains.{name}": value
            for number, other in enumerate(others)
            for name, value in other.get("chains", {}).items()
        },
        "step": tree["step"],
        "order.position": order["position"],
        **{f"rollbacks.{name}": rollbacks[name] for name in ("count", "went_back_to")},
        **{f"chains.{name}": value for name, value in chains.items()},
    }
    if tree["kept_step"] is not None:
        counts["kept_step"] = tree["kept_step"]
    for name, value in counts.items():
        if type(value) is not int or not 0 <= value < _MOST:
            raise ValueError(f"{name}: expected a count, got {_said(value)}")
    rows = order["rows"]
    if rows is None:
        return
    if not isinstance(rows, Tensor) or rows.ndim != 1 or rows.dtype != torch.int64:
        raise ValueError("order.rows: expected numbers of rows")


def expect_same_data(pipeline: Pipeline) -> None:
    """Expect the order of rows to be of the data's, and the chains of the loss's state, from which
    samples are drawn, to be like them.

    Raises:
        ValueError: they are not.
    """
    feed = pipeline.trainer.feed
    if feed.order is not None and feed.rows is not None:
        if not ((feed.order >= 0) & (feed.order < feed.rows)).all():
            raise ValueError(f"order.rows: expected numbers below {feed.rows}, the data's rows")
    chains, state = getattr(pipeline.loss, "chains", None), pipeline.trainer.objective.state
    if chains is None or state is None:
        return
    x, condition = chains(state)
    event_shape = tuple(pipeline.dataset.event_shape)
    if not x.is_floating_point() or not len(x) or tuple(x.shape[1:]) != event_shape:
        raise ValueError(
            f"the loss's chains: expected points (n, {', '.join(map(str, event_shape))}), got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    classes = getattr(pipeline.dataset, "n_classes", None)
    if condition is None:
        return
    if condition.shape[:1] != x.shape[:1]:
        raise ValueError("the loss's chains: expected a condition for each point")
    if classes is not None and not ((condition >= 0) & (condition < classes)).all():
        raise ValueError(f"the loss's chains: expected classes below {classes}")


def _said(value: Any) -> str:
    return f"{value!r}"[:100] if isinstance(value, str | float) else f"a {type(value).__name__}"
