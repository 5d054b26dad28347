"""Brackets on log Z contain it, and weights are unbiased at any ladder.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit
from ebmkit.errors import EvaluationError, UserError
from ebmkit.evaluation.annealing import (
    Side,
    forward,
    lower_side,
    mover,
    reverse,
    upper_side,
)
from ebmkit.evaluation.bases import Base, BernoulliBase, CategoricalBase, GaussianBase
from ebmkit.evaluation.path import Between, Path, ladder
from ebmkit.evaluation.quadrature import log_partition

DOUBLE = torch.float64


class Walk(NamedTuple):
    x: Tensor
    energy: Tensor
    log_factor: Tensor


@attrs.frozen
class Metropolis:
    """A random walk with Metropolis' test; with ``adapt`` its step follows the acceptance."""

    exact = True
    step_size: float = 0.5
    adapt: bool = False

    def init(self, energy: Any, x: Tensor) -> Walk:
        with torch.no_grad():
            return Walk(x, energy(x), torch.zeros((), dtype=x.dtype))

    def draw(self, state: Walk, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = state.x
        return (
            torch.randn(x.shape, generator=generator, dtype=x.dtype),
            torch.rand(len(x), generator=generator, dtype=x.dtype),
        )

    def step(
        self, energy: Any, state: Walk, noise: tuple[Tensor, Tensor], *, step_size: float
    ) -> tuple[Walk, dict[str, Tensor]]:
        y = state.x + step_size * state.log_factor.exp() * noise[0]
        with torch.no_grad():
            energies = energy(y)
        accepted = noise[1].log() < state.energy - energies
        rate = accepted.to(y.dtype).mean()
        log_factor = state.log_factor + (rate - 0.4) * self.adapt
        x = torch.where(accepted.view(-1, *[1] * (y.ndim - 1)), y, state.x)
        return Walk(x, torch.where(accepted, energies, state.energy), log_factor), {"rate": rate}


class Adaptive(Metropolis):
    def restart(self, state: Walk, energy: Any, x: Tensor) -> Walk:
        return self.init(energy, x)._replace(log_factor=state.log_factor)


class Points(NamedTuple):
    x: Tensor


@attrs.frozen
class SiteGibbs:
    """Each site in turn, by the energies of all its categories: any energy of one-hot rows, or of
    bits where ``k`` is 1."""

    exact = True
    k: int = 1

    def init(self, energy: Any, x: Tensor) -> Points:
        return Points(x)

    def draw(self, state: Points, *, generator: torch.Generator) -> Tensor:
        return torch.rand(state.x.flatten(1).shape, generator=generator, dtype=DOUBLE)

    def step(self, energy: Any, state: Points, noise: Tensor) -> tuple[Points, dict[str, Tensor]]:
        x = state.x.flatten(1)
        values = torch.eye(self.k) if self.k > 1 else torch.tensor([[0.0], [1.0]])
        for site in range(x.shape[1] // self.k):
            tried = x.expand(len(values), *x.shape).clone()
            tried[:, :, site * self.k : (site + 1) * self.k] = values[:, None].to(x)
            with torch.no_grad():
                energies = energy(tried.view(-1, *state.x.shape[1:])).view(len(values), -1)
            below = (-energies.double()).softmax(0).cumsum(0)
            chosen = (noise[:, site] > below[:-1]).sum(0)
            x = tried[chosen, torch.arange(len(x))]
        return Points(x.view_as(state.x)), {}


def sides(
    path: Path,
    sampler: Any,
    x: Tensor,
    *,
    temperatures: int,
    chains: int | None = None,
    seed: int = 0,
    steps: int = 1,
) -> tuple[Side, Side]:
    """Both sides; x are exact draws of the path's energy."""
    g = torch.Generator().manual_seed(seed)
    betas = ladder(temperatures)
    move = mover(sampler, path, betas, generator=g, dtype=x.dtype, steps=steps)
    up = forward(path, betas, move, chains or len(x), generator=g, dtype=x.dtype)
    down = reverse(path, betas, move, x)
    assert up.dtype == down.dtype == DOUBLE
    return lower_side(up), upper_side(down)


def holds(exact: float, lower: Side, upper: Side) -> None:
    """The bounds hold and the pooled estimates agree, each to five standard errors."""
    assert lower.mean < exact + 5 * lower.error
    assert upper.mean > exact - 5 * upper.error
    assert abs(lower.pooled - exact) < 5 * lower.pooled_error
    assert abs(upper.pooled - exact) < 5 * upper.pooled_error


def gaussian(d: int) -> tuple[Any, float, Any, Base]:
    """Energy, its exact log Z, draws of it, and a base fitted to other data."""
    g = torch.Generator().manual_seed(d)
    root = torch.randn(d, d, generator=g, dtype=DOUBLE) / math.sqrt(d)
    covariance = root @ root.T + 0.5 * torch.eye(d)
    mean = torch.randn(d, generator=g, dtype=DOUBLE)
    precision, factor = torch.linalg.inv(covariance), torch.linalg.cholesky(covariance)

    def energy(x: Tensor) -> Tensor:
        away = x - mean.to(x)
        return ((away @ precision.to(x)) * away).sum(1) / 2 + 3.0

    def draw(n: int) -> Tensor:
        return mean + torch.randn(n, d, generator=g, dtype=DOUBLE) @ factor.T

    data = 0.3 + 1.1 * draw(500)
    log_z = d / 2 * math.log(2 * math.pi) + float(torch.logdet(covariance)) / 2 - 3
    return energy, log_z, draw, GaussianBase.of(data)


@pytest.mark.parametrize(
    ("d", "temperatures", "dtype"),
    [(1, 100, DOUBLE), (2, 250, torch.float32), (2, 250, DOUBLE), (10, 3500, torch.float32)],
)
def test_brackets_a_gaussian(d: int, temperatures: int, dtype: torch.dtype) -> None:
    energy, log_z, draw, base = gaussian(d)
    lower, upper = sides(
        Path(energy, base),
        Metropolis(1.2 / math.sqrt(d)),
        draw(300).to(dtype),
        temperatures=temperatures,
    )
    holds(log_z, lower, upper)
    assert upper.mean - lower.mean < 0.1


def test_brackets_a_mixture_in_the_plane() -> None:
    centres = torch.tensor([[-2.0, 0.0], [1.5, 1.0]], dtype=DOUBLE)
    weights = torch.tensor([0.35, 0.65], dtype=DOUBLE)

    def energy(x: Tensor) -> Tensor:
        distances = (x[:, None] - centres.to(x)).square().sum(-1)
        return -torch.logsumexp(weights.to(x).log() - distances / 0.5, 1)

    g = torch.Generator().manual_seed(3)
    rows = torch.multinomial(weights, 400, replacement=True, generator=g)
    x = centres[rows] + 0.5 * torch.randn(400, 2, generator=g, dtype=DOUBLE)
    exact, error = log_partition(energy, x)
    assert exact == pytest.approx(math.log(math.pi / 2), abs=1e-4)
    assert error < 1e-4
    lower, upper = sides(Path(energy, GaussianBase.of(x)), Metropolis(0.8), x, temperatures=600)
    holds(exact, lower, upper)
    assert upper.mean - lower.mean < 0.1


COUPLING = torch.randn(8, 8, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)), dtype=DOUBLE)


