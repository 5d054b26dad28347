"""A run that diverges and goes back: to which checkpoint, with which learning rate, how often."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ebmkit
from ebmkit import DivergenceError, hookimpl
from ebmkit.hooks import Hooks
from ebmkit.rundir import RunDirectory, step_of
from ebmkit.spec import to_toml

ROWS = torch.linspace(-1, 1, 140).reshape(70, 2)


@pytest.fixture
def spec(small: Any) -> Any:
    tables = copy.deepcopy(small)
    tables["training"] |= {
        "steps": 12,
        "checkpoint_every": 3,
        "on_divergence": "rollback",
        "log_every": 1,
        "optimizer": {"use": "sgd", "lr": 0.64},
        "rollback_factor": 0.5,
        "max_rollbacks": 4,
    }
    return tables


class Failing:
    """Makes steps of a pipeline diverge, by a plan: the steps at which it does, one after another."""

    def __init__(self, *steps: int) -> None:
        self.left = list(steps)
        self.rates: list[tuple[int, float]] = []

    def within(self, pipeline: Any) -> None:
        trainer, former = pipeline.trainer, pipeline.trainer._step

        def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
            taken = former(module, optimizer)
            self.rates.append((trainer.done, optimizer.param_groups[0]["lr"]))
            if self.left and trainer.done == self.left[0]:
                self.left.pop(0)
                raise DivergenceError("as planned", step=trainer.done)
            return taken

        trainer._step = step


def starts(rates: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The first step of each stretch, and its learning rate."""
    before = [0, *(step for step, _ in rates)]
    return [
        (step, round(rate, 9))
        for former, (step, rate) in zip(before, rates, strict=False)
        if former == 0 or step <= former
    ]


@pytest.mark.parametrize("kept", ["directory", "memory"])
@pytest.mark.parametrize(
    ("fails", "stretches"),
    [
        # To the last checkpoint, at half the rate.
        ((8,), [(1, 0.64), (7, 0.32)]),
        # Before the first checkpoint: to the start.
        ((2,), [(1, 0.64), (1, 0.32)]),
        # Again before another checkpoint: one further back, at last to the start, where it stays.
        ((8, 8, 4, 2), [(1, 0.64), (7, 0.32), (4, 0.16), (1, 0.08), (1, 0.04)]),
        # Again after another checkpoint: to that one.
        ((5, 8, 11), [(1, 0.64), (4, 0.32), (7, 0.16), (10, 0.08)]),
    ],
)
def test_where_it_goes_back_to(
    fails: tuple[int, ...], stretches: list[Any], kept: str, spec: Any, tmp_path: Path
) -> None:
    pipeline = ebmkit.compose(spec)
    failing = Failing(*fails)
    failing.within(pipeline)
    out = tmp_path / "run" if kept == "directory" else None
    run = pipeline.fit(out=out, hooks=Hooks({}))
    assert run.step == 12
    assert starts(failing.rates) == stretches
    assert pipeline.trainer.rollbacks == len(fails)
    assert len(run.notices) == len(fails)
    assert "diverged: as planned; rollback 1 of 4: back to step" in run.notices[0]
    if out:
        assert RunDirectory(out).status()["rollbacks"] == len(fails)
        assert [step_of(p) for p in RunDirectory(out).checkpoints()] == [6, 9, 12]


