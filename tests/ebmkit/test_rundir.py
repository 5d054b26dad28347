"""What a run leaves on disk, and what comes back of it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ebmkit
from ebmkit import DivergenceError, checkpoint, hookimpl
from ebmkit.errors import RunDirectoryError, SpecError
from ebmkit.hooks import Hooks
from ebmkit.rundir import RunDirectory, clear
from ebmkit.spec import read_toml, to_toml

ROWS = torch.linspace(-1, 1, 400).reshape(200, 2)


def finite(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return bool(tree.isfinite().all()) if tree.is_floating_point() else True
    if isinstance(tree, dict):
        return all(map(finite, tree.values()))
    return all(map(finite, tree)) if isinstance(tree, list | tuple) else True


class TestATrainedRun:
    def test_the_command_says_how_it_went(self, trained: Any) -> None:
        out, said = trained
        assert said.code == 0
        assert said.out.splitlines()[-1] == str(out)
        assert "nats, by quadrature" in said.out or "AUROC" in said.out
        assert "step 12/12" in said.err

    def test_its_files(self, trained: Any) -> None:
        out, _ = trained
        assert {path.name for path in out.iterdir()} == {
            "spec.toml",
            "metrics.jsonl",
            "checkpoints",
            "samples.png",
            "energy.png",
            "training.png",
            "evaluation.json",
            "status.json",
            ".lock",
        }
        for name in ("samples.png", "energy.png", "training.png"):
            assert (out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    def test_the_last_checkpoints_are_kept(self, trained: Any) -> None:
        out, _ = trained
        kept = sorted(path.name for path in (out / "checkpoints").iterdir())
        assert kept == ["step-00000009.safetensors", "step-00000012.safetensors"]

    def test_its_metrics(self, trained: Any) -> None:
        out, _ = trained
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [5, 10, 12]
        for record in records:
            assert {"seconds", "loss", "energy_gap", "gradient_norm"} <= set(record)
            assert all(isinstance(value, int | float) for value in record.values())

    def test_its_status_and_evaluation(self, trained: Any) -> None:
        out, _ = trained
        status = json.loads((out / "status.json").read_text())
        assert (status["status"], status["step"], status["total_steps"]) == ("finished", 12, 12)
        numbers = json.loads((out / "evaluation.json").read_text())
        assert numbers["step"] == 12
        assert numbers["n_samples"] == 50
        assert 0 <= numbers["auroc"] <= 1
        assert numbers["mmd2_kernel"].startswith("gaussian")
        assert ("kl_nats" in numbers) != ("kl_nats" in numbers.get("refused", {}))

    def test_its_spec_says_everything(self, trained: Any) -> None:
        out, _ = trained
        tables = read_toml(out / "spec.toml").tables
        assert tables["training"]["seed"] == 5
        assert tables["training"]["steps"] == 12
        assert {"fill", "restart_rate", "energy_regularisation"} <= set(tables["loss"])
        version = ebmkit.__version__
        assert tables["parts"]["dataset:eight-gaussians"] == f"ebmkit-core=={version}"
        assert set(tables["parts"].values()) == {f"ebmkit-core=={version}"}
        assert ebmkit.compose(out / "spec.toml").tables == tables

    def test_it_loads_as_it_was(self, trained: Any) -> None:
        out, _ = trained
        pipeline = ebmkit.load(out)
        kept = checkpoint.read(out / "checkpoints" / "step-00000012.safetensors")
        assert pipeline.step == kept["step"] == 12
        assert isinstance(pipeline.trainer.model, nn.Module)
        for name, value in pipeline.trainer.model.state_dict().items():
            assert torch.equal(value, kept["weights"]["trained"][name])
        state = pipeline.trainer.objective.state
        assert torch.equal(state.x, kept["loss"].x)
        assert state.x.shape == (64, 2)

    def test_training_goes_on_as_if_it_had_not_stopped(self, trained: Any) -> None:
        out, _ = trained
        straight = ebmkit.compose(out / "spec.toml")
        for _ in range(15):
            straight.train_step()
        resumed = ebmkit.load(out)
        for _ in range(3):
            resumed.train_step()
        one, other = straight.state_dict(), resumed.state_dict()
        for kind in one["weights"]:
            for name, value in one["weights"][kind].items():
                assert torch.equal(value, other["weights"][kind][name])
        assert torch.equal(one["loss"].x, other["loss"].x)


def fitted(small: Any, out: Path, **overrides: Any) -> ebmkit.Pipeline:
    pipeline = ebmkit.compose(copy.deepcopy(small), dataset=ROWS, **overrides)
    pipeline.fit(out=out, hooks=Hooks({}))
    return pipeline


class TestDirectories:
    def test_one_that_exists_is_never_overwritten(self, small: Any, tmp_path: Path) -> None:
        out = tmp_path / "run"
        fitted(small, out)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(
            RunDirectoryError, match=r"exists already; choose another out, or force it \(--force\)"
        ):
            fitted(small, out)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    def test_force_replaces_a_run(self, small: Any, tmp_path: Path) -> None:
        out = tmp_path / "run"
        fitted(small, out)
        (out / "stray").write_text("")
        pipeline = ebmkit.compose(copy.deepcopy(small), dataset=ROWS)
        pipeline.fit(out=out, force=True, hooks=Hooks({}))
        assert not (out / "stray").exists()
        assert (out / "status.json").is_file()

    def test_force_touches_nothing_that_is_no_run(self, small: Any, tmp_path: Path) -> None:
        del small
        (tmp_path / "thesis.tex").write_text("all my work")
        with pytest.raises(RunDirectoryError, match="holds no run, so --force does not touch it"):
            clear(tmp_path, force=True)
        file = tmp_path / "thesis.tex"
        with pytest.raises(RunDirectoryError, match="holds no run"):
            clear(file, force=True)
        assert file.read_text() == "all my work"

    def test_force_of_a_link_to_a_run(self, small: Any, tmp_path: Path) -> None:
        fitted(small, tmp_path / "run")
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "run")
        with pytest.raises(RunDirectoryError, match=r"cannot be used: .*symbolic link"):
            clear(link, force=True)
        assert (tmp_path / "run" / "spec.toml").is_file()

    def test_an_empty_directory_will_do(self, small: Any, tmp_path: Path) -> None:
        fitted(small, tmp_path)
        assert (tmp_path / "spec.toml").is_file()

    def test_one_that_cannot_be_written(
        self, small: Any, tmp_path: Path, cli: Callable[..., Any]
    ) -> None:
        (tmp_path / "file").write_text("")
        out = tmp_path / "file" / "run"
        with pytest.raises(RunDirectoryError, match=str(out)):
            fitted(small, out)
        said = cli("train", "two-moons", "--out", out)
        assert said.code == 2
        assert said.errors[0].startswith(f"{out}: cannot be")


class TestLoading:
    def test_what_is_no_run(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "no"):
            with pytest.raises(RunDirectoryError, match=r"holds no run \(there is no spec.toml"):
                ebmkit.load(path)

    def test_one_without_a_checkpoint(self, small: Any, tmp_path: Path) -> None:
        (tmp_path / "spec.toml").write_text(to_toml(small))
        with pytest.raises(RunDirectoryError, match="holds no checkpoint"):
            ebmkit.load(tmp_path)

    def test_live_parts_are_given_again(self, small: Any, tmp_path: Path) -> None:
        fitted(small, tmp_path / "run")
        with pytest.raises(SpecError) as caught:
            ebmkit.load(tmp_path / "run")
        assert "dataset" in str(caught.value)
        assert ebmkit.load(tmp_path / "run", dataset=ROWS).step == 6

    def test_a_torn_checkpoint_and_one_of_another_model(self, small: Any, tmp_path: Path) -> None:
        run = tmp_path / "run"
        fitted(small, run)
        with pytest.raises(RunDirectoryError, match="does not fit the run's spec"):
            ebmkit.load(run, dataset=ROWS, **{"model.hidden": [9]})
        (path,) = (run / "checkpoints").iterdir()
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(RunDirectoryError, match="not a readable checkpoint"):
            ebmkit.load(run, dataset=ROWS)

    def test_a_tree_that_is_no_state_of_training(self, small: Any, tmp_path: Path) -> None:
        run = tmp_path / "run"
        fitted(small, run)
        (path,) = (run / "checkpoints").iterdir()
        for tree in ({}, [1], None, {"weights": 3}, {**checkpoint.read(path), "weights": 3}):
            checkpoint.write(path, tree)
            with pytest.raises(RunDirectoryError, match="does not fit"):
                ebmkit.load(run, dataset=ROWS)


class TestEndings:
    def status(self, run: Path) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((run / "status.json").read_text())
        return read

    def test_divergence(self, small: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
        spec, out = tmp_path / "p.toml", tmp_path / "run"
        tables = copy.deepcopy(small)
        tables["training"] |= {"steps": 50, "checkpoint_every": 1}
        tables["training"]["optimizer"] = {"use": "sgd", "lr": 1e30}
        spec.write_text(to_toml(tables))
        said = cli("train", spec, "--out", out)
        assert said.code == 1
        assert "step" in said.errors[0]
        status = self.status(out)
        assert status["status"] == "diverged"
        assert 0 < status["step"] < 50
        assert status["reason"] in said.err
        assert RunDirectory(out).checkpoints()
        for path in RunDirectory(out).checkpoints():
            assert finite(checkpoint.read(path)), path
        assert ebmkit.load(out).step <= status["step"]
        for line in (out / "metrics.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=lambda word: pytest.fail(word))

    def test_divergence_of_chains_counts_them(self, small: Any, tmp_path: Path) -> None:
        class Wild(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor(1.0))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return -self.scale * x.pow(4).sum(1) * 1e30

        out = tmp_path / "run"
        with pytest.raises(DivergenceError) as caught:
            fitted(small, out, model=Wild())
        assert caught.value.chains
        assert f"{caught.value.chains} of 16 chains" in str(caught.value)
        assert self.status(out)["status"] == "diverged"

    def test_an_interrupt(self, small: Any, tmp_path: Path) -> None:
        class Stopping:
            @hookimpl
            def step_end(self, run: Any) -> None:
                if run.step == 4:
                    run.pipeline.interrupt()

        pipeline = ebmkit.compose(copy.deepcopy(small), dataset=ROWS)
        with pytest.raises(KeyboardInterrupt):
            pipeline.fit(out=tmp_path / "run", hooks=Hooks({"stop": Stopping}))
        status = self.status(tmp_path / "run")
        assert (status["status"], status["step"]) == ("interrupted", 4)
        assert ebmkit.load(tmp_path / "run", dataset=ROWS).step == 4


def test_a_run_that_was_moved_loads_all_the_same(trained: Any, tmp_path: Path) -> None:
    out, _ = trained
    shutil.copytree(out, tmp_path / "elsewhere")
    assert ebmkit.load(tmp_path / "elsewhere").step == 12
