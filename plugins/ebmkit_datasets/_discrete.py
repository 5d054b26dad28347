"""Numbers of a file that are states: bits, or categories to be one-hot."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit import DataError
from ebmkit_datasets._rows import Table

_ROWS = 2**14


def check_states(path: str, table: Table, categories: int | None) -> None:
    """Raise DataError, with row and column, where a number of the table is no state: 0 or 1, or a
    whole number below ``categories``."""
    for first in range(0, len(table.events), _ROWS):
        block = table.events[first : first + _ROWS].double()
        wrong = (block < 0) | (block >= (categories or 2)) | (block != block.floor())
        if not wrong.any():
            continue
        row, *entry = (int(place) for place in wrong.nonzero()[0])
        column = f"entry {tuple(entry)}" if table.columns is None else table.columns[entry[0]]
        wanted = "0 or 1" if categories is None else f"a category 0, …, {categories - 1}"
        remedy = "" if categories else ", or state categories where they are whole numbers"
        raise DataError(
            f"{path}: row {first + row} (counted from 0, without names), {column}: expected {wanted} "
            f"as the data are said to be discrete, got {block[(row, *entry)].item():g}; mend the row, "
            f"or leave discrete out{remedy}"
        )


def one_hot(events: Tensor, categories: int) -> Tensor:
    """Events (batch, *event) of whole numbers as (batch, *event, categories)."""
    return (torch.arange(categories, device=events.device) == events[..., None]).to(events.dtype)
