"""Points as files have them: in which units, under which names, as an array or as a table."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ebmkit.errors import PluginError, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ebmkit.pipeline import Pipeline
    from ebmkit.protocols import Batch, Dataset

SUFFIXES = (".npy", ".csv")


class Points(NamedTuple):
    """Points to be written, and what their numbers are called."""

    x: Tensor
    """(count, *event)"""
    names: list[str]
    """One for each number of an event."""
    condition: Tensor | None
    """(count,), or None where the model is of p(x)."""
    condition_name: str


def stated_condition(pipeline: Pipeline, run: Path, said: str, count: int) -> Tensor:
    """The class label that ``--condition`` states, for each of so many points.

    Raises:
        UserError: the run's model is not conditional, or its data have no such class.
    """
    import torch

    if not pipeline.conditional:
        raise UserError(
            f"--condition: expected the run of a conditional model, got {run}, whose model is of p(x); "
            "leave --condition out, or train one with model.conditional = true on data with labels"
        )
    n_classes: int = pipeline.dataset.n_classes  # type: ignore[attr-defined]
    label = int(said) if re.fullmatch("[0-9]{1,18}", said) else n_classes
    if label >= n_classes:
        raise UserError(
            f"--condition: expected a class label of the run's data, a whole number from 0 to "
            f"{n_classes - 1}, got {said!r}; state one of these, or leave --condition out to draw "
            "at labels of the data"
        )
    return torch.full((count,), label)


def to_write(dataset: Dataset, batch: Batch, *, rescaled: bool) -> Points:
    """Points in the units of the data's source, or as the model sees them.

    Raises:
        PluginError: the data set names more or fewer numbers than an event has.
    """
    import torch

    x, own_units = batch.x, True
    if hasattr(dataset, "restored"):
        restored = dataset.restored(x)
        own_units = not rescaled or torch.equal(restored, x)
        x = x if rescaled else restored
    width = x[0].numel()
    # A column's name says what a number is only in that column's units.
    names = getattr(dataset, "event_names", None) if own_units else None
    if names is None:
        names = [f"x{place}" for place in range(width)]
    elif len(names) != width:
        kind = type(dataset)
        raise PluginError(
            f"event_names of {kind.__name__} (module {kind.__module__}): expected a name for each of "
            f"the {width} numbers of an event, got {len(names)}; mend or update the plugin"
        )
    condition_name = getattr(dataset, "condition_name", None) or "condition"
    return Points(x, list(names), batch.condition, condition_name)


def as_npy(points: Points) -> tuple[bytes, tuple[int, ...]]:
    """A npy file's content, and the array's shape (count, *event)."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, points.x.cpu().numpy(), allow_pickle=False)
    return content.getvalue(), tuple(points.x.shape)


def as_csv(points: Points) -> tuple[bytes, tuple[int, ...]]:
    """A csv file's content, a row of names and one for each point, and the table's shape.

    The event is flattened, the condition its last column. Numbers have the digits that tell them
    from their neighbours, so that reading gives back the same.
    """
    import numpy as np

    columns, names = [points.x.flatten(1).cpu().numpy().astype(str)], list(points.names)
    if points.condition is not None:
        columns.append(points.condition.reshape(-1, 1).cpu().numpy().astype(str))
        names.append(points.condition_name)
    rows = np.concatenate(columns, axis=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows.tolist())
    return text.getvalue().encode(), rows.shape
