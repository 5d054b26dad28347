"""Trackers keep what a run's own files say, read back from where TensorBoard, W&B and MLflow keep it
without a server."""

from __future__ import annotations

import copy
import json
import math
import shutil
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ebmkit_reporting.metrics_writer import MetricsWriter
from PIL import Image

import ebmkit
from ebmkit import Run, hookimpl
from ebmkit.hooks import Hooks

NAMES = ("tensorboard", "wandb", "mlflow")
ROWS = torch.linspace(-1, 1, 400).reshape(200, 2)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No names are looked up and no connection leaves this machine; W&B's service listens on it."""
    connect = socket.socket.connect

    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"the network was asked for: {arguments}")

    def local(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            refuse(address)
        connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)


def options(name: str, folder: Path) -> dict[str, Any]:
    return {
        "tensorboard": {"directory": str(folder)},
        "wandb": {"project": "ebm", "mode": "offline", "directory": str(folder)},
        "mlflow": {
            "experiment": "ebm",
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "artifact_location": str(folder),
        },
    }[name]


@pytest.fixture
def composed(small: Any, tmp_path: Path, database: Path) -> Callable[..., ebmkit.Pipeline]:
    """A pipeline that states trackers; each keeps what it tracks in a folder of its name."""

    def call(*names: str, **overrides: Any) -> ebmkit.Pipeline:
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
        if "mlflow" in names and not (tmp_path / "mlflow" / database.name).exists():
            shutil.copy(database, tmp_path / "mlflow")
        hooks = {name: options(name, tmp_path / name) for name in names}
        few = {"training.log_every": 2, "training.evaluate_every": 4, **overrides}
        return ebmkit.compose(copy.deepcopy(small), dataset=ROWS, hooks=hooks, **few)

    return call


def alone(pipeline: ebmkit.Pipeline, *others: object) -> Hooks:
    """The stated hooks and some others, without the pictures, which take long."""
    return Hooks({**pipeline.hooks, **{f"x:{n}": other for n, other in enumerate(others)}})


