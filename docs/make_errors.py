"""Writes errors.md, every error and warning with its cause, its remedy and a message.

    python docs/make_errors.py

What is said of a class is its docstring; the messages are had by making each happen.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import ebmkit
from ebmkit import errors, memory, provenance, versioning, watching
from ebmkit.calculus import taylor
from ebmkit.devices import find_device
from ebmkit.evaluation.quadrature import log_partition
from ebmkit.hooks import Hooks
from ebmkit.ranks import Ranks
from ebmkit.registry import Component, Registry

PAGE = Path(__file__).with_name("errors.md")
PLUGINS = Path(__file__).parents[1] / "plugins"
HEAD = """\
# Errors

Every error that `ebmkit` raises on purpose: what it is, why it comes and what to do. The page is
written from the classes by `python docs/make_errors.py`, which makes each happen to get its message;
where the lines that did it are shown, they were run as they stand.

A command prints the message alone and ends with the
[exit code](house.md#errors-and-exit-codes). What is wrong with a pipeline, unknown parts and devices
that are not there included, is told together, each as a problem of one `SpecError`. Names of `ebmkit`
itself, as `ebmkit.DataError`, are public; the others are caught by the public class that the table
names, and their names in `ebmkit.errors` may change. An error with a traceback is none of these,
and a fault: of ours, or of the plugin that its last line names.
"""
WARNINGS = (
    ebmkit.CalculusWarning,
    ebmkit.CompileWarning,
    ebmkit.EbmkitDeprecationWarning,
    provenance.RunWarning,
    watching.SlowImportWarning,
)
FILES = {
    "mine.toml": '[model]\nuse = "mlp"\nhiden = [64, 64]\n\n[training]\nsteps = 0\n',
    "heights.csv": "height,weight\n1.71,68\n1.64,n.a.\n",
}
SHOWN = {
    errors.UserError: """\
ebmkit.objective("pcd", torch.nn.Linear(2, 1))
""",
    errors.SpecError: """\
ebmkit.compose("mine.toml")
""",
    errors.DataError: """\
heights = ebmkit.create("dataset", "array", path="heights.csv")
heights.draw(10, generator=torch.Generator())
""",
    errors.CompileError: """\
well = ebmkit.create("model", "double-well")
loss = ebmkit.create("loss", "score-matching")
ebmkit.objective(loss, well, compile="on")(torch.zeros(8, 2))
""",
    errors.EnergyError: """\
sampler = ebmkit.create("sampler", "langevin", step_size=0.01)
ebmkit.sample(sampler, torch.nn.Linear(2, 1), torch.zeros(8, 2), steps=10)
""",
    errors.ScheduleError: """\
falling = {"use": "cosine", "start_value": 0.1, "end_value": 0.01, "n_steps": 50, "clock": "chain"}
sampler = ebmkit.create("sampler", "langevin", step_size=falling)
well = ebmkit.create("model", "double-well")
ebmkit.sample(sampler, well, torch.zeros(8, 2), steps=10)
""",
    errors.RunDirectoryError: """\
ebmkit.load("runs/mine")
""",
    errors.DivergenceError: """\
sampler = ebmkit.create("sampler", "langevin", step_size=1.0)
well = ebmkit.create("model", "double-well")
ebmkit.sample(sampler, well, torch.full((8, 2), 3.0), steps=10)
""",
    ebmkit.CalculusWarning: """\
model = ebmkit.create("model", "mlp", event_shape=[2], activation="relu")
loss = ebmkit.create("loss", "score-matching")
ebmkit.objective(loss, model)(torch.zeros(8, 2))
""",
}


def _component(**said: str) -> Component:
    known = {
        "kind": "sampler",
        "name": "barker",
        "target": "ebmkit_barker:Barker",
        "distribution": "ebmkit-barker",
        "version": "0.1",
        "status": "ok",
    }
    return Component(**(known | said))


def _unknown() -> None:
    Registry([_component()]).find("sampler", "baker")


def _ambiguous() -> None:
    rival = _component(distribution="other-barker", version="2.0", status="conflict")
    Registry([_component(status="conflict"), rival]).find("sampler", "barker")


def _blocked() -> None:
    reason = "--no-plugin or EBMKIT_DISABLE_PLUGINS names it"
    Registry([_component(status="blocked", reason=reason)]).find("sampler", "barker")


def _incompatible() -> None:
    reason = versioning.unserved(["ebmkit-protocol>=2"])
    Registry([_component(status="incompatible", reason=reason)]).find("sampler", "barker")


def _broken() -> None:
    part = _component(target="ebmkit_barker_without_module:Barker")
    Registry([part]).load(part)


def _too_large() -> None:
    with mock.patch.object(memory, "memory", return_value=float(8 * 2**30)):
        ebmkit.expect_memory("loss.buffer_size", 2**36)


def _endless() -> None:
    log_partition(lambda x: x.new_zeros(len(x)), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def _gone() -> None:
    with Ranks()._speaking():
        raise RuntimeError("Connection closed by peer")


class Barker:
    """A sampler whose own check of the model fails."""

    __module__ = "ebmkit_barker"

    def check(self, _: Any) -> None:
        raise KeyError("hidden")

    def init(self, energy: Any, x: torch.Tensor) -> None: ...

    def draw(self, state: Any, *, generator: torch.Generator) -> None: ...

    def step(self, energy: Any, state: Any, noise: Any) -> Any: ...


def _failing() -> None:
    ebmkit.compose("two-moons", sampler=Barker())


class _Careless:
    @ebmkit.hookimpl
    def run_start(self) -> None:
        raise ZeroDivisionError("division by zero")


def _careless() -> None:
    Hooks({"ebmkit-watcher:watcher": _Careless()}).run_start(mock.Mock())


def _uncompiled() -> None:
    well = ebmkit.create("model", "double-well")
    loss = ebmkit.create("loss", "score-matching")
    ebmkit.objective(loss, well, compile="auto", steps=10**6)(torch.zeros(8, 2))


def _old() -> None:
    versioning.deprecated("the argument `width`", removed_in="2.0", instead="`hidden`")


def _torn() -> None:
    pipeline = ebmkit.compose(
        {
            "model": {"use": "mlp", "hidden": [4], "base_scale": 1.0},
            "loss": {"use": "score-matching"},
            "dataset": torch.linspace(-1, 1, 40).view(20, 2),
            "training": {"steps": 2, "checkpoint_every": 1, "batch_size": 4, "compile": "off"},
            "evaluation": {"n_samples": 4, "chain_steps": 1},
        }
    )
    pipeline.fit(out="runs/mine", hooks=Hooks({}))
    newest = max(Path("runs/mine/checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    ebmkit.load("runs/mine", dataset=torch.linspace(-1, 1, 40).view(20, 2))


STAGED: dict[type, Callable[[], Any]] = {
    errors.UnknownPartError: _unknown,
    errors.AmbiguousPartError: _ambiguous,
    errors.BlockedPartError: _blocked,
    errors.IncompatiblePartError: _incompatible,
    errors.DeviceError: lambda: find_device("gpu"),
    errors.MemoryNeededError: _too_large,
    errors.EvaluationError: _endless,
    errors.ProcessError: _gone,
    errors.PluginError: _failing,
    errors.BrokenPluginError: _broken,
    errors.HookError: _careless,
    ebmkit.CompileWarning: _uncompiled,
    ebmkit.EbmkitDeprecationWarning: _old,
    provenance.RunWarning: _torn,
}
SILENT = {
    errors.EbmkitError: "has no message of its own",
    errors.Terminated: "has no message; the command says which checkpoint it wrote",
    watching.SlowImportWarning: "comes after 30 seconds, and names the part",
}


def render() -> str:
    """The whole page."""
    known = [
        c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BaseException)
    ]
    blocks = [HEAD, _table(known), "## One by one\n", *map(_entry, known), _of_parts()]
    blocks.append("## Warnings\n\n" + WARNED)
    return "\n".join([*blocks, *map(_entry, WARNINGS)])


WARNED = """\
A command prints them to standard error. In Python they are Python's, to be filtered by their class with
`warnings.filterwarnings`.
"""


def _table(known: list[type]) -> str:
    rows = ["| error | exit code | public | what it is |", "|---|---|---|---|"]
    for kind in known:
        public = "yes" if kind.__name__ in ebmkit.__all__ else f"as {_caught(kind)}"
        code = getattr(kind, "exit_code", "")
        name = f"[`{kind.__name__}`](#{kind.__name__.lower()})"
        rows.append(f"| {name} | {code} | {public} | {_said(kind)[0]} |")
    return "\n".join([*rows, ""])


def _caught(kind: type) -> str:
    """The public class above an error that is not public, or Python's."""
    above = next(c for c in kind.__mro__ if c.__name__ in ebmkit.__all__ or c is KeyboardInterrupt)
    return f"`{above.__name__}`"


def _said(kind: type) -> tuple[str, str, str]:
    """What it is, its cause and its remedy, from the docstring."""
    doc = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    what, _, rest = doc.partition("\n\n")
    cause, _, remedy = rest.partition("\nRemedy: ")
    if not (what and cause and remedy):
        raise ValueError(f"{kind.__name__}: its docstring lacks its cause or a line 'Remedy: …'")
    return " ".join(what.split()), " ".join(cause.split()), " ".join(remedy.split())


def _entry(kind: type) -> str:
    what, cause, remedy = _said(kind)
    remedy = remedy[0].upper() + remedy[1:]
    lines = [
        f"### {kind.__name__}",
        "",
        what,
        "",
        f"**Cause.** {cause}",
        "",
        f"**Remedy.** {remedy}",
    ]
    if kind in SILENT:
        return "\n".join([*lines, "", f"It {SILENT[kind]}.", ""])
    if kind in SHOWN:
        mark = "<!-- run by tests/docs/test_catalogue.py -->"
        lines += ["", mark, "```python", SHOWN[kind].rstrip(), "```"]
    return "\n".join([*lines, "", "```text", _message(kind), "```", ""])


def _message(kind: type) -> str:
    """What a class says where it is made to happen."""
    # Second derivatives warn once a process.
    fresh = mock.patch.object(taylor, "_said", set())
    with _elsewhere(), fresh, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if kind in SHOWN:
                exec(SHOWN[kind], {"ebmkit": ebmkit, "torch": torch})
            else:
                STAGED[kind]()
        except kind as error:
            if type(error) is kind:
                return str(error)
    told = [str(w.message) for w in caught if w.category is kind]
    if not told:
        raise AssertionError(f"{kind.__name__} did not happen")
    return told[0]


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """An empty folder with the files that the lines name, so that messages name no machine's paths."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name, text in FILES.items():
                Path(name).write_text(text, encoding="utf-8")
            yield
        finally:
            os.chdir(before)


def _of_parts() -> str:
    """Errors of built-in parts, which their own plugins define."""
    rows = ["## Of single parts", "", "Each is a `UserError` and a `ValueError`.", ""]
    rows += ["| error | what it is |", "|---|---|"]
    for path in sorted(PLUGINS.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "UserError" in map(ast.unparse, node.bases):
                what = (ast.get_docstring(node) or "").split("\n\n")[0]
                place = f"{path.parent.name}.{path.stem}"
                rows.append(f"| `{place}.{node.name}` | {' '.join(what.split())} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
