"""What the three losses refuse, from Python and from a pipeline's tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ebmkit_score_matching.denoising import DenoisingScoreMatching, NoiseError
from ebmkit_score_matching.exact import ScoreMatching
from ebmkit_score_matching.sliced import SlicedScoreMatching
from torch import Tensor, nn

import ebmkit
from ebmkit import CalculusWarning, EnergyError, SpecError

LOSSES = [ScoreMatching, SlicedScoreMatching, DenoisingScoreMatching]


def spec(**loss: Any) -> dict[str, Any]:
    return {
        "model": {"use": "mlp", "hidden": [8]},
        "loss": loss,
        "dataset": {"use": "two-moons"},
        "training": {"steps": 11, "batch_size": 16},
    }


def schedule(name: str, **config: Any) -> Any:
    return ebmkit.create("scheduler", name, **config)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenoisingScoreMatching(sigma=0.0), "sigma: expected σ > 0, got 0.0"),
        (lambda: DenoisingScoreMatching(sigma=-1), "sigma: expected σ > 0, got -1"),
        (lambda: DenoisingScoreMatching(sigma=float("nan")), "sigma: expected a finite number"),
        (lambda: DenoisingScoreMatching(sigma=float("inf")), "sigma: expected a finite number"),
        (lambda: DenoisingScoreMatching(sigma=[]), "at least one level, got an empty list"),
        (lambda: DenoisingScoreMatching(sigma=[0.5, 0.0]), "sigma: expected σ > 0, got 0.0"),
        (lambda: DenoisingScoreMatching(sigma=[float("nan")]), "expected a finite number"),
        (lambda: DenoisingScoreMatching(sigma=[True]), "expected a finite number, got True"),
        (lambda: DenoisingScoreMatching(sigma="small"), "a scheduler, got 'small'"),  # type: ignore[arg-type]
        (lambda: DenoisingScoreMatching(sigma=True), "a scheduler, got True"),
        (lambda: DenoisingScoreMatching(weighting="sigma"), "weighting"),  # type: ignore[arg-type]
        (lambda: SlicedScoreMatching(n_projections=0), "n_projections"),
        (lambda: SlicedScoreMatching(n_projections=2.5), "expected a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: SlicedScoreMatching(n_projections=True), "expected a whole number, got True"),
        (lambda: SlicedScoreMatching(projections="cube"), "projections"),  # type: ignore[arg-type]
        (lambda: SlicedScoreMatching(variance_reduction=1), "variance_reduction"),  # type: ignore[arg-type]
        *(
            (lambda kind=kind, name=name, value=value: kind(**{name: value}), name)
            for kind in LOSSES
            for name in ("energy_regularisation", "score_regularisation")
            for value in (-0.1, float("nan"), float("inf"))
        ),
    ],
)
def test_from_python(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "path", "words"),
    [
        ({"use": "dsm", "sigma": 0.0}, "loss.sigma", "expected σ > 0, got 0.0"),
        ({"use": "dsm", "sigma": float("nan")}, "loss.sigma", "got nan"),
        ({"use": "dsm", "sigma": []}, "loss.sigma", "got an empty list"),
        ({"use": "dsm", "sigma": [0.5, 0]}, "loss.sigma", "expected σ > 0, got 0.0"),
        ({"use": "dsm", "sigma": "small"}, "loss.sigma", "got 'small'"),
        ({"use": "dsm", "sigma": [0.5, 0.1]}, "loss", "MLP is not noise-conditional"),
        ({"use": "dsm", "weighting": "sigma"}, "loss.weighting", "'sigma-squared'"),
        ({"use": "ssm", "n_projections": 0}, "loss.n_projections", "must be >= 1"),
        ({"use": "ssm", "n_projections": 2.5}, "loss.n_projections", "a whole number, got 2.5"),
        ({"use": "ssm", "projections": "cube"}, "loss.projections", "'rademacher'"),
        ({"use": "sm", "score_regularisation": -1}, "loss.score_regularisation", "must be >= 0"),
        (
            {"use": "dsm", "sigma": {"use": "linear", "start_value": 0.5, "end_value": 0.0}},
            "loss.sigma",
            "at step 10 the schedule gives a value out of range: sigma: expected σ > 0, got 0.0",
        ),
    ],
)
def test_from_tables(loss: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(spec(**loss))
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in problem.message


def test_a_schedule_that_reaches_zero_says_at_which_step() -> None:
    loss = DenoisingScoreMatching(
        sigma=schedule("linear", start_value=0.2, end_value=0.0, n_steps=3)
    )
    objective = ebmkit.objective(loss, nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    x = torch.zeros(4, 2)
    objective(x), objective(x)
    with pytest.raises(NoiseError, match=r"gives 0\.0 at step 2, expected a finite number > 0"):
        objective(x)


def test_a_list_needs_a_noise_conditional_model_in_a_loop_by_hand_too() -> None:
    model = ebmkit.create("model", "mlp", event_shape=[2], hidden=[4])
    loss = DenoisingScoreMatching(sigma=[0.5, 0.1])
    with pytest.raises(NoiseError, match="a list of 2 levels and MLP is not noise-conditional"):
        ebmkit.objective(loss, model)(torch.zeros(4, 2))
    image = ebmkit.create("model", "conv", event_shape=[1, 4, 4], channels=[2])
    with pytest.raises(NoiseError, match="Conv is not noise-conditional"):
        ebmkit.objective(loss, image)(torch.zeros(4, 1, 4, 4))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("width", [1, 3])
def test_an_energy_of_another_shape(kind: type[Any], width: int) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, width))
    with pytest.raises(
        EnergyError, match=rf"one energy a row, shape \(5,\), got shape \(5, {width}"
    ):
        ebmkit.objective(kind(), model)(torch.zeros(5, 2))


def test_an_energy_with_no_second_derivative_is_named() -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().sum(1)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, outer: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * outer.unsqueeze(1)

    class Once(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Opaque.apply(x)  # type: ignore[no-any-return,no-untyped-call]

    for kind in (ScoreMatching, SlicedScoreMatching):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalculusWarning)
            with pytest.raises(EnergyError, match="Once"):
                ebmkit.objective(kind(), Once())(torch.zeros(5, 2))


class TestKinks:
    @pytest.fixture(autouse=True)
    def _nothing_said_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A warning is given once a process.
        monkeypatch.setattr("ebmkit.calculus.taylor._said", set())

    @pytest.mark.parametrize("kind", [ScoreMatching, SlicedScoreMatching])
    def test_second_derivatives_warn(self, kind: type[Any]) -> None:
        model = ebmkit.create("model", "mlp", event_shape=[2], hidden=[4], activation="relu")
        with pytest.warns(CalculusWarning, match="model MLP uses relu, whose slope jumps"):
            ebmkit.objective(kind(), model)(torch.ones(4, 2))

    @pytest.mark.parametrize("kind", LOSSES)
    def test_smooth_energies_and_first_derivatives_do_not(self, kind: type[Any]) -> None:
        activation = "relu" if kind is DenoisingScoreMatching else "silu"
        model = ebmkit.create("model", "mlp", event_shape=[2], hidden=[4], activation=activation)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ebmkit.objective(kind(), model)(torch.ones(4, 2))
        assert not caught
