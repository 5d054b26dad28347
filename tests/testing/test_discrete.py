"""The laws for samplers of discrete states: kept by good ones, and broken ones are caught."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from ebmkit_gibbs.gibbs import Gibbs
from ebmkit_gibbs.gibbs_with_gradients import GibbsWithGradients
from ebmkit_tempering.parallel_tempering import ParallelTempering
from torch import Tensor

from ebmkit.testing import Subject, report
from ebmkit.testing.laws import Law
from ebmkit.testing.reports import laws_of
from ebmkit.testing.samplers import discrete
from ebmkit.testing.samplers.discrete import Coupled, Swept, most


def laws(*names: str) -> list[Law]:
    """The laws of this module, all or those of some names."""
    found = [law for law in laws_of("sampler") if law.check.__module__ == discrete.__name__]
    return [law for law in found if not names or law.name in names]


class Place(NamedTuple):
    x: Tensor


class Numbers(NamedTuple):
    variable: Tensor
    uniform: Tensor


@attrs.frozen
class Flips:
    """Metropolis on binary states: one bit of each chain is proposed to be flipped."""

    heat: float = 1.0
    """By which differences of energies are divided."""

    discrete = True
    exact = True

    def check(self, energy: Any) -> None:
        from ebmkit import UserError

        if getattr(energy, "categories", None) is not None:
            raise UserError("Flips: expected binary states")

    def init(self, energy: Any, x: Tensor) -> Place:
        del energy
        return Place(x)

    def draw(self, state: Place, *, generator: torch.Generator) -> Numbers:
        x = state.x
        return Numbers(
            torch.rand(len(x), generator=generator, dtype=x.dtype),
            torch.rand(len(x), generator=generator, dtype=x.dtype),
        )

    def step(self, energy: Any, state: Place, noise: Numbers) -> Any:
        x = state.x
        site = (noise.variable * x.shape[1]).long()
        flip = torch.nn.functional.one_hot(site, x.shape[1]).to(x.dtype)
        proposal = (x - flip).abs()
        with torch.no_grad():
            rise = (energy(proposal) - energy(x)) / self.heat
        accepted = self.accepted(rise, noise.uniform)
        return Place(torch.where(accepted[:, None], proposal, x)), {}

    def accepted(self, rise: Tensor, uniform: Tensor) -> Tensor:
        return uniform.log() < -rise


class Barker(Flips):
    """By another rule, that is as right."""

    def accepted(self, rise: Tensor, uniform: Tensor) -> Tensor:
        return uniform < (-rise).sigmoid()


GOOD = {
    "gibbs": Gibbs(),
    "gibbs of three categories": Gibbs(categories=3),
    "gibbs with gradients": GibbsWithGradients(),
    "tempering": ParallelTempering(Gibbs(), n_replicas=2),
    "flips": Flips(),
    "barker": Barker(),
}
SLOW = ("gibbs with gradients", "tempering")


CASES = [(name, seed) for name in GOOD for seed in range(2 if name in SLOW else 5)]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_good_ones_keep_them(name: str, seed: int) -> None:
    found = report(Subject("sampler", GOOD[name]), laws(), seed=seed)
    assert found.good, "\n".join(found.lines())
    assert found.cases > 12


def test_energies_are_those_of_their_formula() -> None:
    for target in (Coupled(3, None, 0), Swept(2, 3, 1)):
        for state, p in zip(target.states, target.probabilities, strict=True):
            pairs = sum(
                float(state[i] * state[j] * target.weight[i, j])
                for i in range(len(state))
                for j in range(i)
            )
            energy = -float(state @ target.bias) - pairs
            assert float(target(state.view(1, *target.event_shape))) == pytest.approx(energy)
            assert float(p) > 0
        assert float(target.probabilities.sum()) == pytest.approx(1)
        assert len(target.states) == (8 if target.event_shape == (3,) else 9)


def test_a_sweep_leaves_the_exact_distribution_as_it_is() -> None:
    # By the definition of a conditional: each uniform number at the middle of a fine cell.
    target = Swept(2, None, 3)
    n = 400
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    uniforms = torch.cartesian_prod(cells, cells)
    after = torch.zeros(4, dtype=torch.float64)
    for state, p in zip(target.states, target.probabilities, strict=True):
        counts, astray = target.counts(target.sweep(state.expand(n * n, 2), uniforms))
        assert not astray
        after += p * counts / n**2
    torch.testing.assert_close(after, target.probabilities, rtol=0, atol=5 / n)


@pytest.mark.parametrize(
    # P(χ² > x) for even freedom 2 m is exp(−x/2) Σ_{k<m} (x/2)^k / k!.
    "freedom",
    [6, 14],
)
def test_the_false_alarm_rate_is_what_is_stated(freedom: int) -> None:
    half = torch.tensor(most(freedom) / 2, dtype=torch.float64)
    k = torch.arange(freedom // 2, dtype=torch.float64)
    rate = float((k * half.log() - half - (k + 1).lgamma()).exp().sum())
    assert 0.2e-8 < rate < 2e-8


class AllAccepted(Flips):
    """Leaves out Metropolis' correction."""

    def accepted(self, rise: Tensor, uniform: Tensor) -> Tensor:
        return uniform < 2 + 0 * rise


