"""Whether parts that are each right are right together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from ebmkit import clocks
from ebmkit.asking import ask
from ebmkit.errors import Problem
from ebmkit.fields import is_scheduled
from ebmkit.parameters import Parameter, members, parameters, parameters_of, protocol_of, validate
from ebmkit.plan import Call, Planner, Shared
from ebmkit.protocols import Scheduler
from ebmkit.sections import Training
from ebmkit.spec import Spec
from ebmkit.states import loss_fits, samplers_of

_NO_CHAIN = 'no chain runs where it is read; set clock = "training"'


def cycles(spec: Spec, plans: Mapping[str, Any]) -> list[Problem]:
    """The first circle in which parts refer to each other, if there is one."""

    def circle(kind: str, above: tuple[str, ...]) -> tuple[str, ...]:
        for other in _references(plans.get(kind)):
            if other in above:
                return (*above[above.index(other) :], other)
            if found := circle(other, (*above, other)):
                return found
        return ()

    for kind in plans:
        if found := circle(kind, (kind,)):
            way = " -> ".join(found)
            return [spec.problem(kind, f"the parts refer to each other in a circle: {way}")]
    return []


def with_steps(
    planner: Planner, training: Training, dataset: Any, default: int, processes: int
) -> Training:
    """The training with its number of steps, told from epochs where those are given."""
    rows = getattr(dataset, "n_samples", None) if dataset is not None else None
    if training.steps is not None and training.epochs is not None:
        planner.report("training.epochs", "state steps or epochs, not both")
    elif training.epochs is not None and dataset is not None and rows is None:
        planner.report(
            "training.epochs",
            "the dataset is endless and has no epochs; state training.steps, or dataset.n_samples "
            "for a finite set",
        )
    used = training.batch_size * processes
    if rows is not None and rows < used:
        times = f" for each of {processes} processes" if processes > 1 else ""
        planner.report(
            "training.batch_size",
            f"{training.batch_size}{times} is more than the dataset's {rows} rows; state at most "
            f"{rows // processes}",
        )
    if training.epochs is not None and rows is not None:
        steps = training.epochs * max(rows // used, 1)
        return attrs.evolve(training, steps=training.steps or steps)
    return attrs.evolve(training, steps=training.steps or default)


def noise_fits(planner: Planner, dataset: Any, training: Training) -> None:
    """Noise is added to continuous states alone."""
    noise = training.data_noise
    if getattr(dataset, "discrete", False) and (is_scheduled(noise) or noise):
        planner.report(
            "training.data_noise", "the data are discrete and take no noise; leave it out"
        )


def same_event_shape(planner: Planner, model: Any, event_shape: tuple[int, ...] | None) -> None:
    """A model that states its event shape states the data's."""
    if event_shape is None or not isinstance(model, Call) or "event_shape" not in model.arguments:
        return
    said = tuple(model.arguments["event_shape"] or ())
    if said != event_shape:
        planner.report(
            "model.event_shape",
            f"the model is for events of shape {said}, the data have {event_shape}; leave "
            "event_shape out to take it from the data",
        )


def buffer_holds_negatives(planner: Planner, loss: Any, training: Training, processes: int) -> None:
    """A replay buffer has a slot for each negative of a step, in each process's share of it."""
    slots = getattr(loss, "buffer_size", None)
    used = getattr(loss, "n_negatives", None) or training.batch_size
    if not isinstance(slots, int):
        return
    if slots < used * processes:
        times = f" in each of {processes} processes" if processes > 1 else ""
        planner.report(
            "loss.buffer_size",
            f"{slots} slots cannot give {used} distinct chains a step{times}; state at least "
            f"{used * processes}",
        )
    elif slots % processes:
        planner.report(
            "loss.buffer_size",
            f"{slots} slots cannot be shared alike by {processes} processes; state a multiple of "
            f"{processes}, as {slots - slots % processes}",
        )


def restarts(planner: Planner, chains: Any, loss: Any) -> None:
    """Chains that are to restart from a buffer have one."""
    if chains is not None and chains.restart_from == "buffer" and not hasattr(loss, "chains"):
        planner.report(
            "chains.restart_from",
            f'"buffer" needs persistent chains, and {type(loss).__name__} keeps none; state "data" or '
            '"base", or choose a loss that keeps chains',
        )


def anneals_exactly(planner: Planner, sampler: Any, loss: Any, evaluation: Any) -> None:
    """Annealing, where it is asked for, has a sampler that leaves distributions exactly as they are."""
    if not getattr(evaluation, "annealing_steps", 0):
        return
    said = evaluation.annealing_sampler
    mover = next((p for _, p in samplers_of(sampler, loss)), None) if said is None else said
    if getattr(mover, "exact", False) is True:
        return
    whose = "the pipeline's " if said is None else ""
    name = "there is none" if mover is None else f"{whose}{type(mover).__name__} does not"
    planner.report(
        "evaluation.annealing_sampler",
        "annealing needs a sampler that leaves its target exactly as it is and says so by exact = "
        f"True, and {name}; state a Metropolis or a Gibbs sampler, or annealing_steps = 0",
    )


