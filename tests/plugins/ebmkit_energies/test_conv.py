"""The convolutional energy: its equation by loops, its derivatives, labels, levels and refusals."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from ebmkit_energies.conv import Conv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebmkit import Model, energy_and_gradient, score

laws = settings(deadline=None, max_examples=15, derandomize=True)
ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "tanh": torch.tanh,
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
}
SHAPE = (2, 5, 6)
FULL = {"conditional": True, "n_classes": 3, "noise_conditional": True, "base_scale": 0.7}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(shape: tuple[int, ...] = SHAPE, **fields: Any) -> Conv:
    fields = {"channels": [3, 4, 2], "generator": generator(), **fields}
    return Conv(shape, **fields).double()


def points(batch: int = 4, shape: tuple[int, ...] = SHAPE, seed: int = 9) -> Tensor:
    return torch.randn(batch, *shape, generator=generator(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1, 2])
SIGMA = torch.tensor([0.1, 0.4, 1.5, 6.0], dtype=torch.float64)


def convolved(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3×3 convolution of one image (maps, height, width), pixel by pixel."""
    _, height, width = image.shape
    wide = image.new_zeros(len(image), height + 2, width + 2)
    wide[:, 1:-1, 1:-1] = image
    pixels = [
        (weight * wide[:, i : i + 3, j : j + 3]).sum((1, 2, 3)) + bias
        for i in range(height)
        for j in range(width)
    ]
    return torch.stack(pixels, 1).reshape(-1, height, width)


def pooled(image: Tensor) -> Tensor:
    """Means of 2×2 windows, of what there is of them at an odd edge."""
    _, height, width = image.shape
    rows = [
        torch.stack([image[:, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, width, 2)], 1)
        for i in range(0, height, 2)
    ]
    return torch.stack(rows, 1)


@torch.no_grad()
def by_hand(model: Conv, activation: Any, x: Tensor, label: int, sigma: float) -> float:
    """The energy of one image; σ = 0 for a model that is not noise-conditional."""
    weights = dict(model.named_parameters())
    s = model.data_scale
    h = (x if x.ndim == 3 else x[None]) / math.sqrt(s * s + sigma * sigma)
    for stage in range(len(model.channels)):
        h = pooled(h) if stage else h
        h = convolved(h, weights[f"entries.{stage}.weight"], weights[f"entries.{stage}.bias"])
        for block in range(model.blocks):
            name = f"stages.{stage}.{block}"
            first, second, shift = (
                [weights.get(f"{name}.{layer}.{kind}") for kind in ("weight", "bias")]
                for layer in ("first", "second", "shift")
            )
            inner = convolved(activation(h), *first)
            if sigma:
                t = math.log(sigma / s)
                features = torch.tensor([t / 4, math.sin(t), math.cos(t)], dtype=x.dtype)
                inner = inner + (shift[0] @ features + shift[1])[:, None, None]
            h = h + convolved(activation(inner), *second)
    energy = float(weights["head.weight"][label] @ activation(h).flatten())
    energy += float(weights["head.bias"][label])
    if model.output_bound is not None:
        energy = model.output_bound * math.tanh(energy)
    energy *= s / sigma if sigma else 1
    if model.base_scale is not None:
        energy += float(x.square().sum()) / (2 * (model.base_scale**2 + sigma * sigma))
    return energy


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"base_scale": 0.7, "output_bound": 0.2},
        {"conditional": True, "n_classes": 3},
        {"noise_conditional": True},
        {**FULL, "output_bound": 0.2},
    ],
    ids=["plain", "bounded", "labels", "noise", "all"],
)
def test_the_energy_is_the_equation(activation: str, blocks: int, fields: dict[str, Any]) -> None:
    model = build(activation=activation, blocks=blocks, data_scale=1.3, **fields)
    x = points()
    labels = LABELS if model.conditional else None
    given_levels = {"noise_level": SIGMA} if model.noise_conditional else {}
    chosen = [0] * 4 if labels is None else labels.tolist()
    sigmas = SIGMA.tolist() if model.noise_conditional else [0.0] * 4
    expected = [
        by_hand(model, ACTIVATIONS[activation], row, label, sigma)
        for row, label, sigma in zip(x, chosen, sigmas, strict=True)
    ]
    got = model(x, labels, **given_levels)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_height_and_width_alone_are_one_channel() -> None:
    flat, deep = build((4, 6)), build((1, 4, 6))
    x = points(shape=(4, 6))
    torch.testing.assert_close(flat(x), deep(x.unsqueeze(1)), rtol=0, atol=0)


