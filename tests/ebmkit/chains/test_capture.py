"""Steps recorded and replayed: what a CUDA graph does, by a recording that works everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ebmkit
from ebmkit.chains import chunks
from ebmkit.chains.capture import Captured

from .conftest import Net, points, seeded


class Replay:
    """Makes the call again, and writes its results where the first ones lie, as a CUDA graph does."""

    def record(self, call: Callable[[], Any]) -> Any:
        self.call = call
        self.results = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, call())
        return self.results

    def replay(self) -> None:
        new = pytree.tree_leaves(self.call())
        for old, value in zip(pytree.tree_leaves(self.results), new, strict=True):
            if isinstance(old, Tensor):
                old.copy_(value)


def test_results_are_copied_out_and_inputs_in() -> None:
    weight = torch.tensor([2.0])
    captured = Captured(lambda model, x, more: {"y": model["w"] * x + more[0]}, Replay)
    first = captured({"w": weight}, torch.tensor([1.0]), [torch.tensor([10.0]), None])
    second = captured({"w": weight}, torch.tensor([3.0]), [torch.tensor([20.0]), None])
    assert (first["y"].item(), second["y"].item()) == (12, 26)
    weight.mul_(5)  # an optimizer's step, in place
    assert captured({"w": weight}, torch.tensor([1.0]), [torch.tensor([0.0]), None])["y"] == 10
    assert captured.recorded == 1


def test_a_model_that_has_moved_is_recorded_anew() -> None:
    captured = Captured(lambda model, x: model["w"] * x, Replay)
    x = torch.tensor([1.0])
    assert captured({"w": torch.tensor([2.0])}, x) == 2
    kept = torch.tensor([3.0])
    assert captured({"w": kept}, x) == 3
    assert captured({"w": kept}, x) == 3
    assert captured.recorded == 2


@pytest.mark.parametrize("name", ["langevin", "mala", "hmc"])
def test_captured_chains_are_the_same_chains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[Captured] = []

    def recorded(graph: Any, **_: Any) -> Any:
        captures.append(Captured(graph.forward, Replay))
        return captures[-1]

    monkeypatch.setattr(chunks, "compiled", recorded)
    net, sampler = Net(), ebmkit.create("sampler", name, step_size=0.1)
    found = [
        ebmkit.sample(
            sampler,
            net,
            points(),
            steps=40,
            generator=seeded(),
            compile=mode,  # type: ignore[arg-type]
            trajectory=True,
        )
        for mode in ("off", "chunk")
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    assert [c.recorded for c in captures] == [1]
