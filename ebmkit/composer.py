"""Spec + registry -> Pipeline. Every cross-check happens here, before step 0."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import torch

from ebmkit import checks, optimizers, states
from ebmkit.allocating import Allocations, points_fit
from ebmkit.build import Builder
from ebmkit.data import Points
from ebmkit.devices import find_device, own_device
from ebmkit.errors import DeviceError, Problem, SpecError, UnknownPartError, UserError
from ebmkit.objectives import probe
from ebmkit.pipeline import Pipeline
from ebmkit.plan import Call, Planner
from ebmkit.protocols import Dataset
from ebmkit.ranks import Ranks
from ebmkit.registry import registry
from ebmkit.sections import TABLES, Training
from ebmkit.seeds import stream
from ebmkit.sources import recipe_path
from ebmkit.spec import PARTS, Spec, check_sections, read_toml
from ebmkit.starting import local_rank

DEFAULT_STEPS = 1000
"""Training steps where neither steps nor epochs are given."""


def compose(spec: str | Path | Mapping[str, Any] | Spec, /, **overrides: Any) -> Pipeline:
    """Assemble a pipeline from a recipe's name, a TOML file's path, or a dict of tables.

    Parts may be names, tables with ``use``, or live objects: any callable (batch, *event) ->
    (batch,) as model, a tensor (size, *event) as dataset. Overrides are tables or dotted paths:
    ``compose("two-moons", model=net, training={"steps": 500}, **{"sampler.step_size": 1e-3})``.

    Raises:
        SpecError: with every problem at once, each with its path, line and remedy.
        PluginError: a part that the spec names is broken; the message names its distribution.
    """
    spec = load_spec(spec)
    if overrides:
        spec = spec.with_overrides(overrides)
    return _Composer(spec).pipeline()


def load_spec(source: str | Path | Mapping[str, Any] | Spec) -> Spec:
    """A spec from a recipe's name, a path, tables, or itself.

    Raises:
        SpecError: there is no such recipe or file, or it is not TOML.
    """
    if isinstance(source, Spec):
        return source
    if isinstance(source, Mapping):
        return Spec(tables=dict(source)).bounded()
    path = Path(source)
    if path.is_dir():
        raise SpecError([Problem("", "is a directory; ebmkit.load(...) opens a run")], str(source))
    looks_like_path = isinstance(source, Path) or path.suffix == ".toml" or os.sep in str(source)
    if looks_like_path or path.is_file():
        return read_toml(path)
    try:
        component = registry().find("recipe", str(source))
    except UnknownPartError as error:
        raise SpecError([Problem("", f"{error}; nor is there a file {source!r}")]) from None
    found = recipe_path(component)
    if found is None:
        raise SpecError([Problem("", f"recipe {source!r} of {component.distribution} has no file")])
    return read_toml(found)


class _Plans(NamedTuple):
    parts: dict[str, Any]
    sections: dict[str, Call | None]
    optimizer: optimizers.OptimizerPlan | None
    hooks: dict[str, Call]


class _Composer:
    def __init__(self, spec: Spec) -> None:
        self.spec = _with_wrapped_data(spec)
        self.planner = Planner(self.spec, registry())
        self.notices = list(spec.notices)
        self.ranks = Ranks.present()

    def plan(self) -> _Plans:
        """Every name, key, type and bound checked; nothing is built."""
        tables = self.spec.tables
        planner = self.planner
        planner.problems += check_sections(self.spec)
        parts: dict[str, Any] = {}
        for kind in PARTS:
            if kind in tables:
                parts[kind] = planner.part(kind, tables[kind], kind, (kind,))
            elif kind != "sampler":
                planner.problems.append(Problem(kind, f"missing: the pipeline needs a {kind}"))
        sections = {name: self._section(name, factory) for name, factory in TABLES.items()}
        optimizer = self._optimizer(sections["training"])
        hooks = planner.hooks(tables.get("hooks", {}))
        if circle := checks.cycles(self.spec, parts):
            planner.problems += circle
            self._raise()  # parts in a circle cannot be built, and so not be checked any further
        return _Plans(parts, sections, optimizer, hooks)

    def pipeline(self) -> Pipeline:
        plans, sections, optimizer, hook_plans = self.plan()
        planner = self.planner
        builder = Builder(plans)
        planned = not planner.problems
        # Parts that hold no weights are plain records: building them draws nothing, and lets one
        # report hold the problems of the whole.
        training = builder.build(sections["training"])
        dataset: Any = builder.shared("dataset") if planned else None
        self._report(builder)
        event_shape = self._event_shape(dataset)
        if event_shape is None:
            dataset = None  # reading it failed; asking it for more would fail again
        device = self._device(training)
        if training is not None:
            call = sections["training"]
            if call is not None and training.steps is None and training.epochs is None:
                call.arguments["steps"] = DEFAULT_STEPS
            training = checks.with_steps(planner, training, dataset, DEFAULT_STEPS, self.ranks.size)
            builder.training_steps = training.steps
        loss: Any
        sampler, loss = (builder.shared(k) if planned else None for k in ("sampler", "loss"))
        evaluation = builder.build(sections["evaluation"]) if planned else None
        chains = builder.build(sections["chains"]) if planned else None
        self._report(builder)
        if training is not None:
            noise = checks.over_the_run(
                planner, "training.data_noise", training.data_noise, training
            )
            training = attrs.evolve(training, data_noise=noise)
            checks.buffer_holds_negatives(planner, loss, training, self.ranks.size)
            checks.noise_fits(planner, dataset, training)
            points_fit(planner, event_shape, training, loss, evaluation)
            self.notices += checks.schedules(planner, sampler, loss, training, evaluation)
            checks.loss_schedules(planner, "loss", loss, training)
            checks.restarts(planner, chains, loss)
        states.same_states(planner, dataset, sampler, loss, evaluation)
        checks.anneals_exactly(planner, sampler, loss, evaluation)
        checks.same_event_shape(planner, plans.get("model"), event_shape)
        self._raise()
        assert training is not None and optimizer is not None
        assert evaluation is not None and chains is not None and event_shape is not None
        model = self._model(builder, training.seed, event_shape, dataset, device)
        hooks = {n: builder.build(p) for n, p in hook_plans.items()}
        self._report(builder)
        self._raise()
        checks.judging_losses(planner, evaluation, hook_plans, hooks, training, model, dataset)
        checks.parts_take_model(planner, sampler, loss, model)
        states.model_fits(planner, dataset, model, sampler, loss, evaluation, device)
        lr = optimizers.schedule_of(optimizer, builder.build)
        lr = checks.over_the_run(planner, "training.optimizer.lr", lr, training)
        self._report(builder)
        self._raise()
        pipeline = Pipeline(
            model=model,
            sampler=sampler if sampler is not None else getattr(loss, "sampler", None),
            loss=loss,
            dataset=dataset,
            training=training,
            evaluation=evaluation,
            chains=chains,
            optimizer=optimizer,
            lr_schedule=lr,
            device=device,
            hooks=hooks,
            tables=self._resolved(plans, sections, hook_plans, optimizer),
            notices=tuple(self.notices),
            ranks=self.ranks,
        )
        for name, hook in hooks.items():
            checks.takes(planner, hook_plans[name].path, hook, pipeline)
        self._raise()
        return pipeline

    def _model(
        self,
        builder: Builder,
        seed: int,
        event_shape: tuple[int, ...],
        dataset: Any,
        device: torch.device,
    ) -> Any:
        """The model, built for the data's events, on the device, and found to take them."""
        n_classes = getattr(dataset, "n_classes", None)
        builder.context = {
            "event_shape": event_shape,
            "n_classes": n_classes,
            "generator": lambda: stream(seed, "weights"),
        }
        with Allocations("the model"):
            model = builder.shared("model")
        self._report(builder)
        self._raise()
        if isinstance(model, torch.nn.Module):
            model = model.to(device)
        if problem := probe(model, event_shape, n_classes, device):
            self.planner.report("model", problem)
        self._raise()
        module = model if isinstance(model, torch.nn.Module) else torch.nn.Module()
        if not any(p.requires_grad for p in module.parameters()):
            self.notices.append("the model has no parameters to train; fit will refuse")
        return model

    def _section(self, name: str, factory: type) -> Call | None:
        table = self.spec.tables.get(name, {})
        if isinstance(table, Mapping):
            if isinstance(table.get("optimizer"), str):
                table = {**table, "optimizer": {"use": table["optimizer"]}}
            return self.planner.call(name, factory, table, name)
        self.planner.report(name, f"expected a table, got {table!r}")
        return None

    def _raise(self) -> None:
        if self.planner.problems:
            raise SpecError(self.planner.problems, self.spec.origin)

    def _report(self, builder: Builder) -> None:
        for problem in builder.problems:
            self.planner.report(problem.path, problem.message)
        builder.problems.clear()

    def _optimizer(self, training: Call | None) -> optimizers.OptimizerPlan | None:
        table = self.spec.tables.get("training", {})
        table = table.get("optimizer") if isinstance(table, Mapping) else None
        if table is None:
            table = {"use": "adam", "lr": 1e-3}
        elif isinstance(table, str):
            table = {"use": table}
        if not isinstance(table, Mapping):
            return None  # already reported as no table
        plan = optimizers.plan_optimizer(self.planner, table, "training.optimizer")
        if plan is not None and training is not None:
            training.arguments["optimizer"] = plan.resolved()
        return plan

    def _device(self, training: Training | None) -> torch.device:
        try:
            name, exact = (training.device, training.deterministic) if training else ("cpu", False)
            device = find_device(name, deterministic=exact)
            return device if self.ranks.size == 1 else own_device(device, local_rank())
        except DeviceError as error:
            self.planner.report("training.device", str(error))
            return torch.device("cpu")

    def _event_shape(self, dataset: Dataset | None) -> tuple[int, ...] | None:
        if dataset is None:
            return None
        try:
            dataset.draw(1, generator=torch.Generator())  # whatever is wrong with the data, now
            return tuple(dataset.event_shape)
        except UserError as error:
            self.planner.report("dataset", str(error))
            return None

    def _resolved(
        self,
        plans: Mapping[str, Any],
        sections: Mapping[str, Call | None],
        hooks: Mapping[str, Call],
        optimizer: optimizers.OptimizerPlan,
    ) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        owners: dict[str, str] = {}
        calls = [*plans.values(), *sections.values(), *hooks.values(), optimizer.lr]
        for kind, plan in (*plans.items(), *sections.items()):
            if isinstance(plan, Call):
                tables[kind] = plan.resolved()
            elif plan is not None:
                tables[kind] = {"use": f"<{type(plan).__name__}>"}
        if hooks:
            resolved = {call.path.partition(".")[2]: call.resolved() for call in hooks.values()}
            tables["hooks"] = {
                name: {key: value for key, value in table.items() if key != "use"}
                for name, table in resolved.items()
            }
        for call in calls:
            for component in call.components() if isinstance(call, Call) else []:
                key = f"{component.kind}:{component.chosen}"
                owners[key] = f"{component.distribution}=={component.version}"
        return {**tables, "parts": dict(sorted(owners.items()))}


def _with_wrapped_data(spec: Spec) -> Spec:
    tables = dict(spec.tables)
    if isinstance(tables.get("dataset"), torch.Tensor):
        try:
            tables["dataset"] = Points(tables["dataset"])
        except UserError as error:
            raise SpecError([spec.problem("dataset", str(error))], spec.origin) from None
    return attrs.evolve(spec, tables=tables)