@laws
@given(
    shape=st.sampled_from([(4, 4), (1, 8, 8), (3, 5, 7), (2, 3, 9)]),
    n_stages=st.integers(1, 3),
    batch=st.integers(0, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_one_energy_an_image_in_its_dtype(
    shape: tuple[int, ...], n_stages: int, batch: int, dtype: torch.dtype
) -> None:
    model = build(shape, channels=[3, 2, 4][:n_stages], base_scale=1.0).to(dtype)
    x = points(batch, shape).to(dtype)
    assert isinstance(model, Model)
    assert model(x).shape == (batch,)
    assert model(x).dtype == dtype
    assert score(model, x).shape == x.shape


def test_images_are_independent_in_training_mode_too() -> None:
    model = build(**FULL)
    assert model.training
    x, order = points(), torch.tensor([3, 0])
    together = model(x, LABELS, noise_level=SIGMA)
    alone = model(x[order], LABELS[order], noise_level=SIGMA[order])
    torch.testing.assert_close(alone, together[order])


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 8, 8)])
def test_no_pixel_is_ignored(shape: tuple[int, ...]) -> None:
    assert (score(build(shape), points(shape=shape)) != 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("noise_conditional", [False, True])
def test_first_and_second_derivatives_are_those_of_finite_differences(
    activation: str, noise_conditional: bool
) -> None:
    model = build(
        activation=activation, noise_conditional=noise_conditional, base_scale=0.8, output_bound=2.0
    )
    x, step = points(), 1e-5
    energy = partial(model, noise_level=SIGMA) if noise_conditional else model
    v = points(seed=1)
    v = v / v.flatten(1).norm(dim=1)[:, None, None, None]
    y = x.clone().requires_grad_(True)
    (slopes,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
    (curve,) = torch.autograd.grad((slopes * v).sum(), y)
    with torch.no_grad():
        first = (energy(x + step * v) - energy(x - step * v)) / (2 * step)
    torch.testing.assert_close((slopes * v).flatten(1).sum(1), first, rtol=1e-6, atol=1e-7)
    above, below = (energy_and_gradient(energy, x + k * step * v)[1] for k in (1, -1))
    assert curve.isfinite().all()
    assert (curve != 0).any()
    torch.testing.assert_close(curve, (above - below) / (2 * step), rtol=1e-6, atol=1e-7)


def test_a_bound_holds_and_the_base_has_the_last_word() -> None:
    bounded = build(output_bound=0.3)
    assert bounded(1e4 * points()).abs().max() <= 0.3
    model = build(output_bound=0.3, base_scale=2.0)
    x = 1e6 * points()
    torch.testing.assert_close(score(model, x), -x / 4, rtol=1e-3, atol=1e-3)


def test_without_a_level_it_is_the_lowest() -> None:
    model = build(noise_conditional=True, lowest_level=0.05)
    torch.testing.assert_close(model(points()), model(points(), noise_level=0.05), rtol=0, atol=0)
    assert not torch.allclose(model(points()), model(points(), noise_level=0.06))


def test_first_weights_are_those_of_plain_layers_from_the_same_generator() -> None:
    before = torch.random.get_rng_state()
    model = Conv((1, 4, 4), [3, 2], noise_conditional=True, generator=generator(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        entries = [nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)]
        blocks = [
            layer
            for width in (3, 2)
            for layer in (
                nn.Conv2d(width, width, 3),
                nn.Linear(3, width),
                nn.Conv2d(width, width, 3),
            )
        ]
        plain = [*entries, *blocks, nn.Linear(8, 1)]
    ours = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-6, atol=0.0)
        assert mine.bias is not None and theirs.bias is not None
        torch.testing.assert_close(mine.bias, theirs.bias, rtol=1e-6, atol=0.0)


def test_the_generator_decides_the_weights_and_is_not_kept() -> None:
    def weights(model: Conv) -> Tensor:
        return nn.utils.parameters_to_vector(model.parameters())

    model, other = Conv((4, 4), generator=generator(1)), Conv((4, 4), generator=generator(2))
    assert model.generator is None
    assert not torch.equal(weights(model), weights(other))
    other.draw(generator=generator(1))
    assert torch.equal(weights(model), weights(other))
    assert not torch.equal(weights(Conv((4, 4))), weights(Conv((4, 4))))


def test_copies_and_saved_weights_give_the_same_energies() -> None:
    model, other, x = build(), build(generator=generator(1)), points()
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), model(x))


