"""NUTS leaves its target exactly as it is, and grows the trees that its definition says.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from ebmkit_hamiltonian.nuts import NUTS, NUTSNoise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

import ebmkit
from ebmkit.chains import run_chain

CENTRES = torch.tensor([[-1.5, 0.0], [1.0, 0.8]])
WEIGHTS = torch.tensor([0.35, 0.65])
STD = 0.6
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)


def mixture(x: Tensor) -> Tensor:
    distances = (x[:, None] - CENTRES.to(x)).square().sum(-1)
    return -torch.logsumexp(WEIGHTS.to(x).log() - distances / (2 * STD**2), 1)


def mixture_draw(n: int, generator: torch.Generator) -> Tensor:
    rows = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return CENTRES[rows] + STD * torch.randn(n, 2, generator=generator)


def correlated(x: Tensor) -> Tensor:
    return ((x @ PRECISION.to(x)) * x).sum(1) / 2


def harmonic(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2


def assert_correlated(x: Tensor) -> None:
    """That the points' means and covariances are those of `correlated`."""
    n, variances = len(x), COVARIANCE.diagonal()
    assert (x.mean(0).abs() < 5 * (variances / n).sqrt()).all()
    spread = ((variances[:, None] * variances + COVARIANCE**2) / n).sqrt()
    assert ((x.T @ x / n - COVARIANCE).abs() < 5 * spread).all()


