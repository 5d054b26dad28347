"""The laws for losses: sound ones keep them, and losses that are broken on purpose do not."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import attrs
import pytest
import torch
from ebmkit_contrastive_divergence._energies import Draws
from ebmkit_contrastive_divergence.contrastive_divergence import ContrastiveDivergence
from ebmkit_contrastive_divergence.persistent import PersistentContrastiveDivergence, ReplayBuffer
from ebmkit_gibbs.gibbs import Gibbs
from ebmkit_langevin.langevin import Langevin
from ebmkit_langevin.mala import MALA
from ebmkit_score_matching.denoising import DenoisingScoreMatching, Noise
from ebmkit_score_matching.exact import ScoreMatching
from ebmkit_score_matching.sliced import Projections, SlicedScoreMatching
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch
from ebmkit.testing import Subject, report, subjects
from ebmkit.testing.losses.trainees import Family, rows_taken
from ebmkit.testing.reports import laws_of

LAWS = [law for law in laws_of("loss") if ".testing.losses." in law.check.__module__]

OVER_OTHER_SAMPLERS = {
    "cd": ContrastiveDivergence(Langevin(step_size=0.05)),
    "pcd": PersistentContrastiveDivergence(
        MALA(step_size=0.3), k_steps=2, buffer_size=512, n_negatives=256
    ),
}


@pytest.mark.parametrize("name", OVER_OTHER_SAMPLERS)
def test_losses_over_other_samplers_keep_every_law(name: str) -> None:
    found = report(Subject("loss", OVER_OTHER_SAMPLERS[name]), LAWS)
    assert found.good, "\n".join(found.lines())
    assert found.cases > 30


# Broken on purpose, each in one place.


class Nothing(NamedTuple):
    pass


class Plain:
    """Sliced score matching in as few lines as it takes: kept laws show that it is what mutants do to
    it that is caught."""

    estimates: ClassVar[str | None] = "score-matching"

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> Nothing:
        return Nothing()

    def draw(
        self, model: Any, batch: Batch, state: Any, step: int, *, generator: torch.Generator
    ) -> tuple[Projections, Any]:
        x = batch.x
        return Projections(torch.randn((1, *x.shape), generator=generator, dtype=x.dtype)), state

    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return score.square().flatten(1).sum(1) / 2 + trace

    def total(self, rows: Tensor) -> Tensor:
        return rows.mean()

    def score(self, energy: Any, x: Tensor) -> Tensor:
        return -torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]

    def __call__(self, model: Any, batch: Batch, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        # The laws differentiate at fixed parameters without a graph, too.
        with torch.enable_grad():
            x = batch.x.detach().clone().requires_grad_()
            v = draws.directions[0]
            score = self.score(ebmkit.bind(model, batch.condition), x)
            along = torch.autograd.grad((score * v).sum(), x, create_graph=True)[0]
            rows = self.rows(score, (along * v).flatten(1).sum(1))
            return self.total(rows), {"rows": rows.detach().mean()}


class FlippedScore(Plain):
    def score(self, energy: Any, x: Tensor) -> Tensor:
        return -super().score(energy, x)


class FlippedLoss(Plain):
    def total(self, rows: Tensor) -> Tensor:
        return -rows.mean()


class TraceOverD(Plain):
    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return super().rows(score, trace / score[0].numel())


class MeanOverEvent(Plain):
    """Both terms divided by d, which moves no optimum."""

    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return super().rows(score, trace) / score[0].numel()


class NoHalf(Plain):
    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return score.square().flatten(1).sum(1) + trace


class MeanOverWrongAxis(Plain):
    """The batch's dimension is gone before the squares are taken."""

    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return score.mean(0).square().sum() / 2 + trace


class SumOverRows(Plain):
    def total(self, rows: Tensor) -> Tensor:
        return rows.sum()


class WeighsFirstRow(Plain):
    def total(self, rows: Tensor) -> Tensor:
        return rows.mean() + rows[0] / len(rows)


