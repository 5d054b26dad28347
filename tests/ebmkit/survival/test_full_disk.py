"""Full disks, directories that are read-only or gone: a clear error, the last checkpoint whole."""

from __future__ import annotations

import copy
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ebmkit
from ebmkit import hookimpl
from ebmkit.errors import RunDirectoryError
from ebmkit.hooks import Hooks
from ebmkit.rundir import RunDirectory, step_of
from ebmkit.spec import to_toml


class At:
    """Does something once, after a step."""

    def __init__(self, step: int, work: Callable[[Path], object]) -> None:
        self.step, self.work = step, work

    @hookimpl
    def step_end(self, run: Any) -> None:
        if run.step == self.step:
            self.work(run.directory)


@pytest.fixture
def spec(small: Any) -> Any:
    tables = copy.deepcopy(small)
    tables["training"] |= {"steps": 20, "checkpoint_every": 4, "log_every": 1}
    return tables


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file this process may write, as a quota does."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, former)


def goes_on(run: Path, spec: Any, last_of: Any, differing: Any) -> None:
    """The run can go on, to the end of one that was not disturbed."""
    assert not list((run / "checkpoints").glob(".*"))
    ebmkit.resume(run, hooks=Hooks({}))
    whole = run.parent / "whole"
    ebmkit.compose(copy.deepcopy(spec)).fit(out=whole, hooks=Hooks({}))
    assert not differing(last_of(whole), last_of(run))


def test_a_quota(
    spec: Any, tmp_path: Path, limit: Callable[[int], None], last_of: Any, differing: Any
) -> None:
    out = tmp_path / "run"
    pipeline = ebmkit.compose(copy.deepcopy(spec))
    with pytest.raises(RunDirectoryError) as caught:
        pipeline.fit(out=out, hooks=Hooks({"limit": At(6, lambda _: limit(2000))}))
    limit(resource.RLIM_INFINITY)
    newest = out / "checkpoints" / "step-00000008.safetensors"
    assert str(caught.value) == f"{newest}: cannot be written: {os.strerror(errno.EFBIG)}"
    assert any("the last state could not be kept" in note for note in caught.value.__notes__)
    assert ebmkit.load(out).step == 4
    goes_on(out, spec, last_of, differing)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_whatever_fails_on_the_way(
    call: str,
    code: int,
    spec: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_of: Any,
    differing: Any,
) -> None:
    out = tmp_path / "run"

    def fail(*arguments: Any, **keywords: Any) -> Any:
        path = arguments[0]
        if isinstance(path, Path) and ".partial" not in path.name:
            return opened(*arguments, **keywords)
        raise OSError(code, os.strerror(code))

    opened = Path.open
    owner, name = (os, "fsync") if call == "fsync" else (Path, call)
    hooks = {"fail": At(6, lambda _: monkeypatch.setattr(owner, name, fail))}
    with pytest.raises(RunDirectoryError, match=os.strerror(code)):
        ebmkit.compose(copy.deepcopy(spec)).fit(out=out, hooks=Hooks(hooks))
    monkeypatch.undo()
    assert ebmkit.load(out).step == 4
    goes_on(out, spec, last_of, differing)


def test_a_directory_that_is_gone(spec: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunDirectoryError) as caught:
        ebmkit.compose(spec).fit(out=out, hooks=Hooks({"remove": At(6, shutil.rmtree)}))
    assert str(out) in str(caught.value)
    assert os.strerror(errno.ENOENT) in str(caught.value)
    assert not out.exists()


def test_checkpoints_that_were_moved_away(spec: Any, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def move(directory: Path) -> None:
        (directory / "checkpoints").rename(elsewhere)

    with pytest.raises(RunDirectoryError, match="cannot be written"):
        ebmkit.compose(spec).fit(out=out, hooks=Hooks({"move": At(6, move)}))
    assert RunDirectory(out).status()["status"] == "failed"
    elsewhere.rename(out / "checkpoints")
    assert ebmkit.load(out).step == 4


LIMITED = """
import resource, sys
from ebmkit.__main__ import run
from ebmkit_reporting import metrics_writer, pictures

def limited(function):
    def called(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        return function(*arguments)
    return called

file, spec, out = sys.argv[1:]
if file == "samples.png":
    pictures._write = limited(pictures._write)
else:
    writer = metrics_writer.MetricsWriter
    writer._writing = limited(writer._writing)
words = ["train", spec, "--out", out, "--set", "training.checkpoint_every=1000"]
sys.exit(run(words))
"""


@pytest.mark.parametrize("file", ["metrics.jsonl", "samples.png"])
def test_what_hooks_write(
    file: str, spec: Any, tmp_path: Path, limit: Callable[[int], None]
) -> None:
    path, out = tmp_path / "p.toml", tmp_path / "run"
    spec["training"]["steps"] = 60
    path.write_text(to_toml(spec))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, file, str(path), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(
        f"error: {out / file}: cannot be written: {os.strerror(errno.EFBIG)}"
    )
    assert RunDirectory(out).status()["status"] in ("failed", "running")


IN_A_NAMESPACE = """
set -e
mkdir -p "$1"
mount -t tmpfs -o size=$3k none "$1"
"$2" -m ebmkit --no-plugin ebmkit-core:pictures train "$4" --out "$1/run" || echo "code $?"
cp -r "$1/run" "$5"
"""


def test_a_small_disk(spec: Any, tmp_path: Path, last_of: Any, differing: Any) -> None:
    """A real file system that is full, where this process may mount one; a quota is above."""
    path, kept = tmp_path / "p.toml", tmp_path / "kept"
    spec["training"]["keep_checkpoints"] = 20
    path.write_text(to_toml(spec))
    words = ["unshare", "-rm", "sh", "-c", IN_A_NAMESPACE, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "true"], check=False).returncode
    ):
        words = []
    if not words:
        pytest.skip("no namespaces here; test_a_quota has the same by a limit on files")
    done = subprocess.run(
        [*words, str(tmp_path / "disk"), sys.executable, "120", str(path), str(kept)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "code 2", done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert os.strerror(errno.ENOSPC) in done.stderr
    checkpoints = RunDirectory(kept).checkpoints()
    assert checkpoints
    assert ebmkit.load(kept).step == step_of(checkpoints[-1]) < 20
    goes_on(kept, spec, last_of, differing)
