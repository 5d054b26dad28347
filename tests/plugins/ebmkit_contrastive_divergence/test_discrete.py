"""Persistent chains of discrete states: how they are filled, and that they stay states."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from ebmkit_contrastive_divergence.contrastive_divergence import ContrastiveDivergence
from ebmkit_contrastive_divergence.persistent import PersistentContrastiveDivergence
from ebmkit_energies.potts import Potts
from ebmkit_energies.rbm import RBM
from ebmkit_gibbs.gibbs import Gibbs
from ebmkit_gibbs.gibbs_with_gradients import GibbsWithGradients
from ebmkit_langevin.langevin import Langevin
from torch import Tensor

import ebmkit
from ebmkit import Batch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1).sin()


DATA = {
    None: (torch.rand(20, 2, 3, generator=generator(1)) < 0.2).float(),
    3: torch.eye(3)[
        torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 40, True, generator=generator(2))
    ].view(20, 2, 3),
}


@pytest.mark.parametrize("categories", [None, 3])
def test_a_fill_from_data_is_rows_of_the_batch_as_they_are(categories: int | None) -> None:
    data = DATA[categories]
    loss = PersistentContrastiveDivergence(Gibbs(categories=categories), buffer_size=5_000)
    x = loss.init(network, Batch(data), generator=generator()).x
    same = (x[:, None] == data).flatten(2).all(2)
    assert same.any(1).all()
    # Every distinct row is there about as often as the batch has it.
    expected = (data[:, None] == data).flatten(2).all(2).double().mean(1)
    error = (expected * (1 - expected) / 5_000).sqrt()
    assert ((same.double().mean(0) - expected).abs() <= 5 * error).all()


@pytest.mark.parametrize("of_model", [False, True])
def test_a_uniform_fill_is_of_fair_categories(of_model: bool) -> None:
    sampler, model = (Gibbs(), Potts((2, 3))) if of_model else (Gibbs(categories=3), network)
    loss = PersistentContrastiveDivergence(sampler, buffer_size=20_000, fill="uniform")
    x = loss.init(model, Batch(DATA[3].double()), generator=generator()).x
    assert x.dtype == torch.float64
    assert x.shape == (20_000, 2, 3)
    assert torch.equal(x.sum(-1), torch.ones(20_000, 2).double())
    assert ((x.mean(0) - 1 / 3).abs() < 5 * math.sqrt(2 / 9 / 20_000)).all()
    both = (x[:, 0, 0] * x[:, 1, 0]).mean()
    assert abs(float(both) - 1 / 9) < 5 * math.sqrt(8 / 81 / 20_000)


def test_a_uniform_fill_is_of_fair_bits() -> None:
    loss = PersistentContrastiveDivergence(Gibbs(), buffer_size=20_000, fill="uniform")
    x = loss.init(network, Batch(DATA[None]), generator=generator()).x
    assert ((x == 0) | (x == 1)).all()
    pairs = (x.flatten(1).T @ x.flatten(1)) / 20_000
    expected = torch.full((6, 6), 0.25) + 0.25 * torch.eye(6)
    assert ((pairs - expected).abs() < 5 * math.sqrt(0.25 / 20_000)).all()


@pytest.mark.parametrize("sampler", [Gibbs, GibbsWithGradients])
@pytest.mark.parametrize("categories", [None, 3])
@pytest.mark.parametrize("fill", ["data", "uniform"])
def test_the_buffer_holds_states_alone_after_draws(
    sampler: Any, categories: int | None, fill: Any
) -> None:
    loss = PersistentContrastiveDivergence(
        sampler(categories=categories), k_steps=2, buffer_size=30, fill=fill, restart_rate=0.3
    )
    g, batch = generator(3), Batch(DATA[categories])
    state = loss.init(network, batch, generator=g)
    before = state.x
    for step in range(6):
        draws, state = loss.draw(network, batch, state, step, generator=g)
        assert ((draws.negatives == 0) | (draws.negatives == 1)).all()
    assert not torch.equal(state.x, before)
    assert ((state.x == 0) | (state.x == 1)).all()
    if categories:
        assert torch.equal(state.x.sum(-1), torch.ones(30, 2))


def test_a_gaussian_fill_of_discrete_states_is_refused_by_name() -> None:
    loss = PersistentContrastiveDivergence(Gibbs(), fill="gaussian")
    with pytest.raises(ebmkit.UserError, match=r'fill: .*"data" or "uniform".*got "gaussian"'):
        loss.check(network)
    with pytest.raises(ebmkit.UserError, match="fill"):
        loss.init(network, Batch(DATA[None]), generator=generator())
    PersistentContrastiveDivergence(Gibbs(), fill="uniform").check(network)
    PersistentContrastiveDivergence(Langevin(), fill="gaussian").check(network)


PIPELINE: dict[str, Any] = {
    "model": {"use": "rbm", "n_hidden": 4},
    "sampler": {"use": "gibbs"},
    "loss": {"use": "pcd", "sampler": "@sampler", "k_steps": 1, "buffer_size": 64},
    "dataset": {"use": "digits", "binarise": True},
    "training": {"steps": 3, "batch_size": 16, "device": "cpu", "seed": 1},
    "evaluation": {"n_samples": 50, "chain_steps": 5},
}


def test_the_composer_refuses_what_does_not_suit_discrete_data() -> None:
    table = copy.deepcopy(PIPELINE)
    table["loss"]["fill"] = "gaussian"
    with pytest.raises(ebmkit.SpecError, match=r'loss\.fill: .* got "gaussian"'):
        ebmkit.compose(table)
    table = copy.deepcopy(PIPELINE)
    table["sampler"] = {"use": "langevin"}
    with pytest.raises(ebmkit.SpecError, match="moves continuous states and the data are discrete"):
        ebmkit.compose(table)
    table = copy.deepcopy(PIPELINE)
    table["dataset"]["scale"] = "unit"
    with pytest.raises(ebmkit.SpecError, match=r"dataset.*scale"):
        ebmkit.compose(table)


@pytest.mark.parametrize("sampler", ["gibbs", "gibbs-with-gradients"])
def test_a_pipeline_trains_on_states_and_samples_them(sampler: str) -> None:
    table = copy.deepcopy(PIPELINE)
    table["sampler"]["use"] = sampler
    pipeline = ebmkit.compose(table)
    pipeline.fit()
    samples = pipeline.sample(10)
    assert samples.shape == (10, 1, 8, 8)
    assert ((samples == 0) | (samples == 1)).all()


def test_the_gradient_of_contrastive_divergence_is_the_rbms_rule() -> None:
    # d/dW: mean σ(c + W v⁻) v⁻ᵀ − mean σ(c + W v⁺) v⁺ᵀ, up to the sign of descent.
    model = RBM((6,), 3, weight_scale=0.5, generator=generator(4))
    batch = Batch(DATA[None].flatten(1))
    loss = ContrastiveDivergence(Gibbs(), k_steps=1)
    draws, _ = loss.draw(
        model, batch, loss.init(model, batch, generator=generator()), 0, generator=generator(5)
    )
    loss(model, batch, draws)[0].backward()

    def products(v: Tensor) -> Tensor:
        return model.hidden_probabilities(v).T @ v / len(v)

    expected = products(draws.negatives) - products(batch.x)
    torch.testing.assert_close(model.weight.grad, expected)
