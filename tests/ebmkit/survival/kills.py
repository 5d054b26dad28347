"""Kills training runs at random moments and inside the writing of checkpoints, and lets them go on.

``python kills.py FOLDER KILLS INJECTED SEED`` prints as JSON how often each moment was hit and what
was found: whether every checkpoint could be read after every kill, and whether each run ended with
the bits and records of one that was never disturbed. A process with everything imported forks each
run, so that a kill costs no second start.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ebmkit import checkpoint
from ebmkit.__main__ import run as command
from ebmkit.rundir import RunDirectory
from ebmkit.spec import to_toml

MOMENTS = ("before", "half", "written", "flushed", "renamed", "dropping")
STEPS, EVERY = 90, 6
LONGEST = 1.5
"""Seconds after which a process is killed at the latest."""


def specs() -> list[dict[str, Any]]:
    training = {"steps": STEPS, "checkpoint_every": EVERY, "log_every": 1, "batch_size": 16}
    common = {
        "model": {"use": "mlp", "hidden": [8]},
        "dataset": {"use": "eight-gaussians"},
        "evaluation": {"n_samples": 4, "chain_steps": 1},
    }
    momentum = {"optimizer": {"use": "sgd", "lr": 1e-2, "momentum": 0.9}}
    chains = {"use": "adaptive", "sampler": {"use": "mala", "step_size": 0.05}}
    return [
        {
            **common,
            "loss": {"use": "pcd", "sampler": {"use": "langevin"}, "k_steps": 2, "buffer_size": 64},
            "training": training | {"ema_decay": 0.9},
        },
        {
            **common,
            "loss": {"use": "cd", "sampler": chains, "k_steps": 2},
            "training": training | momentum,
        },
        {
            **common,
            "loss": {"use": "dsm", "sigma": 0.5},
            "training": training,
            "hooks": {"early-stopping": {"patience": STEPS, "every": 4}},
        },
    ]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(moment: str, number: int) -> None:
    """Let this process be killed at a moment of the ``number``-th checkpoint that it writes."""
    left = number
    opened, replaced, unlinked, synced = Path.open, Path.replace, Path.unlink, os.fsync
    writing: list[bool] = []

    class Half:
        """A stream that ends the process halfway through what it is given."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, part: Any) -> None:
            self.stream.write(part[: len(part) // 2])
            self.stream.flush()
            die()

    def open_(path: Path, *arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        if not path.name.startswith(".step-"):
            return opened(path, *arguments, **keywords)
        left -= 1
        writing[:] = [left <= 0]
        if left <= 0 and moment == "before":
            die()
        stream = opened(path, *arguments, **keywords)
        return Half(stream) if left <= 0 and moment == "half" else stream

    def fsync(descriptor: int) -> None:
        if writing == [True] and moment == "written":
            die()
        synced(descriptor)
        if writing == [True] and moment == "flushed":
            die()

    def replace(path: Path, target: Path) -> Path:
        result = replaced(path, target)
        if writing == [True] and moment == "renamed":
            die()
        return result

    def unlink(path: Path, *arguments: Any, **keywords: Any) -> None:
        if writing == [True] and moment == "dropping":
            die()
        unlinked(path, *arguments, **keywords)

    Path.open, Path.replace, Path.unlink = open_, replace, unlink  # type: ignore[assignment,method-assign]
    os.fsync = fsync


def forked(words: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    child = os.fork()
    if child:
        return child
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    prepare()
    code = 3
    try:
        code = command(["--no-plugin", "ebmkit-core:pictures", *words])
    finally:
        os._exit(code)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def left_by(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's last state, and its records without their times."""
    tree = checkpoint.read(RunDirectory(run).checkpoints()[-1])
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return {k: v for k, v in tree.items() if k not in ("process", "made_by")}, records


def unreadable(run: Path) -> Iterator[str]:
    for path in RunDirectory(run).checkpoints():
        try:
            checkpoint.read(path)
        except Exception as error:
            yield str(error)


def main(folder: Path, kills: int, injected: int, seed: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    whole = []
    for number, spec in enumerate(specs()):
        path = folder / f"{number}.toml"
        path.write_text(to_toml(spec), encoding="utf-8")
        out = folder / f"whole-{number}"
        _, status = os.waitpid(forked(["train", str(path), "--out", str(out)], folder / "log"), 0)
        assert status == 0, (folder / "log").read_text()
        whole.append(left_by(out))
    hit: collections.Counter[str] = collections.Counter()
    runs, bad, other = 0, [], []
    while sum(hit.values()) < kills:
        number = runs % len(whole)
        out = folder / f"run-{runs}"
        runs += 1
        while True:
            began = (out / "spec.toml").is_file()
            words = ["resume", str(out)]
            if not began:
                words = ["train", str(folder / f"{number}.toml"), "--out", str(out)]
            so_far = sum(hit[moment] for moment in MOMENTS)
            left, inside = kills - sum(hit.values()), injected - so_far
            moment = ""
            if left > 0 and inside > 0 and chance.random() < inside / left:
                moment = MOMENTS[so_far % len(MOMENTS)]
                # Old checkpoints are dropped only once there are more than are kept.
                nth = 4 if moment == "dropping" else chance.randint(1, 3)
                child = forked(words, folder / "log", lambda m=moment, n=nth: dying_at(m, n))
            else:
                child = forked(words, folder / "log")
                if left > 0:
                    time.sleep(chance.uniform(0, LONGEST))
                    os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                hit[moment or "at random"] += 1
                bad += list(unreadable(out)) if out.is_dir() else []
                continue
            code = os.WEXITSTATUS(status)
            finished = RunDirectory(out).status().get("status") == "finished"
            if code != 0 and not finished:
                other.append(f"{out}: exit code {code}")
            break
        if not same(left_by(out), whole[number]):
            other.append(f"{out}: another end")
    return {"kills": dict(hit), "runs": runs, "unreadable": bad, "others": other}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))  # noqa: T201
