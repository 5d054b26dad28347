"""log Z exact where it can be had, bracketed where that is asked for; log likelihoods in nats a row."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from ebmkit.errors import EvaluationError, UserError
from ebmkit.evaluation import Annealing, judge
from ebmkit.evaluation.likelihood import STATES, likelihood
from ebmkit.evaluation.quadrature import log_partition
from ebmkit.protocols import Batch

SCALE = 0.7
LOG_Z = {d: d * math.log(SCALE * math.sqrt(2 * math.pi)) - 4 for d in (2, 3)}


def energy(x: Tensor) -> Tensor:
    return (x / SCALE).square().flatten(1).sum(1) / 2 + 4


def draws(n: int, d: int, seed: int = 0) -> Tensor:
    return SCALE * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


class Known:
    """The energy with its normaliser."""

    def __init__(self, log_z: float | Exception) -> None:
        self.log_z = log_z

    def __call__(self, x: Tensor) -> Tensor:
        return energy(x)

    def log_partition(self) -> Tensor:
        if isinstance(self.log_z, Exception):
            raise self.log_z
        return torch.tensor(self.log_z, dtype=torch.float64)


class Points(NamedTuple):
    x: Tensor
    energy: Tensor


@attrs.frozen
class Metropolis:
    """A random walk, or with ``flips`` of one bit, with Metropolis' test."""

    exact = True
    flips: bool = False

    def init(self, energy: Any, x: Tensor) -> Points:
        with torch.no_grad():
            return Points(x, energy(x))

    def draw(self, state: Points, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = state.x
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return noise, torch.rand(len(x), generator=generator, dtype=x.dtype)

    def step(
        self, energy: Any, state: Points, noise: tuple[Tensor, Tensor]
    ) -> tuple[Points, dict[str, Tensor]]:
        first = noise[0].flatten(1).argmax(1, keepdim=True) == torch.arange(
            noise[0].flatten(1).shape[1]
        )
        x = state.x
        y = (x - first.view_as(x).to(x)).abs() if self.flips else x + noise[0]
        with torch.no_grad():
            energies = energy(y)
        accepted = noise[1].log() < state.energy - energies
        wide = accepted.view(-1, *[1] * (x.ndim - 1))
        return Points(torch.where(wide, y, x), torch.where(accepted, energies, state.energy)), {}


class Discrete(Metropolis):
    discrete = True


def annealing(steps: int = 50, sampler: Any = None, chains: int = 200, seed: int = 1) -> Annealing:
    return Annealing(
        steps=steps,
        chains=chains,
        sampler=Metropolis() if sampler is None else sampler,
        generator=torch.Generator().manual_seed(seed),
    )


def test_a_formula_gives_the_exact_log_likelihood() -> None:
    data = draws(500, 3)
    numbers, refused = likelihood(Known(LOG_Z[3]), Batch(data), "none", {})
    of_rows = Normal(0, SCALE).log_prob(data.double()).sum(1)
    assert numbers["log_z"] == LOG_Z[3]
    assert numbers["log_z_method"] == "exact"
    assert numbers["log_likelihood"] == pytest.approx(float(of_rows.mean()), abs=1e-5)
    expected = float(of_rows.std()) / math.sqrt(500)
    assert numbers["log_likelihood_error"] == pytest.approx(expected, rel=1e-4)
    assert not refused
    assert not [name for name in numbers if "lower" in name or "upper" in name]


def test_planar_energies_are_integrated() -> None:
    numbers, refused = likelihood(energy, Batch(draws(500, 2)), "none", {})
    assert numbers["log_z"] == pytest.approx(LOG_Z[2], abs=1e-4)
    assert numbers["log_z_method"] == "quadrature"
    assert not refused


def test_an_integral_that_is_there_is_not_taken_again() -> None:
    numbers, _ = likelihood(energy, Batch(draws(50, 2)), "none", {"log_z": 1.25})
    assert numbers["log_z"] == 1.25
    assert numbers["log_z_method"] == "quadrature"


def test_a_plane_that_cannot_be_integrated_is_refused() -> None:
    numbers, refused = likelihood(lambda x: 0 * x[:, 0], Batch(draws(50, 2)), "none", {})
    assert "log_likelihood" not in numbers
    assert "mass leaves the grid" in refused["log_z"]


class Bits:
    discrete = True

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        return rows.sum(1) - 2 * rows[:, 0] * rows[:, -1]


class Categories(Bits):
    categories = 3


def test_few_states_are_summed_over() -> None:
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).view(-1, 2, 3)
    log_z = float((-Bits()(states)).double().logsumexp(0))
    numbers, refused = likelihood(Bits(), Batch(states[::5]), "none", {})
    assert numbers["log_z"] == pytest.approx(log_z)
    assert numbers["log_z_method"] == "exact"
    assert not refused
    eye = torch.eye(3)
    rows = eye[torch.tensor(list(itertools.product(range(3), repeat=4)))].view(-1, 2, 2, 3)
    log_z = float((-Categories()(rows)).double().logsumexp(0))
    numbers, refused = likelihood(Categories(), Batch(rows[::7]), "none", {})
    assert numbers["log_z"] == pytest.approx(log_z)
    assert not refused


