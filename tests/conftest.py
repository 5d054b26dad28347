"""What the tests of the kernel share: the command run in this process, and distributions made up
for a test."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from ebmkit import registry, sources
from ebmkit.__main__ import run

# W&B would look up where to send its own errors to, offline too.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The messages of the command, without their prefix."""
        lines = self.err.splitlines()
        return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


class Install(NamedTuple):
    """Writes distributions into a folder that stands on the path."""

    folder: Path

    def __call__(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]] | str,
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        requires: Sequence[str] = (),
    ) -> Path:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if not isinstance(entry_points, str):
            blocks = [
                "\n".join([f"[{group}]", *(f"{n} = {t}" for n, t in entries.items())])
                for group, entries in entry_points.items()
            ]
            entry_points = "\n\n".join(blocks) + "\n"
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        for path, text in (modules or {}).items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text), encoding="utf-8")
        forget()
        return info


def forget() -> None:
    """Let the next question scan the metadata and read the sources anew."""
    import importlib

    importlib.invalidate_caches()
    registry.registry.cache_clear()
    registry._blocks.clear()
    for cached in (sources.find_module, sources._text, sources._tree):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("EBMKIT_DISABLE_PLUGINS", "EBMKIT_DISABLE_THIRD_PARTY"):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield
    forget()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes distributions in a folder of the test, which stands on the path of this process and of
    those that it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    before = set(sys.modules)
    yield Install(folder)
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and Path(origin).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """The command, run in this process: its exit code and what it said."""

    def call(*arguments: object) -> Result:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
        result = Result(code, out.getvalue(), err.getvalue())
        assert "Traceback" not in result.err, result.err
        return result

    return call


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A fresh interpreter with some arguments, run to its end."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **ONE_THREAD, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def small() -> dict[str, object]:
    """A pipeline that trains in a moment; each use gets tables of its own from `copy.deepcopy`."""
    return {
        "model": {"use": "mlp", "hidden": [8]},
        "sampler": {"use": "langevin", "step_size": 0.01},
        "loss": {"use": "pcd", "sampler": "@sampler", "k_steps": 2, "buffer_size": 64},
        "dataset": {"use": "eight-gaussians"},
        "training": {
            "steps": 6,
            "batch_size": 16,
            "optimizer": {"use": "adam", "lr": 1e-3},
            "device": "cpu",
            "seed": 1,
        },
        "evaluation": {"n_samples": 50, "chain_steps": 5},
    }


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Result]
) -> tuple[Path, Result]:
    """A short run of a recipe, trained by the command, and what the command said."""
    forget()
    out = tmp_path_factory.mktemp("runs") / "trained"
    settings = {
        "training.steps": 12,
        "training.batch_size": 32,
        "training.log_every": 5,
        "training.checkpoint_every": 3,
        "training.keep_checkpoints": 2,
        "loss.k_steps": 2,
        "loss.buffer_size": 64,
        "model.hidden": [8],
        "evaluation.chain_steps": 5,
        "evaluation.n_samples": 50,
    }
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    said = cli("train", "eight-gaussians", "--out", out, "--seed", 5, "--device", "cpu", *words)
    return out, said
