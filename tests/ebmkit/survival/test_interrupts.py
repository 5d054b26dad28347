"""Signals: the step is finished, a checkpoint written, and it is said how to go on."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ebmkit
from ebmkit import hookimpl
from ebmkit.errors import Terminated
from ebmkit.hooks import Hooks
from ebmkit.rundir import RunDirectory
from ebmkit.spec import to_toml

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@contextmanager
def training(spec: Any, out: Path, *words: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A process that trains, once it has written a file."""
    path = out.with_suffix(".toml")
    path.write_text(to_toml(spec))
    process = subprocess.Popen(
        [sys.executable, "-m", "ebmkit", *(words or ("train", str(path), "--out", str(out)))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not ((out / until).is_file() and (out / until).stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_and_going_on(
    number: signal.Signals, code: int, small: Any, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    spec, out = copy.deepcopy(small), tmp_path / "run"
    spec["training"] |= {"steps": 10**7, "log_every": 1}
    with training(spec, out, until="metrics.jsonl") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    status = RunDirectory(out).status()
    step = status["step"]
    assert status["status"] == "interrupted" and step > 0
    assert f"{number.name}: ending after this step; again to end at once" in err
    assert (
        f"interrupted after step {step}; kept in {out}; its last checkpoint is of step {step}"
        in err
    )
    assert f"to go on: ebmkit resume {out}" in err
    assert ebmkit.load(out).step == step
    assert cli("resume", out, "--steps", step + 3).code == 0
    assert ebmkit.load(out).step == step + 3


def test_while_the_model_is_judged(small: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
    spec, out = copy.deepcopy(small), tmp_path / "run"
    spec["evaluation"] = {"n_samples": 1000, "chain_steps": 10**7}
    with training(spec, out, until="checkpoints/step-00000006.safetensors") as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert RunDirectory(out).status()["status"] == "interrupted"
    toml = out / "spec.toml"
    toml.write_text(toml.read_text().replace("chain_steps = 10000000", "chain_steps = 3"))
    assert cli("resume", out).code == 0
    assert json.loads((out / "evaluation.json").read_text())["step"] == 6


class Signalling:
    """Sends this process signals during a step: while the loss is drawn, or weights are updated."""

    def __init__(self, pipeline: Any, place: str, numbers: list[signal.Signals], at: int) -> None:
        trainer = pipeline.trainer
        owner, name = {
            "draw": (trainer.objective, "draw"),
            "update": (trainer.optimizer, "step"),
            "average": (trainer, "_average"),
        }[place]
        former = getattr(owner, name)

        def called(*arguments: Any, **keywords: Any) -> Any:
            result = former(*arguments, **keywords)
            if trainer.done >= at:
                for number in numbers:
                    os.kill(os.getpid(), number)
                    time.sleep(0)  # where the interpreter handles signals
            return result

        setattr(owner, name, called)


@pytest.mark.parametrize("place", ["draw", "update", "average"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_second_one_ends_at_once_and_the_step_counts_as_not_taken(
    number: signal.Signals,
    code: int,
    place: str,
    small: Any,
    tmp_path: Path,
    last_of: Any,
    differing: Any,
) -> None:
    from ebmkit.cli._runs import interruptible

    spec = copy.deepcopy(small)
    spec["training"] |= {"steps": 9, "checkpoint_every": 3, "ema_decay": 0.9}
    ebmkit.compose(copy.deepcopy(spec)).fit(out=tmp_path / "whole", hooks=Hooks({}))
    out = tmp_path / "run"
    pipeline = ebmkit.compose(spec)
    Signalling(pipeline, place, [number, number], at=5)
    with pytest.raises(KeyboardInterrupt) as caught, interruptible(pipeline):
        pipeline.fit(out=out, hooks=Hooks({}))
    assert getattr(caught.value, "exit_code", 130) == code
    assert RunDirectory(out).status()["status"] == "interrupted"
    # Cut off before the update the state is that of step 5; cut off in it there is none to keep.
    assert ebmkit.load(out).step == (5 if place == "draw" else 3)
    ebmkit.resume(out, hooks=Hooks({}))
    assert not differing(last_of(tmp_path / "whole"), last_of(out))


def test_handlers_are_put_back() -> None:
    from ebmkit.cli._runs import interruptible

    before = [signal.getsignal(number) for number, _ in SIGNALS]
    pipeline: Any = object()
    with interruptible(pipeline):
        assert [signal.getsignal(number) for number, _ in SIGNALS] != before
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


def test_what_fit_is_asked_to_end_with(small: Any, tmp_path: Path) -> None:
    class Ending:
        @hookimpl
        def step_end(self, run: Any) -> None:
            run.pipeline.interrupt(Terminated())

    pipeline = ebmkit.compose(copy.deepcopy(small))
    with pytest.raises(Terminated):
        pipeline.fit(out=tmp_path / "run", hooks=Hooks({"end": Ending}))
    assert ebmkit.load(tmp_path / "run").step == 1
