"""Hooks are called at the promised times, and one that fails is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmkit
from ebmkit import PluginError, Problem, Run, hookimpl
from ebmkit.errors import HookError
from ebmkit.hooks import Hooks

ROWS = torch.linspace(-1, 1, 400).reshape(200, 2)


class Recording:
    """Keeps what it was told, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.given: Any = None

    @hookimpl
    def run_start(self, run: Run) -> None:
        self.said.append(("start", run.step, run.total_steps))

    @hookimpl
    def step_end(self, run: Run, metrics: Any) -> None:
        self.said.append(("step", run.step))
        assert all(isinstance(value, torch.Tensor) and not value.ndim for value in metrics.values())
        assert "loss" in metrics

    @hookimpl
    def evaluation_done(self, run: Run, result: Any, data: Any, samples: Any) -> None:
        self.said.append(("evaluation", run.step, result["step"]))
        assert len(data.x) == len(samples.x) == 50

    @hookimpl
    def run_end(self, run: Run, error: BaseException | None) -> None:
        self.said.append(("end", run.step, type(error).__name__ if error else None))

    @hookimpl
    def save_state(self, run: Run) -> dict[str, Any]:
        return {"seen": len(self.said), "at": run.step}

    @hookimpl
    def load_state(self, run: Run, state: Any) -> None:
        del run
        self.given = state


@pytest.fixture
def pipeline(small: Any) -> ebmkit.Pipeline:
    return ebmkit.compose(copy.deepcopy(small), dataset=ROWS, **{"training.evaluate_every": 3})


def test_each_is_called_at_its_time(pipeline: ebmkit.Pipeline) -> None:
    hook = Recording()
    run = pipeline.fit(hooks=Hooks({"mine": hook}))
    assert run.evaluation is not None
    assert run.evaluation == {"step": 6, **pipeline.evaluate()}
    assert run.step == run.total_steps == 6
    assert hook.said == [
        ("start", 0, 6),
        *(("step", n) for n in (1, 2, 3)),
        ("evaluation", 3, 3),
        *(("step", n) for n in (4, 5, 6)),
        ("evaluation", 6, 6),
        ("end", 6, None),
    ]


def test_a_class_is_called_for_an_object(pipeline: ebmkit.Pipeline) -> None:
    assert pipeline.fit(hooks=Hooks({"mine": Recording})).step == 6


def test_looking_at_the_model_does_not_change_it(tmp_path: Path, small: Any) -> None:
    """Hooks that call the model, as pictures do, leave BatchNorm's statistics as training made them."""

    def model() -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.SiLU()]
            return torch.nn.Sequential(*layers, torch.nn.Linear(4, 1), torch.nn.Flatten(0))

    states = []
    for hooks in (None, Hooks({})):
        out = tmp_path / str(hooks is None)
        pipeline = ebmkit.compose(
            copy.deepcopy(small), model=model(), **{"training.evaluate_every": 2}
        )
        pipeline.fit(out=out, hooks=hooks)
        assert ebmkit.load(out, model=model()).evaluate() == pipeline.evaluate()
        states.append(pipeline.model.state_dict())  # type: ignore[attr-defined]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_an_interrupt_ends_after_the_present_step(pipeline: ebmkit.Pipeline) -> None:
    class Stopping(Recording):
        @hookimpl
        def step_end(self, run: Run) -> None:
            if run.step == 2:
                run.pipeline.interrupt()

    hook = Stopping()
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(hooks=Hooks({"mine": hook}))
    assert hook.said[-1] == ("end", 2, "KeyboardInterrupt")


