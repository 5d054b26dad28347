"""What holds of every sampler of this package."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_langevin.annealed import AnnealedLangevin
from ebmkit_langevin.gradient_descent import GradientDescent
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.mala import MALA
from ebmkit_langevin.preconditioned import PreconditionedLangevin
from ebmkit_langevin.underdamped import UnderdampedLangevin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import ebmkit

laws = settings(deadline=None, max_examples=15, derandomize=True)

# Each with values of its scheduled parameters.
SAMPLERS: dict[str, tuple[Any, dict[str, float]]] = {
    "langevin": (Langevin(), {"step_size": 0.03, "noise_scale": 0.8}),
    "mala": (MALA(), {"step_size": 0.03}),
    "mala-adapted": (MALA(target_acceptance=0.6), {"step_size": 0.03}),
    "annealed": (AnnealedLangevin([1.0, 0.5]), {"step_size": 0.01, "sigma": 1.0}),
    "underdamped": (UnderdampedLangevin(), {"step_size": 0.1, "friction": 1.3}),
    "preconditioned": (PreconditionedLangevin(), {"step_size": 0.03}),
    "gradient-descent": (GradientDescent(), {"step_size": 0.03, "momentum": 0.7}),
}
every = pytest.mark.parametrize(("sampler", "values"), SAMPLERS.values(), ids=SAMPLERS)
shapes = st.sampled_from([(), (1,), (3,), (1, 2, 2)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Quartic:
    """E(x | σ) = Σ x⁴/4 + x²/(2 (1 + σ²)), noise-conditional for the sampler that asks for it."""

    noise_conditional = True

    def __call__(self, x: Tensor, *, noise_level: Tensor | None = None) -> Tensor:
        rows = x.reshape(len(x), math.prod(x.shape[1:]))
        width = 1 if noise_level is None else (1 + noise_level.square()).unsqueeze(1)
        return (rows.pow(4) / 4 + rows.square() / (2 * width)).sum(1)


energy = Quartic()


def points(batch: int, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(batch, *shape, generator=generator(seed), dtype=dtype)


def steps(sampler: Any, state: Any, values: Any, n: int, g: torch.Generator) -> Any:
    for _ in range(n):
        state, _ = sampler.step(energy, state, sampler.draw(state, generator=g), **values)
    return state


def leaves(tree: Any) -> list[Tensor]:
    found = pytree.tree_leaves(tree)
    assert all(isinstance(leaf, Tensor) for leaf in found)
    return found


@every
@laws
@given(
    batch=st.sampled_from([0, 1, 4]),
    shape=shapes,
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_step_keeps_shapes_and_dtypes_and_changes_nothing_that_it_is_given(
    sampler: Any, values: dict[str, float], batch: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = points(batch, shape, dtype)
    state = sampler.init(energy, x)
    for step in range(3):
        noise = sampler.draw(state, generator=generator(step))
        before = [leaf.clone() for leaf in leaves((state, noise))]
        after, metrics = sampler.step(energy, state, noise, **values)
        for leaf, was in zip(leaves((state, noise)), before, strict=True):
            assert torch.equal(leaf, was)
        assert type(after) is type(state)
        for new, old in zip(leaves(after), leaves(state), strict=True):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
            assert new.isfinite().all()
            assert not new.requires_grad
        for value in metrics.values():
            assert value.shape == () and not value.requires_grad
        state = after
    assert state.x.shape == x.shape
    if batch:
        assert not torch.equal(state.x, x)


@every
def test_what_belongs_to_all_chains_has_not_the_batch_in_front(
    sampler: Any, values: dict[str, float]
) -> None:
    # The event has as many numbers as there are chains.
    state = sampler.init(energy, points(4, (4,), torch.float32))
    few = sampler.init(energy, points(3, (4,), torch.float32))
    for many, other in zip(leaves(state), leaves(few), strict=True):
        per_chain = many.ndim > 0 and len(many) == 4
        assert per_chain == (many.shape != other.shape)


@every
@laws
@given(shape=shapes, seed=st.integers(0, 2**32))
def test_chains_that_are_saved_and_read_back_go_on_bit_for_bit(
    sampler: Any, values: dict[str, float], shape: tuple[int, ...], seed: int
) -> None:
    start = sampler.init(energy, points(4, shape, torch.float32, seed))
    straight = steps(sampler, start, values, 7, generator(seed))
    g = generator(seed)
    half = steps(sampler, start, values, 3, g)
    file = io.BytesIO()
    torch.save((half._asdict(), g.get_state()), file)
    file.seek(0)
    saved, random = torch.load(file)
    g = torch.Generator()
    g.set_state(random)
    again = steps(sampler, type(half)(**saved), values, 4, g)
    for one, other in zip(leaves(again), leaves(straight), strict=True):
        assert torch.equal(one, other)


@every
def test_the_numbers_of_many_steps_can_be_drawn_ahead(
    sampler: Any, values: dict[str, float]
) -> None:
    start = sampler.init(energy, points(4, (2,), torch.float32))
    g = generator(1)
    ahead = [sampler.draw(start, generator=g) for _ in range(5)]
    state = start
    for noise in ahead:
        state, _ = sampler.step(energy, state, noise, **values)
    one_by_one = steps(sampler, start, values, 5, generator(1))
    for one, other in zip(leaves(state), leaves(one_by_one), strict=True):
        assert torch.equal(one, other)


@every
def test_torchs_own_generator_is_not_touched(sampler: Any, values: dict[str, float]) -> None:
    before = torch.random.get_rng_state()
    steps(sampler, sampler.init(energy, points(4, (2,), torch.float32)), values, 3, generator())
    assert torch.equal(torch.random.get_rng_state(), before)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2)])
def test_scheduled_parameters_may_be_tensors(
    sampler: Any,
    values: dict[str, float],
    dtype: torch.dtype,
    of: torch.dtype,
    shape: tuple[int, ...],
) -> None:
    state = steps(sampler, sampler.init(energy, points(4, shape, dtype)), values, 2, generator(1))
    noise = sampler.draw(state, generator=generator(2))
    tensors = {name: torch.tensor(value, dtype=of) for name, value in values.items()}
    numbers, _ = sampler.step(energy, state, noise, **values)
    found, _ = sampler.step(energy, state, noise, **tensors)
    exact = dtype == of == torch.float64
    for one, other in zip(leaves(found), leaves(numbers), strict=True):
        assert one.dtype == dtype
        close = {"rtol": 1e-13, "atol": 1e-13} if exact else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(one, other, **close)


@every
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2)])
def test_a_step_is_traced_into_a_graph_with_its_parameters_as_inputs(
    sampler: Any, values: dict[str, float], shape: tuple[int, ...]
) -> None:
    start = sampler.init(energy, points(4, shape, torch.float32))
    state = steps(sampler, start, values, 2, generator(1))
    noise = sampler.draw(state, generator=generator(2))

    def step(state: Any, noise: Any, values: dict[str, Tensor]) -> Any:
        return sampler.step(energy, state, noise, **values)

    tensors = {name: torch.tensor(value) for name, value in values.items()}
    graph: Callable[..., Any] = make_fx(step, tracing_mode="fake")(state, noise, tensors)
    # Another state, other noise and other values than those of the trace.
    state = steps(sampler, state, values, 3, generator(3))
    noise = sampler.draw(state, generator=generator(4))
    other = {name: 0.7 * value for name, value in values.items()}
    tensors = {name: torch.tensor(value) for name, value in other.items()}
    found, expected = graph(state, noise, tensors), sampler.step(energy, state, noise, **other)
    for one, another in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)


@every
def test_a_sampler_is_found_by_name_and_runs_with_its_defaults(
    sampler: Any, values: dict[str, float]
) -> None:
    x = points(5, (2,), torch.float32)
    ran = ebmkit.sample(sampler, energy, x, steps=4, generator=generator(1))
    again = ebmkit.sample(sampler, energy, x, steps=4, generator=generator(1))
    assert torch.equal(ran, again)
    assert ran.isfinite().all()
    assert not torch.equal(ran, x)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("underdamped-langevin", UnderdampedLangevin),
        ("preconditioned-langevin", PreconditionedLangevin),
        ("gradient-descent", GradientDescent),
    ],
)
def test_the_new_ones_go_by_their_names(name: str, kind: type) -> None:
    assert type(ebmkit.create("sampler", name)) is kind


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        (UnderdampedLangevin, "step_size", 0.0),
        (UnderdampedLangevin, "friction", 0.0),
        (UnderdampedLangevin, "friction", math.nan),
        (PreconditionedLangevin, "step_size", -1.0),
        (PreconditionedLangevin, "damping", 0.0),
        (PreconditionedLangevin, "damping", math.inf),
        (PreconditionedLangevin, "power", 0.0),
        (PreconditionedLangevin, "power", 1.1),
        (PreconditionedLangevin, "forgetting", 0.5),
        (PreconditionedLangevin, "forgetting", 1.1),
        (GradientDescent, "step_size", math.inf),
        (GradientDescent, "momentum", 1.0),
        (GradientDescent, "momentum", -0.1),
    ],
)
def test_fields_out_of_range_are_refused(kind: Any, field: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=field):
        kind(**{field: wrong})
