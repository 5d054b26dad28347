"""Bases: normalisers, gradients and draws, each by a second route.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ebmkit.errors import EvaluationError
from ebmkit.evaluation.bases import (
    WIDENED,
    BernoulliBase,
    CategoricalBase,
    GaussianBase,
    States,
    base_for,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(n: int, shape: tuple[int, ...] = (3,)) -> Tensor:
    g = generator(7)
    mixing = torch.randn(3, 3, generator=g)
    return (torch.randn(n, 3, generator=g) @ mixing + 2).view(n, *shape)


def one_hot(n: int) -> Tensor:
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    drawn = torch.multinomial(weights, n, replacement=True, generator=generator(8))
    return torch.nn.functional.one_hot(drawn.T, 3).float()


BASES = {
    "gaussian": GaussianBase.of(correlated(50, (1, 3))),
    "bits": BernoulliBase.of((correlated(50, (1, 3)) > 2).float()),
    "categories": CategoricalBase.of(one_hot(50)),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_gradients_are_those_of_the_energies(name: str, dtype: torch.dtype, n: int) -> None:
    base = BASES[name]
    x = base.draw(n, generator=generator(), dtype=dtype).requires_grad_()
    energies = base(x)
    assert energies.shape == (n,)
    assert energies.dtype == dtype
    (expected,) = torch.autograd.grad(energies.sum(), x)
    found, gradient = base.energy_and_gradient(x.detach())
    torch.testing.assert_close(found, energies.detach())
    torch.testing.assert_close(gradient, expected)


def test_a_gaussian_is_normalised_and_widens_the_data() -> None:
    data = correlated(100_000)
    base = GaussianBase.of(data)
    covariance = base.factor @ base.factor.T
    torch.testing.assert_close(
        covariance, WIDENED * data.double().T.cov(correction=0), rtol=1e-3, atol=1e-3
    )
    x = data[:10].double()
    expected = MultivariateNormal(data.double().mean(0), covariance).log_prob(x)
    torch.testing.assert_close(-base(x) - base.log_partition(), expected)


def test_a_gaussian_draws_what_its_energy_says() -> None:
    base, n = GaussianBase.of(correlated(200, (1, 3))), 40_000
    x = base.draw(n, generator=generator(), dtype=torch.float64)
    # ‖z‖² of three numbers has mean 3 and variance 6, and so has each square 1 and 2.
    assert abs(float((2 * base(x)).mean()) - 3) < 5 * math.sqrt(6 / n)
    away = (x - base.mean).flatten(1)
    products = away.T @ away / n
    expected = base.factor @ base.factor.T
    spread = (expected.diagonal()[:, None] * expected.diagonal() + expected**2).sqrt()
    assert ((products - expected).abs() < 5 * spread / math.sqrt(n)).all()
    assert (away.mean(0).abs() < 5 * expected.diagonal().sqrt() / math.sqrt(n)).all()


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 4, 600])
def test_a_gaussian_of_few_rows_or_constant_columns_has_a_density(n: int, d: int) -> None:
    data = torch.randn(n, d, generator=generator())
    data[:, 0] = 1.0
    base = GaussianBase.of(data)
    x = base.draw(5, generator=generator(), dtype=torch.float32)
    assert base(x).isfinite().all()
    assert base.log_partition().isfinite()
    assert (x[:, 0] != 1).any()


def test_normalisers_of_discrete_bases_are_sums_over_their_states() -> None:
    bits = BernoulliBase(torch.tensor([[0.3, -2.0, 1.1]], dtype=torch.float64))
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).view(8, 1, 3).double()
    torch.testing.assert_close(bits.log_partition(), (-bits(states)).logsumexp(0))
    torch.testing.assert_close((-bits(states) - bits.log_partition()).exp().sum().item(), 1.0)
    categories = CategoricalBase(torch.randn(2, 3, generator=generator(), dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    states = eye[torch.tensor(list(itertools.product(range(3), repeat=2)))]
    torch.testing.assert_close(categories.log_partition(), (-categories(states)).logsumexp(0))


def test_discrete_bases_draw_and_have_the_frequencies_of_the_data() -> None:
    n = 20_000
    data = one_hot(500)
    categories = CategoricalBase.of(data)
    torch.testing.assert_close(categories.probabilities, ((data.sum(0) + 1) / 503).double())
    x = categories.draw(n, generator=generator(), dtype=torch.float32)
    assert (x.sum(-1) == 1).all()
    bits = BernoulliBase.of(data)
    torch.testing.assert_close(bits.probabilities, ((data.sum(0) + 1) / 502).double())
    for base, drawn in (
        (categories, x),
        (bits, bits.draw(n, generator=generator(1), dtype=torch.float32)),
    ):
        assert ((drawn == 0) | (drawn == 1)).all()
        p = base.probabilities
        assert ((drawn.double().mean(0) - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


def test_bits_that_never_change_are_pulled_in() -> None:
    p = BernoulliBase.of(torch.zeros(8, 2)).probabilities
    torch.testing.assert_close(p, torch.full((2,), 0.1, dtype=torch.float64))


def test_states_are_what_the_first_part_says_that_says_something() -> None:
    class Said:
        def __init__(self, **said: object) -> None:
            self.__dict__.update(said)

    assert States.of(Said(), None) == States(discrete=False)
    assert States.of(Said(discrete=True), None) == States(discrete=True)
    assert States.of(Said(), None, Said(discrete=True, categories=4)) == (True, 4)
    assert States.of(Said(discrete=True, categories=3), Said(categories=4)) == (True, 3)


def test_the_base_is_chosen_by_the_states() -> None:
    assert isinstance(base_for(States(discrete=False), correlated(5)), GaussianBase)
    assert isinstance(base_for(States(discrete=True), one_hot(5)), BernoulliBase)
    assert isinstance(base_for(States(discrete=True, categories=3), one_hot(5)), CategoricalBase)


@pytest.mark.parametrize(
    ("states", "data", "words"),
    [
        (States(discrete=True), torch.full((4, 2), 0.5), "must be 0 and 1"),
        (States(discrete=True), torch.full((4, 2), -1.0), "must be 0 and 1"),
        (States(discrete=True, categories=2), torch.ones(4, 3, 2), "one-hot"),
        (States(discrete=True, categories=2), torch.full((4, 3, 2), 0.5), "one-hot"),
        (States(discrete=False), torch.full((4, 2), math.nan), "finite"),
        (States(discrete=False), torch.zeros(0, 2), "rows of data"),
    ],
)
def test_data_of_other_states_are_refused(states: States, data: Tensor, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        base_for(states, data)
