"""What happens at a time: the hook specifications, and the plugin manager behind a typed face.

A hook plugin is a class, or any object, found through the entry-point group ``ebmkit.hooks``. Its
methods marked ``@ebmkit.hookimpl`` are called at the times below; a method may leave out arguments it
does not use. Hooks are never called inside a chain.

The keyword parameters of a class are its options, which a pipeline states in ``[hooks.NAME]``. A class
that can be called without arguments takes part in every run; one that cannot, and one that says
``stated_only = True``, where it is stated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from ebmkit.errors import BrokenPluginError, EbmkitError, HookError, Problem
from ebmkit.registry import Registry, registry

if TYPE_CHECKING:
    from torch import Tensor

    from ebmkit.diagnostics import Diagnosis
    from ebmkit.pipeline import Pipeline
    from ebmkit.protocols import Batch
    from ebmkit.reports import Section
    from ebmkit.spec import Spec

_spec = pluggy.HookspecMarker("ebmkit")
hookimpl = pluggy.HookimplMarker("ebmkit")
"""Marks a method as the implementation of the hook of its name."""


@attrs.define(eq=False)
class Run:
    """A training run as hooks see it."""

    pipeline: Pipeline
    directory: Path | None
    """Where the run is kept; None for a run that is kept in memory only."""
    total_steps: int
    step: int = 0
    """Training steps done."""
    notices: list[str] = attrs.field(factory=list)
    """Lines that a person should see at the end."""
    stopped: str = ""
    """Why training ends before ``total_steps``; empty where it does not."""
    evaluation: Mapping[str, Any] | None = None
    """What the last evaluation said, and at which ``step``."""

    @property
    def ending(self) -> bool:
        """Whether the present step is the last."""
        return bool(self.stopped) or self.step >= self.total_steps

    def stop(self, reason: str) -> None:
        """Let training end after the present step, as if it were the last."""
        self.stopped = self.stopped or reason


class Specifications:
    """The hooks there are. Unless said otherwise what they return is ignored."""

    @_spec
    def validate_spec(self, spec: Spec) -> Sequence[Problem]:  # type: ignore[empty-body]
        """After a spec was read and its parts checked: further problems with it."""

    @_spec
    def run_start(self, run: Run) -> None:
        """Before the first step."""

    @_spec
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        """After each training step; metrics are tensors, and reading one may wait for the device."""

    @_spec
    def evaluation_done(
        self, run: Run, result: Mapping[str, Any], data: Batch, samples: Batch | None
    ) -> None:
        """After each evaluation, with its numbers, and the data and samples that they compare."""

    @_spec
    def diagnosis_done(self, directory: Path, diagnosis: Diagnosis) -> None:
        """After ``ebmkit diagnose``, with what it found, which is kept in the run's directory."""

    @_spec
    def run_end(self, run: Run, error: BaseException | None) -> None:
        """After the last step, or when the run ended with an error."""

    @_spec
    def save_state(self, run: Run) -> Mapping[str, Any]:  # type: ignore[empty-body]
        """When a checkpoint is written: what to keep in it, as JSON can say it."""

    @_spec
    def load_state(self, run: Run, state: Mapping[str, Any]) -> None:
        """After the run's start, where the pipeline came from a checkpoint: what ``save_state`` of the
        same plugin returned."""

    @_spec
    def report_sections(  # type: ignore[empty-body]
        self, directory: Path, records: Sequence[Mapping[str, float]]
    ) -> Sequence[Section]:
        """When ``ebmkit report`` writes a run's page: sections to add to it, from the files of the
        run's directory, which may be torn or missing, and from its metrics, numbers by name and their
        ``step``, in their order."""

    @_spec
    def doctor(self) -> Sequence[str]:  # type: ignore[empty-body]
        """When ``ebmkit doctor`` runs: lines that say what is wrong, none where nothing is."""


