"""The laws for samplers as functions: kept by good ones, and broken ones are caught."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, NamedTuple

import attrs
import pytest
import torch
from ebmkit_adaptation.adaptive import Adaptive
from ebmkit_gibbs.gibbs import Gibbs
from ebmkit_hamiltonian.hmc import HMC
from ebmkit_langevin.annealed import AnnealedLangevin
from ebmkit_langevin.gradient_descent import GradientDescent
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.mala import MALA
from ebmkit_langevin.preconditioned import PreconditionedLangevin
from ebmkit_langevin.underdamped import UnderdampedLangevin
from ebmkit_tempering.parallel_tempering import ParallelTempering
from torch import Tensor

from ebmkit.chains import sample
from ebmkit.lowering import CompileWarning
from ebmkit.testing import Subject, report
from ebmkit.testing.laws import Law
from ebmkit.testing.reference import RandomWalk, Walk, WalkNoise
from ebmkit.testing.reports import laws_of
from ebmkit.testing.samplers import balance, chains, compiled, steps

OURS = {m.__name__ for m in (balance, chains, compiled, steps)}
SLOW = "compiled-steps-are-eager-ones"


def laws(*names: str) -> list[Law]:
    """The laws of these modules, all that are quick or those of some names."""
    found = [law for law in laws_of("sampler") if law.check.__module__ in OURS]
    return [law for law in found if (law.name in names if names else law.name != SLOW)]


GOOD = {
    "random walk": RandomWalk(),
    "langevin": Langevin(step_size=0.05),
    "mala": MALA(step_size=0.1),
    "mala adapted": MALA(target_acceptance=0.6),
    "annealed": AnnealedLangevin([1.0, 0.5]),
    "gradient descent": GradientDescent(),
    "preconditioned": PreconditionedLangevin(),
    "underdamped": UnderdampedLangevin(),
    "hmc": HMC(step_size=0.2, n_leapfrog=3),
    "tempering": ParallelTempering(RandomWalk()),
    "adaptive": Adaptive(MALA(step_size=0.1)),
    "gibbs": Gibbs(),
    "gibbs of three categories": Gibbs(categories=3),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_ones_keep_them(name: str) -> None:
    found = report(Subject("sampler", GOOD[name], options={"event_shape": (3,)}), laws())
    assert found.good, "\n".join(found.lines())


@pytest.mark.parametrize("seed", range(1, 4))
def test_at_every_seed(seed: int) -> None:
    for sampler in (RandomWalk(), MALA(step_size=0.1)):
        subject = Subject("sampler", sampler, options={"event_shape": (3,)})
        found = report(subject, laws(), seed=seed)
        assert found.good, "\n".join(found.lines())


def test_a_compiled_step_is_an_eager_one() -> None:
    found = report(Subject("sampler", RandomWalk()), laws(SLOW))
    assert found.good, "\n".join(found.lines())


def test_a_machine_without_a_compiler_is_not_the_samplers_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def uncompiled(*arguments: Any, compile: str, **more: Any) -> Any:  # noqa: A002
        if compile != "off":
            warnings.warn("there is no compiler", CompileWarning, stacklevel=2)
        return sample(*arguments, compile="off", **more)

    monkeypatch.setattr(compiled, "sample", uncompiled)
    (outcome,) = report(Subject("sampler", RandomWalk()), laws(SLOW)).outcomes
    assert outcome.status == "not asked", outcome.reason
    assert outcome.reason == "no chains can be compiled here: there is no compiler"


def test_a_sampler_that_alone_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncompiled(sampler: Any, *arguments: Any, compile: str, **more: Any) -> Any:  # noqa: A002
        if compile != "off" and type(sampler) is InPlace:
            warnings.warn("it cannot be", CompileWarning, stacklevel=2)
        return sample(RandomWalk(), *arguments, compile="off", **more)

    monkeypatch.setattr(compiled, "sample", uncompiled)
    monkeypatch.setattr(compiled, "_traced", lambda *_: False)
    (outcome,) = report(Subject("sampler", InPlace()), laws(SLOW)).outcomes
    assert outcome.status == "broken" and "it cannot be; a sampler that" in outcome.reason


class InPlace(RandomWalk):
    """Moves the points that it is given."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        state.x.add_(noise.normal)
        return super().step(energy, state, noise, step_size=step_size)


class Float32(RandomWalk):
    """Computes in float32 whatever it is given."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        after, metrics = super().step(energy, state, noise, step_size=step_size)
        return after._replace(energy=after.energy.float()), metrics


class Flattened(RandomWalk):
    """Loses the event's shape."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        after, metrics = super().step(energy, state, noise, step_size=step_size)
        return after._replace(x=after.x.flatten(1)[..., None]), metrics