class Failing:
    """Fails at one time."""

    def __init__(self, time: str) -> None:
        self.time = time

    def fail(self, time: str) -> None:
        if time == self.time:
            raise ZeroDivisionError("no luck")

    @hookimpl
    def run_start(self, run: Run) -> None:
        self.fail("run_start")

    @hookimpl
    def step_end(self, run: Run) -> None:
        if run.step == 4:
            self.fail("step_end")

    @hookimpl
    def evaluation_done(self, run: Run) -> None:
        self.fail("evaluation_done")

    @hookimpl
    def save_state(self, run: Run) -> Any:
        self.fail("save_state")
        return {}

    @hookimpl
    def load_state(self, run: Run, state: Any) -> None:
        self.fail("load_state")

    @hookimpl
    def run_end(self, run: Run) -> None:
        self.fail("run_end")

    @hookimpl
    def doctor(self) -> Any:
        self.fail("doctor")
        return []


@pytest.mark.parametrize("time", ["run_start", "step_end", "evaluation_done", "run_end"])
def test_one_that_fails_is_named(time: str, pipeline: ebmkit.Pipeline) -> None:
    hooks = Hooks({"other": Recording(), "mine": Failing(time), "third": Recording()})
    with pytest.raises(HookError) as caught:
        pipeline.fit(hooks=hooks)
    said = f"hook {time} of mine raised ZeroDivisionError: no luck"
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("; mend or update the plugin")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("time", ["save_state", "load_state", "doctor"])
def test_one_that_fails_elsewhere_is_named_too(time: str, pipeline: ebmkit.Pipeline) -> None:
    hooks = Hooks({"other": Recording(), "mine": Failing(time)})
    run = Run(pipeline, None, 6)
    calls: dict[str, Callable[[], Any]] = {
        "save_state": lambda: hooks.save_state(run),
        "load_state": lambda: hooks.load_state(run, {"mine": {}, "other": {}}),
        "doctor": hooks.doctor,
    }
    with pytest.raises(HookError, match=f"hook {time} of mine raised ZeroDivisionError"):
        calls[time]()


def test_a_run_that_a_hook_ends_keeps_its_state(pipeline: ebmkit.Pipeline, tmp_path: Path) -> None:
    with pytest.raises(HookError):
        pipeline.fit(out=tmp_path / "run", hooks=Hooks({"mine": Failing("step_end")}))
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["step"]) == ("failed", 4)
    assert "hook step_end of mine" in status["reason"]
    again = ebmkit.load(tmp_path / "run", dataset=ROWS)
    assert again.step == 4


def test_an_error_of_the_run_is_not_hidden_by_one_of_run_end(pipeline: ebmkit.Pipeline) -> None:
    class Stopping(Failing):
        @hookimpl
        def step_end(self, run: Run) -> None:
            run.pipeline.interrupt()

    with pytest.raises((KeyboardInterrupt, HookError)) as caught:
        pipeline.fit(hooks=Hooks({"mine": Stopping("run_end")}))
    known: BaseException | None = caught.value
    chain = []
    while known is not None:
        chain.append(type(known))
        known = known.__cause__ or known.__context__
    assert KeyboardInterrupt in chain


def test_errors_of_ours_pass_as_they_are(pipeline: ebmkit.Pipeline) -> None:
    class Refusing:
        @hookimpl
        def run_start(self) -> None:
            raise ebmkit.UserError("not today")

    with pytest.raises(ebmkit.UserError, match="not today"):
        pipeline.fit(hooks=Hooks({"mine": Refusing}))


class Misspelt:
    @hookimpl
    def step_ended(self, run: Run) -> None:
        """There is no such hook."""


class Overeager:
    @hookimpl
    def step_end(self, run: Run, energy: Any) -> None:
        """There is no such argument."""


@pytest.mark.parametrize(("plugin", "word"), [(Misspelt, "step_ended"), (Overeager, "energy")])
def test_hooks_that_there_are_not_are_refused(plugin: type, word: str) -> None:
    with pytest.raises(HookError) as caught:
        Hooks({"foo-x:mine": plugin})
    assert "foo-x:mine" in str(caught.value)
    assert word in str(caught.value)


def test_one_that_cannot_be_made_is_named() -> None:
    class Unmade:
        def __init__(self) -> None:
            raise KeyError("oops")

    with pytest.raises(HookError, match=r"hook plugin foo-x:mine failed .* KeyError: 'oops'"):
        Hooks({"foo-x:mine": Unmade})


