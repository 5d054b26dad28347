"""The command: exit codes, JSON, plain tables where piped, and the same by two ways in."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ebmkit
from ebmkit.cli import COMMANDS
from ebmkit.registry import KINDS, registry

Command = Callable[..., Any]


class TestListing:
    def test_plain_where_piped(self, cli: Command) -> None:
        lines = cli("list-plugins").out.splitlines()
        assert lines[0].split("\t") == [
            *("kind", "name", "distribution", "version", "status", "summary"),
        ]
        rows = [line.split("\t") for line in lines[1:]]
        assert len(rows) == len(registry().components)
        assert {len(row) for row in rows} == {6}
        version = ebmkit.__version__
        assert ["sampler", "langevin", "ebmkit-core", version, "ok"] in [row[:5] for row in rows]

    def test_json(self, cli: Command) -> None:
        told = json.loads(cli("list-plugins", "--json").out)
        fields = {
            *("kind", "name", "target", "distribution", "version", "status", "reason", "summary"),
        }
        assert all(set(record) == fields for record in told)
        assert len(told) == len(registry().components)
        assert all(record["summary"] for record in told)

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_kind(self, kind: str, cli: Command) -> None:
        told = json.loads(cli("list-plugins", "--kind", kind, "--json").out)
        assert {record["kind"] for record in told} == {kind}
        assert [r["name"] for r in told] == [c.name for c in registry().of_kind(kind)]

    def test_long(self, cli: Command) -> None:
        header = cli("list-plugins", "--long").out.splitlines()[0].split("\t")
        assert header[-2:] == ["target", "reason"]

    def test_recipes(self, cli: Command) -> None:
        lines = cli("recipes").out.splitlines()
        assert {"two-moons", "eight-gaussians", "digits"} <= {line.split("\t")[0] for line in lines}
        said = cli("recipes", "two-mons")
        assert said.code == 2
        assert "did you mean 'two-moons'?" in said.errors[0]

    @pytest.mark.parametrize("name", ["two-moons", "eight-gaussians", "digits"])
    def test_a_printed_recipe_is_a_pipeline_file(
        self, name: str, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(cli("recipes", name).out)
        assert cli("validate", path).code == 0


class TestWaysIn:
    def test_the_module_is_the_command(self, python: Command, cli: Command) -> None:
        done = python("-m", "ebmkit", "recipes")
        assert (done.returncode, done.stdout) == (0, cli("recipes").out)

    def test_the_script_is_the_command(self) -> None:
        (script,) = registry_scripts()
        assert script.value == "ebmkit.__main__:main"

    def test_its_exit_code_reaches_the_shell(self, python: Command) -> None:
        done = python("-m", "ebmkit", "describe", "sampler", "langevn")
        assert done.returncode == 2
        assert done.stderr.startswith("error: no sampler is called 'langevn'; did you mean")

    def test_a_reader_that_goes_away(self, python: Command) -> None:
        code = (
            "import subprocess, sys\n"
            "p = subprocess.Popen([sys.executable, '-m', 'ebmkit', 'list-plugins', '--json'],"
            " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
            "p.stdout.close()\n"
            "err = p.stderr.read()\n"
            "assert b'Traceback' not in err, err\n"
            "assert p.wait() in (0, 1), p.returncode\n"
        )
        done = python("-c", code)
        assert done.returncode == 0, done.stderr

    def test_version_and_help(self, cli: Command) -> None:
        assert cli("--version").out == f"ebmkit {ebmkit.__version__}\n"
        for words in ([], *([name] for name in COMMANDS)):
            for option in ("--help", "-h"):
                said = cli(*words, option)
                assert said.code == 0
                assert said.out.startswith("Usage: ebmkit")
        top = cli("--help").out
        assert all(name in top for name in COMMANDS)

    def test_an_unknown_command(self, cli: Command) -> None:
        said = cli("trian")
        assert said.code == 2
        assert "no command 'trian'; did you mean 'train'?" in said.err

    @pytest.mark.parametrize(
        "words",
        [
            ["train"],
            ["train", "two-moons", "--sed", "1"],
            ["train", "two-moons", "--seed", "-1"],
            ["describe", "samplers", "langevin"],
            ["list-plugins", "--kind", "plugin"],
            ["sample", "x", "--count", "0", "--out", "x.npy"],
            ["validate", "two-moons", "--set", "steps"],
            ["validate", "two-moons", "--set", "loss.sampler.step_size=1"],
        ],
    )
    def test_words_that_do_not_fit(self, words: list[str], cli: Command) -> None:
        said = cli(*words)
        assert said.code == 2
        assert said.err


def registry_scripts() -> list[Any]:
    from importlib.metadata import distribution

    points = distribution("ebmkit-core").entry_points
    return [p for p in points if p.group == "console_scripts" and p.name == "ebmkit"]


class TestValidate:
    def test_overrides(self, small: Any, cli: Command, tmp_path: Path) -> None:
        from ebmkit.spec import to_toml

        path = tmp_path / "p.toml"
        path.write_text(to_toml(small))
        said = cli("validate", path, "--set", "sampler.use=mala", "--set", "training.seed=3")
        assert (said.code, said.out) == (0, f"{path}: fine\n")
        assert "note: sampler.use = 'mala' replaces 'langevin'; dropped its keys" in said.err

    def test_a_bare_optimizer(self, cli: Command) -> None:
        assert cli("validate", "two-moons", "--set", "training.optimizer=sgd").code == 0


class TestTrain:
    def test_a_directory_in_the_way(self, trained: Any, cli: Command, tmp_path: Path) -> None:
        out, _ = trained
        said = cli("train", "two-moons", "--out", out)
        assert said.code == 2
        assert said.errors == [f"{out}: exists already; choose another out, or force it (--force)"]
        (tmp_path / "work").write_text("")
        said = cli("train", "two-moons", "--out", tmp_path, "--force")
        assert said.code == 2
        assert "--force does not touch it; choose another out" in said.errors[0]
        assert (tmp_path / "work").is_file()

    def test_a_spec_that_is_wrong_leaves_nothing(self, cli: Command, tmp_path: Path) -> None:
        out = tmp_path / "run"
        assert cli("train", "two-moons", "--out", out, "--set", "training.steps=0").code == 2
        assert not out.exists()

    def test_without_out_a_free_name_under_runs(
        self, small: Any, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ebmkit.spec import to_toml

        monkeypatch.chdir(tmp_path)
        np.save(tmp_path / "rows.npy", np.linspace(-1, 1, 200, dtype=np.float32).reshape(100, 2))
        tables = {**small, "dataset": {"use": "array", "path": "rows.npy"}}
        Path("mine.toml").write_text(to_toml(tables))
        for expected in ("runs/mine", "runs/mine-2"):
            said = cli("--no-plugin", "ebmkit-core:pictures", "train", "mine.toml")
            assert said.code == 0, said.err
            assert said.out.splitlines()[-1] == expected
            assert Path(expected, "status.json").is_file()
            assert not Path(expected, "samples.png").exists()


class TestEvaluate:
    def test_json(self, trained: Any, cli: Command, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(trained[0], run)
        (run / "evaluation.json").unlink()
        said = cli("evaluate", run, "--json")
        assert said.code == 0, said.err
        numbers = json.loads(said.out)
        assert isinstance(numbers["kl_nats"], float)
        assert numbers["kl_nats"] > 0
        assert json.loads((run / "evaluation.json").read_text()) == numbers
        assert numbers == json.loads((trained[0] / "evaluation.json").read_text())

    def test_what_is_not_finite_is_null(
        self, trained: Any, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(trained[0], run)
        numbers = {"a": math.nan, "b": [1.5, math.inf], "c": {"d": -math.inf, "e": "NaN"}, "f": 2}
        monkeypatch.setattr("ebmkit.pipeline.Pipeline.evaluate", lambda _: numbers)
        said = cli("evaluate", run, "--json")
        for text in (said.out, (run / "evaluation.json").read_text()):
            found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
            del found["step"]
            assert found == {"a": None, "b": [1.5, None], "c": {"d": None, "e": "NaN"}, "f": 2}

    def test_annealing_where_it_is_asked_for(
        self, trained: Any, cli: Command, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(trained[0], run)
        mala = '{use = "mala", step_size = 0.1, target_acceptance = 0.574}'
        said = cli("evaluate", run, "--json", "--annealing", 30, "--annealing-sampler", mala)
        assert said.code == 0, said.err
        numbers = json.loads(said.out)
        assert numbers["annealing_steps"] == 30
        error = math.hypot(numbers["log_z_forward_error"], 0.01)
        assert abs(numbers["log_z_forward"] - numbers["log_z"]) < 5 * error
        said = cli("evaluate", run, "--annealing", 30, "--annealing-sampler", "langevin")
        assert said.code == 2
        assert "evaluation.annealing_sampler: annealing needs a sampler" in said.err

    def test_what_is_no_run(self, cli: Command, tmp_path: Path) -> None:
        said = cli("evaluate", tmp_path)
        assert said.code == 2
        assert "holds no run" in said.errors[0]


class TestDoctor:
    def test_a_healthy_place(self, cli: Command) -> None:
        said = cli("doctor")
        assert said.code == 0, said.out
        for word in ("torch\t", "devices: cpu", "healthy"):
            assert word in said.out

    def test_a_broken_plugin(self, cli: Command, install: Any) -> None:
        modules = {"foo_x.py": "raise RuntimeError('no luck')"}
        install("foo-x", {"ebmkit.samplers": {"x": "foo_x:X"}}, modules)
        said = cli("doctor")
        assert said.code == 1
        assert "problem: sampler 'x' of foo-x 1.0 cannot be imported" in said.out
        assert "no luck" in said.out

    def test_a_recipe_without_its_file(self, cli: Command, install: Any) -> None:
        install("foo-r", {"ebmkit.recipes": {"r": "foo_r:r"}}, {"foo_r/__init__.py": ""})
        said = cli("doctor")
        assert said.code == 1
        assert "foo-r" in said.out

    def test_metadata_that_cannot_be_read_and_conflicts(self, cli: Command, install: Any) -> None:
        install("foo-x", "[ebmkit.samplers]\nstill\n")
        install("bar-x", {"ebmkit.losses": {"cd": "json:dumps"}}, requires=["ebmkit-core>=99"])
        install("baz-x", {"ebmkit.losses": {"pcd": "json:dumps"}})
        said = cli("doctor")
        assert said.code == 1
        assert "foo_x-1.0.dist-info" in said.out
        assert "loss 'cd' of bar-x 1.0 cannot be used: it needs ebmkit-core>=99" in said.out
        assert "loss 'pcd' is offered by ebmkit-core" in said.out
        assert "and baz-x 1.0; choose one by writing 'ebmkit-core:pcd' or 'baz-x:pcd'" in said.out
        # torch reads all entry points too, and is lost by those that are none.
        assert "problem: torch and ebmkit cannot be imported, so no part was tried" in said.out

    def test_a_plugin_that_requires_the_stranger(self, cli: Command, install: Any) -> None:
        install("foo-x", {"ebmkit.losses": {"x": "json:dumps"}}, requires=["ebmkit>=1"])
        said = cli("doctor")
        assert said.code == 1
        assert "foo-x requires 'ebmkit', which is another project's distribution" in said.out
        assert "should require 'ebmkit-core'" in said.out

    def test_environment(self, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EBMKIT_DISABLE_THIRD_PARTY", "1")
        assert "environment: EBMKIT_DISABLE_THIRD_PARTY=1" in cli("doctor").out


class TestCompletion:
    def offered(self, *words: str) -> list[str]:
        from click.shell_completion import ShellComplete

        from ebmkit.cli import ebmkit as command

        found = ShellComplete(command, {}, "ebmkit", "_EBMKIT_COMPLETE")
        return [item.value for item in found.get_completions(list(words[:-1]), words[-1])]

    def test_commands_kinds_and_options(self) -> None:
        assert self.offered("li") == ["list-plugins"]
        assert self.offered("describe", "sam") == ["sampler"]
        assert "--json" in self.offered("list-plugins", "--")

    def test_names_of_parts_of_the_kind_before(self) -> None:
        assert self.offered("describe", "sampler", "a") == ["adaptive", "annealed-langevin"]
        assert self.offered("describe", "loss", "p") == ["pcd", "persistent-contrastive-divergence"]
        assert self.offered("recipes", "two") == ["two-moons", "two-moons-dsm"]
        assert "two-moons" in self.offered("train", "two")
        assert "two-moons" in self.offered("validate", "")

    def test_third_parties_too(self, install: Any) -> None:
        install("foo-x", {"ebmkit.samplers": {"lazy": "foo_x:X"}}, {"foo_x.py": ""})
        assert self.offered("describe", "sampler", "la") == ["langevin", "lazy"]

    def test_the_shell_asks_through_a_variable(self, python: Command) -> None:
        done = python(
            "-m", "ebmkit", _EBMKIT_COMPLETE="bash_complete",
            COMP_WORDS="ebmkit describe model m", COMP_CWORD="3",
        )  # fmt: skip
        assert done.stdout.strip() == "plain,mlp", done.stderr


def test_warnings_are_said_in_the_words_of_the_command(
    python: Callable[..., Any], tmp_path: Path
) -> None:
    settings = ("model.activation=relu", "training.steps=2", "evaluation.chain_steps=1")
    words = [word for setting in settings for word in ("--set", setting)]
    said = python("-m", "ebmkit", "train", "gaussian-mixture-sm", "--out", tmp_path / "run", *words)
    assert said.returncode == 0
    (line,) = [line for line in said.stderr.splitlines() if "relu" in line]
    assert line.startswith("note: model MLP uses relu, whose slope jumps")
    assert ".py" not in said.stderr
