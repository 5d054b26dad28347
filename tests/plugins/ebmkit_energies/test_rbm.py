"""Restricted Boltzmann machines against sums over visible and hidden states together."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
from ebmkit_energies._bipartite import Bipartite
from ebmkit_energies.rbm import RBM
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit
from ebmkit.layers import module_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(n: int) -> Tensor:
    rows = list(itertools.product([0.0, 1.0], repeat=n))
    return torch.tensor(rows, dtype=torch.float64).view(-1, n)


def drawn(event_shape: tuple[int, ...], n_hidden: int, seed: int = 0, scale: float = 1.5) -> RBM:
    """An RBM in double precision whose biases are not 0 either."""
    g = generator(seed)
    model = RBM(event_shape, n_hidden, weight_scale=scale, generator=g)
    with torch.no_grad():
        model.visible_bias.normal_(0, 1, generator=g)
        model.hidden_bias.normal_(0, 1, generator=g)
    return model.double()


def joint(model: RBM) -> Tensor:
    """b·v + c·h + hᵀ W v of all visible states (rows) and hidden ones (columns)."""
    v, h = bits(model.weight.shape[1]), bits(model.weight.shape[0])
    b, c, w = (t.detach().double() for t in (model.visible_bias, model.hidden_bias, model.weight))
    return (v @ b)[:, None] + h @ c + v @ w.T @ h.T


sizes = st.integers(1, 6)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(n=sizes, m=sizes, seed=st.integers(0, 1000), scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_free_energies_and_normaliser_are_sums_over_both_layers(
    n: int, m: int, seed: int, scale: float
) -> None:
    model = drawn((n,), m, seed, scale)
    table = joint(model)
    torch.testing.assert_close(-model(bits(n)), table.logsumexp(1), rtol=1e-12, atol=1e-12)
    log_z = model.log_partition()
    assert (log_z.dtype, log_z.shape, log_z.requires_grad) == (torch.float64, (), False)
    torch.testing.assert_close(log_z, table.flatten().logsumexp(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(16, 30), (30, 16), (18, 18), (1, 40), (40, 1)])
def test_both_layers_give_the_same_normaliser_in_chunks(
    n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = drawn((n,), m, scale=0.7)
    b, w, c = (t.detach() for t in model.units())
    whole = model.log_partition()
    torch.testing.assert_close(Bipartite(c, w.T, b).log_partition(), whole, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("ebmkit_energies._bipartite._NUMBERS_AT_ONCE", 1 << 12)
    torch.testing.assert_close(model.log_partition(), whole, rtol=1e-12, atol=1e-12)


def test_independent_units_have_a_product_for_a_normaliser() -> None:
    # Without weights the sum is a product over units, at sizes that no list of states would hold.
    model = RBM((8, 8), 20, weight_scale=0.0)
    with torch.no_grad():
        model.visible_bias.copy_(torch.linspace(-3, 3, 64))
        model.hidden_bias.copy_(torch.linspace(-1, 2, 20))
    units = torch.cat([model.visible_bias, model.hidden_bias]).double()
    expected = float(units.exp().log1p().sum().detach())
    assert float(model.log_partition()) == pytest.approx(expected, rel=1e-12)


def test_more_units_than_can_be_gone_through_are_refused() -> None:
    with pytest.raises(
        ebmkit.EvaluationError, match=r"got 21 and 22.*annealed importance sampling"
    ):
        RBM((22,), 21).log_partition()
    with pytest.raises(ebmkit.EvaluationError, match="got 21 and 22"):
        RBM((21,), 22).log_partition()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_the_gradient_by_formula(dtype: torch.dtype, batch: int) -> None:
    model = drawn((1, 2, 3), 4).to(dtype)
    x = torch.randn(batch, 1, 2, 3, generator=generator(1), dtype=dtype)
    for energy in (model, model.bridge(0.3, torch.full((1, 2, 3), 0.2))):
        energies, gradient = energy.energy_and_gradient(x)
        expected = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(energy(expected).sum(), expected)
        torch.testing.assert_close(energies, energy(x).detach())
        torch.testing.assert_close(gradient, slope)
        assert not energies.requires_grad and not gradient.requires_grad
        assert energies.dtype == gradient.dtype == dtype


def test_conditionals_are_those_of_the_joint_distribution() -> None:
    model = drawn((2, 2), 3)
    table = joint(model)
    on_h = table.softmax(1) @ bits(3)
    on_v = table.softmax(0).T @ bits(4)
    torch.testing.assert_close(model.hidden_probabilities(bits(4).view(-1, 2, 2)), on_h)
    torch.testing.assert_close(model.visible_probabilities(bits(3)).flatten(1), on_v)


def test_a_sweep_draws_hidden_units_then_visible_ones() -> None:
    model = drawn((3,), 2)
    assert model.n_uniforms == 5
    x = bits(3)
    uniforms = torch.rand(8, 5, generator=generator(2), dtype=torch.float64)
    hidden = (uniforms[:, :2] < model.hidden_probabilities(x)).double()
    expected = (uniforms[:, 2:] < model.visible_probabilities(hidden)).double()
    assert torch.equal(model.sweep(x, uniforms), expected)


@pytest.mark.parametrize("beta", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("tensor", [False, True])
def test_a_bridge_is_the_papers_at_every_temperature(beta: float, tensor: bool) -> None:
    model = drawn((2, 2), 3)
    base = torch.tensor([[0.1, 0.5], [0.7, 0.95]])
    at = torch.tensor(beta) if tensor else beta
    bridge = model.bridge(at, base)
    x, p = bits(4), base.double().flatten()
    b, c, w = (t.detach() for t in (model.visible_bias, model.hidden_bias, model.weight))
    at_one = x @ (beta * b + (1 - beta) * (p / (1 - p)).log())
    expected = -at_one - (1 + (beta * (x @ w.T + c)).exp()).log().sum(1)
    rounding = 1e-6 if tensor else 1e-10
    torch.testing.assert_close(
        bridge(x.view(-1, 2, 2)).detach(), expected, rtol=rounding, atol=rounding
    )
    torch.testing.assert_close(
        bridge.log_partition(), (-expected).logsumexp(0), rtol=rounding, atol=rounding
    )
    # Its sweep leaves it as it is: p(v' | v) by both layers' conditionals.
    units, h = bridge.units(), bits(3)
    on_h, on_v = units.hidden(x)[:, None], units.visible(h)[:, None]
    down = (on_h * h + (1 - on_h) * (1 - h)).prod(2)
    up = (on_v * x + (1 - on_v) * (1 - x)).prod(2)
    target = (-expected).softmax(0)
    torch.testing.assert_close(target @ down @ up, target, rtol=1e-5, atol=1e-6)
    uniforms = torch.rand(16, 7, generator=generator(3), dtype=torch.float64)
    hidden = (uniforms[:, :3] < units.hidden(x)).double()
    swept = (uniforms[:, 3:] < units.visible(hidden)).double()
    assert bridge.n_uniforms == 7
    assert bridge.discrete
    assert torch.equal(bridge.sweep(x.view(-1, 2, 2), uniforms).flatten(1), swept)


def test_the_ends_of_a_bridge() -> None:
    model = drawn((30,), 25)
    base = torch.rand(30, generator=generator(4)) * 0.8 + 0.1
    x = (torch.rand(50, 30, generator=generator(5)) < 0.5).double()
    torch.testing.assert_close(model.bridge(1.0, base)(x), model(x))
    # At 0 the normaliser has a formula at any size, and the energies are those of independent bits.
    start = model.bridge(0.0, base)
    log_p = -start(x) - start.log_partition()
    p = base.double()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    torch.testing.assert_close(log_p.detach(), expected, rtol=1e-5, atol=1e-5)
    uniform = model.bridge(0.0)
    assert float(uniform.log_partition()) == pytest.approx(55 * math.log(2))
    torch.testing.assert_close(-uniform(x), torch.full((50,), 25 * math.log(2)).double())
    with pytest.raises(ebmkit.EvaluationError, match="annealed importance sampling"):
        model.bridge(0.5, base).log_partition()


def test_a_bridge_shares_the_parameters() -> None:
    model = drawn((4,), 3)
    bridge = model.bridge(0.5)
    assert module_of(bridge) is bridge
    assert {id(p) for p in bridge.parameters()} == {id(p) for p in model.parameters()}
    assert "inverse_temperature" in dict(bridge.named_buffers())


@pytest.mark.parametrize(
    ("beta", "base", "words"),
    [
        (1.5, None, "in \\[0, 1\\], got 1.5"),
        (-0.1, None, "in \\[0, 1\\]"),
        (math.nan, None, "in \\[0, 1\\], got nan"),
        (0.5, torch.full((2,), 0.5), r"shape \(4,\), got \(2,\)"),
        (0.5, torch.tensor([0.5, 0.5, 0.5, 1.0]), r"inside \(0, 1\)"),
        (0.5, torch.tensor([0.5, torch.nan, 0.5, 0.5]), r"inside \(0, 1\)"),
    ],
)
def test_bridges_that_are_none_are_refused(beta: float, base: Tensor | None, words: str) -> None:
    with pytest.raises(ebmkit.UserError, match=words):
        RBM((4,), 2).bridge(beta, base)


def test_first_parameters() -> None:
    model = RBM((8, 8), 200, generator=generator(6))
    assert model.generator is None
    assert model.visible_bias.eq(0).all() and model.hidden_bias.eq(0).all()
    n = model.weight.numel()
    # Five standard errors of a mean and of a standard deviation: false alarms below 6e-7 each.
    weight = model.weight.detach()
    assert abs(float(weight.mean())) < 5 * 0.01 / math.sqrt(n)
    assert abs(float(weight.std()) - 0.01) < 5 * 0.01 / math.sqrt(2 * n)
    assert torch.equal(model.weight, RBM((8, 8), 200, generator=generator(6)).weight)
    before = model.weight.clone()
    model.draw(generator=generator(7))
    assert not torch.equal(before, model.weight)


def test_copies_and_pickles_keep_all() -> None:
    model = drawn((2, 2), 3)
    x = bits(4).view(-1, 2, 2)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert other.discrete


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_hidden": 0}, "n_hidden"),
        ({"n_hidden": 2.0}, "n_hidden"),
        ({"n_hidden": 2**30}, "weights, expected at most"),
        ({"weight_scale": math.nan}, "weight_scale"),
        ({"weight_scale": -1.0}, "weight_scale"),
        ({"event_shape": (0,)}, "event_shape"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RBM(**{"event_shape": (4,), **fields})