def test_memory_and_directory_are_the_same_run(spec: Any, tmp_path: Path) -> None:
    weights = []
    for out in (tmp_path / "run", None):
        pipeline = ebmkit.compose(copy.deepcopy(spec))
        Failing(8, 8).within(pipeline)
        pipeline.fit(out=out, hooks=Hooks({}))
        weights.append(pipeline.state_dict()["weights"]["trained"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_draws_are_new_ones(spec: Any) -> None:
    spec["training"]["rollback_factor"] = 1.0
    pipeline, other = ebmkit.compose(copy.deepcopy(spec)), ebmkit.compose(copy.deepcopy(spec))
    Failing(8).within(pipeline)
    pipeline.fit(hooks=Hooks({}))
    other.fit(hooks=Hooks({}))
    one, two = (p.trainer.objective.state.x for p in (pipeline, other))
    assert not torch.equal(one, two)


def test_it_gives_up(spec: Any, tmp_path: Path, last_of: Any) -> None:
    pipeline = ebmkit.compose(spec)
    Failing(8, 8, 8, 8, 8).within(pipeline)
    with pytest.raises(DivergenceError, match=r"as planned; given up after 4 rollbacks \(training"):
        pipeline.fit(out=tmp_path / "run", hooks=Hooks({}))
    status = RunDirectory(tmp_path / "run").status()
    assert (status["status"], status["rollbacks"]) == ("diverged", 4)
    assert "given up after 4 rollbacks" in status["reason"]
    pipeline = ebmkit.load(tmp_path / "run")
    assert pipeline.step == 6
    assert all(
        v.isfinite().all() for v in pipeline.trainer.state_dict()["weights"]["trained"].values()
    )


def test_a_schedule_is_multiplied(spec: Any) -> None:
    lr = {"use": "linear", "start_value": 0.6, "end_value": 0.05}
    spec["training"]["optimizer"]["lr"] = lr
    pipeline = ebmkit.compose(spec)
    failing = Failing(8)
    failing.within(pipeline)
    pipeline.fit(hooks=Hooks({}))
    assert starts(failing.rates) == [(1, 0.6), (7, 0.15)]


def test_interrupted_after_it_went_back(
    spec: Any, tmp_path: Path, train_to: Any, last_of: Any, differing: Any
) -> None:
    def fitted(out: Path, interrupt: bool) -> None:
        pipeline = ebmkit.compose(copy.deepcopy(spec))
        Failing(8).within(pipeline)

        class At10:
            @hookimpl
            def step_end(self, run: Any) -> None:
                if run.step == 10:
                    run.pipeline.interrupt()

        hooks = Hooks({"stop": At10} if interrupt else {})
        if not interrupt:
            pipeline.fit(out=out, hooks=hooks)
            return
        with pytest.raises(KeyboardInterrupt):
            pipeline.fit(out=out, hooks=hooks)
        run = ebmkit.resume(out, hooks=Hooks({}))
        assert run.pipeline.trainer.lr_factor == 0.5

    fitted(tmp_path / "whole", False)
    fitted(tmp_path / "parts", True)
    assert not differing(last_of(tmp_path / "whole"), last_of(tmp_path / "parts"))


def test_what_hooks_keep_goes_back_too(spec: Any) -> None:
    seen: list[int] = []

    class Counting:
        count = 0

        @hookimpl
        def step_end(self) -> None:
            self.count += 1

        @hookimpl
        def save_state(self) -> Any:
            return {"count": self.count}

        @hookimpl
        def load_state(self, state: Any) -> None:
            seen.append(state["count"])
            self.count = state["count"]

    pipeline = ebmkit.compose(spec)
    Failing(8).within(pipeline)
    pipeline.fit(hooks=Hooks({"counting": Counting}))
    assert seen == [6]
    assert pipeline.hook_states["counting"] == {"count": 12}


def test_records_tell_stretches_apart(
    spec: Any, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ebmkit.compose(spec)
    Failing(8).within(pipeline)
    pipeline.fit(out=tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    told = [(r["rollbacks"], r["step"]) for r in map(json.loads, lines)]
    assert told == [(0, s) for s in range(1, 8)] + [(1, s) for s in range(7, 13)]
    assert (tmp_path / "run" / "training.png").is_file()
    ebmkit.resume(tmp_path / "run", steps=14)
    again = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert again[: len(lines)] == lines and len(again) == len(lines) + 2


class TestTheGap:
    @pytest.fixture
    def steep(self, small: Any) -> Any:
        tables = copy.deepcopy(small)
        tables["training"] |= {"optimizer": {"use": "sgd", "lr": 1e3}, "steps": 40}
        return tables

    def test_beyond_the_limit_is_divergence(self, steep: Any, tmp_path: Path) -> None:
        steep["training"]["energy_gap_limit"] = 1e3
        with pytest.raises(
            DivergenceError, match=r"the energy gap is .* training.energy_gap_limit = 1000"
        ):
            ebmkit.compose(steep).fit(out=tmp_path / "run", hooks=Hooks({}))
        assert RunDirectory(tmp_path / "run").status()["status"] == "diverged"

    def test_without_a_limit_only_what_is_not_finite_is(self, steep: Any) -> None:
        steep["training"]["energy_gap_limit"] = 1e300
        with pytest.raises(DivergenceError) as caught:
            ebmkit.compose(steep).fit(hooks=Hooks({}))
        assert "energy_gap_limit" not in str(caught.value)

    def test_going_back_until_it_is_stable(self, steep: Any, tmp_path: Path) -> None:
        steep["training"] |= {
            "on_divergence": "rollback",
            "energy_gap_limit": 1e3,
            "rollback_factor": 0.01,
        }
        run = ebmkit.compose(steep).fit(out=tmp_path / "run", hooks=Hooks({}))
        assert run.step == 40
        assert 0 < RunDirectory(tmp_path / "run").status()["rollbacks"] <= 5


def test_a_run_that_diverged_goes_on_by_another_policy(
    small: Any, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    spec, path, out = copy.deepcopy(small), tmp_path / "p.toml", tmp_path / "run"
    spec["training"] |= {"optimizer": {"use": "sgd", "lr": 1e3}, "steps": 40, "checkpoint_every": 1}
    path.write_text(to_toml(spec))
    said = cli("train", path, "--out", out)
    assert said.code == 1
    assert f"to go on: ebmkit resume {out} --set training.on_divergence=rollback" in said.err
    assert cli("resume", out).code == 1
    words = ["training.on_divergence=rollback", "training.rollback_factor=0.01"]
    said = cli("resume", out, *(w for word in words for w in ("--set", word)))
    assert said.code == 0, said.err
    assert "rollback 1 of 5: back to step" in said.err
    assert RunDirectory(out).status()["rollbacks"] >= 1
    assert 'on_divergence = "rollback"' in (out / "spec.toml").read_text()


def test_other_errors_do_not_go_back(spec: Any) -> None:
    class Broken:
        @hookimpl
        def step_end(self, run: Any) -> None:
            raise RuntimeError("no luck")

    with pytest.raises(ebmkit.PluginError, match="no luck"):
        ebmkit.compose(spec).fit(hooks=Hooks({"broken": Broken}))