def test_two_bits_are_no_plane() -> None:
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    numbers = judge(Bits(), Batch(states), "none", lambda x: 0 * x[:, 0] - math.log(4))
    assert numbers["log_z"] == pytest.approx(float((-Bits()(states)).logsumexp(0)))
    assert "continuous" in numbers["refused"]["kl_nats"]


def test_bits_that_only_a_sampler_calls_so_are_summed_over() -> None:
    states = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    said = judge(lambda x: x.sum(1), Batch(states), "none", None, sampler=Discrete())
    assert said["log_z"] == pytest.approx(2 * math.log(1 + math.exp(-1)))
    assert said["log_z_method"] == "exact"


def test_many_states_are_refused_with_the_remedy() -> None:
    assert STATES == 2**16
    _, refused = likelihood(Bits(), Batch(torch.zeros(5, 17)), "none", {})
    assert "2^17 states" in refused["log_z"]
    assert "annealing_steps" in refused["log_z"]


def test_events_that_are_not_planar_are_refused_with_the_remedy() -> None:
    numbers, refused = likelihood(energy, Batch(draws(50, 3)), "none", {})
    assert numbers == {}
    assert "annealing_steps" in refused["log_z"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Known(math.inf), "came out as inf"),
        (Known(math.nan), "came out as nan"),
        (Known(UserError("too many units")), "too many units"),
    ],
)
def test_a_formula_that_gives_nothing_is_refused(model: Known, words: str) -> None:
    numbers, refused = likelihood(model, Batch(draws(50, 3)), "none", {})
    assert numbers == {}
    assert words in refused["log_z"]


def test_a_conditional_model_is_refused() -> None:
    numbers, refused = likelihood(energy, Batch(draws(9, 3), torch.zeros(9)), "none", {})
    assert numbers == {}
    assert "conditional" in refused["log_z"]


def test_data_at_which_energies_are_not_finite_are_refused() -> None:
    class Wall(Known):
        def __call__(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0] > 0, torch.inf, energy(x))

    numbers, refused = likelihood(Wall(0.0), Batch(draws(50, 3)), "none", {})
    assert "log_likelihood" not in numbers
    assert "not finite" in refused["log_likelihood"]


def test_brackets_stand_beside_what_is_exact() -> None:
    samples = Batch(draws(300, 3, seed=2))
    numbers, refused = likelihood(
        Known(LOG_Z[3]), Batch(draws(500, 3)), samples, {}, annealing(chains=200)
    )
    assert not refused
    assert numbers["log_z_method"] == "exact"
    assert numbers["log_z_lower"] < LOG_Z[3] + 5 * numbers["log_z_lower_error"]
    assert numbers["log_z_upper"] > LOG_Z[3] - 5 * numbers["log_z_upper_error"]
    assert numbers["log_z_gap"] == numbers["log_z_upper"] - numbers["log_z_lower"]
    assert numbers["log_z_gap"] < 0.1
    assert 190 < numbers["annealing_effective_reverse"] <= 200
    assert "approximate" in numbers["log_z_upper_holds"]
    assert (numbers["annealing_steps"], numbers["annealing_chains"]) == (50, 200)
    row = numbers["log_likelihood"] + LOG_Z[3]
    assert numbers["log_likelihood_lower"] == pytest.approx(row - numbers["log_z_upper"])
    assert numbers["log_likelihood_upper"] == pytest.approx(row - numbers["log_z_lower"])


@pytest.mark.parametrize("model", [energy, Known(UserError("too many units"))])
def test_annealing_takes_the_place_of_what_is_not_known(model: Any) -> None:
    data, samples = Batch(draws(500, 3)), Batch(draws(200, 3, seed=2))
    numbers, refused = likelihood(model, data, samples, {}, annealing())
    assert not refused
    assert numbers["log_z_method"] == "annealing"
    assert numbers["log_z"] == numbers["log_z_forward"]
    assert abs(numbers["log_z"] - LOG_Z[3]) < 5 * numbers["log_z_error"]
    assert abs(numbers["log_z_reverse"] - LOG_Z[3]) < 5 * numbers["log_z_reverse_error"]
    rows = -energy(data.x).double()
    assert numbers["log_likelihood"] == pytest.approx(float(rows.mean()) - numbers["log_z"])
    both = math.hypot(float(rows.std()) / math.sqrt(500), numbers["log_z_error"])
    assert numbers["log_likelihood_error"] == pytest.approx(both)


