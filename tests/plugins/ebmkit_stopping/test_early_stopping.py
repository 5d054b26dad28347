"""Early stopping against a run whose validation loss is known at every step."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ebmkit_stopping.early_stopping import EarlyStopping, StoppingError
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, Run, SpecError
from ebmkit.hooks import Hooks


class Sloped(nn.Module):
    """E(x) = w Σx, with w = 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x.flatten(1).sum(1)


class Plain:
    """What losses without state or draws have in common."""

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> None:
        return None

    def draw(self, model: Any, batch: Batch, state: None, step: int, *, generator: Any) -> Any:
        return None, None


class Rising(Plain):
    """A loss whose gradient in w is −1: a step of SGD at rate 1 adds 1 to w."""

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        return -model.w, {}


@attrs.define
class Distance(Plain):
    """(w − best)², least after the step of that number; keeps what it was given."""

    best: float
    seen: list[Tensor] = attrs.field(factory=list)

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        self.seen.append(batch.x)
        return (model.w - self.best).square(), {}


class Normal:
    """An endless dataset of the standard normal plane, whose density is nobody's business."""

    event_shape = (2,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.randn(size, 2, generator=generator))


def composed(stopping: dict[str, Any], **overrides: Any) -> ebmkit.Pipeline:
    tables: dict[str, Any] = {
        "model": Sloped(),
        "loss": Rising(),
        "dataset": Normal(),
        "training": {"steps": 30, "batch_size": 8, "optimizer": {"use": "sgd", "lr": 1.0}},
        "hooks": {"early-stopping": stopping},
    }
    return ebmkit.compose(tables, **overrides)


def fitted(pipeline: ebmkit.Pipeline, **options: Any) -> Run:
    return pipeline.fit(hooks=Hooks(pipeline.hooks), **options)


def weight(model: Any) -> float:
    return model.w.item()


@pytest.mark.parametrize(
    ("every", "patience", "best", "kept", "stopped"),
    [
        (1, 5, 7.0, 7, 12),
        (1, 1, 7.0, 7, 8),
        (3, 5, 7.0, 6, 12),  # validated after 3, 6, 9 and 12; five steps after 6 is within the last
        (3, 6, 8.0, 9, 15),
        (10, 10, 12.0, 10, 20),
        (1, 100, 7.0, 7, None),
        (1, 5, 100.0, 30, None),
    ],
)
def test_it_stops_after_the_patience_and_keeps_the_best(
    every: int, patience: int, best: float, kept: int, stopped: int | None
) -> None:
    pipeline = composed({"loss": Distance(best), "patience": patience, "every": every})
    run = fitted(pipeline)
    assert run.step == pipeline.step == (stopped or 30)
    assert bool(run.stopped) == (stopped is not None)
    assert weight(pipeline.model) == kept
    assert weight(pipeline.trainer.model) == weight(pipeline.present_model) == run.step
    assert pipeline.evaluate()["kept_step"] == kept
    if stopped:
        least = (kept - best) ** 2
        assert f"the validation loss was least, {least:g}, after step {kept}" in run.stopped


def test_what_is_validated_is_the_average_where_one_is_kept() -> None:
    loss = Distance(3.0)
    pipeline = composed({"loss": loss, "patience": 30, "every": 1}, **{"training.ema_decay": 0.5})
    values = []
    for _ in range(30):
        pipeline.train_step()
        averaged = weight(pipeline.trainer.averaged)
        values.append((averaged - 3.0) ** 2)
        assert pipeline.validate(loss) == pytest.approx(values[-1])
    again = composed({"loss": loss, "patience": 30, "every": 1}, **{"training.ema_decay": 0.5})
    fitted(again)
    assert again.trainer.kept_step == 1 + values.index(min(values))


