"""The laws for hook plugins: kept by good ones, and broken ones are caught."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ebmkit import Run, hookimpl
from ebmkit.errors import HookError
from ebmkit.hooks import Hooks
from ebmkit.testing import Subject, hooks, report
from ebmkit.testing.laws import Law
from ebmkit.testing.reports import laws_of


def laws(*names: str) -> list[Law]:
    """The laws of this module, all or those of some names."""
    found = [law for law in laws_of("hook") if law.check.__module__ == hooks.__name__]
    return [law for law in found if not names or law.name in names]


class Counting:
    """Counts steps, over all runs that go on from one another."""

    def __init__(self) -> None:
        self.seen = 0

    @hookimpl
    def step_end(self) -> None:
        self.seen += 1

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        return {"seen": self.seen}

    @hookimpl
    def load_state(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]

    @hookimpl
    def doctor(self) -> list[str]:
        return ["all is well"]


@pytest.mark.parametrize("seed", range(3))
def test_a_good_one_keeps_them(seed: int) -> None:
    found = report(Subject("hook", Counting), laws(), seed=seed)
    assert found.good, "\n".join(found.lines())


class Misspelt:
    """Has a hook that there is not."""

    @hookimpl
    def step_ended(self, run: Run) -> None:
        """Never called."""


class Overeager:
    """Asks for an argument that there is not."""

    @hookimpl
    def step_end(self, run: Run, energy: Any) -> None:
        """Never called."""


class Unmarked:
    """Forgets the mark."""

    def step_end(self, run: Run) -> None:
        """Never called."""


class Pulling:
    """Changes the weights."""

    @hookimpl
    def step_end(self, run: Run) -> None:
        with torch.no_grad():
            for parameter in run.pipeline.trainer.model.parameters():  # type: ignore[attr-defined]
                parameter.mul_(0.999)


class PullingAtTheEnd:
    """Changes the weights once training is over."""

    @hookimpl
    def run_end(self, run: Run) -> None:
        with torch.no_grad():
            for parameter in run.pipeline.trainer.model.parameters():  # type: ignore[attr-defined]
                parameter.mul_(0.999)


class Freezing:
    """Leaves parameters without gradients."""

    @hookimpl
    def run_end(self, run: Run) -> None:
        run.pipeline.model.requires_grad_(False)  # type: ignore[attr-defined]


class Training:
    """Takes a training step of its own."""

    @hookimpl
    def run_start(self, run: Run) -> None:
        run.pipeline.trainer.step()


class Eating:
    """Draws from torch's global generator."""

    @hookimpl
    def step_end(self) -> None:
        torch.rand(1)


class EatingPythons:
    """Draws from Python's global generator."""

    @hookimpl
    def run_start(self) -> None:
        random.random()


class EatingTheRuns:
    """Draws from the generator of the run's data."""

    @hookimpl
    def step_end(self, run: Run) -> None:
        torch.rand(3, generator=run.pipeline.trainer.feed.generator)


class Doubling:
    """Leaves another default dtype."""

    @hookimpl
    def run_end(self) -> None:
        torch.set_default_dtype(torch.float64)


class NeedsADirectory:
    """Writes where nothing is kept."""

    @hookimpl
    def run_end(self, run: Run) -> None:
        assert run.directory is not None


class FailsAfterErrors:
    """Expects runs to end well."""

    @hookimpl
    def run_end(self, error: BaseException | None) -> None:
        if error is not None:
            raise ValueError("ended badly")


class NeedsAnEvaluation:
    """Counts on being told of an evaluation before the run ends."""

    def __init__(self) -> None:
        self.evaluated = False

    @hookimpl
    def evaluation_done(self) -> None:
        self.evaluated = True

    @hookimpl
    def run_end(self) -> None:
        assert self.evaluated


class NeedsAStart:
    """Counts on a start since its state was loaded, which comes before it."""

    def __init__(self) -> None:
        self.seen: int | None = None

    @hookimpl
    def run_start(self) -> None:
        self.seen = 0

    @hookimpl
    def load_state(self, state: Mapping[str, Any]) -> None:
        assert self.seen is None
        self.seen = state["seen"]

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        return {"seen": self.seen}


