"""A model held as it is for a while."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebmkit.holding import evaluating, frozen


class Knot(nn.Module):
    """Modules in depth, one of them in two places, and one absent."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        self.one = nn.ModuleList([shared, nn.BatchNorm1d(2)])
        self.two = nn.ModuleDict({"again": shared, "deep": nn.Sequential(nn.Sequential(nn.ReLU()))})
        self.register_module("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def test_every_module_inside_is_reached_and_put_back() -> None:
    knot = Knot()
    inside = list(knot.modules())
    assert len(inside) == 10
    inside[3].eval()
    before = [module.training for module in inside]
    with evaluating(knot):
        assert not any(module.training for module in inside)
    assert [module.training for module in inside] == before

    parameters = dict(knot.named_parameters(remove_duplicate=False))
    assert frozen(knot, lambda: not any(p.requires_grad for p in knot.parameters()))
    found = frozen(knot, lambda: {n: p.data_ptr() for n, p in knot.named_parameters()})
    assert found == {n: p.data_ptr() for n, p in knot.named_parameters()}
    after = dict(knot.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in parameters.items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_keeps_its_parameters() -> None:
    script: Any = torch.jit.trace(nn.Linear(2, 1), torch.zeros(3, 2))
    assert frozen(nn.Sequential(script), lambda: script.weight.requires_grad)