@pytest.mark.parametrize(
    ("steps", "chains", "remedy"), [(1, 400, "annealing_steps"), (200, 8, "annealing_chains")]
)
def test_a_mean_of_weights_that_few_chains_hold_is_refused(
    steps: int, chains: int, remedy: str
) -> None:
    # Of three well apart numbers the base, fitted to points of another place, meets hardly any.
    data, samples = Batch(draws(500, 3) * 0.3 + 2.0), Batch(draws(chains, 3, seed=2))
    how = annealing(steps, chains=chains)
    numbers, refused = likelihood(energy, data, samples, {}, how)
    assert numbers["annealing_effective"] < max(10, 0.05 * chains)
    assert f"more [evaluation] {remedy}" in refused["log_z"]
    assert not {"log_z", "log_z_error", "log_z_method", "log_likelihood"} & set(numbers)
    assert {"log_z_lower", "log_z_forward", "log_likelihood_upper"} <= set(numbers)
    # What is known exactly needs no chains.
    numbers, refused = likelihood(Known(LOG_Z[3]), data, samples, {}, how)
    assert numbers["log_z_method"] == "exact" and not refused


def test_a_single_row_has_no_error() -> None:
    numbers, refused = likelihood(Known(LOG_Z[3]), Batch(draws(1, 3)), "none", {})
    assert numbers["log_likelihood_error"] is None
    assert math.isfinite(numbers["log_likelihood"]) and not refused


def test_without_samples_there_is_a_lower_bound_alone() -> None:
    numbers, refused = likelihood(energy, Batch(draws(99, 3)), "they ran away", {}, annealing())
    assert refused == {"log_z_upper": "they ran away"}
    assert numbers["log_likelihood_upper"] > numbers["log_likelihood"]
    assert "log_likelihood_lower" not in numbers


def test_samples_at_which_energies_are_not_finite_cost_the_upper_bound_alone() -> None:
    samples = Batch(torch.full((20, 3), math.nan))
    numbers, refused = likelihood(energy, Batch(draws(99, 3)), samples, {}, annealing())
    assert set(refused) == {"log_z_upper"}
    assert "not finite" in refused["log_z_upper"]
    assert numbers["log_z_method"] == "annealing"


class Biased(Metropolis):
    exact = False


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (annealing(sampler=Biased()), "exact = True"),
        (attrs.evolve(annealing(), sampler=None), "annealing_sampler"),
    ],
)
def test_annealing_without_an_exact_sampler_is_refused(how: Annealing, words: str) -> None:
    numbers, refused = likelihood(energy, Batch(draws(9, 3)), Batch(draws(9, 3)), {}, how)
    assert numbers == {}
    assert words in refused["log_z_lower"] == refused["log_z_upper"]
    assert "log_z" in refused


def test_judge_anneals_bits_where_it_is_asked_to() -> None:
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    log_p = -Bits()(states).double()
    g = torch.Generator().manual_seed(3)
    rows = torch.multinomial(log_p.softmax(0), 800, replacement=True, generator=g)
    data, samples = states[rows[:400]], states[rows[400:]]
    how = annealing(steps=100, sampler=Metropolis(flips=True), chains=400)
    numbers = judge(Bits(), Batch(data), Batch(samples), None, annealing=how)
    exact = numbers["log_z"]
    assert exact == pytest.approx(float(log_p.logsumexp(0)))
    assert abs(numbers["log_z_forward"] - exact) < 5 * numbers["log_z_forward_error"]
    assert abs(numbers["log_z_reverse"] - exact) < 5 * numbers["log_z_reverse_error"]
    assert numbers["log_z_gap"] < 0.1
    assert set(numbers["refused"]) == {"kl_nats"}


@pytest.mark.parametrize("fields", [{"steps": 0}, {"chains": 1}])
def test_fields_out_of_bounds_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        attrs.evolve(annealing(), **fields)


def test_an_integral_is_as_fine_as_it_says() -> None:
    value, error = log_partition(energy, draws(500, 2))
    assert abs(value - LOG_Z[2]) < 1e-4
    assert 0 <= error < 1e-4
    with pytest.raises(EvaluationError, match="NaN"):
        log_partition(lambda x: x[:, 0].log(), draws(500, 2))