class FailsAfterDiagnoses:
    """Expects what no diagnosis promises."""

    @hookimpl
    def diagnosis_done(self, diagnosis: Any) -> None:
        assert diagnosis.r_hat.worst < 1.01


class KeepsSets(Counting):
    """Keeps what JSON cannot say."""

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        return {"seen": {1, 2}}


class Forgets(Counting):
    """Reads nothing back."""

    @hookimpl
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class NeverAsks:
    """Keeps a state that it never reads."""

    @hookimpl
    def save_state(self) -> Mapping[str, Any]:
        return {"seen": 1}


class OneLine(Counting):
    """Says a line where lines are asked for."""

    @hookimpl
    def doctor(self) -> Any:
        return "it hurts"


class NoProblems(Counting):
    """Says in words what is wrong with a spec."""

    @hookimpl
    def validate_spec(self) -> Any:
        return ["bad"]


class Markup(Counting):
    """Adds markup to a report, where sections are asked for."""

    @hookimpl
    def report_sections(self) -> Any:
        return ["<h2>Mine</h2>"]


class FailsAtOddNumbers(Counting):
    """Expects of a run's metrics that all of them are finite."""

    @hookimpl
    def report_sections(self, records: Any) -> Any:
        assert all(math.isfinite(number) for record in records for number in record.values())
        return []


class StatedPerhaps(Counting):
    """Says something of when it takes part that means nothing."""

    stated_only = "yes"


BROKEN = [
    (Misspelt, "hooks-are-those-that-there-are"),
    (Overeager, "hooks-are-those-that-there-are"),
    (Unmarked, "hooks-are-those-that-there-are"),
    (Pulling, "training-goes-as-without-it"),
    (PullingAtTheEnd, "training-goes-as-without-it"),
    (Freezing, "training-goes-as-without-it"),
    (Training, "training-goes-as-without-it"),
    (EatingTheRuns, "training-goes-as-without-it"),
    (Eating, "global-state-is-left-alone"),
    (EatingPythons, "global-state-is-left-alone"),
    (Doubling, "global-state-is-left-alone"),
    (NeedsADirectory, "runs-go-through"),
    (FailsAfterErrors, "runs-go-through"),
    (NeedsAnEvaluation, "runs-go-through"),
    (NeedsAStart, "state-comes-back"),
    (FailsAfterDiagnoses, "runs-go-through"),
    (KeepsSets, "state-comes-back"),
    (Forgets, "state-comes-back"),
    (NeverAsks, "state-comes-back"),
    (OneLine, "returns-are-as-specified"),
    (NoProblems, "returns-are-as-specified"),
    (Markup, "returns-are-as-specified"),
    (FailsAtOddNumbers, "returns-are-as-specified"),
    (StatedPerhaps, "hooks-are-those-that-there-are"),
]


@pytest.fixture(autouse=True)
def _default_dtype() -> Any:
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("hook", "name"), BROKEN)
def test_broken_ones_are_caught(hook: type, name: str) -> None:
    found = report(Subject("hook", hook), laws(name))
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.law.name == name and outcome.status in ("broken", "failed")


TIMES = ("run_start", "step_end", "evaluation_done", "save_state", "run_end")


@pytest.mark.parametrize("time", TIMES)
def test_an_exception_is_its_plugins_and_does_not_lose_the_run(time: str, tmp_path: Path) -> None:
    class Raising(Counting):
        """Raises at one time."""

    def raising(self: Any) -> None:
        del self
        raise ZeroDivisionError("no luck")

    setattr(Raising, time, hookimpl(raising))
    made = hooks.pipeline(0)
    with pytest.raises(HookError, match=rf"hook {time} of foo-x:mine raised ZeroDiv.*no luck"):
        made.fit(
            out=tmp_path / "run", hooks=Hooks({"foo-x:mine": Raising(), "foo-x:other": Counting()})
        )
    status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
    if time in ("run_start", "step_end", "evaluation_done"):
        assert status["status"] == "failed" and "foo-x:mine" in status["reason"]
        assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
