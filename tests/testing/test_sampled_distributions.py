"""What chains are distributed as: samplers that are off are caught, and so are false claims."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ebmkit_adaptation.adaptive import Adaptive
from ebmkit_hamiltonian._leapfrog import Phase, hamiltonian, leapfrog, wide
from ebmkit_hamiltonian.hmc import HMC, HMCState
from ebmkit_hamiltonian.nuts import NUTS
from ebmkit_langevin.gradient_descent import GradientDescent
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.mala import MALA
from ebmkit_langevin.underdamped import UnderdampedLangevin
from ebmkit_tempering.parallel_tempering import ParallelTempering
from torch import Tensor

from ebmkit import energy_and_gradient, log_uniform
from ebmkit.testing import Subject, report
from ebmkit.testing.laws import Law
from ebmkit.testing.reference import RandomWalk, Walk
from ebmkit.testing.reports import laws_of
from ebmkit.testing.samplers import balance, stationary

OURS = {balance.__name__, stationary.__name__}
INVARIANT, BIAS, BALANCE = "target-invariant", "bias-shrinks-as-it-says", "in-detailed-balance"


def laws(*names: str) -> list[Law]:
    """The laws of these modules, all or those of some names."""
    found = [law for law in laws_of("sampler") if law.check.__module__ in OURS]
    return [law for law in found if not names or law.name in names]


GOOD = {
    "random walk": RandomWalk(),
    "mala adapted": MALA(target_acceptance=0.574),
    "hmc": HMC(step_size=0.2, n_leapfrog=3),
    "hmc with jitter": HMC(n_leapfrog=4, jitter=0.3),
    "nuts of few doublings": NUTS(step_size=0.3, max_depth=3),
    "adaptive mala": Adaptive(MALA(), target_acceptance=0.574),
    "adaptive hmc": Adaptive(HMC(n_leapfrog=4, jitter=0.2), mass=False),
    "tempering": ParallelTempering(RandomWalk(), n_replicas=3, lowest=0.3),
    "langevin": Langevin(step_size=0.1),
    "underdamped": UnderdampedLangevin(friction=2.0),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_ones_keep_them(name: str) -> None:
    found = report(Subject("sampler", GOOD[name]), laws())
    assert found.good, "\n".join(found.lines())
    asked = {outcome.law.name for outcome in found.outcomes if outcome.cases}
    assert asked & {INVARIANT, BIAS}
    assert (BALANCE in asked) == (getattr(GOOD[name], "reversible", False) is True)


ALWAYS = 1e3
"""Of a pair that a uniform number is made of: it is exp(−10⁶), and every proposal is accepted."""


class Uphill(Langevin):
    """Has the sign of the score wrong."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any, noise_scale: Any) -> Any:
        return super().step(
            lambda x: -energy(x), state, noise, step_size=step_size, noise_scale=noise_scale
        )


class LittleNoise(Langevin):
    """√ε for √(2ε)."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any, noise_scale: Any) -> Any:
        return super().step(
            energy, state, noise / math.sqrt(2), step_size=step_size, noise_scale=noise_scale
        )


class Unbiased(Langevin):
    """Does not say that it is biased."""

    bias_order: Any = None


class OfSecondOrder(Langevin):
    """Says that it is biased less than it is."""

    bias_order = 2


class Hot(UnderdampedLangevin):
    """Forgets that what friction takes is to be given back: too much noise."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any, friction: Any) -> Any:
        return super().step(energy, state, 1.2 * noise, step_size=step_size, friction=friction)


class Descent(GradientDescent):
    """Does not say that it samples nothing."""

    stationary = True


class AllAccepted(RandomWalk):
    """Leaves out Metropolis' correction."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        return super().step(
            energy, state, noise._replace(uniform=0 * noise.uniform), step_size=step_size
        )


class UnadjustedMALA(MALA):
    """Leaves out Metropolis' correction."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        return super().step(
            energy,
            state,
            noise._replace(pair=torch.full_like(noise.pair, ALWAYS)),
            step_size=step_size,
        )


class UnadjustedHMC(HMC):
    """Leaves out Metropolis' correction."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        return super().step(
            energy,
            state,
            noise._replace(pair=torch.full_like(noise.pair, ALWAYS)),
            step_size=step_size,
        )


class Reversed(RandomWalk):
    """Has the sign of the log ratio wrong."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        negative = state._replace(energy=-state.energy)
        after, metrics = super().step(lambda x: -energy(x), negative, noise, step_size=step_size)
        return after._replace(energy=-after.energy), metrics


