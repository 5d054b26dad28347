"""What the composer finds before step 0 about a loss's own schedules, a loss and its model, and the
chains that judge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

import ebmkit
from ebmkit import Batch, Metrics, Model, Scheduler, SpecError, UserError
from ebmkit.errors import Problem

LEVELS = [1.0, 0.5, 0.2, 0.1]


@pytest.fixture
def tables() -> dict[str, Any]:
    return {
        "model": {"use": "mlp", "hidden": [4]},
        "loss": {"use": "denoising-score-matching"},
        "dataset": {"use": "two-moons"},
        "training": {"steps": 11, "batch_size": 16},
        "evaluation": {"n_samples": 20, "chain_steps": 5},
    }


def problems(tables: dict[str, Any], **overrides: Any) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(copy.deepcopy(tables), **overrides)
    return caught.value.problems


def ramp(start: float, end: float, **config: Any) -> dict[str, Any]:
    return {"use": "linear", "start_value": start, "end_value": end, **config}


class TestSchedulesOfALoss:
    @pytest.mark.parametrize(
        ("schedule", "words"),
        [
            (ramp(0.5, 0.0), "at step 10 the schedule gives a value out of range"),
            (ramp(-0.5, 0.1), "at step 0 the schedule gives a value out of range"),
            (
                {
                    "use": "sequential",
                    "schedulers": [ramp(0.5, 0.4), ramp(-0.3, 0.2)],
                    "milestones": [5],
                },
                "at step 5 the schedule gives a value out of range",
            ),
            (
                ramp(0.5, 0.1, clock="chain"),
                'no chain runs where it is read; set clock = "training"',
            ),
        ],
    )
    def test_out_of_range_or_on_the_wrong_clock(
        self, tables: Any, schedule: dict[str, Any], words: str
    ) -> None:
        (problem,) = problems(tables, **{"loss.sigma": schedule})
        assert problem.path == "loss.sigma"
        assert problem.message.startswith(words)

    def test_its_line_in_the_file_is_told(self, tmp_path: Path, tables: Any) -> None:
        file = tmp_path / "run.toml"
        file.write_text(
            'dataset = "two-moons"\nmodel = "mlp"\n[loss]\nuse = "dsm"\n'
            'sigma = { use = "linear", start_value = 0.5, end_value = 0.0 }\n'
        )
        with pytest.raises(SpecError, match=r"run\.toml:5: loss\.sigma: at step 999 "):
            ebmkit.compose(file)

    def test_one_within_range_is_spread_over_the_run(self, tables: Any) -> None:
        pipeline = ebmkit.compose(tables, **{"loss.sigma": ramp(1.0, 0.5)})
        found = [float(pipeline.train_step()["sigma"]) for _ in range(11)]
        assert found == pytest.approx([1.0 - 0.05 * step for step in range(11)])

    def test_a_live_loss_is_checked_as_well(self, tables: Any) -> None:
        for end, steps, words in ((-0.1, 5, "out of range"), (0.1, None, "length is open")):
            sigma = ebmkit.create(
                "scheduler", "linear", start_value=0.5, end_value=end, n_steps=steps
            )
            (problem,) = problems(tables, loss=ebmkit.create("loss", "dsm", sigma=sigma))
            assert problem.path == "loss.sigma"
            assert words in problem.message

    def test_other_callables_of_a_loss_are_no_schedules(self, tables: Any) -> None:
        @attrs.frozen
        class Taught(Fussy):
            teacher: Any = None
            weight: float | Scheduler = 1.0

        def teacher(x: Tensor) -> Tensor:
            raise AssertionError("read as a schedule")

        assert ebmkit.compose(tables, loss=Taught(teacher=teacher)).step == 0

    def test_types_that_only_a_type_checker_knows_are_no_obstacle(self, tables: Any) -> None:
        class Odd(Fussy):
            def __init__(self, weight: Nowhere = 1.0) -> None:  # type: ignore[name-defined]  # noqa: F821
                pass

            refuses = ""

        assert ebmkit.compose(tables, loss=Odd()).step == 0


@attrs.frozen
class Fussy:
    """A loss that says which models it can train."""

    refuses: str = ""

    def check(self, model: Model) -> None:
        if type(model).__name__ == self.refuses:
            raise UserError(f"Fussy cannot train {self.refuses}")

    def init(self, model: Model, batch: Batch, *, generator: torch.Generator) -> tuple[()]:
        return ()

    def draw(
        self, model: Model, batch: Batch, state: Any, step: int, *, generator: torch.Generator
    ) -> tuple[tuple[()], Any]:
        return (), state

    def __call__(self, model: Model, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        return model(batch.x).mean(), {}


class TestLossAndModel:
    def test_levels_need_a_noise_conditional_model(self, tables: Any) -> None:
        (problem,) = problems(tables, **{"loss.sigma": LEVELS})
        assert problem.path == "loss"
        assert "a list of 4 levels and MLP is not noise-conditional" in problem.message
        model = {"use": "noise-conditional-mlp", "lowest_level": LEVELS[-1]}
        ebmkit.compose(tables, model=model, **{"loss.sigma": LEVELS}).train_step()

    def test_the_level_that_is_judged_is_one_that_is_trained(self, tables: Any) -> None:
        model = {"use": "noise-conditional-mlp", "lowest_level": LEVELS[-1] / 2}
        (problem,) = problems(tables, model=model, **{"loss.sigma": LEVELS})
        assert problem.path == "loss"
        assert f"set the model's lowest_level = {LEVELS[-1]}" in problem.message

    def test_any_loss_may_refuse_a_model(self, tables: Any) -> None:
        (problem,) = problems(tables, loss=Fussy("MLP"))
        assert problem == Problem("loss", "Fussy cannot train MLP", None)
        assert ebmkit.compose(tables, loss=Fussy("Other")).step == 0


class TestSamplerAndModel:
    annealed: ClassVar = {"use": "annealed-langevin", "levels": LEVELS}

    def test_annealing_needs_a_noise_conditional_model(self, tables: Any) -> None:
        (problem,) = problems(tables, sampler=self.annealed)
        assert problem.path == "sampler"
        assert "expected a noise-conditional energy, got MLP" in problem.message

    def test_so_does_that_of_a_loss(self, tables: Any) -> None:
        loss = {"use": "contrastive-divergence", "sampler": self.annealed, "k_steps": 4}
        (problem,) = problems(tables, loss=loss)
        assert problem.path == "loss.sampler"


class TestChainsThatJudge:
    def with_annealing(self, tables: Any, chain_steps: int) -> dict[str, Any]:
        return {
            **tables,
            "model": {"use": "noise-conditional-mlp", "hidden": [4]},
            "sampler": {"use": "annealed-langevin", "levels": LEVELS},
            "evaluation": {"n_samples": 20, "chain_steps": chain_steps},
        }

    def test_fewer_steps_than_levels(self, tables: Any) -> None:
        (problem,) = problems(self.with_annealing(tables, 3))
        assert problem.path == "evaluation.chain_steps"
        assert "expected chains of at least 4 steps, one a level, got 3" in problem.message

    def test_as_many_steps_as_levels_are_enough(self, tables: Any) -> None:
        pipeline = ebmkit.compose(self.with_annealing(tables, 4))
        assert pipeline.sample(3).shape == (3, 2)

    @pytest.mark.parametrize(
        ("schedule", "chain_steps", "path", "words"),
        [
            (
                ramp(0.1, -0.1, clock="chain"),
                5,
                "sampler.step_size",
                "at step 2 the schedule gives",
            ),
            (ramp(0.1, 0.01, clock="chain"), 0, "evaluation.chain_steps", "steps ≥ 1"),
            (
                ramp(0.1, 0.01, clock="chain", n_steps=6),
                5,
                "evaluation.chain_steps",
                "6 chain steps",
            ),
        ],
    )
    def test_schedules_on_the_chain_clock(
        self, tables: Any, schedule: Any, chain_steps: int, path: str, words: str
    ) -> None:
        sampler = {"use": "langevin", "step_size": schedule}
        (problem,) = problems(tables, sampler=sampler, **{"evaluation.chain_steps": chain_steps})
        assert problem.path == path
        assert words in problem.message

    def test_a_schedule_that_fits_runs(self, tables: Any) -> None:
        sampler = {"use": "langevin", "step_size": ramp(0.1, 0.01, clock="chain")}
        assert ebmkit.compose(tables, sampler=sampler).sample(3).shape == (3, 2)


def test_all_problems_come_in_one_report(tables: Any) -> None:
    found = problems(
        tables,
        sampler={"use": "langevin", "step_size": ramp(0.1, -0.1, clock="chain")},
        **{"loss.sigma": ramp(0.5, 0.0)},
    )
    assert {problem.path for problem in found} == {"loss.sigma", "sampler.step_size"}


class TestLossesThatJudge:
    """Mistakes in the losses of the evaluation and of hook plugins are found before the first step."""

    @pytest.mark.parametrize("place", ["evaluation.loss", "hooks.early-stopping.loss"])
    @pytest.mark.parametrize(
        ("loss", "path", "words"),
        [
            ({"use": "dsm", "sigma": [0.5, 0.1]}, "", "not noise-conditional"),
            ("cd", "", "its own samples"),
            (
                {"use": "dsm", "sigma": {"use": "linear", "start_value": 0.1, "end_value": -0.05}},
                ".sigma",
                "out of range",
            ),
            (
                {
                    "use": "dsm",
                    "sigma": {
                        "use": "linear",
                        "start_value": 1.0,
                        "end_value": 0.1,
                        "clock": "chain",
                    },
                },
                ".sigma",
                'set clock = "training"',
            ),
        ],
    )
    def test_are_found(self, tables: Any, place: str, loss: Any, path: str, words: str) -> None:
        hooks = {"early-stopping": {"patience": 5, "every": 1}} if "hooks" in place else {}
        sampler = {"use": "langevin", "step_size": 0.1}
        (problem,) = problems(tables, sampler=sampler, hooks=hooks, **{place: loss})
        assert problem.path == place + path
        assert words in problem.message

    def test_open_schedules_are_spread_over_the_run(self, tables: Any) -> None:
        falling = {"use": "linear", "start_value": 0.5, "end_value": 0.1}
        for loss in ("@loss", {"use": "dsm", "sigma": falling}):
            pipeline = ebmkit.compose(
                tables, **{"loss.sigma": falling, "evaluation.loss": loss, "training.steps": 5}
            )
            judging: Any = pipeline.evaluation.loss
            assert judging.sigma(0) == pytest.approx(0.5)
            assert judging.sigma(4) == pytest.approx(0.1)


LADDER: dict[str, Any] = {"use": "parallel-tempering", "sampler": "mala"}
BITS: dict[str, Any] = {
    "model": {"use": "rbm", "n_hidden": 2},
    "loss": {"use": "pcd", "sampler": "gibbs"},
    "dataset": {"use": "digits", "binarise": True},
}


class TestWhatAPartSaysOfItsFields:
    """The path leads to the field, whose name is not said a second time."""

    @pytest.mark.parametrize(
        ("changes", "path", "words"),
        [
            (
                {"sampler": {**LADDER, "inverse_temperatures": [0.5, 0.1]}},
                "sampler.inverse_temperatures",
                "expected numbers > 0 in strictly decreasing order",
            ),
            (
                {"sampler": {**LADDER, "inverse_temperatures": [1.0, 0.5], "n_replicas": 3}},
                "sampler.n_replicas",
                "expected none beside inverse_temperatures",
            ),
            (
                {"sampler": {"use": "adaptive", "sampler": "langevin"}},
                "sampler.sampler",
                "expected one that leaves p(x) exactly as it is",
            ),
            (
                {"sampler": {**LADDER, "sampler": {"use": "adaptive", "sampler": "langevin"}}},
                "sampler.sampler.sampler",
                "expected one that leaves p(x) exactly as it is",
            ),
            (
                {**BITS, "dataset": {"use": "digits", "binarise": True, "scale": "unit"}},
                "dataset.scale",
                "expected none where binarise",
            ),
            (
                {**BITS, "loss": {"use": "pcd", "sampler": "gibbs", "fill": "gaussian"}},
                "loss.fill",
                'expected "data" or "uniform"',
            ),
            (
                {"sampler": {"use": "annealed-langevin", "levels": [1.0]}},
                "sampler",
                "AnnealedLangevin: expected a noise-conditional energy",
            ),
        ],
    )
    def test_is_at_the_field(self, tables: Any, changes: Any, path: str, words: str) -> None:
        (problem,) = problems({**tables, **changes})
        assert problem.path == path
        assert problem.message.startswith(words)

    def test_of_a_part_alone_too(self) -> None:
        with pytest.raises(SpecError, match=r"^sampler\.sampler: expected one with a step_size"):
            ebmkit.create("sampler", "adaptive", sampler="gibbs")