@pytest.mark.parametrize(("step_size", "max_depth"), [(0.2, 10), (0.6, 10), (1.0, 10), (0.3, 2)])
def test_leaves_a_mixture_invariant(step_size: float, max_depth: int) -> None:
    n = 15_000
    g = torch.Generator().manual_seed(1)
    sampler = NUTS(step_size=step_size, max_depth=max_depth)
    chain = run_chain(sampler, mixture, mixture_draw(n, g), steps=8, generator=g)
    assert 0.3 < chain.metrics["acceptance_rate"] < 1
    fresh = mixture_draw(400_000, g).double()
    x = chain.x.double()
    for power in (1, 2, 3):
        values, expected = x**power, fresh**power
        error = (values.var(0) / n + expected.var(0) / len(expected)).sqrt()
        assert ((values.mean(0) - expected.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("step_size", [0.3, 0.9, 1.3])
def test_leaves_a_correlated_gaussian_invariant(step_size: float) -> None:
    g = torch.Generator().manual_seed(2)
    normal = torch.randn(20_000, 2, generator=g, dtype=torch.float64)
    x = normal @ torch.linalg.cholesky(COVARIANCE).T
    chain = run_chain(NUTS(step_size=step_size), correlated, x, steps=8, generator=g)
    assert_correlated(chain.x)


def test_moments_of_a_gaussian_from_a_far_start() -> None:
    chain = run_chain(
        NUTS(step_size=0.6),
        correlated,
        torch.full((10_000, 2), 20.0, dtype=torch.float64),
        steps=25,
        generator=torch.Generator().manual_seed(3),
    )
    assert_correlated(chain.x)


@pytest.mark.parametrize("outside", [math.nan, math.inf])
def test_a_wall_does_not_bias_the_variance(outside: float) -> None:
    # The normal on (−2, 2): variance 1 − 2·2·φ(2) / (2Φ(2) − 1) = 0.7737. A NaN wall has a NaN force,
    # an infinite one none.
    def energy(x: Tensor) -> Tensor:
        inside = (x.abs() < 2).all(1)
        free = x.square().sum(1) / 2
        if math.isnan(outside):
            return free * torch.where(inside, 1.0, outside)
        return torch.where(inside, free, outside)

    n = 20_000
    x = torch.zeros(n, 1)
    g = torch.Generator().manual_seed(4)
    chain = run_chain(NUTS(step_size=0.5), energy, x, steps=30, generator=g)
    assert 0.05 * n < chain.metrics["divergences"] < n
    x = chain.x.double()
    normal = Normal(0.0, 1.0)
    density, mass = normal.log_prob(torch.tensor(2.0)).exp(), 2 * normal.cdf(torch.tensor(2.0)) - 1
    expected = float(1 - 4 * density / mass)
    assert expected == pytest.approx(0.7737, abs=1e-3)
    spread = float((x**2).var().sqrt())
    assert abs(float((x**2).mean()) - expected) < 5 * spread / math.sqrt(n)
    assert (x.abs() < 2).all()


def test_leaves_the_weights_along_an_orbit_invariant() -> None:
    # Σᵢ π(zᵢ) P(zᵢ → z₀) = π(z₀) over the points zᵢ of one orbit of the leapfrog, π ∝ exp(−H): the
    # choice of points alone, without the momenta's part in it. Steps are so long that H varies.
    depth, n, epsilon = 3, 20_000, 0.75
    reach = 2**depth - 1
    x, p = torch.tensor([[0.3, -0.4]]).double(), torch.tensor([[0.9, 0.5]]).double()
    orbit = {0: (x, p)}
    for sign in (1, -1):
        y, q = x, sign * p
        for i in range(1, reach + 1):
            q = q + epsilon / 2 * ebmkit.score(mixture, y)
            y = y + epsilon * q
            q = q + epsilon / 2 * ebmkit.score(mixture, y)
            orbit[sign * i] = y, sign * q
    order = sorted(orbit)
    starts = torch.cat([orbit[i][0] for i in order]).repeat_interleave(n, 0)
    momenta = torch.cat([orbit[i][1] for i in order]).repeat_interleave(n, 0)
    g = torch.Generator().manual_seed(5)
    sampler = NUTS(step_size=epsilon, max_depth=depth)
    state = sampler.init(mixture, starts)
    noise = sampler.draw(state, generator=g)
    way = torch.where(torch.rand(len(starts), 1, generator=g) < 0.5, 1.0, -1.0)
    after, _ = sampler.step(
        mixture, state, noise._replace(momentum=way * momenta), step_size=epsilon
    )
    arrived = ((after.x - x).abs().amax(1) < 1e-6).double().view(len(order), n).mean(1)
    weights = torch.cat([mixture(y) + q.square().sum(1) / 2 for y, q in map(orbit.get, order)])
    weights = (weights[order.index(0)] - weights).exp()
    assert weights.max() > 2 * weights.min()
    assert ((arrived > 0.02) & (arrived < 0.98)).sum() > 3
    error = ((weights**2 * arrived * (1 - arrived)).sum() / n).sqrt()
    assert abs((weights * arrived).sum() - 1) < 5 * error
    assert error < 0.01


class _Part(NamedTuple):
    """What the recursion below knows of a subtree; momenta are those forward in time."""

    last: tuple[Tensor, Tensor]
    momenta: list[Tensor]
    """At the points, in the order of growth."""
    between: list[Tensor]
    """Half-way momenta between the points, in the order of growth."""
    way_in: Tensor
    """The half-way momentum that led to the first point."""
    chosen: Tensor
    log_weight: float
    valid: bool


class _Reference:
    """The definition as a recursion, one chain at a time, ρ being summed up from momenta."""

    def __init__(self, energy, x, noise, row, *, step_size, max_depth, limit=1000.0):  # type: ignore[no-untyped-def]
        self.energy, self.epsilon, self.limit = energy, step_size, limit
        self.accept, self.choose = (-noise.pairs[:, :, row].square().sum(-1) / 2).exp()
        self.leaves: list[float] = []
        self.diverged = False
        p = noise.momentum[row]
        self.origin = self.hamiltonian(x, p)
        way, self.depth = 1, 0
        ends = {1: (x, p), -1: (x, p)}
        self.x, log_weight = x, 0.0
        line: list[Tensor] = []  # half-way momenta from the earliest point to the latest
        for depth in range(max_depth):
            if depth and noise.ways[depth - 1, row] < 0:
                way = -way
            self.depth += 1
            part = self.part(ends[way], way, depth)
            if not part.valid:
                break
            if self.accept[depth] < math.exp(min(0.0, part.log_weight - log_weight)):
                self.x = part.chosen
            log_weight = float(
                torch.logaddexp(
                    torch.tensor(log_weight).double(), torch.tensor(part.log_weight).double()
                )
            )
            # The way from the end of growth back to the trajectory's tail, each momentum outward.
            old = [way * q for q in (line if way > 0 else line[::-1])]
            tail, tip = way * ends[-way][1], way * ends[way][1]
            new = [way * q for q in part.between]
            step = way * part.way_in
            first, last = way * part.momenta[0], way * part.momenta[-1]
            line = (
                [*line, part.way_in, *part.between]
                if way > 0
                else [*part.between[::-1], part.way_in, *line]
            )
            ends[way] = part.last
            if (
                self.turned([*old, step, *new], tail, last)
                or self.turned([*old, step], tail, first)
                or self.turned([step, *new], tip, last)
            ):
                break

    def gradient(self, x: Tensor) -> Tensor:
        return ebmkit.energy_and_gradient(self.energy, x[None])[1][0]

    def hamiltonian(self, x: Tensor, p: Tensor) -> float:
        return float(self.energy(x[None])[0] + p.square().sum() / 2)

    @staticmethod
    def turned(line: list[Tensor], first: Tensor, last: Tensor) -> bool:
        rho = torch.stack(line).sum(0)
        return bool((rho * first).sum() <= 0) or bool((rho * last).sum() <= 0)

    def part(self, start: tuple[Tensor, Tensor], way: int, depth: int) -> _Part:
        if depth == 0:
            x, p = start
            half = p - way * self.epsilon / 2 * self.gradient(x)
            x = x + way * self.epsilon * half
            p = half - way * self.epsilon / 2 * self.gradient(x)
            change = self.origin - self.hamiltonian(x, p)
            change = change if math.isfinite(change) else -math.inf
            self.leaves.append(math.exp(min(0.0, change)))
            valid = change >= -self.limit
            self.diverged |= not valid
            return _Part((x, p), [p], [], half, x, change, valid)
        left = self.part(start, way, depth - 1)
        if not left.valid:
            return left
        right = self.part(left.last, way, depth - 1)
        if not right.valid:
            return right
        between = [*left.between, right.way_in, *right.between]
        momenta = [*left.momenta, *right.momenta]
        odds = math.exp(right.log_weight) / (math.exp(left.log_weight) + math.exp(right.log_weight))
        chosen = right.chosen if self.choose[depth - 1] < odds else left.chosen
        total = math.log(math.exp(left.log_weight) + math.exp(right.log_weight))
        valid = not (
            self.turned(between, momenta[0], momenta[-1])
            or self.turned([*left.between, right.way_in], left.momenta[0], right.momenta[0])
            or self.turned([right.way_in, *right.between], left.momenta[-1], right.momenta[-1])
        )
        return _Part(right.last, momenta, between, left.way_in, chosen, total, valid)


def two_wells(x: Tensor) -> Tensor:
    return mixture(x) + x[:, 0].square() / 2


def banana(x: Tensor) -> Tensor:
    return x[:, 0].square() / 8 + (x[:, 1] - x[:, 0].square() / 2 + 2).square() / 2


@settings(deadline=None, max_examples=25)
@given(
    free=st.sampled_from([two_wells, banana, correlated]),
    seed=st.integers(0, 10_000),
    step_size=st.floats(0.08, 1.5),
    max_depth=st.integers(1, 6),
    walled=st.booleans(),
)
def test_agrees_with_a_recursion_over_one_chain_at_a_time(
    free: Callable[[Tensor], Tensor], seed: int, step_size: float, max_depth: int, walled: bool
) -> None:
    def energy(x: Tensor) -> Tensor:
        return torch.where(x[:, 1] < 1.2, free(x), torch.nan) if walled else free(x)

    g = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(12, 2, generator=g, dtype=torch.float64).clamp(max=2)
    sampler = NUTS(step_size=step_size, max_depth=max_depth)
    state = sampler.init(energy, x)
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(energy, state, noise, step_size=step_size)
    found = [
        _Reference(energy, x[row], noise, row, step_size=step_size, max_depth=max_depth)
        for row in range(len(x))
    ]
    torch.testing.assert_close(after.x, torch.stack([one.x for one in found]))
    torch.testing.assert_close(after.energy, energy(after.x), equal_nan=True)
    torch.testing.assert_close(after.gradient, -ebmkit.score(energy, after.x), equal_nan=True)
    torch.testing.assert_close(
        after.hamiltonian, torch.tensor([one.origin for one in found], dtype=torch.float64)
    )
    expected = {
        "tree_depth": sum(one.depth for one in found) / len(found),
        "acceptance_rate": sum(sum(one.leaves) / len(one.leaves) for one in found) / len(found),
        "divergences": sum(one.diverged for one in found),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-9), name


@pytest.mark.parametrize(
    ("half_period", "depth"),
    [(2.9, 2), (3.1, 3), (3.4, 3), (3.9, 3), (4.1, 3), (6.9, 3), (7.2, 4), (7.9, 4), (15.3, 5)],
)
def test_trees_of_a_circular_motion_end_past_half_a_period(half_period: float, depth: int) -> None:
    # On a circle ρ·p has the sign of sin θ, θ being the angle from end to end. The tree of 2^k points
    # is straight where 2^k − 1 leaps are less than half a period, and the next doubling is the last.
    # Above 3, 7, 15 leaps this spans a period and up to a leap, where sin θ > 0 again.
    angle = math.pi / half_period
    epsilon = math.sqrt(2 - 2 * math.cos(angle))
    # The leapfrog's orbits are circles in x and p / √(1 − ε²/4).
    phases = torch.linspace(0, 6, 20, dtype=torch.float64)
    x = torch.stack((phases.cos(), phases.sin()), 1)
    momentum = math.sqrt(1 - epsilon**2 / 4) * torch.stack((-phases.sin(), phases.cos()), 1)
    sampler = NUTS(step_size=epsilon)
    state = sampler.init(harmonic, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(6))
    noise = noise._replace(momentum=momentum)
    _, metrics = sampler.step(harmonic, state, noise, step_size=epsilon)
    assert metrics["tree_depth"] == depth
    assert metrics["acceptance_rate"] == pytest.approx(1, abs=0.35)


def test_a_trajectory_never_takes_more_than_its_depth_allows() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return harmonic(x)

    g = torch.Generator().manual_seed(7)
    x = torch.randn(5, 3, generator=g)
    run_chain(NUTS(step_size=1e-3, max_depth=4), counted, x, steps=2, generator=g)
    assert calls == 1 + 2 * 15
    chain = run_chain(NUTS(step_size=1e-3, max_depth=4), harmonic, x, steps=2, generator=g)
    assert chain.metrics["tree_depth"] == 4
    # With all chains turned, growth ends within the doubling.
    calls = 0
    run_chain(NUTS(step_size=1.9, max_depth=10), counted, x[:1], steps=1, generator=g)
    assert calls <= 1 + 7


@pytest.mark.parametrize("limit", [0.5, 1000.0])
def test_counts_chains_that_diverge_and_keeps_them_where_they_were(limit: float) -> None:
    # Beyond ε = 2σ the leapfrog of a narrow direction multiplies its error at every leap.
    x = torch.tensor([[0.01], [1.0], [0.5]], dtype=torch.float64)
    sampler = NUTS(step_size=300.0, divergence_threshold=limit)
    state = sampler.init(harmonic, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(8))
    after, metrics = sampler.step(harmonic, state, noise, step_size=300.0)
    assert metrics["divergences"] == 3 and metrics["tree_depth"] == 1
    assert metrics["acceptance_rate"] < 1e-9
    assert torch.equal(after.x, x)


def test_a_chain_that_is_not_finite_stays_and_leaves_the_others_alone() -> None:
    g = torch.Generator().manual_seed(9)
    sampler = NUTS(step_size=0.3)
    x = torch.tensor([[math.nan, 0.0], [0.5, 0.5], [math.inf, 0.0]], dtype=torch.float64)
    state = sampler.init(mixture, x)
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(mixture, state, noise, step_size=0.3)
    torch.testing.assert_close(after.x[::2], x[::2], equal_nan=True)
    alone = sampler.init(mixture, x[1:2])
    own = NUTSNoise(noise.momentum[1:2], noise.ways[:, 1:2], noise.pairs[:, :, 1:2])
    expected, _ = sampler.step(mixture, alone, own, step_size=0.3)
    torch.testing.assert_close(after.x[1:2], expected.x)
    assert not torch.equal(after.x[1], x[1])
    assert metrics["divergences"] == 2 and 0 < metrics["acceptance_rate"] <= 1 / 3 + 1e-12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": math.nan}, "finite"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_depth": 2.0}, "whole"),
        ({"divergence_threshold": 0.0}, "divergence_threshold"),
        ({"divergence_threshold": math.inf}, "finite"),
    ],
)
def test_refuses_what_is_out_of_range(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NUTS(**arguments)  # type: ignore[arg-type]