class Between(Flips):
    """Leaves states a little."""

    def step(self, energy: Any, state: Place, noise: Numbers) -> Any:
        after, metrics = super().step(energy, state, noise)
        return Place(after.x * 0.999), metrics


class TwoHot(Gibbs):
    """Forgets what it had before in one-hot variables."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        after, metrics = super().step(energy, state, noise)
        return after._replace(x=torch.maximum(after.x, state.x)), metrics


class AllAtOnce(Gibbs):
    """Draws all variables at once from their conditionals given the old others."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        x = state.x
        columns = []
        for i in range(x.shape[1]):
            rows = []
            for value in (0.0, 1.0):
                at = x.clone()
                at[:, i] = value
                rows.append(energy(at))
            columns.append((noise[:, i] < (rows[0] - rows[1]).sigmoid()).to(x.dtype))
        return state._replace(x=torch.stack(columns, 1)), {}

    def check(self, energy: Any) -> None:
        Flips().check(energy)


class OffSweep(Gibbs):
    """Its probabilities are a little off."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        return super().step(energy, state, noise * 0.96)


class SkipsTheLast(Gibbs):
    """Never draws the last variable; what it draws it draws rightly."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        after, metrics = super().step(energy, state, noise)
        return after._replace(x=torch.cat([after.x[:, :-1], state.x[:, -1:]], 1)), metrics


class HalfCoupled(Gibbs):
    """Takes half of the coupling: of each pair of variables only one energy difference in two."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        if hasattr(energy, "sweep"):
            return super().step(energy, state, noise)

        def half(x: Any) -> Any:
            alone = sum(energy(x * one) for one in torch.eye(x[0].numel()).view(-1, *x.shape[1:]))
            return (energy(x) + alone) / 2

        return super().step(half, state, noise)

    def check(self, energy: Any) -> None:
        Flips().check(energy)


class SharedNumbers(Gibbs):
    """All variables are drawn by the same number."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        return super().step(energy, state, noise[:, :1].expand_as(noise))


class WithoutProposals(GibbsWithGradients):
    """Accepts by energies alone, though its proposals are not symmetric."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        proposed, metrics = super().step(energy, state, noise._replace(uniform=0 * noise.uniform))
        accepted = noise.uniform.log() < state.energy - proposed.energy
        return type(state)(
            *(
                torch.where(accepted.view(-1, *[1] * (old.ndim - 1)), new, old)
                for new, old in zip(proposed, state, strict=True)
            )
        ), metrics


class SwapsAlways(ParallelTempering):
    """Exchanges replicas whatever the energies are."""

    def _differences(self, *arguments: Any) -> Tensor:
        return 0 * super()._differences(*arguments)


BROKEN = [
    (Flips(heat=1.3), "frequencies-are-those-of-all-states"),
    (AllAccepted(), "frequencies-are-those-of-all-states"),
    (AllAccepted(), "states-of-no-probability-are-never-entered"),
    (AllAtOnce(), "frequencies-are-those-of-all-states"),
    (OffSweep(), "frequencies-are-those-of-all-states"),
    (OffSweep(categories=3), "frequencies-are-those-of-all-states"),
    (SkipsTheLast(), "every-state-is-reached"),
    (HalfCoupled(), "frequencies-are-those-of-all-states"),
    (SharedNumbers(), "frequencies-are-those-of-all-states"),
    (WithoutProposals(), "frequencies-are-those-of-all-states"),
    (SwapsAlways(Gibbs(), n_replicas=2), "frequencies-are-those-of-all-states"),
    (TwoHot(categories=3), "states-stay-states"),
    (Between(), "states-stay-states"),
]


@pytest.mark.parametrize(
    ("sampler", "name"), BROKEN, ids=[f"{type(s).__name__}-{name}" for s, name in BROKEN]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_broken_ones_are_caught(sampler: Any, name: str, seed: int) -> None:
    found = report(Subject("sampler", sampler), laws(name), seed=seed)
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.status == "broken"
    assert outcome.law.name == name