class Hooks:
    """The hook plugins of a run. An exception in one is raised as a HookError that names it."""

    def __init__(self, plugins: Mapping[str, object]) -> None:
        self._manager = pluggy.PluginManager("ebmkit")
        self._manager.add_hookspecs(Specifications)
        self.left_out: tuple[str, ...] = ()
        """Installed plugins that could not be imported, each with the reason."""
        for name, plugin in plugins.items():
            self._add(name, plugin)

    @classmethod
    def installed(
        cls, found: Registry | None = None, stated: Mapping[str, object] | None = None
    ) -> Hooks:
        """The hook plugins of the installed distributions that are not blocked, and those that a
        pipeline states, by ``dist:name``. One that cannot be imported is left out, for nobody asked
        for it by name."""
        found = found or registry()
        plugins, left_out = dict(stated or {}), []
        for component in found.of_kind("hook"):
            if component.status in ("ok", "conflict") and component.qualified not in plugins:
                try:
                    plugin = found.load(component)
                except BrokenPluginError as error:
                    left_out.append(str(error))
                    continue
                if not stated_only(plugin):
                    plugins[component.qualified] = plugin
        hooks = cls(plugins)
        hooks.left_out = tuple(left_out)
        return hooks

    def validate_spec(self, spec: Spec) -> list[Problem]:
        lists = self._call("validate_spec", spec=spec)
        return [problem for problems in lists for problem in problems]

    def run_start(self, run: Run) -> None:
        self._call("run_start", run=run)

    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        self._call("step_end", run=run, metrics=metrics)

    def evaluation_done(
        self, run: Run, result: Mapping[str, Any], data: Batch, samples: Batch | None
    ) -> None:
        self._call("evaluation_done", run=run, result=result, data=data, samples=samples)

    def diagnosis_done(self, directory: Path, diagnosis: Diagnosis) -> None:
        self._call("diagnosis_done", directory=directory, diagnosis=diagnosis)

    def run_end(self, run: Run, error: BaseException | None) -> None:
        self._call("run_end", run=run, error=error)

    def doctor(self) -> list[str]:
        return [line for lines in self._call("doctor") for line in lines]

    def save_state(self, run: Run) -> dict[str, Mapping[str, Any]]:
        """What each plugin keeps in a checkpoint, by plugin."""
        from ebmkit.checkpoint import check

        states = {name: call(run=run) for name, call in self._each("save_state")}
        for name, state in states.items():
            try:
                check(state)
            except TypeError as error:
                raise HookError(f"hook save_state of {name}: {error}") from error
        return states

    def load_state(self, run: Run, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Give each plugin what it kept."""
        for name, call in self._each("load_state"):
            if name in states:
                call(run=run, state=states[name])

    def report_sections(
        self, directory: Path, records: Sequence[Mapping[str, float]]
    ) -> tuple[list[Section], list[str]]:
        """What plugins add to a run's page, and why one does not: a page without it is of use too."""
        from ebmkit.reports import Section

        sections: list[Section] = []
        failures = []
        for name, call in self._each("report_sections"):
            try:
                added = call(directory=directory, records=records) or ()
                if not isinstance(added, Sequence) or not all(
                    isinstance(s, Section) for s in added
                ):
                    raise HookError(
                        f"hook report_sections of {name}: expected sections, got {added!r}"
                    )
                sections += added
            except EbmkitError as error:
                failures.append(str(error))
        return sections, failures

    def _each(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """The hook for one plugin at a time, for what belongs to one plugin alone."""
        plugins = dict(self._manager.list_name_plugin())
        implementing = {i.plugin_name for i in getattr(self._manager.hook, hook).get_hookimpls()}
        calls = []
        for name in sorted(implementing):
            others = [p for n, p in plugins.items() if n != name]
            caller = self._manager.subset_hook_caller(hook, others)
            calls.append((name, self._one(hook, caller)))
        return calls

    def _one(self, hook: str, caller: pluggy.HookCaller) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            results = self._called(hook, caller, arguments)
            return results[0] if results else None

        return call

    def _call(self, hook: str, **arguments: Any) -> list[Any]:
        return self._called(hook, getattr(self._manager.hook, hook), arguments)

    def _called(
        self, hook: str, caller: pluggy.HookCaller, arguments: Mapping[str, Any]
    ) -> list[Any]:
        try:
            results: list[Any] = caller(**arguments)
        except EbmkitError:
            raise
        except Exception as error:
            name = _culprit(caller, error)
            raise HookError(
                f"hook {hook} of {name} raised {type(error).__name__}: {error}{_remedy(name)}"
            ) from error
        return results

    def _add(self, name: str, plugin: object) -> None:
        """Refuse implementations of hooks that do not exist, or with arguments that do not."""
        try:
            made = plugin() if inspect.isclass(plugin) else plugin
        except Exception as error:
            raise HookError(
                f"hook plugin {name} failed while it was made: {type(error).__name__}: {error}"
                f"{_remedy(name)}"
            ) from error
        try:
            self._manager.register(made, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise HookError(f"hook plugin {name}: {error}{_remedy(name)}") from error


def stated_only(plugin: object) -> bool:
    """Whether it takes part only where it is stated: it says so, or cannot be made without options."""
    if not inspect.isclass(plugin):
        return False
    if getattr(plugin, "stated_only", False):
        return True
    parameters = inspect.signature(plugin).parameters.values()
    return any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    )


def _remedy(name: str) -> str:
    """What a user can do about a hook plugin, which may be installed or an object of the caller's."""
    installed = any(c.qualified == name for c in registry().of_kind("hook"))
    switch = f", or switch it off with --no-plugin {name}" if installed else ""
    return f"; mend or update the plugin{switch}"


def _culprit(caller: pluggy.HookCaller, error: BaseException) -> str:
    codes = {}
    for implementation in caller.get_hookimpls():
        function = inspect.unwrap(
            getattr(implementation.function, "__func__", implementation.function)
        )
        codes[getattr(function, "__code__", None)] = implementation.plugin_name
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return str(codes[trace.tb_frame.f_code])
        trace = trace.tb_next
    return "one of " + ", ".join(map(str, codes.values()))