def test_each_plugin_keeps_a_state_of_its_own(pipeline: ebmkit.Pipeline, tmp_path: Path) -> None:
    first, second = Recording(), Recording()
    second.said.append(("before",))
    hooks = Hooks({"first": first, "second": second, "none": object()})
    run = Run(pipeline, tmp_path, 6, 2)
    states = hooks.save_state(run)
    assert states == {"first": {"seen": 0, "at": 2}, "second": {"seen": 1, "at": 2}}
    hooks.load_state(run, {**states, "gone": {"x": 1}})
    assert (first.given, second.given) == (states["first"], states["second"])


def test_further_problems_with_a_spec() -> None:
    class Strict:
        @hookimpl
        def validate_spec(self, spec: Any) -> list[Problem]:
            return [spec.problem("training.seed", "0 is unlucky")]

    from ebmkit.spec import parse_toml

    spec = parse_toml("[training]\nseed = 0\n", "p.toml")
    assert Hooks({"mine": Strict}).validate_spec(spec) == [
        Problem("training.seed", "0 is unlucky", 2)
    ]
    assert Hooks({"mine": object()}).validate_spec(spec) == []


HOOK = """
from ebmkit import Problem, hookimpl


class Strict:
    \"\"\"Wants another seed.\"\"\"

    @hookimpl
    def validate_spec(self, spec):
        return [Problem("training.seed", "0 is unlucky")]

    @hookimpl
    def doctor(self):
        return ["the stars are wrong"]
"""


class TestInstalled:
    def test_the_command_asks_them(self, install: Any, cli: Callable[..., Any]) -> None:
        install("foo-h", {"ebmkit.hooks": {"strict": "foo_h:Strict"}}, {"foo_h.py": HOOK})
        said = cli("validate", "two-moons")
        assert (said.code, said.errors) == (2, ["training.seed: 0 is unlucky"])
        assert cli("--no-plugin", "foo-h:strict", "validate", "two-moons").code == 0

    def test_their_word_at_the_doctors(self, install: Any, cli: Callable[..., Any]) -> None:
        install("foo-h", {"ebmkit.hooks": {"strict": "foo_h:Strict"}}, {"foo_h.py": HOOK})
        said = cli("doctor")
        assert said.code == 1
        assert "problem: hook foo-h:strict says: the stars are wrong" in said.out

    def test_two_of_one_name_are_both_called(self, install: Any) -> None:
        for name in ("foo", "bar"):
            modules = {f"{name}_h.py": HOOK}
            install(f"{name}-h", {"ebmkit.hooks": {"strict": f"{name}_h:Strict"}}, modules)
        assert len(Hooks.installed().doctor()) == 2

    def test_one_that_cannot_be_imported_breaks_nothing_else(
        self, install: Any, cli: Callable[..., Any]
    ) -> None:
        modules = {"foo_h.py": "raise RuntimeError('no luck')"}
        install("foo-h", {"ebmkit.hooks": {"strict": "foo_h:Strict"}}, modules)
        said = cli("validate", "two-moons")
        assert said.code == 0
        assert "foo-h" in said.err and "RuntimeError: no luck" in said.err
        assert cli("doctor").code == 1

    def test_one_with_a_misspelt_hook_is_the_plugins_fault(
        self, install: Any, cli: Callable[..., Any]
    ) -> None:
        modules = {"foo_h.py": HOOK.replace("def doctor", "def doktor")}
        install("foo-h", {"ebmkit.hooks": {"strict": "foo_h:Strict"}}, modules)
        said = cli("validate", "two-moons")
        assert said.code == 1
        assert "foo-h:strict" in said.errors[0] and "doktor" in said.errors[0]