class GlobalNoise(Plain):
    def draw(self, model: Any, batch: Batch, state: Any, step: int, **_: Any) -> Any:
        return Projections(torch.randn(1, *batch.x.shape).to(batch.x.dtype)), state


class GlobalNoiseInCall(Plain):
    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return super().rows(score + 0.01 * torch.randn_like(score), trace)


class PythonNoise(Plain):
    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return (1 + 0.01 * random.random()) * super().rows(score, trace)


class DetachedScore(Plain):
    """The gradient is not that of the value."""

    def rows(self, score: Tensor, trace: Tensor) -> Tensor:
        return super().rows(score.detach(), trace)


class MetricsWithGraph(Plain):
    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        loss, metrics = super().__call__(model, batch, draws)
        return loss, {"loss": loss, **metrics}


class MetricsByRow(Plain):
    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        loss, _ = super().__call__(model, batch, draws)
        return loss, {"rows": batch.x.flatten(1).sum(1)}


class SpreadOfOneRow(Plain):
    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        loss, _ = super().__call__(model, batch, draws)
        x = batch.x
        return loss, {"spread": ((x - x.mean(0)).square().sum(0) / (len(x) - 1)).mean()}


class Float64Alone(Plain):
    def total(self, rows: Tensor) -> Tensor:
        return rows.double().mean()


class ForgetsCondition(Plain):
    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        return super().__call__(model, Batch(batch.x), draws)


class LeavesGradients(Plain):
    """The score by a backward pass that goes to the parameters."""

    def score(self, energy: Any, x: Tensor) -> Tensor:
        energy(x).sum().backward()
        return super().score(energy, x)


