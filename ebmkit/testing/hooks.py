"""Hook plugins: called at their times in a run, which goes as it goes without them."""

from __future__ import annotations

import copy
import inspect
import io
import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmkit.composer import compose
from ebmkit.diagnostics import Diagnosis
from ebmkit.errors import HookError, Problem, UserError
from ebmkit.hooks import Hooks, Run, Specifications, hookimpl
from ebmkit.pipeline import Pipeline
from ebmkit.reports import Section
from ebmkit.spec import parse_toml
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.subject import Subject

HOOKS = tuple(name for name in vars(Specifications) if not name.startswith("_"))
STEPS = 4
RECORDS = ({"step": 2, "loss": 0.5}, {"step": 4, "loss": math.nan, "force": 1.0})
NAME = "tried:hook"


class Watching:
    """Keeps the weights after each step."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.weights: list[list[Tensor]] = []

    @hookimpl
    def step_end(self, run: Run) -> None:
        self.weights.append(weights(run.pipeline.trainer.model))
        if run.step == self.fail_at:
            raise RuntimeError("another plugin's failure")


def weights(model: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def pipeline(seed: int) -> Pipeline:
    """A small one, of the kit's own parts; in three dimensions, where nothing is integrated."""
    return compose(
        {
            "model": reference.Network((3,), seed=seed),
            "sampler": reference.RandomWalk(),
            "loss": reference.Contrast(),
            "dataset": reference.Normal((3,)),
            "training": {
                "steps": STEPS,
                "batch_size": 8,
                "optimizer": {"use": "sgd", "lr": 0.1},
                "device": "cpu",
                "compile": "off",
                "seed": seed,
                "evaluate_every": 2,
                "checkpoint_every": 2,
            },
            "evaluation": {"n_samples": 20, "chain_steps": 2},
            "chains": {"compile": "off"},
        }
    )


def implemented(hook: Any) -> list[str]:
    """The names of the hooks that it implements."""
    return [name for name in HOOKS if hasattr(getattr(hook, name, None), "ebmkit_impl")]


def _refuses(subject: Subject) -> str:
    hook = subject.make()
    if check := getattr(hook, "check", None):
        try:
            check(pipeline(0))
        except UserError as error:
            return f"its check refuses the kit's pipeline: {error}"
    return ""


def _keeps_no_state(subject: Subject) -> str:
    if said := _refuses(subject):
        return said
    if {"save_state", "load_state"} & set(implemented(subject.make())):
        return ""
    return "it implements neither save_state nor load_state"


def ran(
    hook: Any, seed: int, out: Path | None, *others: Any, cases: Cases
) -> tuple[Pipeline, Watching]:
    """A run with a hook plugin, and its weights after each step; errors of the hook break a law."""
    made, watching = pipeline(seed), Watching()
    plugins = {"kit:watching": watching} | ({NAME: hook} if hook is not None else {})
    plugins |= {f"kit:{number}": other for number, other in enumerate(others)}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            made.fit(out=out, hooks=Hooks(plugins))
    except HookError as error:
        if NAME not in str(error):
            raise
        cases.expect(False, str(error))
    return made, watching


@law(
    "hook",
    why="Only the hooks that there are, with the arguments that there are, are ever called.",
    means="a run ends before its first step, or the plugin does nothing without a word",
)
def hooks_are_those_that_there_are(subject: Subject, cases: Cases) -> None:
    hook = subject.make()
    with cases.case("registered"):
        try:
            Hooks({NAME: hook})
        except HookError as error:
            cases.expect(False, str(error))
        cases.expect(
            bool(implemented(hook)),
            f"it implements no hook; mark methods called {', '.join(HOOKS)} with @ebmkit.hookimpl",
        )
    for name in HOOKS:
        if inspect.ismethod(getattr(hook, name, None)):
            with cases.case(name):
                cases.expect(
                    name in implemented(hook),
                    f"{name} is not marked @ebmkit.hookimpl, so never called",
                )
    if hasattr(hook, "stated_only"):
        with cases.case("stated_only"):
            cases.expect(
                hook.stated_only is True and getattr(subject.type, "stated_only", None) is True,
                "stated_only is read of the class, and means something where it is True",
            )


@law(
    "hook",
    why="A hook is called at its times in every run: kept or not, whole, ended by an error, resumed.",
    means="training ends with an error of the plugin's, perhaps after its last step",
    applies=_refuses,
)
def runs_go_through(subject: Subject, cases: Cases) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for out in (None, Path(folder) / "run"):
            with cases.case("a run that is kept" if out else "a run in memory"):
                made, _ = ran(subject.make(), cases.seed, out, cases=cases)
            with cases.case("the same pipeline once more, as when it is resumed"):
                try:
                    made.fit(hooks=Hooks({NAME: subject.make()}))
                except HookError as error:
                    cases.expect(False, str(error))
        with cases.case("a run that another plugin ends by an error"):
            made = pipeline(cases.seed)
            hooks = Hooks({NAME: subject.make(), "kit:failing": Watching(fail_at=1)})
            try:
                made.fit(out=Path(folder) / "failing", hooks=hooks)
            except HookError as error:
                cases.expect("another plugin's failure" in str(error), str(error))
                # What fails after the first error is a note on it.
                notes = [note for note in getattr(error, "__notes__", ()) if NAME in note]
                cases.expect(not notes, "; ".join(notes))
        with cases.case("after ebmkit diagnose"):
            found = Diagnosis("not yet", "", chains=2, steps=3, warm_up=0, thin=1)
            try:
                Hooks({NAME: subject.make()}).diagnosis_done(Path(folder) / "run", found)
            except HookError as error:
                cases.expect(False, str(error))


