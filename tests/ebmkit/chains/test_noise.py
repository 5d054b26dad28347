"""Random numbers of many steps at once are those of the steps, one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ebmkit
from ebmkit.chains.noise import drawn, normals, stacked
from ebmkit.lowering import Unsuitable
from ebmkit.registry import registry

from .conftest import seeded

SAMPLERS: dict[str, dict[str, Any]] = {
    "annealed-langevin": {"levels": [1.0, 0.5]},
    "gibbs": {},
    "gibbs-with-gradients": {},
    "gradient-descent": {},
    "hmc": {},
    "langevin": {},
    "mala": {},
    "nuts": {"max_depth": 3},
    "preconditioned-langevin": {},
    "underdamped-langevin": {},
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *SAMPLERS.items(),
    ("hmc", {"jitter": 0.2}),
    ("adaptive", {"sampler": "mala"}),
    ("adaptive", {"sampler": {"use": "hmc", "jitter": 0.2}}),
    ("parallel-tempering", {"inverse_temperatures": [1.0, 0.5], "sampler": "mala"}),
]


def same(found: Any, expected: Any) -> None:
    """Bit for bit, and of the same structure."""
    leaves, structure = pytree.tree_flatten(found)
    others, form = pytree.tree_flatten(expected)
    assert structure == form
    for one, two in zip(leaves, others, strict=True):
        if isinstance(two, Tensor):
            assert one.dtype == two.dtype and torch.equal(one, two)
        else:
            assert one == two


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (16,), (8, 2), (17, 2), (3, 5, 7), (64, 3), (0, 2)])
def test_normals_are_those_of_as_many_calls(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for steps in (0, 1, 7):
        one, two = seeded(steps), seeded(steps)
        found = normals(steps, shape, generator=one, like=torch.zeros(2, dtype=dtype))
        rows = [torch.randn(shape, generator=two, dtype=dtype) for _ in range(steps)]
        assert found.shape == (steps, *shape) and found.dtype == dtype
        same(list(found), rows)
        assert torch.equal(one.get_state(), two.get_state())


def start(name: str, parameters: dict[str, Any], batch: int, dtype: torch.dtype) -> Any:
    """A sampler and its first state."""
    sampler = ebmkit.create("sampler", name, **parameters)
    shape: tuple[int, ...] = (3,)
    fields: dict[str, Any] = {}
    model = "harmonic"
    if name == "gibbs":
        model, shape, fields = "rbm", (6,), {"event_shape": (6,), "n_hidden": 3}
    elif name == "gibbs-with-gradients":
        model, shape, fields = "ising", (3, 3), {"event_shape": (3, 3)}
    elif name == "annealed-langevin":
        model, fields = "noise-conditional-mlp", {"event_shape": (3,)}
    energy = ebmkit.create("model", model, **fields).to(dtype)
    # Points of zeros and ones are some of every model's.
    x = torch.randint(2, (batch, *shape), generator=seeded()).to(dtype)
    return sampler, sampler.init(energy, x)


def test_no_sampler_is_left_out() -> None:
    assert {name for name, _ in CASES} == set(registry().names("sampler"))


@pytest.mark.parametrize("batch", [0, 1, 16, 17])
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_drawn_is_what_draw_gives_step_by_step(
    name: str, parameters: dict[str, Any], batch: int
) -> None:
    for dtype in (torch.float32, torch.float64):
        sampler, state = start(name, parameters, batch, dtype)
        for steps in (1, 5):
            one, two = seeded(3), seeded(3)
            block = drawn(sampler, state, steps, one)
            rows = [sampler.draw(state, generator=two) for _ in range(steps)]
            assert block.steps == steps
            same(block.each(), rows)
            assert torch.equal(one.get_state(), two.get_state())


def test_each_undoes_stacked() -> None:
    noises = [(torch.full((2,), i), {"a": torch.tensor(i), "b": "kept"}, None) for i in range(4)]
    block = stacked(noises)
    assert block.noise[0].shape == (4, 2) and block.noise[1]["b"] == "kept"
    same(block.each(), noises)


def test_steps_that_differ_in_more_than_values_are_no_block() -> None:
    x = torch.zeros(2)
    with pytest.raises(Unsuitable, match="different structures"):
        stacked([(x, x), (x,)])
    with pytest.raises(Unsuitable, match="different plain values"):
        stacked([(x, 1), (x, 2)])