class FreezesParameters(Plain):
    def draw(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return super().draw(model, *args, **kwargs)


class SwitchesMode(Plain):
    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        model.eval()
        return super().__call__(model, batch, draws)


@attrs.frozen
class TrainingWhileChainsRun(ContrastiveDivergence):
    def draw(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        model.train()
        return ContrastiveDivergence.draw(self, model, *args, **kwargs)


class Mutable:
    """Holds a momentum that is no part of the state."""

    def __init__(self) -> None:
        self.inner, self.scale = ScoreMatching(), 1.0

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> Any:
        return self.inner.init(model, batch, generator=generator)

    def draw(self, *args: Any, **kwargs: Any) -> Any:
        self.scale *= 0.9
        return self.inner.draw(*args, **kwargs)

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        loss, metrics = self.inner(model, batch, draws)
        return self.scale * loss, metrics


@attrs.frozen
class WrongWeight(DenoisingScoreMatching):
    """z in place of z / σ."""

    def __call__(self, model: Any, batch: Batch, draws: Noise) -> Any:
        rows = draws._replace(
            noise=draws.noise * draws.sigma[0], sigma=torch.ones_like(draws.sigma)
        )
        # x + σz as before, and then a residual of z σ / 1.
        return DenoisingScoreMatching.__call__(self, _At(model, draws.sigma), batch, rows)


class _At(nn.Module):
    """A model told another noise level than it is given."""

    noise_conditional = True

    def __init__(self, model: Any, level: Tensor) -> None:
        super().__init__()
        self.model, self.level = model, level

    def forward(self, x: Tensor, condition: Any = None, *, noise_level: Any = None) -> Tensor:
        energy: Any = ebmkit.bind(self.model, condition)
        if getattr(self.model, "noise_conditional", False):
            return energy(x, noise_level=self.level)
        return energy(x)


@attrs.frozen
class NoiseUntold(DenoisingScoreMatching):
    """A noise-conditional model is told more noise than there is."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"sigma": 0.5},)

    def __call__(self, model: Any, batch: Batch, draws: Noise) -> Any:
        return DenoisingScoreMatching.__call__(self, _At(model, draws.sigma * 4), batch, draws)


@attrs.frozen
class UntoldInWrapper(DenoisingScoreMatching):
    """Asks a wrapper what only the model inside it can say."""

    def __call__(self, model: Any, batch: Batch, draws: Noise) -> Any:
        shown = hasattr(model, "noise_conditional")
        return DenoisingScoreMatching.__call__(
            self, model if shown else functools.partial(model), batch, draws
        )


class PlainDenoising(Plain):
    """Denoising score matching, told nothing of itself, in as few lines as it takes."""

    estimates: ClassVar[str | None] = None
    sigma = 0.5

    def draw(self, model: Any, batch: Batch, state: Any, step: int, **keywords: Any) -> Any:
        (noise,), state = super().draw(model, batch, state, step, **keywords)
        return Noise(noise[0], torch.full((len(batch.x),), self.sigma, dtype=batch.x.dtype)), state

    def target(self, noise: Tensor) -> Tensor:
        """The score of N(x̃; x, σ²) at x̃ = x + noise."""
        return -noise / self.sigma**2

    def __call__(self, model: Any, batch: Batch, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        noise = self.sigma * draws.noise
        with torch.enable_grad():
            x = (batch.x + noise).detach().requires_grad_()
            told = ebmkit.bind(model, batch.condition)
            # A wrapper shows no attribute of the model inside it.
            if getattr(getattr(model, "module", model), "noise_conditional", False):
                told = functools.partial(told, noise_level=draws.sigma)
            off = self.score(told, x) - self.target(noise)
            return off.square().flatten(1).sum(1).mean() / 2, {}


class TargetBySigma(PlainDenoising):
    """σ in place of σ²."""

    def target(self, noise: Tensor) -> Tensor:
        return -noise / self.sigma


class FlippedTarget(PlainDenoising):
    def target(self, noise: Tensor) -> Tensor:
        return noise / self.sigma**2


@attrs.frozen
class UnitDirections(SlicedScoreMatching):
    """Directions of length 1 in place of √d."""

    def draw(self, model: Any, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        (v,), state = SlicedScoreMatching.draw(self, model, batch, *args, **kwargs)
        return Projections(v / batch.x[0].numel() ** 0.5), state


@attrs.frozen
class LongDirections(SlicedScoreMatching):
    """Directions as they are drawn, of twice the variance."""

    def draw(self, model: Any, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        (v,), state = SlicedScoreMatching.draw(self, model, batch, *args, **kwargs)
        return Projections(2**0.5 * v), state


@attrs.frozen
class EvaluatesTheLoss(ContrastiveDivergence):
    """The model stays in evaluation mode, in which chains see it."""

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Any:
        model.eval()
        return ContrastiveDivergence.__call__(self, model, batch, draws)


@attrs.frozen
class GlobalStarts(PersistentContrastiveDivergence):
    """Chains begin at numbers that nobody's generator gave."""

    def init(self, model: Any, batch: Batch, *, generator: Any) -> Any:
        state = PersistentContrastiveDivergence.init(self, model, batch, generator=generator)
        return state._replace(x=torch.randn_like(state.x))


@attrs.frozen
class AttachedNegatives(ContrastiveDivergence):
    """A last move along the energy's slope, whose graph is kept."""

    def draw(self, model: Any, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        draws, state = ContrastiveDivergence.draw(self, model, batch, *args, **kwargs)
        x = draws.negatives.detach().requires_grad_()
        energy = ebmkit.bind(model, draws.condition)(x).sum()
        (slope,) = torch.autograd.grad(energy, x, create_graph=True)
        return draws._replace(negatives=draws.negatives - 0.01 * slope), state


@attrs.frozen
class FlippedCD(ContrastiveDivergence):
    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Any:
        loss, metrics = ContrastiveDivergence.__call__(self, model, batch, draws)
        return -loss, metrics


@attrs.frozen
class NegativesOfOtherLabels(PersistentContrastiveDivergence):
    """Conditions of the batch in place of the chains' own."""

    def __call__(self, model: Any, batch: Batch, draws: Draws) -> Any:
        short = None if draws.condition is None else draws.condition[:1]
        return PersistentContrastiveDivergence.__call__(
            self, model, batch, draws._replace(condition=short)
        )


@attrs.frozen
class CollidingSlots(PersistentContrastiveDivergence):
    """Slots with replacement: two chains may be written to one."""

    def draw(
        self, model: Any, batch: Batch, state: ReplayBuffer, step: int, *, generator: Any
    ) -> Any:
        count = len(batch.x)
        slots = torch.randint(len(state.x), (count,), generator=generator)
        picked = state._replace(
            x=state.x[slots],
            condition=None if state.condition is None else state.condition[slots],
            age=state.age[slots],
        )
        whole = attrs.evolve(self, buffer_size=count)
        draws, moved = PersistentContrastiveDivergence.draw(
            whole, model, batch, picked, step, generator=generator
        )
        return draws, state._replace(
            x=state.x.index_copy(0, slots, moved.x), age=state.age.index_copy(0, slots, moved.age)
        )


@attrs.frozen
class WritesInPlace(PersistentContrastiveDivergence):
    def draw(self, model: Any, batch: Batch, state: Any, *args: Any, **kwargs: Any) -> Any:
        draws, after = PersistentContrastiveDivergence.draw(
            self, model, batch, state, *args, **kwargs
        )
        state.x.copy_(after.x)
        return draws, after._replace(x=state.x)


@attrs.frozen
class NeverMoves(PersistentContrastiveDivergence):
    """Chains start anew from the buffer's first fill at each step."""

    def draw(self, model: Any, batch: Batch, state: Any, *args: Any, **kwargs: Any) -> Any:
        draws, _ = PersistentContrastiveDivergence.draw(self, model, batch, state, *args, **kwargs)
        return draws, state


@attrs.frozen
class JoinsBackwards(PersistentContrastiveDivergence):
    def joined(self, states: Any) -> Any:
        return PersistentContrastiveDivergence.joined(self, states[::-1])


@attrs.frozen
class SharesOverlap(PersistentContrastiveDivergence):
    """All shares are the first one."""

    def split(self, state: Any, parts: int) -> Any:
        return PersistentContrastiveDivergence.split(self, state, parts)[:1] * parts


@attrs.frozen
class ForgetsAges(PersistentContrastiveDivergence):
    def joined(self, states: Any) -> Any:
        whole = PersistentContrastiveDivergence.joined(self, states)
        return whole._replace(age=torch.zeros_like(whole.age))


@attrs.frozen
class CannotShare(PersistentContrastiveDivergence):
    def split(self, state: Any, parts: int) -> Any:
        if parts > 1:
            raise ebmkit.UserError("no")
        return [state]


class NeedsBareModel(Plain):
    """Reaches for what a wrapper does not show."""

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        scale = getattr(model, "event_shape", None) or getattr(model, "energy", None)
        loss, metrics = super().__call__(model, batch, draws)
        return (loss if scale or isinstance(model, Family) else 0.5 * loss), metrics


@pytest.mark.parametrize("kind", [Plain, PlainDenoising])
def test_the_sound_ones_keep_every_law(kind: Any) -> None:
    found = report(Subject("loss", kind), LAWS)
    assert found.good, "\n".join(found.lines())


MUTANTS: list[tuple[Any, str]] = [
    (FlippedScore, "gradient-vanishes-at-the-data"),
    (FlippedLoss, "gradient-leads-to-the-data"),
    (FlippedLoss, "mean-is-what-it-estimates"),
    (TraceOverD, "gradient-vanishes-at-the-data"),
    (TraceOverD, "mean-is-what-it-estimates"),
    (MeanOverEvent, "mean-is-what-it-estimates"),
    (NoHalf, "gradient-vanishes-at-the-data"),
    (MeanOverWrongAxis, "mean-is-what-it-estimates"),
    (MeanOverWrongAxis, "halves-average-to-the-whole"),
    (SumOverRows, "halves-average-to-the-whole"),
    (WeighsFirstRow, "order-of-rows-changes-nothing"),
    (GlobalNoise, "randomness-is-of-the-generator"),
    (GlobalNoiseInCall, "randomness-is-of-the-generator"),
    (PythonNoise, "randomness-is-of-the-generator"),
    (DetachedScore, "gradient-is-the-derivative"),
    (MetricsWithGraph, "loss-and-metrics-are-numbers"),
    (MetricsByRow, "loss-and-metrics-are-numbers"),
    (SpreadOfOneRow, "loss-and-metrics-are-numbers"),
    (Float64Alone, "loss-and-metrics-are-numbers"),
    (ForgetsCondition, "loss-and-metrics-are-numbers"),
    (LeavesGradients, "model-is-left-as-found"),
    (FreezesParameters, "model-is-left-as-found"),
    (SwitchesMode, "model-is-left-as-found"),
    (TrainingWhileChainsRun, "model-is-left-as-found"),
    (Mutable, "state-restored-goes-on-the-same"),
    (WrongWeight, "gradient-vanishes-at-the-data"),
    (NoiseUntold, "gradient-vanishes-at-the-data"),
    (TargetBySigma, "gradient-vanishes-at-the-data"),
    (FlippedTarget, "gradient-vanishes-at-the-data"),
    (UnitDirections, "gradient-vanishes-at-the-data"),
    (UnitDirections, "mean-is-what-it-estimates"),
    (LongDirections, "mean-is-what-it-estimates"),
    (EvaluatesTheLoss, "model-is-left-as-found"),
    (GlobalStarts, "randomness-is-of-the-generator"),
    (AttachedNegatives, "draws-are-held-fixed"),
    (FlippedCD, "gradient-leads-to-the-data"),
    (NegativesOfOtherLabels, "loss-and-metrics-are-numbers"),
    (CollidingSlots, "every-negative-is-kept"),
    (WritesInPlace, "state-restored-goes-on-the-same"),
    (NeverMoves, "every-negative-is-kept"),
    (JoinsBackwards, "shares-joined-are-the-whole"),
    (SharesOverlap, "shares-joined-are-the-whole"),
    (ForgetsAges, "shares-joined-are-the-whole"),
    (CannotShare, "shares-joined-are-the-whole"),
    (UntoldInWrapper, "wrapped-model-has-the-same-gradient"),
    (NeedsBareModel, "wrapped-model-has-the-same-gradient"),
]


@pytest.mark.parametrize(
    ("part", "name"), MUTANTS, ids=[f"{part.__name__}-{name}" for part, name in MUTANTS]
)
def test_broken_losses_are_caught(part: Any, name: str) -> None:
    subject, *_ = subjects("loss", part)
    found = report(subject, [law for law in LAWS if law.name == name])
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.status == "broken", "\n".join(outcome.lines())


def test_what_a_loss_does_not_claim_is_not_asked() -> None:
    biased = outcomes_by_name(ContrastiveDivergence(Langevin(step_size=0.05)))
    assert "consistent = False" in biased["gradient-vanishes-at-the-data"]
    assert "chains" in biased["every-negative-is-kept"]
    discrete = outcomes_by_name(ContrastiveDivergence(Gibbs()))
    assert set(discrete.values()) == {"its states are discrete"}


def outcomes_by_name(part: Any) -> dict[str, str]:
    subject = Subject("loss", part)
    reasons = ((law, law.applies(subject)) for law in LAWS)
    return {law.name: said for law, said in reasons if said}


def test_rows_are_taken_of_what_has_the_batch_as_a_dimension() -> None:
    draws = Projections(torch.arange(12.0).reshape(2, 3, 2))
    taken = rows_taken(draws, 3, torch.tensor([2, 0]))
    assert isinstance(taken, Projections)
    assert torch.equal(taken.directions, draws.directions[:, [2, 0]])
    assert torch.equal(rows_taken(draws, 7, torch.tensor([0])).directions, draws.directions)


def test_a_family_told_the_noise_has_the_noisy_data_s_density() -> None:
    # N(0.3, e^−0.2) and noise of 0.7 make N(0.3, e^−0.2 + 0.49).
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    energies = Family(0.2, 0.3)(x, noise_level=torch.full((9,), 0.7, dtype=torch.float64))
    law = torch.distributions.Normal(0.3, (torch.tensor(-0.2).double().exp() + 0.49).sqrt())
    expected = -law.log_prob(x)[:, 0]
    torch.testing.assert_close(energies - energies[0], expected - expected[0])