def test_there_are_no_buffers_and_gradients_reach_every_weight() -> None:
    model = build(**FULL)
    assert not list(model.buffers())
    model(points(), LABELS, noise_level=SIGMA).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    "labels",
    [None, torch.tensor([0, 1]), torch.tensor([0, 1, 3]), torch.tensor([True, False, True])],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor | None) -> None:
    model = build(conditional=True, n_classes=3)
    with pytest.raises(ValueError, match=r"Conv: expected labels of shape \(3,\) in 0 … 2"):
        model(points(3), labels)


@pytest.mark.parametrize("level", [0.0, torch.tensor([0.1, -0.1, 1.0]), torch.ones(3, 1)])
def test_levels_that_do_not_fit_are_refused(level: Any) -> None:
    with pytest.raises(ValueError, match=r"Conv: expected noise_level > 0, a number or of shape"):
        build(noise_conditional=True)(points(3), noise_level=level)


def test_labels_and_levels_nobody_asked_for_are_refused() -> None:
    with pytest.raises(ValueError, match="set conditional = true"):
        build()(points(3), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="set noise_conditional = true"):
        build()(points(3), noise_level=0.1)


@pytest.mark.parametrize("x", [torch.zeros(3, 5, 6), torch.zeros(3, 2, 6, 5)])
def test_other_events_are_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected points of shape \(batch, 2, 5, 6\)"):
        build()(x)


@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3, 4)])
def test_events_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"event_shape: expected \(channels, height, width\)"):
        Conv(shape)


@pytest.mark.parametrize(
    ("fields", "culprit"),
    [
        ({"channels": []}, "channels"),
        ({"channels": [0]}, "channels|must be >= 1"),
        ({"channels": [2] * 4}, "channels: 4 stages halve images of 4×4 3 times.* at most 3"),
        ({"channels": [10**6]}, "channels: .* weights, expected at most"),
        ({"blocks": 0}, "blocks"),
        ({"blocks": 101}, "blocks"),
        ({"blocks": 1.0}, "blocks"),
        ({"activation": "relu"}, "activation"),
        ({"output_bound": 0.0}, "output_bound"),
        ({"data_scale": 0.0}, "data_scale"),
        ({"base_scale": math.inf}, "base_scale"),
        ({"lowest_level": -0.1}, "lowest_level"),
        ({"conditional": True}, "conditional: needs n_classes"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        Conv((1, 4, 4), **fields)


def test_the_number_of_weights_is_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    # Refused at one weight fewer than it has, taken at as many.
    n = sum(p.numel() for p in build(blocks=2, **FULL).parameters())
    monkeypatch.setattr("ebmkit_energies.conv.MOST_WEIGHTS", n)
    build(blocks=2, **FULL)
    monkeypatch.setattr("ebmkit_energies.conv.MOST_WEIGHTS", n - 1)
    with pytest.raises(ValueError, match=f"makes {n:,} weights"):
        build(blocks=2, **FULL)
