"""A run that goes on: what is kept beside losses and samplers, torn checkpoints, versions, refusals."""

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
from ebmkit import checkpoint
from ebmkit.errors import RunDirectoryError, UserError
from ebmkit.hooks import Hooks
from ebmkit.provenance import RunWarning, changed_parts, moved
from ebmkit.rundir import RunDirectory
from ebmkit.spec import to_toml

ROWS = torch.linspace(-1, 1, 140).reshape(70, 2)


def test_epochs_labels_clipping_and_noise(
    small: Any, straight_and_resumed: Callable[..., Any], differing: Callable[..., list[str]]
) -> None:
    spec = copy.deepcopy(small)
    spec["dataset"] = {"use": "digits"}
    spec["model"] = {"use": "mlp", "hidden": [8], "conditional": True}
    spec["training"] = {
        "epochs": 1,
        "batch_size": 150,
        "data_noise": 0.05,
        "gradient_clip": 0.5,
        "seed": 4,
        "ema_decay": 0.9,
        "device": "cpu",
    }
    spec["loss"] |= {"buffer_size": 200}
    whole, parts = straight_and_resumed(spec, 3, 8)
    assert whole["order"]["rows"] is not None and whole["loss"].condition is not None
    assert not differing(whole, parts)


def test_weights_that_a_hook_kept(
    small: Any, straight_and_resumed: Callable[..., Any], differing: Callable[..., list[str]]
) -> None:
    spec = copy.deepcopy(small)
    spec["loss"] = {"use": "dsm", "sigma": 0.5}
    del spec["sampler"]
    spec["training"] |= {"steps": 12, "optimizer": {"use": "adam", "lr": 0.5}}
    spec["hooks"] = {"early-stopping": {"patience": 6, "every": 2}}
    whole, parts = straight_and_resumed(spec, 3, 7)
    assert "kept" in whole["weights"] and whole["hooks"]
    assert not differing(whole, parts)


def test_chains_that_begin_anew_are_counted_on(
    small: Any, straight_and_resumed: Callable[..., Any], differing: Callable[..., list[str]]
) -> None:
    spec = copy.deepcopy(small)
    spec["chains"] = {"on_divergence": "restart"}
    spec["training"]["steps"] = 9
    spec["sampler"]["step_size"] = 0.1
    whole, parts = straight_and_resumed(spec, 3, 6, model=Cliff(), dataset=ROWS)
    assert whole["chains"]["chains_restarted"] > 0
    assert not differing(whole, parts)


def test_compiled_losses_and_chains(
    small: Any, straight_and_resumed: Callable[..., Any], differing: Callable[..., list[str]]
) -> None:
    spec = copy.deepcopy(small)
    spec["training"] |= {"compile": "on", "steps": 8}
    spec["chains"] = {"compile": "chunk"}
    assert not differing(*straight_and_resumed(spec, 3, 5))