class NoEmptyBatch(RandomWalk):
    """Looks at the first chain."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        assert state.x[0].numel()
        return super().step(energy, state, noise, step_size=step_size)


class GlobalNoise(RandomWalk):
    """Draws from torch's own generator."""

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        del generator
        return WalkNoise(torch.randn_like(state.x), torch.rand(len(state.x), dtype=state.x.dtype))


class NoiseInStep(RandomWalk):
    """Draws where it should compute."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        return super().step(
            energy, state, noise._replace(normal=torch.randn_like(state.x)), step_size=step_size
        )


class SharedNoise(RandomWalk):
    """All chains are pushed alike, and accepted each for itself."""

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        noise = super().draw(state, generator=generator)
        return noise._replace(normal=noise.normal[:1].expand_as(noise.normal).clone())


class PartlySharedNoise(RandomWalk):
    """Half of what pushes a chain pushes all others too."""

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        noise = super().draw(state, generator=generator)
        return noise._replace(normal=(noise.normal + noise.normal[:1]) / math.sqrt(2))


class Moving(NamedTuple):
    x: Tensor
    momentum: Tensor


@attrs.frozen
class SharedMomentum:
    """Underdamped dynamics with one momentum of all chains."""

    step_size: float = 0.1

    def init(self, energy: Any, x: Tensor) -> Moving:
        del energy
        return Moving(x, x.new_zeros(x.shape[1:]))

    def draw(self, state: Moving, *, generator: torch.Generator) -> Tensor:
        x = state.x
        return torch.randn(x.shape[1:], generator=generator, dtype=x.dtype)

    def step(self, energy: Any, state: Moving, noise: Tensor) -> Any:
        x = state.x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        pull = gradient.mean(0) if len(x) else torch.zeros_like(noise)
        momentum = 0.9 * state.momentum - self.step_size * pull + 0.3 * noise
        return Moving(state.x + self.step_size * momentum, momentum), {}


class PulledTogether(RandomWalk):
    """Proposals lean towards the mean of all chains."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        mean = state.x.mean(0, keepdim=True) if len(state.x) else state.x
        return super().step(
            energy,
            state,
            noise._replace(normal=noise.normal + (mean - state.x)),
            step_size=step_size,
        )


class Hidden(RandomWalk):
    """Keeps a momentum in itself."""

    def __init__(self) -> None:
        object.__setattr__(self, "step_size", 0.5)

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        push = vars(self).get("push", torch.zeros_like(noise.normal))
        if push.shape != noise.normal.shape:
            push = torch.zeros_like(noise.normal)
        vars(self)["push"] = push = 0.5 * push + noise.normal
        return super().step(energy, state, noise._replace(normal=push), step_size=step_size)


class HiddenInTheClass(RandomWalk):
    """Counts its steps where all of its kind count them, and moves less and less."""

    steps: ClassVar[list[int]] = []

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        self.steps.append(1)
        return super().step(
            energy,
            state,
            noise._replace(normal=noise.normal / len(self.steps) ** 0.5),
            step_size=step_size,
        )


class Attached(RandomWalk):
    """Keeps the graph of its energies."""

    def init(self, energy: Any, x: Tensor) -> Walk:
        return Walk(x, energy(x))


class Backward(RandomWalk):
    """Takes gradients as a training step does."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        x = state.x.detach().requires_grad_()
        energy(x).sum().backward()
        return super().step(energy, state, noise, step_size=step_size)


class DrawsByValue(RandomWalk):
    """Noise as wide as chains are far away."""

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        noise = super().draw(state, generator=generator)
        return noise._replace(normal=noise.normal * (1 + state.x.abs()))


class DrawsAhead(RandomWalk):
    """Draws the steps' numbers tensor by tensor, not step by step."""

    def draw_steps(self, state: Walk, steps: int, *, generator: torch.Generator) -> WalkNoise:
        x = state.x
        return WalkNoise(
            torch.randn(steps, *x.shape, generator=generator, dtype=x.dtype),
            torch.rand(steps, len(x), generator=generator, dtype=x.dtype),
        )


@attrs.frozen
class ByMath:
    """Takes the root of its step size as of a number."""

    step_size: float = 0.1

    def init(self, energy: Any, x: Tensor) -> Walk:
        return RandomWalk().init(energy, x)

    def draw(self, state: Walk, *, generator: torch.Generator) -> WalkNoise:
        return RandomWalk().draw(state, generator=generator)

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: float) -> Any:
        rooted = step_size**0.5 if isinstance(step_size, float) else step_size
        return RandomWalk().step(energy, state, noise, step_size=rooted)