OPTIONS = """
import attrs
from attrs import field
from attrs.validators import ge

from ebmkit import Loss, Model, hookimpl


@attrs.define(eq=False)
class Bell:
    \"\"\"Rings at a step.\"\"\"

    at: int = field(validator=ge(1))
    loss: Loss
    word: str = "ding"

    @hookimpl
    def step_end(self, run):
        if run.step == self.at:
            run.stop(f"{self.word} {type(self.loss).__name__}")


class Quiet:
    \"\"\"Has options of which none is needed.\"\"\"

    def __init__(self, notice: str = "quiet"):
        self.notice = notice

    @hookimpl
    def run_start(self, run):
        run.notices.append(self.notice)


class Reserved:
    \"\"\"Needs no options, and takes part only where it is stated.\"\"\"

    stated_only = True

    @hookimpl
    def run_start(self, run):
        run.notices.append("reserved")


@attrs.define(eq=False)
class Holding:
    \"\"\"Holds the pipeline's model.\"\"\"

    model: Model


class Open:
    \"\"\"Takes any option.\"\"\"

    def __init__(self, first, **others):
        self.others = others


class Unfit:
    \"\"\"Keeps what no file can hold.\"\"\"

    def __init__(self, now):
        pass

    @hookimpl
    def save_state(self):
        return {"seen": {1, 2}}


class Checking:
    \"\"\"Fails where it looks at the pipeline.\"\"\"

    def __init__(self, now):
        pass

    def check(self, pipeline):
        raise ZeroDivisionError("no luck")


plain = Quiet()
"""