class Cliff(nn.Module):
    """An energy that is not finite beyond a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        square = x.square().sum(1)
        return self.scale * torch.where(square < 2.1, square, torch.inf * square)


class TestMoreSteps:
    def test_as_if_they_had_been_stated(
        self, small: Any, tmp_path: Path, last_of: Any, differing: Any
    ) -> None:
        long = copy.deepcopy(small)
        long["training"]["steps"] = 10
        for spec, name in ((long, "whole"), (small, "parts")):
            ebmkit.compose(copy.deepcopy(spec)).fit(out=tmp_path / name, hooks=Hooks({}))
        run = ebmkit.resume(tmp_path / "parts", steps=10, hooks=Hooks({}))
        assert (run.step, run.total_steps) == (10, 10)
        assert not differing(last_of(tmp_path / "whole"), last_of(tmp_path / "parts"))
        ours, theirs = (tmp_path / n / "spec.toml" for n in ("whole", "parts"))
        assert ours.read_text() == theirs.read_text()
        assert RunDirectory(tmp_path / "parts").status()["total_steps"] == 10

    def test_in_place_of_epochs(self, small: Any, tmp_path: Path) -> None:
        spec = copy.deepcopy(small)
        del spec["training"]["steps"]
        spec["training"]["epochs"] = 1
        ebmkit.compose(spec, dataset=ROWS).fit(out=tmp_path / "run", hooks=Hooks({}))
        run = ebmkit.resume(tmp_path / "run", steps=7, dataset=ROWS, hooks=Hooks({}))
        assert run.step == 7

    def test_of_a_run_that_has_finished_they_have_to_be_stated(
        self, small: Any, tmp_path: Path, cli: Callable[..., Any]
    ) -> None:
        out = tmp_path / "run"
        ebmkit.compose(copy.deepcopy(small)).fit(out=out, hooks=Hooks({}))
        for words in ([], ["--steps", 6], ["--steps", 2]):
            said = cli("resume", out, *words)
            assert said.code == 2
            assert "steps" in said.err and str(out) in said.err
        assert RunDirectory(out).status()["status"] == "finished"
        assert cli("resume", out, "--steps", 7).code == 0
        assert ebmkit.load(out).step == 7

    def test_open_schedules_are_spread_over_all_of_them(self, small: Any, tmp_path: Path) -> None:
        spec = copy.deepcopy(small)
        lr = {"use": "linear", "start_value": 0.5, "end_value": 0.1}
        spec["training"]["optimizer"] = {"use": "sgd", "lr": lr}
        ebmkit.compose(spec).fit(out=tmp_path / "run", hooks=Hooks({}))
        run = ebmkit.resume(tmp_path / "run", steps=9, hooks=Hooks({}))
        assert run.pipeline.trainer.lr_schedule is not None
        assert [run.pipeline.trainer.lr_schedule(s) for s in (0, 5, 8)] == [0.5, 0.25, 0.1]


class TestTornCheckpoints:
    @pytest.fixture
    def run(self, small: Any, tmp_path: Path, train_to: Any) -> Path:
        spec = copy.deepcopy(small)
        spec["training"] |= {"steps": 12, "checkpoint_every": 2}
        train_to(spec, tmp_path / "run", 7)
        names = [p.name for p in RunDirectory(tmp_path / "run").checkpoints()]
        assert names == [f"step-{n:08d}.safetensors" for n in (4, 6, 7)]
        return tmp_path / "run"

    @pytest.mark.parametrize("place", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
    @pytest.mark.parametrize("how", ["cut", "flipped", "zeroed"])
    def test_the_one_before_is_taken_and_the_torn_one_named(
        self, run: Path, how: str, place: float
    ) -> None:
        newest = RunDirectory(run).checkpoints()[-1]
        content = bytearray(newest.read_bytes())
        at = int(place * len(content))
        if how == "cut":
            del content[at:]
        elif how == "flipped":
            content[at] ^= 16
        else:
            length = len(content) - at
            if not any(content[at:]):
                content[at] = 1
            else:
                content[at:] = bytes(length)
        newest.write_bytes(content)
        with pytest.warns(
            RunWarning, match=rf"{newest.name}: not a readable.*step-00000006"
        ) as said:
            assert ebmkit.load(run).step == 6
        assert len(said) == 1

    def test_it_goes_on_from_there(
        self, run: Path, cli: Callable[..., Any], last_of: Any, differing: Any
    ) -> None:
        straight = ebmkit.load(run)
        straight.fit(out=run.parent / "straight", hooks=Hooks({}))
        newest = RunDirectory(run).checkpoints()[-1]
        newest.write_bytes(newest.read_bytes()[:-1])
        said = cli("resume", run)
        assert said.code == 0
        assert f"{newest.name}: not a readable checkpoint" in said.err
        assert not differing(last_of(run), last_of(run.parent / "straight"))
        steps = [
            json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps))

    def test_all_of_them(self, run: Path, cli: Callable[..., Any]) -> None:
        for path in RunDirectory(run).checkpoints():
            path.write_bytes(b"")
        said = cli("resume", run)
        assert said.code == 2
        assert len(said.errors) == 3
        assert all("not a readable checkpoint" in line for line in said.errors)

    def test_a_file_that_only_looks_like_one(self, run: Path) -> None:
        (run / "checkpoints" / "step-99999999999999999999x.safetensors").write_bytes(b"")
        (run / "checkpoints" / ".step-00000009.safetensors.1.partial").write_bytes(b"half")
        assert ebmkit.load(run).step == 7
        ebmkit.resume(run, hooks=Hooks({}))
        assert not list((run / "checkpoints").glob(".*"))


def test_killed_before_the_first_checkpoint(
    small: Any, tmp_path: Path, last_of: Any, differing: Any
) -> None:
    ebmkit.compose(copy.deepcopy(small)).fit(out=tmp_path / "whole", hooks=Hooks({}))
    run = tmp_path / "run"
    ebmkit.compose(copy.deepcopy(small)).fit(out=run, hooks=Hooks({}))
    for path in RunDirectory(run).checkpoints():
        path.unlink()
    (run / "status.json").write_text('{"status": "running"}')
    with pytest.warns(RunWarning, match="holds no checkpoint, so the run begins at step 0"):
        ebmkit.resume(run, hooks=Hooks({}))
    assert not differing(last_of(tmp_path / "whole"), last_of(run))


def test_killed_at_its_very_start_makes_way(small: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").write_text("")
    (run / ".spec.toml.7.partial").write_text("[mod")
    ebmkit.compose(copy.deepcopy(small)).fit(out=run, hooks=Hooks({}))
    assert ebmkit.load(run).step == 6


def test_two_processes_cannot_train_one_run(
    small: Any, tmp_path: Path, train_to: Any, cli: Callable[..., Any]
) -> None:
    run = tmp_path / "run"
    train_to(small, run, 3)

    class Meanwhile:
        @ebmkit.hookimpl
        def step_end(self) -> None:
            for words in (["resume", run], ["train", "two-moons", "--out", run, "--force"]):
                said = cli(*words)
                assert said.code == 2
                assert said.errors == [
                    f"{run}: another process is training this run; wait for its end, or end it"
                ]

    ebmkit.resume(run, hooks=Hooks({"meanwhile": Meanwhile}))
    assert ebmkit.load(run).step == 6


class TestVersions:
    def test_the_rule(self) -> None:
        then = {"loss:a": "x==1.2.0", "loss:b": "x==0.3.1", "loss:c": "x==1.0", "loss:d": "y==2.0"}
        same = dict(then)
        assert changed_parts(then, same) == ([], [])
        for part, now, close in (
            ("loss:a", "x==1.9.1", True),
            ("loss:a", "x==2.0.0", False),
            ("loss:a", "X==1.2.1", True),
            ("loss:b", "x==0.3.9", True),
            ("loss:b", "x==0.4.0", False),
            ("loss:c", "z==1.0", False),
            ("loss:d", "y==nonsense", False),
        ):
            mild, grave = changed_parts(then, {**then, part: now})
            assert (len(mild), len(grave)) == ((1, 0) if close else (0, 1)), (part, now)
            assert then[part] in (mild + grave)[0] and now in (mild + grave)[0]
        assert changed_parts(then, {**then, "loss:new": "x==3.0"}) == ([], [])

    def test_surroundings(self) -> None:
        assert moved({"torch": "2.6", "threads": 2}, {"torch": "2.6", "threads": 2}) == ""
        assert (
            moved({"torch": "2.6"}, {"torch": "2.7", "threads": 1}) == "torch 2.6 then and 2.7 now"
        )

    @pytest.fixture
    def run(self, small: Any, tmp_path: Path, train_to: Any) -> Path:
        train_to(small, tmp_path / "run", 3)
        return tmp_path / "run"

    def recorded(self, run: Path, version: str) -> None:
        pipeline = ebmkit.load(run)
        tables = copy.deepcopy(dict(pipeline.tables))
        tables["parts"]["sampler:langevin"] = f"ebmkit-core=={version}"
        (run / "spec.toml").write_text(to_toml(tables))

    def test_another_patch_is_told(self, run: Path, cli: Callable[..., Any]) -> None:
        self.recorded(run, "1.99.0")
        said = cli("resume", run)
        assert said.code == 0
        assert (
            "sampler langevin was of ebmkit-core==1.99.0 and is of ebmkit-core==1.0.0" in said.err
        )

    def test_another_major_version_is_refused(self, run: Path, cli: Callable[..., Any]) -> None:
        self.recorded(run, "7.0.0")
        said = cli("resume", run)
        assert said.code == 2
        assert "sampler langevin was of ebmkit-core==7.0.0" in said.errors[0]
        assert "--accept-versions" in said.errors[0]
        assert RunDirectory(run).status()["status"] == "interrupted"
        with pytest.raises(UserError, match="install the version of then"):
            ebmkit.resume(run)
        assert cli("resume", run, "--accept-versions").code == 0

    def test_another_torch_is_told(self, run: Path) -> None:
        path = RunDirectory(run).checkpoints()[-1]
        tree = checkpoint.read(path)
        tree["made_by"]["torch"] = "1.0"
        checkpoint.write(path, tree)
        with pytest.warns(RunWarning, match=r"torch 1\.0 then and .* now; steps may differ"):
            ebmkit.resume(run, hooks=Hooks({}))


def test_a_checkpoint_of_other_parts(
    small: Any, tmp_path: Path, train_to: Any, cli: Callable[..., Any]
) -> None:
    train_to(small, tmp_path / "run", 3)
    with pytest.raises(RunDirectoryError, match="does not fit the run's spec"):
        ebmkit.resume(tmp_path / "run", **{"model.hidden": [9]})
    assert cli("resume", tmp_path / "no").errors[0].startswith(f"{tmp_path / 'no'}: holds no run")


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    from ebmkit.seeds import process_generators, set_process_generators

    before = process_generators()
    drawn = torch.rand(5)
    checkpoint.write(tmp_path / "t", before)
    after = process_generators()
    set_process_generators(checkpoint.read(tmp_path / "t"))
    assert torch.equal(torch.rand(5), drawn)
    assert torch.equal(process_generators()["cpu"], after["cpu"])