def schedules(
    planner: Planner, sampler: Any, loss: Any, training: Training, evaluation: Any
) -> list[str]:
    """Schedules of samplers are within bounds and not cut; notices of those that end early."""
    k_steps = getattr(loss, "k_steps", None)
    chains = getattr(loss, "sampler", None)
    notices = []
    for place, part in samplers_of(sampler, loss):
        runs = k_steps if part is chains else None
        for name, schedule, complaint in clocks.schedules(part, runs, training.steps):
            path = f"{place}.{name}"
            if complaint:
                planner.report(path, complaint)
            elif part is (sampler or chains) and evaluation is not None:
                # What judges the model runs chains of another length.
                judging = evaluation.chain_steps
                if complaint := _chain_complaint(schedule, judging):
                    planner.report("evaluation.chain_steps", f"{path}: {complaint}")
                elif clocks.clock_of(schedule) == "chain":
                    parameter = parameters_of(type(part)).get(name)
                    if complaint := _value_complaint(
                        parameter, clocks.spread(schedule, judging), judging
                    ):
                        planner.report(path, complaint)
            length = clocks.length_of(schedule) or 0
            if clocks.clock_of(schedule) == "training" and length > (training.steps or 0):
                notices.append(
                    f"{path}: stated for {length} training steps, the run ends after {training.steps}"
                )
    return notices


def loss_schedules(planner: Planner, place: str, loss: Any, training: Training) -> None:
    """Schedules in a loss's own fields are on the training clock and within the field's bounds."""
    for name, parameter in parameters_of(type(loss)).items():
        schedule, path = getattr(loss, name, None), f"{place}.{name}"
        if Scheduler not in members(parameter.type) or not callable(schedule):
            continue
        if clocks.clock_of(schedule) == "chain":
            planner.report(path, _NO_CHAIN)
        elif complaint := _value_complaint(parameter, schedule, training.steps or 1):
            planner.report(path, complaint)


def judging_losses(
    planner: Planner,
    evaluation: Any,
    plans: Mapping[str, Call],
    hooks: Mapping[str, Any],
    training: Training,
    model: Any,
    dataset: Any,
) -> None:
    """The losses of the evaluation and of hook plugins are good for the model and the run."""
    loss = evaluation.loss
    if hasattr(loss, "sampler"):
        planner.report(
            "evaluation.loss",
            f"{type(loss).__name__} compares the model with its own samples, so its value does not "
            'judge the model; state another, as { use = "score-matching" }',
        )
    places = [("evaluation.loss", loss)]
    for name, plan in plans.items():
        fields = [n for n, p in parameters(plan.factory).items() if protocol_of(p.type) == "loss"]
        places += [(f"{plan.path}.{f}", getattr(hooks[name], f, None)) for f in fields]
    for place, part in places:
        loss_schedules(planner, place, part, training)
        if loss_fits(planner, place, part, dataset):
            takes(planner, place, part, model)


def parts_take_model(planner: Planner, sampler: Any, loss: Any, model: Any) -> None:
    """Loss and samplers can work with such a model."""
    for place, part in [("loss", loss), *samplers_of(sampler, loss)]:
        takes(planner, place, part, model)


def takes(planner: Planner, place: str, part: Any, given: Any) -> None:
    """A part can work with such a model, or a hook plugin with such a pipeline, by what its own
    ``check`` says."""
    if getattr(part, "check", None) is not None:
        ask(planner, place, part, "check", given)


def over_the_run(planner: Planner, path: str, schedule: Any, training: Training) -> Any:
    """A schedule of the training spread over the run, with no negative value; a number as it is."""
    steps = training.steps or 1
    if schedule is None or not is_scheduled(schedule):
        return schedule
    if clocks.clock_of(schedule) == "chain":
        planner.report(path, _NO_CHAIN)
        return schedule
    try:
        schedule = clocks.spread(schedule, steps)
        for step in _read_at(steps):
            if not 0 <= (value := schedule(step)) < math.inf:
                planner.report(
                    path, f"at step {step} the schedule gives {value}, expected a finite number ≥ 0"
                )
                break
    except (ValueError, TypeError) as error:
        planner.report(path, str(error))
    return schedule


def _chain_complaint(schedule: Any, steps: int) -> str:
    """What is wrong with a chain-clock schedule for chains of so many steps; empty where nothing."""
    if clocks.clock_of(schedule) != "chain":
        return ""
    if complaint := clocks.cut_complaint(schedule, steps):
        return complaint
    try:
        clocks.spread(schedule, steps)
    except ValueError as error:
        return str(error)
    return ""


def _value_complaint(parameter: Parameter | None, schedule: Any, steps: int) -> str:
    """What a field's own validator has against a schedule's values; empty where it has nothing."""
    try:
        for step in _read_at(steps):
            value = schedule(step)
            if complaint := validate(parameter, value) if parameter is not None else "":
                return f"at step {step} the schedule gives a value out of range: {complaint}"
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def _read_at(steps: int) -> list[int]:
    """The start, the middle and the end of a run."""
    return sorted({0, steps // 2, steps - 1})


def _references(plan: Any) -> list[str]:
    if isinstance(plan, Shared):
        return [plan.kind]
    if isinstance(plan, Call):
        plan = list(plan.arguments.values())
    return [kind for item in plan for kind in _references(item)] if isinstance(plan, list) else []
