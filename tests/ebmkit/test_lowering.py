"""A graph as compiled code takes and returns what the graph does."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebmkit import lowering
from ebmkit.lowering import compiled, made_graph, quietly


class Pair(NamedTuple):
    x: Tensor
    y: Any


def tree(*values: Any) -> Any:
    """As many sorts of trees as there are, around five values."""
    a, b, c, d, e = values
    inner = {"b": b, "a": [a, None, 2.0, "s", True]}
    return Pair(inner, (Pair(c, {}), [d, ()], {"z": {"y": e}}))


def test_tensors_are_gathered_in_the_order_of_the_graphs_arguments() -> None:
    made = tree(*map(torch.tensor, range(5)))
    found: list[Tensor] = []
    lowering._gather(made, found)
    expected = [x for x in pytree.tree_leaves(made) if isinstance(x, Tensor)]
    assert len(found) == 5
    assert all(x is y for x, y in zip(found, expected, strict=True))


def test_trees_that_are_known_to_torch_alone() -> None:
    from collections import OrderedDict, deque

    made = OrderedDict(b=deque([torch.tensor(1.0)]), a=torch.tensor(2.0))
    found: list[Tensor] = []
    lowering._gather(made, found)
    assert [float(x) for x in found] == [1, 2]
    leaves, structure = pytree.tree_flatten(made)
    form = pytree.tree_unflatten(range(len(leaves)), structure)
    assert lowering._filled(form, leaves) == made


def test_a_tree_is_filled_with_its_leaves() -> None:
    made = tree(*"abcde")
    leaves, structure = pytree.tree_flatten(made)
    form = pytree.tree_unflatten(range(len(leaves)), structure)
    found = lowering._filled(form, leaves)
    assert found == made
    assert type(found) is Pair
    assert type(found.y[0]) is Pair


@pytest.mark.parametrize("captured", [False, True])
def test_compiled_code_returns_the_graphs_tree(captured: bool) -> None:
    constant = torch.arange(3.0)

    def function(first: dict[str, Tensor], second: Pair, number: float) -> Any:
        total = first["b"] * number - first["a"] + (constant if captured else 0)
        return {"out": Pair(total, None), "rest": [second.x, (second.y[0] * 2,)]}

    given = (
        {"b": torch.ones(3), "a": torch.full((3,), 2.0)},
        Pair(torch.rand(2), [torch.ones(2)]),
        3.0,
    )
    run = compiled(made_graph(function, *given, captures=captured))
    with torch.no_grad(), quietly():
        for _ in range(2):
            found, expected = run(*given), function(*given)
            assert pytree.tree_structure(found) == pytree.tree_structure(expected)
            torch.testing.assert_close(found["out"].x, expected["out"].x)
            assert found["out"].y is None
            torch.testing.assert_close(found["rest"], expected["rest"])