@law(
    "hook",
    why="What a hook returns is read by the command line and written into checkpoints.",
    means="validate, doctor, a report or a checkpoint ends with an error far from its cause",
)
def returns_are_as_specified(subject: Subject, cases: Cases) -> None:
    hook = subject.make()
    spec = parse_toml('[model]\nuse = "mlp"\n[training]\nsteps = 3\n', "tried.toml")
    asked: tuple[tuple[str, type, dict[str, Any]], ...] = (
        ("validate_spec", Problem, {"spec": spec}),
        ("report_sections", Section, {"directory": Path("no-run"), "records": RECORDS}),
        ("doctor", str, {}),
    )
    for name, kind, arguments in asked:
        with cases.case(name):
            for found in Hooks({NAME: hook})._call(name, **arguments):
                cases.expect(
                    isinstance(found, Sequence)
                    and not isinstance(found, str)
                    and all(isinstance(one, kind) for one in found),
                    f"expected a sequence of {kind.__name__}, got {found!r}",
                )


@law(
    "hook",
    why="A run that goes on from a checkpoint has what its hooks kept in it.",
    means="resumed runs stop, keep or report at other steps than uninterrupted ones",
    applies=_keeps_no_state,
)
def state_comes_back(subject: Subject, cases: Cases) -> None:
    hook = subject.make()
    for needed in ("save_state", "load_state"):
        with cases.case(needed):
            cases.expect(
                needed in implemented(hook),
                f"it implements {' and '.join(implemented(hook))} but not {needed}",
            )
    with cases.case("saved after a run, loaded into another"):
        made, _ = ran(hook, cases.seed, None, cases=cases)
        kept = made.hook_states[NAME]
        cases.expect(isinstance(kept, Mapping), f"expected a mapping of save_state, got {kept!r}")
        saved = json.loads(json.dumps(dict(kept)))
        fresh, again = subject.make(), pipeline(cases.seed)
        hooks, run = Hooks({NAME: fresh}), Run(again, None, STEPS)
        try:
            hooks.run_start(run)
            hooks.load_state(run, {NAME: copy.deepcopy(saved)})
            found = json.loads(json.dumps(dict(hooks.save_state(run)[NAME])))
        except HookError as error:
            cases.expect(False, str(error))
        cases.expect(found == saved, f"expected {saved} after load_state, got {found}")


@law(
    "hook",
    why="Whoever looks at a run must not change it: it is repeated by its spec alone.",
    means="the same spec trains another model where the plugin is installed",
    applies=_refuses,
)
def training_goes_as_without_it(subject: Subject, cases: Cases) -> None:
    with tempfile.TemporaryDirectory() as folder, cases.case(f"{STEPS} steps with and without it"):
        _, without = ran(None, cases.seed, Path(folder) / "without", cases=cases)
        made, watched = ran(subject.make(), cases.seed, Path(folder) / "with", cases=cases)
        for step, (one, other) in enumerate(
            zip(watched.weights, without.weights, strict=False), start=1
        ):
            cases.expect(
                all(map(torch.equal, one, other)), f"the weights after step {step} are others"
            )
        # It may end training and choose among the weights, by run.stop and keep_weights.
        last = weights(made.model)
        cases.expect(
            any(all(map(torch.equal, last, one)) for one in without.weights),
            "the run ends with weights that it has after none of its steps without the hook",
        )
        for name, tensor in made.trainer.model.named_parameters():  # type: ignore[attr-defined]
            cases.expect(tensor.requires_grad, f"parameter {name} is left not requiring a gradient")


def _global() -> dict[str, Any]:
    import numpy as np

    return {
        "torch's global random state": torch.random.get_rng_state().tolist(),
        "random's global state": random.getstate(),
        "numpy's global random state": str(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch's default dtype": torch.get_default_dtype(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "whether torch is deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch's number of threads": torch.get_num_threads(),
    }


@law(
    "hook",
    why="A plugin shares its process with the user's own code and with all other plugins.",
    means="code that has nothing to do with the plugin draws other numbers where it is installed",
    applies=_refuses,
)
def global_state_is_left_alone(subject: Subject, cases: Cases) -> None:
    with tempfile.TemporaryDirectory() as folder, cases.case("a run that is kept"):
        before = _global()
        ran(subject.make(), cases.seed, Path(folder) / "run", cases=cases)
        for name, value in _global().items():
            cases.expect(value == before[name], f"a run with it changed {name}")