class TransposedState(RandomWalk):
    """Has the batch last."""

    def init(self, energy: Any, x: Tensor) -> Walk:
        state = super().init(energy, x)
        return state._replace(energy=state.energy[None])

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        after, metrics = super().step(
            energy, state._replace(energy=state.energy[0]), noise, step_size=step_size
        )
        return after._replace(energy=after.energy[None]), metrics


class Trusting(RandomWalk):
    """Takes what is no number for accepted."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        proposal = state.x + step_size * noise.normal
        with torch.no_grad():
            energies = energy(proposal)
        refused = noise.uniform.log() >= state.energy - energies
        wide = refused.view(-1, *[1] * (state.x.ndim - 1))
        after = Walk(
            torch.where(wide, state.x, proposal), torch.where(refused, state.energy, energies)
        )
        return after, {"acceptance_rate": (~refused).to(state.x.dtype).mean()}


class Turning(RandomWalk):
    """Keeps a Gaussian as it is and turns round it, always the same way."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        rolled = state.x.roll(1, -1)
        x = 0.6 * rolled + 0.8 * noise.normal
        with torch.no_grad():
            return Walk(x, energy(x)), {}


class Untraceable(RandomWalk):
    """Looks at its numbers, and does not say so."""

    def step(self, energy: Any, state: Walk, noise: WalkNoise, *, step_size: Any) -> Any:
        if float(noise.normal.sum()) > 0:
            noise = noise._replace(normal=-noise.normal)
        return super().step(energy, state, noise, step_size=step_size)


BROKEN = [
    (InPlace(), "arguments-stay-as-they-are"),
    (Float32(), "state-keeps-shapes-and-dtypes"),
    (Flattened(), "state-keeps-shapes-and-dtypes"),
    (NoEmptyBatch(), "state-keeps-shapes-and-dtypes"),
    (GlobalNoise(), "randomness-is-the-generators"),
    (NoiseInStep(), "randomness-is-the-generators"),
    (NoiseInStep(), "arguments-stay-as-they-are"),
    (SharedNoise(), "each-chain-has-its-own-noise"),
    (PartlySharedNoise(), "each-chain-has-its-own-noise"),
    (SharedMomentum(), "each-chain-has-its-own-noise"),
    (PulledTogether(), "a-chain-moves-no-other"),
    (Hidden(), "chains-go-on-from-what-is-saved"),
    (HiddenInTheClass(), "chains-go-on-from-what-is-saved"),
    (Attached(), "parameters-get-no-gradients"),
    (Backward(), "parameters-get-no-gradients"),
    (DrawsByValue(), "noise-is-drawn-from-shapes-alone"),
    (DrawsAhead(), "noise-is-drawn-from-shapes-alone"),
    (ByMath(), "parameters-may-be-tensors"),
    (TransposedState(), "rows-belong-to-chains"),
    (Trusting(), "chains-stay-where-energies-are-finite"),
    (Turning(), "in-detailed-balance"),
]


@pytest.mark.parametrize(
    ("sampler", "name"),
    BROKEN,
    ids=[f"{type(sampler).__name__}-{name}" for sampler, name in BROKEN],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_broken_ones_are_caught(sampler: Any, name: str, seed: int) -> None:
    subject = Subject("sampler", sampler, options={"event_shape": (3,)})
    found = report(subject, laws(name), seed=seed)
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.status in ("broken", "failed")
    assert outcome.law.name == name


def test_one_that_cannot_be_traced_and_does_not_say_so() -> None:
    found = report(Subject("sampler", Untraceable()), laws(SLOW))
    (outcome,) = found.outcomes
    assert outcome.status == "broken"
    assert "traceable = False" in outcome.reason


def test_laws_that_cannot_be_asked_say_why() -> None:
    class Said(Untraceable):
        traceable = False
        reversible = False

    reasons = {
        outcome.law.name: outcome.reason
        for outcome in report(
            Subject("sampler", Said()), laws("in-detailed-balance", SLOW)
        ).outcomes
    }
    assert "traceable = False" in reasons[SLOW]
    assert "reversible = True" in reasons["in-detailed-balance"]
    (alone,) = report(
        Subject("sampler", MALA(target_acceptance=0.6)), laws("a-chain-moves-no-other")
    ).outcomes
    assert "all chains together" in alone.reason
