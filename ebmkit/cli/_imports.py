"""Parts imported apart: each in a process of its own, so that one that hangs or ends the process is
a finding and not the end.

A helper process imports torch and ebmkit and then forks for each part: what is measured is what a
part's import adds to those two, with nothing that another part has imported. Where a system cannot
fork, each part has a helper process to itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ebmkit.errors import EbmkitError, PluginError
from ebmkit.registry import Component, Registry

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ebmkit.cli import _imports"
_HELPER_SECONDS = 120
"""For the import of torch and ebmkit on a busy machine."""


class Trial(NamedTuple):
    """What became of a part's import."""

    error: str
    """What is wrong; empty where it can be imported and is of its kind."""
    seconds: float
    """What the import took beyond torch and ebmkit."""
    said: list[str]
    """What a hook plugin says at the doctor's."""


def trials(components: Sequence[Component], seconds: float) -> Iterator[tuple[Component, Trial]]:
    """Each with what became of its import, which is given so many seconds.

    Raises:
        PluginError: torch or ebmkit cannot be imported, which is no part's fault.
    """
    forking = hasattr(os, "fork")
    for together in [components] if forking else [[component] for component in components]:
        answers = _helper(together, seconds, forking)
        yield from zip(together, answers, strict=True)


def _helper(components: Sequence[Component], seconds: float, forking: bool) -> list[Trial]:
    command = [sys.executable, "-c", f"{_START}; _imports.serve()", json.dumps(sys.path)]
    given = json.dumps([seconds, forking, components])
    limit = _HELPER_SECONDS + (seconds + 1) * len(components)
    # Files, for a pipe stays open with whatever an import starts.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        try:
            code = subprocess.run(
                command,
                input=given,
                stdout=out,
                stderr=errors,
                text=True,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return [Trial(_late(component, seconds), seconds, []) for component in components]
        out.seek(0)
        errors.seek(0)
        answers, lines = out.read(), errors.read().strip().splitlines()
    if answers:
        return [Trial(*answer) for answer in json.loads(answers)]
    if not forking:
        return [Trial(_ended(component, code), 0.0, []) for component in components]
    last = (lines or [f"exit code {code}"])[-1]
    raise PluginError(f"torch and ebmkit cannot be imported, so no part was tried: {last}")


def serve() -> None:
    """The helper process: components on standard input, trials on standard output."""
    seconds, forking, given = json.load(sys.stdin)
    answers = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # a module that prints must not print among the answers
    import torch  # noqa: F401

    import ebmkit

    for name in ebmkit.__all__:
        getattr(ebmkit, name)
    components = [Component(*values) for values in given]
    found = [_forked(c, seconds) if forking else _tried(c) for c in components]
    os.write(answers, json.dumps(found).encode())
    os._exit(0)  # without waiting for what a module's import may have started


def _forked(component: Component, seconds: float) -> Trial:
    """A trial in a fork, which the system ends when its time is up, even where it waits outside of
    Python."""
    with tempfile.TemporaryFile("w+") as answer:
        began = time.perf_counter()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer.write(json.dumps(_tried(component)))
                answer.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        took = time.perf_counter() - began
        answer.seek(0)
        if text := answer.read():
            return Trial(*json.loads(text))
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return Trial(_late(component, seconds), took, [])
    return Trial(_ended(component, code), took, [])


def _tried(component: Component) -> Trial:
    from ebmkit.fitness import misfit
    from ebmkit.hooks import Hooks, stated_only

    began = time.perf_counter()
    try:
        part = Registry(()).load(component)
    except EbmkitError as error:
        return Trial(str(error), time.perf_counter() - began, [])
    took = time.perf_counter() - began
    if wrong := misfit(component, part):
        return Trial(wrong, took, [])
    if component.kind != "hook" or stated_only(part):
        return Trial("", took, [])
    try:
        return Trial("", took, [str(s) for s in Hooks({component.qualified: part}).doctor()])
    except EbmkitError as error:
        return Trial(str(error), took, [])


def _late(component: Component, seconds: float) -> str:
    if component.kind == "hook":
        what = "cannot be used: its import and doctor()"
    else:
        what = "cannot be imported: its import"
    return component.broken(f"{what} took longer than {seconds:g} s")


def _ended(component: Component, code: int) -> str:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return component.broken(f"cannot be imported: its import ended the process {how}")