class TestOptions:
    @pytest.fixture(autouse=True)
    def _installed(self, install: Any) -> None:
        kinds = ("Bell", "Quiet", "Reserved", "Holding", "Open", "Unfit", "Checking")
        names = {kind.lower(): f"foo_h:{kind}" for kind in kinds} | {"plain": "foo_h:plain"}
        install("foo-h", {"ebmkit.hooks": names}, {"foo_h.py": OPTIONS})

    def run(self, small: Any, **overrides: Any) -> Run:
        pipeline = ebmkit.compose(copy.deepcopy(small), dataset=ROWS, **overrides)
        return pipeline.fit()

    def test_one_that_needs_options_takes_part_where_it_is_stated(self, small: Any) -> None:
        assert self.run(small).step == 6
        run = self.run(small, hooks={"bell": {"at": 2}})
        assert (run.step, run.stopped) == (2, "ding PersistentContrastiveDivergence")
        loss = {"use": "sm"}
        run = self.run(small, hooks={"foo-h:bell": {"at": 3, "word": "dong", "loss": loss}})
        assert (run.step, run.stopped) == (3, "dong ScoreMatching")

    def test_one_that_says_so_takes_part_where_it_is_stated(self, small: Any) -> None:
        assert "reserved" not in self.run(small).notices
        assert self.run(small, hooks={"reserved": {}}).notices.count("reserved") == 1

    def test_one_that_needs_none_is_changed_by_them(self, small: Any) -> None:
        assert self.run(small).notices.count("quiet") == 2
        assert sorted(self.run(small, hooks={"quiet": {"notice": "loud"}}).notices) == [
            "loud",
            "quiet",
        ]

    def test_the_resolved_spec_has_them_and_their_owner(self, small: Any, tmp_path: Path) -> None:
        pipeline = ebmkit.compose(small, hooks={"bell": {"at": 2}})
        assert pipeline.tables["hooks"] == {"bell": {"at": 2, "loss": "@loss", "word": "ding"}}
        assert pipeline.tables["parts"]["hook:bell"] == "foo-h==1.0"
        pipeline.fit(out=tmp_path / "run", hooks=Hooks(pipeline.hooks))
        assert ebmkit.load(tmp_path / "run").tables == pipeline.tables

    @pytest.mark.parametrize(
        ("hooks", "path", "words"),
        [
            ({"bel": {}}, "hooks.bel", "no hook is called 'bel'; did you mean 'bell'?"),
            ({"bell": 3}, "hooks.bell", "expected a table of the hook plugin's options, got 3"),
            ({"bell": {}}, "hooks.bell.at", "missing: a whole number is needed"),
            ({"bell": {"at": 0}}, "hooks.bell.at", "must be >= 1"),
            ({"bell": {"at": 1, "wrd": "a"}}, "hooks.bell.wrd", "did you mean 'word'?"),
            ({"bell": {"at": 1, "loss": "@model"}}, "hooks.bell.loss", "a loss is needed"),
            ({"plain": {"notice": "a"}}, "hooks.plain", "foo-h:plain takes no options"),
            ("bell", "hooks", "expected a table for each hook plugin, got 'bell'"),
        ],
    )
    def test_mistakes_in_them(self, small: Any, hooks: Any, path: str, words: str) -> None:
        with pytest.raises(ebmkit.SpecError) as raised:
            ebmkit.compose(copy.deepcopy(small) | {"hooks": hooks})
        (problem,) = raised.value.problems
        assert problem.path == path and words in problem.message

    def test_a_mistake_has_its_line(self, cli: Callable[..., Any], tmp_path: Path) -> None:
        text = '[model]\nuse = "mlp"\n[loss]\nuse = "sm"\n[dataset]\nuse = "rings"\n'
        path = tmp_path / "run.toml"
        path.write_text(text + "[hooks.bell]\nat = 2\nword = 3\n", encoding="utf-8")
        said = cli("validate", path)
        assert (said.code, len(said.errors)) == (2, 1)
        assert f"{path}:9: hooks.bell.word: expected a string" in said.errors[0]

    def test_one_that_holds_the_model_draws_no_other_weights(self, small: Any) -> None:
        pipelines = [ebmkit.compose(small, hooks=h) for h in ({}, {"holding": {}})]
        one, other = (p.trainer.module for p in pipelines)
        assert one is not None and other is not None
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
        (hook,) = pipelines[1].hooks.values()
        assert hook.model is pipelines[1].trainer.model  # type: ignore[attr-defined]

    def test_options_without_names_of_their_own_are_in_the_resolved_spec(self, small: Any) -> None:
        pipeline = ebmkit.compose(small, hooks={"open": {"first": 1, "more": [2]}})
        assert pipeline.tables["hooks"]["open"] == {"first": 1, "more": [2]}

    def test_one_plugin_under_two_names(self, small: Any) -> None:
        twice = {"bell": {"at": 1}, "foo-h:bell": {"at": 2}}
        with pytest.raises(ebmkit.SpecError, match="states foo-h:bell a second time"):
            ebmkit.compose(copy.deepcopy(small) | {"hooks": twice})

    def test_quoted_names_on_the_command_line(self, cli: Callable[..., Any]) -> None:
        words = ["validate", "two-moons", "--set"]
        assert cli(*words, 'hooks."foo-h:bell".at=2').code == 0
        assert cli(*words, "hooks.'foo-h:bell'.at=0").errors == [
            "hooks.foo-h:bell.at: 'at' must be >= 1: 0"
        ]

    def test_what_cannot_be_kept_names_the_plugin(self, small: Any, tmp_path: Path) -> None:
        pipeline = ebmkit.compose(small, hooks={"unfit": {"now": 1}})
        with pytest.raises(HookError, match=r"save_state of foo-h:unfit.*got set at /seen"):
            pipeline.fit(out=tmp_path / "run", hooks=Hooks(pipeline.hooks))
        status = json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))
        assert status["status"] == "failed"

    def test_a_check_that_fails_names_the_plugin(self, small: Any) -> None:
        words = r"hooks\.checking: check of Checking \(module foo_h\) raised Zero.*no luck"
        with pytest.raises(PluginError, match=words):
            ebmkit.compose(small, hooks={"checking": {"now": 1}})

    def test_a_blocked_one_is_not_to_be_had(self, cli: Callable[..., Any]) -> None:
        words = ["validate", "two-moons", "--set", "hooks.bell.at=2"]
        assert cli(*words).code == 0
        said = cli("--no-plugin", "foo-h:bell", *words)
        assert said.code == 2 and "blocked" in said.errors[0]


def test_hook_errors_are_the_plugins_fault() -> None:
    assert issubclass(HookError, PluginError)
    assert HookError.exit_code == 1