def test_training_itself_is_as_without_it(small: dict[str, Any]) -> None:
    ends = []
    for hooks in ({}, {"early-stopping": {"loss": {"use": "dsm"}, "patience": 100, "every": 2}}):
        pipeline = ebmkit.compose(small, hooks=hooks)
        before = torch.get_rng_state()
        fitted(pipeline)
        assert torch.equal(before, torch.get_rng_state())
        ends.append(pipeline.trainer.module)
    assert ends[0] is not None and ends[1] is not None
    for one, other in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_points_are_the_same_each_time_and_noisy_as_in_training() -> None:
    loss = Distance(7.0)
    pipeline = composed({"loss": loss, "patience": 5, "every": 1})
    fitted(pipeline)
    assert len(loss.seen) == 12
    assert all(torch.equal(x, loss.seen[0]) for x in loss.seen)
    noisy = Distance(7.0)
    fitted(composed({"loss": noisy, "patience": 5, "every": 1}, **{"training.data_noise": 0.3}))
    added = noisy.seen[0] - loss.seen[0]
    # 2,000 normal numbers: five standard errors of their deviation, false alarm below 6e-7.
    assert abs(added.std() - 0.3) < 5 * 0.3 / (2 * added.numel()) ** 0.5
    assert all(torch.equal(x, noisy.seen[0]) for x in noisy.seen)


def test_rows_kept_apart_are_what_is_validated_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(f"{i},{i}" for i in range(50)), encoding="utf-8")
    data = {"use": "array", "path": str(path), "validation": 0.2, "held_out": 0.2}
    loss = Distance(7.0)
    pipeline = composed({"loss": loss, "patience": 5, "every": 1}, dataset=data)
    fitted(pipeline)
    dataset: Any = pipeline.dataset
    assert torch.equal(loss.seen[0], dataset.validation_batch.x)


def test_a_run_goes_on_bit_for_bit(tmp_path: Path, small: dict[str, Any]) -> None:
    """In two parts as in one, over the best step and the end."""
    stopping = {"loss": {"use": "dsm", "sigma": 0.3}, "patience": 20, "every": 2}
    changes = {
        "training.optimizer.lr": 0.01,
        "training.ema_decay": 0.5,
        "hooks.early-stopping": stopping,
    }
    whole = ebmkit.compose(small, **changes, **{"training.steps": 200})
    run = fitted(whole)
    assert 20 < run.step < 200
    (hook,) = whole.hooks.values()
    assert isinstance(hook, EarlyStopping)
    for cut in (hook.best_step - 2, hook.best_step + 2):
        out = tmp_path / str(cut)
        fitted(ebmkit.compose(small, **changes, **{"training.steps": cut}), out=out)
        second = ebmkit.load(out, **{"training.steps": 200})
        again = fitted(second)
        assert (again.step, again.stopped) == (run.step, run.stopped)
        assert second.trainer.kept_step == whole.trainer.kept_step
        assert second.trainer.kept is not None and whole.trainer.kept is not None
        theirs = whole.trainer.kept.state_dict()
        for name, value in second.trainer.kept.state_dict().items():
            assert torch.equal(value, theirs[name]), name


def test_a_run_leaves_its_reason_and_its_model(tmp_path: Path, small: dict[str, Any]) -> None:
    stopping = {"loss": {"use": "dsm", "sigma": 0.3}, "patience": 20, "every": 2}
    changes = {"training.optimizer.lr": 0.05, "training.steps": 200}
    pipeline = ebmkit.compose(small, **changes, hooks={"early-stopping": stopping})
    run = pipeline.fit(out=tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    assert (status["status"], status["step"]) == ("finished", run.step)
    assert "early-stopping: the validation loss was least" in status["reason"]
    # The last step's metrics are recorded though it falls on no tenth step.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == run.step
    judged = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    loaded = ebmkit.load(tmp_path / "run")
    assert loaded.evaluate() == {k: v for k, v in judged.items() if k != "step"}
    theirs = loaded.model.state_dict() if isinstance(loaded.model, nn.Module) else {}
    assert isinstance(pipeline.model, nn.Module)
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, theirs[name])