def records(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Ending:
    """Ends a run at a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    @hookimpl
    def step_end(self, run: Run) -> None:
        if run.step == self.step:
            if isinstance(self.error, KeyboardInterrupt):
                run.pipeline.interrupt()
            else:
                raise self.error


class Drawing:
    """Draws a picture at a run's end."""

    @hookimpl
    def run_end(self, run: Run) -> None:
        assert run.directory is not None
        Image.new("RGB", (3, 2), "red").save(run.directory / "training.png")


class TestOfOneRun:
    @pytest.fixture
    def run(self, composed: Any, tmp_path: Path) -> Path:
        """A run of six steps that all three have tracked."""
        pipeline = composed(*NAMES)
        # Those that are registered first are called last, unless a tracker asks to be.
        hooks = {"x:drawing": Drawing(), "x:writing": MetricsWriter(), **pipeline.hooks}
        pipeline.fit(out=tmp_path / "moon", hooks=Hooks(hooks))
        return tmp_path / "moon"

    def test_what_is_kept_is_what_the_run_keeps(self, run: Path, kept: Any) -> None:
        said = records(run)
        judged = json.loads((run / "evaluation.json").read_text())
        tables = tomllib.loads((run / "spec.toml").read_text())
        assert [record["step"] for record in said] == [2, 4, 6]
        for name in NAMES:
            [found] = kept(name, run.parent / name)
            metrics = {n for record in said for n in record} - {"step", "seconds"}
            assert _named(found, "training/") == metrics
            for metric in metrics:
                expected = [(r["step"], r[metric]) for r in said if metric in r]
                assert found.numbers[f"training/{metric}"] == expected, (name, metric)
            wanted = {n: v for n, v in judged.items() if isinstance(v, int | float) and n != "step"}
            assert _named(found, "evaluation/") == set(wanted)
            for number, value in wanted.items():
                points = found.numbers[f"evaluation/{number}"]
                assert [step for step, _ in points] == [4, 6]
                # TensorBoard keeps numbers in 32 bits.
                assert math.isclose(points[-1][1], value, rel_tol=1e-6), (name, number)
            assert found.pictures == {"training"}, name
            assert set(found.ended) <= {"finished", "FINISHED"} and found.ended
            match name:
                case "tensorboard":
                    assert found.key == "moon"
                    assert tomllib.loads(found.spec.strip().strip("`")) == tables
                case "wandb":
                    config = _without_none({k: v for k, v in found.spec.items() if k in tables})
                    assert config == tables
                case "mlflow":
                    parameters, text = found.spec
                    assert tomllib.loads(text) == tables
                    assert parameters["training.batch_size"] == "16"
                    assert parameters["parts.hook:mlflow"].startswith("ebmkit-core==")


def _named(found: Any, prefix: str) -> set[str]:
    return {n.removeprefix(prefix) for n in found.numbers if n.startswith(prefix)}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


def test_a_resumed_run_goes_on_in_its_tracked_run(composed: Any, kept: Any, tmp_path: Path) -> None:
    def fitted(pipeline: ebmkit.Pipeline, *others: object, out: Path | None = None) -> None:
        pipeline.fit(out=out, hooks=alone(pipeline, *others))

    fitted(composed(), MetricsWriter(), out=tmp_path / "whole")
    first = composed(*NAMES, **{"training.checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        fitted(first, Ending(5, KeyboardInterrupt()), out=tmp_path / "moon")
    # As after a crash, it goes on from a checkpoint before the last step.
    newest = max((tmp_path / "moon" / "checkpoints").glob("*.safetensors"))
    assert newest.name == "step-00000005.safetensors"
    newest.unlink()
    resumed = ebmkit.load(tmp_path / "moon", dataset=ROWS)
    assert resumed.step == 4
    fitted(resumed)
    for name in NAMES:
        [found] = kept(name, tmp_path / name)
        loss = found.numbers["training/loss"]
        assert dict(loss) == {r["step"]: r["loss"] for r in records(tmp_path / "whole")}, name
        assert len(loss) == 3, name
        assert found.ended[-1] in ("finished", "FINISHED")


def test_tensorboard_shows_nothing_that_came_after_the_checkpoint(
    composed: Any, kept: Any, tmp_path: Path
) -> None:
    first = composed("tensorboard", **{"training.log_every": 1, "training.checkpoint_every": 2})
    with pytest.raises(KeyboardInterrupt):
        first.fit(out=tmp_path / "moon", hooks=alone(first, Ending(5, KeyboardInterrupt())))
    max((tmp_path / "moon" / "checkpoints").glob("*.safetensors")).unlink()
    resumed = ebmkit.load(tmp_path / "moon", dataset=ROWS)
    resumed.fit(hooks=alone(resumed))
    [found] = kept("tensorboard", tmp_path / "tensorboard")
    assert [step for step, _ in found.numbers["training/loss"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("error", "word", "state"),
    [
        (KeyboardInterrupt(), "interrupted", "KILLED"),
        (ebmkit.DivergenceError("the loss is nan"), "diverged", "FAILED"),
        (RuntimeError("no luck"), "failed", "FAILED"),
    ],
    ids=["interrupted", "diverged", "failed"],
)
def test_how_a_run_ended(
    error: BaseException, word: str, state: str, composed: Any, kept: Any, tmp_path: Path
) -> None:
    pipeline = composed(*NAMES)
    with pytest.raises((KeyboardInterrupt, ebmkit.EbmkitError)):
        pipeline.fit(out=tmp_path / "moon", hooks=alone(pipeline, Ending(3, error)))
    for name in NAMES:
        [found] = kept(name, tmp_path / name)
        assert found.ended == ([word, state] if name == "mlflow" else [word]), name
        assert [step for step, _ in found.numbers["training/loss"]] == [2]


def test_the_process_stays_as_it_was(composed: Any, tmp_path: Path) -> None:
    before = sys.exit, sys.excepthook
    pipeline = composed(*NAMES)
    pipeline.fit(out=tmp_path / "moon", hooks=alone(pipeline))
    assert (sys.exit, sys.excepthook) == before


def test_runs_that_do_not_state_them_are_left_alone() -> None:
    taking = {name for name, _ in Hooks.installed()._manager.list_name_plugin()}
    assert "ebmkit-core:metrics-writer" in taking
    assert not taking & {f"ebmkit-core:{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_said_before_the_first_step(
    name: str, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    stated = {"tensorboard": "{}", "wandb": '{ project = "p" }', "mlflow": '{ experiment = "e" }'}
    out = tmp_path / "run"
    said = cli("train", "two-moons", "--out", out, "--set", f"hooks.{name}={stated[name]}")
    assert said.code == 2
    assert said.errors == [
        f"hooks.{name}: needs the package {name}, which is not installed; "
        f'pip install "ebmkit-core[{name}]" installs it'
    ]
    assert not out.exists()


class TestTensorBoardFolders:
    def test_the_run_directory_by_default(self, small: Any, kept: Any, tmp_path: Path) -> None:
        tables = {**copy.deepcopy(small), "hooks": {"tensorboard": {}}}
        pipeline = ebmkit.compose(tables, dataset=ROWS)
        pipeline.fit(out=tmp_path / "moon", hooks=alone(pipeline))
        [found] = kept("tensorboard", tmp_path / "moon")
        assert found.key == "tensorboard"

    def test_two_runs_of_a_name_are_kept_apart(
        self, composed: Any, kept: Any, tmp_path: Path
    ) -> None:
        for place in ("a", "b"):
            pipeline = composed("tensorboard")
            pipeline.fit(out=tmp_path / place / "moon", hooks=alone(pipeline))
        assert [found.key for found in kept("tensorboard", tmp_path / "tensorboard")] == [
            "moon",
            "moon-2",
        ]

    def test_a_run_in_memory_has_none(self, small: Any) -> None:
        tables = {**copy.deepcopy(small), "hooks": {"tensorboard": {}}}
        with pytest.raises(ebmkit.UserError, match="state the directory of event files"):
            ebmkit.compose(tables, dataset=ROWS).fit()


def test_a_torn_picture_is_left_out(composed: Any, kept: Any, tmp_path: Path) -> None:
    class Tearing:
        @hookimpl
        def run_start(self, run: Run) -> None:
            assert run.directory is not None
            (run.directory / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    pipeline = composed("tensorboard")
    pipeline.fit(out=tmp_path / "moon", hooks=alone(pipeline, Tearing()))
    [found] = kept("tensorboard", tmp_path / "tensorboard")
    assert found.pictures == set()