class WithoutProposals(MALA):
    """Leaves q(x | y) / q(y | x) out of the ratio."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        move = math.sqrt(2 * step_size) * noise.normal - step_size * state.gradient
        energies, gradient = energy_and_gradient(energy, state.x + move)
        accepted = log_uniform(noise.pair) < state.energy - energies
        moved = wide(accepted, state.x)
        after = state._replace(
            x=torch.where(moved, state.x + move, state.x),
            energy=torch.where(accepted, energies, state.energy),
            gradient=torch.where(moved, gradient, state.gradient),
        )
        return after, {}


class StaleForce(MALA):
    """Keeps the force of where its chains began."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        after, metrics = super().step(energy, state, noise, step_size=step_size)
        return after._replace(gradient=state.gradient), metrics


class NoLastKick(HMC):
    """Its leapfrog forgets the half kick at the end."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        epsilon = torch.as_tensor(step_size, dtype=state.x.dtype)
        before = hamiltonian(state.energy, noise.momentum)
        start = Phase(state.x, noise.momentum, state.gradient)
        end, energies, _ = leapfrog(energy, start, epsilon, self.n_leapfrog)
        momentum = end.momentum + epsilon / 2 * end.gradient
        accepted = log_uniform(noise.pair) < before - hamiltonian(energies, momentum)
        moved = wide(accepted, state.x)
        after = HMCState(
            torch.where(moved, end.x, state.x),
            torch.where(accepted, energies, state.energy),
            torch.where(moved, end.gradient, state.gradient),
            before,
        )
        return after, {}


class KeptMomentum(HMC):
    """Draws momenta of too small a spread."""

    def draw(self, state: Any, *, generator: torch.Generator) -> Any:
        noise = super().draw(state, generator=generator)
        return noise._replace(momentum=0.8 * noise.momentum)


class ByTheMean(RandomWalk):
    """Accepts by the mean of all chains' energies."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        proposal = state.x + step_size * noise.normal
        with torch.no_grad():
            energies = energy(proposal)
        accepted = noise.uniform.log() < (state.energy - energies).mean()
        moved = wide(accepted, state.x)
        return Walk(
            torch.where(moved, proposal, state.x), torch.where(accepted, energies, state.energy)
        ), {}


class Replicas(ParallelTempering):
    """Three replicas of random walks."""

    def __init__(self) -> None:
        super().__init__(RandomWalk(), n_replicas=3, lowest=0.1)


class SwapsBackwards(Replicas):
    """Has the sign of the exchanges' log ratio wrong."""

    def _differences(self, *arguments: Any) -> Tensor:
        return -super()._differences(*arguments)


class SwapsAlways(Replicas):
    """Exchanges whatever the energies are."""

    def _differences(self, *arguments: Any) -> Tensor:
        return 0 * super()._differences(*arguments)


class SharedNoise(Replicas):
    """One chain's replicas are all moved by the same numbers."""

    def draw(self, state: Any, *, generator: torch.Generator) -> Any:
        noise = super().draw(state, generator=generator)
        batch, replicas = state.inverse_temperature.shape

        def shared(tensor: Tensor) -> Tensor:
            each = tensor.view(batch, replicas, *tensor.shape[1:])
            return each[:, :1].expand_as(each).reshape(tensor.shape)

        ((walk,),) = noise.inner
        return noise._replace(inner=((type(walk)(*map(shared, walk)),),))


class SharedPoints(Replicas):
    """All replicas go on from the points of the first."""

    def step(self, energy: Any, state: Any, noise: Any, **given: Any) -> Any:
        return super().step(energy, self.init(energy, state.x), noise, **given)


BROKEN = [
    (Uphill(), BIAS),
    (LittleNoise(), BIAS),
    (Unbiased(), INVARIANT),
    (OfSecondOrder(), BIAS),
    (Hot(), BIAS),
    (Descent(), INVARIANT),
    (AllAccepted(), INVARIANT),
    (UnadjustedMALA(), INVARIANT),
    (UnadjustedMALA(), BALANCE),
    (UnadjustedHMC(), INVARIANT),
    (Reversed(), INVARIANT),
    (WithoutProposals(), INVARIANT),
    (WithoutProposals(), BALANCE),
    (StaleForce(), INVARIANT),
    (NoLastKick(), INVARIANT),
    (KeptMomentum(), INVARIANT),
    (Adaptive(UnadjustedMALA(), mass=False), INVARIANT),
    (ByTheMean(), INVARIANT),
    (SwapsBackwards(), INVARIANT),
    (SwapsAlways(), INVARIANT),
    (SharedNoise(), INVARIANT),
    (SharedPoints(), INVARIANT),
]


@pytest.mark.parametrize(
    ("sampler", "name"), BROKEN, ids=[f"{type(s).__name__}-{name}" for s, name in BROKEN]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_broken_ones_are_caught(sampler: Any, name: str, seed: int) -> None:
    (outcome,) = report(Subject("sampler", sampler), laws(name), seed=seed).outcomes
    assert outcome.status == "broken", outcome
    assert "no such keyword" not in outcome.reason
    assert outcome.law.name == name