class TestMistakes:
    @pytest.mark.parametrize(
        ("stopping", "words"),
        [
            ({"patience": 0}, ("hooks.early-stopping.patience", "must be >= 1")),
            ({"patience": 2.5}, ("hooks.early-stopping.patience", "expected a whole number")),
            ({}, ("hooks.early-stopping.patience", "missing")),
            ({"patience": 5, "evry": 1}, ("hooks.early-stopping.evry", "did you mean 'every'?")),
            (
                {"patience": 5, "loss": {"use": "pcd"}},
                ("does not say which of two models is better", "state another"),
            ),
            ({"patience": 5, "every": 31}, ("each 31 steps", "the run's end at 30", "fewer")),
        ],
    )
    def test_of_the_table(self, stopping: dict[str, Any], words: tuple[str, ...]) -> None:
        sampler = {"use": "langevin", "step_size": 0.1}
        with pytest.raises(SpecError) as raised:
            composed(stopping, sampler=sampler)
        (problem,) = raised.value.problems
        for word in words[1:] if words[0].startswith("hooks") else words:
            assert word in problem.message
        assert problem.path.startswith("hooks.early-stopping")

    def test_a_finite_set_without_rows_to_validate_on(self) -> None:
        with pytest.raises(SpecError, match=r"keeps no rows apart.*dataset\.validation = 0\.1"):
            composed({"loss": Distance(1.0), "patience": 5}, dataset=torch.randn(50, 2))

    def test_a_loss_with_a_sampler(self) -> None:
        pipeline = composed({"loss": Distance(1.0), "patience": 5})
        loss = ebmkit.create("loss", "cd", sampler={"use": "langevin", "step_size": 0.1})
        with pytest.raises(StoppingError, match="ContrastiveDivergence"):
            EarlyStopping(loss, 5).check(pipeline)


def test_a_second_fit_goes_on_with_the_best_of_the_first() -> None:
    pipeline = composed({"loss": Distance(7.0), "patience": 5, "every": 1})
    fitted(pipeline)
    assert (pipeline.step, weight(pipeline.model)) == (12, 7)
    # The next validation finds nothing better, five steps and more after the best.
    fitted(pipeline)
    assert (pipeline.step, weight(pipeline.model)) == (13, 7)


def test_a_fit_that_was_interrupted_goes_on_with_its_best() -> None:
    class Interrupting:
        @ebmkit.hookimpl
        def step_end(self, run: Run) -> None:
            if run.step == 9:
                run.pipeline.interrupt()

    pipeline = composed({"loss": Distance(7.0), "patience": 5, "every": 1})
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(hooks=Hooks({**pipeline.hooks, "interrupting": Interrupting()}))
    run = fitted(pipeline)
    assert (run.step, weight(pipeline.model)) == (12, 7)


def test_schedules_do_not_move_what_is_validated() -> None:
    """Of a model that stands still every validation has one value."""
    falling = {"use": "linear", "start_value": 1.0, "end_value": 0.1}
    pipeline = ebmkit.compose(
        {
            "model": {"use": "mlp", "hidden": [4]},
            "loss": {"use": "dsm", "sigma": falling},
            "dataset": Normal(),
            "training": {
                "steps": 20,
                "batch_size": 8,
                "data_noise": falling,
                "optimizer": {"use": "sgd", "lr": 0.0},
            },
        }
    )
    values = set()
    for _ in range(20):
        pipeline.train_step()
        values.add(pipeline.validate(pipeline.loss))
    (value,) = values
    # Both are as the schedules end.
    assert value == pipeline.validate(ebmkit.create("loss", "dsm", sigma=0.1))


def test_a_validation_that_is_not_finite_names_itself() -> None:
    class Broken(Plain):
        def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
            return model.w * float("nan") if model.w > 2.5 else model.w, {}

    pipeline = composed({"loss": Broken(), "patience": 9, "every": 1})
    with pytest.raises(ebmkit.DivergenceError, match="validation after step 3: Broken"):
        fitted(pipeline)


def test_an_earlier_state_of_the_same_pipeline_can_be_loaded() -> None:
    pipeline = composed({"loss": Distance(7.0), "patience": 5, "every": 1})
    before = copy.deepcopy(pipeline.state_dict())
    first = fitted(pipeline)
    pipeline.load_state_dict(before)
    assert pipeline.trainer.kept is None and pipeline.step == 0
    assert fitted(pipeline).step == first.step
    assert weight(pipeline.model) == 7


def test_models_with_computed_weights_are_kept() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.utils.spectral_norm(nn.Linear(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).squeeze(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Spectral()
    stopping = {"loss": {"use": "dsm"}, "patience": 5, "every": 2}
    pipeline = composed(stopping, model=model, loss={"use": "dsm"})
    fitted(pipeline)
    assert pipeline.trainer.kept is not None


def test_rows_of_an_empty_batch_are_none() -> None:
    class Empty(Normal):
        n_samples = 100
        validation_batch = Batch(torch.zeros(0, 2))

    with pytest.raises(SpecError, match="keeps no rows apart"):
        composed({"loss": Distance(1.0), "patience": 5}, dataset=Empty())