class Spins:
    """E = −xᵀ J x of eight bits."""

    discrete = True

    def __call__(self, x: Tensor) -> Tensor:
        return -((x @ COUPLING.to(x)) * x).flatten(1).sum(1)


def from_states(energy: Any, states: Tensor, n: int, seed: int) -> tuple[Tensor, float]:
    """Exact draws, and log Z, by all states."""
    log_p = -energy(states)
    g = torch.Generator().manual_seed(seed)
    rows = torch.multinomial(log_p.softmax(0), n, replacement=True, generator=g)
    return states[rows], float(log_p.logsumexp(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_brackets_bits_with_random_couplings(dtype: torch.dtype) -> None:
    energy = Spins()
    x, log_z = from_states(energy, STATES, 600, seed=5)
    base = BernoulliBase.of(STATES[::3])
    lower, upper = sides(Path(energy, base), SiteGibbs(), x.to(dtype), temperatures=200)
    holds(log_z, lower, upper)
    assert upper.mean - lower.mean < 0.1


def test_brackets_categories() -> None:
    coupling = torch.randn(9, 9, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)

    def energy(x: Tensor) -> Tensor:
        rows = x.flatten(1)
        return -((rows @ coupling) * rows).sum(1)

    eye = torch.eye(3, dtype=DOUBLE)
    states = eye[torch.tensor(list(itertools.product(range(3), repeat=3)))]
    x, log_z = from_states(energy, states, 600, seed=7)
    path = Path(energy, CategoricalBase.of(states[::2]))
    lower, upper = sides(path, SiteGibbs(k=3), x, temperatures=60)
    holds(log_z, lower, upper)
    assert upper.mean - lower.mean < 0.1


class Machine:
    """Five visible and three hidden units, with a bridge that keeps its Gibbs sweeps and whose
    energies are off by constants."""

    discrete = True

    def __init__(self, beta: float = 1.0, base: Tensor | None = None, off: float = 0.0) -> None:
        g = torch.Generator().manual_seed(8)
        weight, bias = torch.randn(5, 3, generator=g), torch.randn(5, generator=g)
        self.weight = (1.5 * beta * weight).double()
        at_zero = torch.zeros(5) if base is None else base.logit()
        self.bias = (beta * bias + (1 - beta) * at_zero).double()
        self.off = off
        self.asked: list[float] = []
        self.base = base

    def __call__(self, v: Tensor) -> Tensor:
        v = v.double()
        hidden = torch.nn.functional.softplus(v @ self.weight).sum(1)
        return self.off - v @ self.bias - hidden

    def bridge(self, beta: float, base: Tensor) -> Machine:
        self.asked.append(beta)
        return Machine(beta, base, off=5 + 3 * math.sin(40 * beta))


@attrs.frozen
class BlockGibbs:
    exact = True

    def init(self, energy: Any, x: Tensor) -> Points:
        return Points(x)

    def draw(self, state: Points, *, generator: torch.Generator) -> Tensor:
        return torch.rand(len(state.x), 8, generator=generator, dtype=DOUBLE)

    def step(self, energy: Any, state: Points, noise: Tensor) -> tuple[Points, dict[str, Tensor]]:
        h = (noise[:, :3] < (state.x.double() @ energy.weight).sigmoid()).double()
        x = noise[:, 3:] < (energy.bias + h @ energy.weight.T).sigmoid()
        return Points(x.to(state.x)), {}


def test_a_bridge_is_followed_and_its_constants_cancel() -> None:
    machine = Machine()
    states = STATES[:32, 3:]
    x, log_z = from_states(machine, states, 600, seed=9)
    # Block Gibbs reads the bridge's weights, so that it cannot move along any other path.
    path = Path(machine, BernoulliBase.of(states[::3]))
    lower, upper = sides(path, BlockGibbs(), x.float(), temperatures=60)
    holds(log_z, lower, upper)
    assert upper.mean - lower.mean < 0.1
    assert machine.asked == ladder(60)[1:-1], "each bridge is built once"


def test_a_path_ends_in_what_it_is_between_and_a_bridge_gets_the_base_as_probabilities() -> None:
    machine, base = Machine(), BernoulliBase.of(STATES[:32:3, 3:])
    path = Path(machine, base)
    assert path.at(0.0) is base
    assert path.at(1.0) is machine
    between: Any = path.at(0.5)
    torch.testing.assert_close(between.base, base.probabilities)
    assert path.at(0.5) is between


def test_only_a_discrete_energy_is_asked_for_a_bridge() -> None:
    class Smooth(Machine):
        discrete = False

    assert isinstance(Path(Smooth(), gaussian(5)[3]).at(0.5), Between)


@pytest.mark.parametrize("temperatures", [1, 2, 3, 5])
@pytest.mark.parametrize("which", ["normal", "bits", "bridge"])
def test_weights_are_unbiased_at_few_temperatures(which: str, temperatures: int) -> None:
    # The pooled estimates' errors are near 1 %, and a β that is off by one moves them by far more.
    if which == "normal":
        energy, log_z, draw, base = gaussian(2)
        x, sampler = draw(20_000), Metropolis(1.0)
    elif which == "bits":
        energy, sampler, base = Spins(), SiteGibbs(), BernoulliBase.of(STATES[::3])
        x, log_z = from_states(energy, STATES, 20_000, seed=10)
    else:
        energy, sampler, base = Machine(), BlockGibbs(), BernoulliBase.of(STATES[:32:3, 3:])
        x, log_z = from_states(energy, STATES[:32, 3:], 20_000, seed=11)
    lower, upper = sides(Path(energy, base), sampler, x, temperatures=temperatures, seed=1)
    holds(log_z, lower, upper)
    assert lower.pooled_error < 0.1
    assert lower.mean < log_z - 5 * lower.error, "with few temperatures the bounds are strict"
    assert upper.mean > log_z + 5 * upper.error


def test_more_steps_between_temperatures_close_the_gap() -> None:
    energy, log_z, draw, base = gaussian(2)
    path, x = Path(energy, base), draw(4000)
    gaps = []
    for steps in (1, 8):
        lower, upper = sides(path, Metropolis(1.0), x, temperatures=8, steps=steps)
        holds(log_z, lower, upper)
        gaps.append(upper.mean - lower.mean)
    assert gaps[1] < 0.7 * gaps[0]


@pytest.mark.parametrize("steps", [1, 4])
def test_what_is_adapted_is_adapted_before_and_then_left(steps: int) -> None:
    """The first step size is a thousand times too large, so that chains would hardly move."""
    energy, log_z, draw, base = gaussian(2)
    path, x = Path(energy, base), draw(2000)
    gaps = []
    for sampler in (Metropolis(1000.0), Adaptive(1000.0, adapt=True)):
        lower, upper = sides(path, sampler, x, temperatures=20, steps=steps)
        holds(log_z, lower, upper)
        gaps.append(upper.mean - lower.mean)
    assert gaps[1] < 0.7 * gaps[0]


def test_transitions_do_not_depend_on_the_other_chains() -> None:
    energy, _, draw, base = gaussian(2)
    betas = ladder(10)
    g = torch.Generator().manual_seed(0)
    sampler = Adaptive(1.0, adapt=True)
    move = mover(sampler, Path(energy, base), betas, generator=g, dtype=DOUBLE, steps=3)
    x = draw(100)
    others = torch.cat([x[:10], 50 + x[10:]])
    moved = []
    for start in (x, others):
        g.manual_seed(1)
        moved.append(move(start, betas[3])[:10])
    torch.testing.assert_close(*moved, rtol=0, atol=0)


class Settling(Adaptive):
    tuned = 0
    settled = 0

    def tune(self, state: Walk, energy: Any) -> Walk:
        type(self).tuned += 1
        return state

    def settle(self, state: Walk) -> Walk:
        type(self).settled += 1
        return state


def test_the_pilot_tunes_and_settles_at_each_of_its_rungs() -> None:
    energy, _, draw, base = gaussian(1)
    sides(Path(energy, base), Settling(1.0), draw(20), temperatures=5)
    assert (Settling.tuned, Settling.settled) == (4, 4)


def test_a_run_repeated_is_the_same_run() -> None:
    energy, _, draw, base = gaussian(2)
    x = draw(10)
    sampler = Adaptive(1.0, adapt=True)
    one, other = (sides(Path(energy, base), sampler, x, temperatures=10) for _ in range(2))
    assert one == other


def test_between_has_the_gradient_of_its_energies() -> None:
    energy, _, draw, base = gaussian(3)
    for beta in (0.0, 0.3, 1.0):
        between = Between(energy, base, beta)
        x = draw(5).requires_grad_()
        energies = between(x)
        torch.testing.assert_close(energies, (1 - beta) * base(x) + beta * energy(x))
        (expected,) = torch.autograd.grad(energies.sum(), x)
        found, gradient = between.energy_and_gradient(x.detach())
        torch.testing.assert_close(found, energies.detach())
        torch.testing.assert_close(gradient, expected)
        assert not found.requires_grad
        torch.testing.assert_close(ebmkit.energy_and_gradient(between, x)[1], expected)


def test_between_says_of_its_states_what_the_energy_says() -> None:
    base = BernoulliBase.of(STATES)
    assert Between(Spins(), base, 0.5).discrete
    assert Between(Spins(), base, 0.5).categories is None
    assert not Between(lambda x: x.sum(1), base, 0.5).discrete


@given(st.integers(1, 300))
def test_a_ladder_rises_from_0_to_1_and_is_the_same_from_both_ends(steps: int) -> None:
    betas = ladder(steps)
    assert len(betas) == steps + 1
    assert (betas[0], betas[-1]) == (0.0, 1.0)
    assert all(low < high for low, high in itertools.pairwise(betas))
    assert all(math.isclose(a + b, 1) for a, b in zip(betas, reversed(betas), strict=True))
    if steps > 2:
        assert betas[1] < 1 / steps, "rungs are closest at the ends"


def test_a_ladder_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="one step or more"):
        ladder(0)


LOGS = st.lists(st.floats(-500, 500), min_size=2, max_size=20)


@settings(deadline=None)
@given(LOGS, st.floats(-1e4, 1e4))
def test_sides_of_any_weights(logs: list[float], shift: float) -> None:
    values = torch.tensor(logs, dtype=DOUBLE)
    lower, upper = lower_side(values), upper_side(values)
    slack = 1e-9 * (1 + values.abs().max())
    # Jensen: the logarithm of the mean weight is closer than the mean of logarithms.
    assert lower.mean <= lower.pooled + slack
    assert upper.pooled <= upper.mean + slack
    assert lower.mean == upper.mean
    assert lower.error == pytest.approx(float(values.std()) / math.sqrt(len(logs)))
    for side in (lower, upper):
        assert 1 - 1e-9 <= side.effective <= len(logs) * (1 + 1e-9)
        assert all(math.isfinite(value) for value in side)
    moved = lower_side(values + shift)
    assert moved.pooled == pytest.approx(lower.pooled + shift, abs=1e-6)
    assert moved.effective == pytest.approx(lower.effective, rel=1e-5)


def test_errors_are_those_of_the_bootstrap() -> None:
    g = torch.Generator().manual_seed(12)
    values = torch.randn(400, generator=g, dtype=DOUBLE)
    rows = torch.randint(400, (4000, 400), generator=g)
    again = values[rows]
    lower, upper = lower_side(values), upper_side(values)
    # A standard error of 4,000 values is itself known to about 1 %.
    assert lower.error == pytest.approx(float(again.mean(1).std()), rel=0.06)
    pooled = again.exp().mean(1).log()
    assert lower.pooled_error == pytest.approx(float(pooled.std()), rel=0.1)
    down = (-again).exp().mean(1).log()
    assert upper.pooled_error == pytest.approx(float(down.std()), rel=0.1)


def test_energies_that_are_nan_are_refused_by_name_in_both_directions() -> None:
    _, _, draw, base = gaussian(2)

    def energy(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 1, torch.nan, x.square().sum(1))

    path = Path(energy, base)
    g = torch.Generator().manual_seed(0)
    for temperatures in (1, 10):
        betas = ladder(temperatures)
        move = mover(Metropolis(), path, betas, generator=g, dtype=DOUBLE)
        with pytest.raises(EvaluationError, match=r"chains .* not finite"):
            forward(path, betas, move, 100, generator=g, dtype=DOUBLE)
        with pytest.raises(EvaluationError, match=r"chains .* not finite"):
            reverse(path, betas, move, draw(100))


class TestSamplersThatAreRefused:
    def refusal(self, sampler: Any) -> str:
        energy, _, _, base = gaussian(2)
        g = torch.Generator()
        with pytest.raises(UserError) as caught:
            mover(sampler, Path(energy, base), ladder(10), generator=g, dtype=DOUBLE)
        return str(caught.value)

    def test_one_that_does_not_say_that_it_is_exact(self) -> None:
        assert "Langevin does not" in self.refusal(ebmkit.create("sampler", "langevin"))

    @pytest.mark.parametrize("said", [False, None, 1])
    def test_one_that_says_otherwise(self, said: object) -> None:
        class Biased(Metropolis):
            exact = said  # type: ignore[assignment]

        assert "Biased does not" in self.refusal(Biased())

    def test_one_that_cannot_sample_the_path(self) -> None:
        class Picky(Metropolis):
            def check(self, energy: Any) -> None:
                assert isinstance(energy, Between)
                raise UserError(f"no energy between at {energy.inverse_temperature}")

        assert "at 0.5" in self.refusal(Picky())
