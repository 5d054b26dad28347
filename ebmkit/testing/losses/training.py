"""Losses from step to step: what they leave of the model, and what they carry on."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit import checkpoint
from ebmkit.objectives import Objective
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.losses.trainees import (
    Noisy,
    Normed,
    batch_of,
    batch_size,
    bound,
    discrete,
    mapped,
    same_tensors,
    suited,
    tensors_in,
)
from ebmkit.testing.losses.values import ROWS, network
from ebmkit.testing.subject import Subject

STEPS = 3
"""Before a run is stopped, and after it."""


@law(
    "loss",
    why="Draws are constants of the loss, and state outlives the step.",
    means="the gradient takes a way through the chains, and memory grows from step to step",
    applies=discrete,
)
def draws_are_held_fixed(subject: Subject, cases: Cases) -> None:
    for shape in subject.shapes:
        size = batch_size(subject, ROWS)
        with cases.case(f"{size} events of shape {shape}"):
            objective = bound(subject, network(subject, shape, cases.seed), cases.seed, shape)
            batch = batch_of(shape, size, cases.seed + 5)
            for _ in range(2):
                draws, objective.state = objective.draw(batch)
                for place, value in (
                    *tensors_in(draws, "draws"),
                    *tensors_in(objective.state, "state"),
                ):
                    cases.expect(
                        not value.requires_grad,
                        f"{place}: expected a detached tensor, got one with a graph",
                    )


def _traits(model: nn.Module) -> dict[str, Any]:
    """All of a model that a loss has no business with, by what it is called."""
    found: dict[str, Any] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found[name] = value.detach().clone()
        found[f"requires_grad of {name}"] = value.requires_grad
        found[f".grad of {name}"] = None if value.grad is None else value.grad.clone()
    for name, module in model.named_modules():
        found[f"training of {name or 'the model'}"] = module.training
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[f"number of hooks on {name or 'the model'}"] = hooks
    return found


def _same_traits(cases: Cases, model: nn.Module, before: dict[str, Any], when: str) -> None:
    after = _traits(model)
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            same = torch.equal(old, new)
        else:
            same = old is new or old == new
        cases.expect(same, f"{name} changed {when}: expected {old}, got {new}")


@law(
    "loss",
    why="The model is the optimiser's to change, and BatchNorm's statistics are those of the data.",
    means="the model is trained, judged or saved in another mode or with other statistics than "
    "the user set",
    applies=discrete,
)
def model_is_left_as_found(subject: Subject, cases: Cases) -> None:
    for shape in subject.shapes:
        size = batch_size(subject, ROWS)
        batch = batch_of(shape, size, cases.seed + 5)
        normed = Normed(shape, cases.seed).double()
        model = suited(subject, normed).train()
        normed.within.eval()
        for i, parameter in enumerate(model.parameters()):
            if parameter.requires_grad:
                parameter.grad = reference.normal(*parameter.shape, seed=cases.seed + 50 + i)
        objective = bound(subject, model, cases.seed, shape)
        with cases.case(f"a model with BatchNorm in training mode, {size} events of shape {shape}"):
            before = _traits(model)
            for _ in range(2):
                _, objective.state = objective.draw(batch)
            _same_traits(cases, model, before, "while draws were made")
        with cases.case(f"a model in evaluation mode, {size} events of shape {shape}"):
            model.eval()
            before = _traits(model)
            loss = objective(batch).loss
            _same_traits(cases, model, before, "while the loss was computed")
            loss.backward()  # type: ignore[no-untyped-call]
            for name in [name for name in before if name.startswith(".grad")]:
                cases.expect(
                    "frozen" not in name or _traits(model)[name] is None,
                    f"{name}: expected None, for the parameter is frozen",
                )
                before[name] = _traits(model)[name]
            _same_traits(cases, model, before, "in the backward pass")
        with cases.case(f"a model in training mode, {size} events of shape {shape}"):
            plain = network(subject, shape, cases.seed).train()
            before = _traits(plain)
            bound(subject, plain, cases.seed, shape)(batch)
            _same_traits(cases, plain, before, "while the loss was computed")


def _steps(
    objective: Objective, model: nn.Module, shape: tuple[int, ...], size: int, told: bool
) -> list[Tensor]:
    losses = []
    for _ in range(STEPS):
        batch = batch_of(shape, size, 1000 + objective.step, labelled=told)
        model.zero_grad()
        loss = objective(batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.02 * parameter.grad)
        losses.append(loss.detach())
    return losses


@law(
    "loss",
    why="A run that was stopped goes on from its checkpoint, which holds the state and no more.",
    means="a resumed run is another run, or a step that failed has changed the chains",
    applies=discrete,
)
def state_restored_goes_on_the_same(subject: Subject, cases: Cases) -> None:
    shape, size = subject.shapes[0], batch_size(subject, ROWS)
    for told in (False, True):
        with cases.case(f"{size} events of shape {shape}" + (", labelled" if told else "")):
            model = network(subject, shape, cases.seed, told=told)
            objective = bound(subject, model, cases.seed, shape)
            _steps(objective, model, shape, size, told)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "state.safetensors"
                checkpoint.write(file, objective.state)
                kept = checkpoint.read(file)
            copied = copy.deepcopy(model)
            other = bound(subject, copied, cases.seed, shape)
            other.state, other.step = kept, objective.step
            assert objective.generator is not None and other.generator is not None
            other.generator.set_state(objective.generator.get_state())

            held, before = objective.state, mapped(objective.state, torch.clone)
            went_on = _steps(objective, model, shape, size, told)
            for (place, old), (_, now) in zip(tensors_in(before), tensors_in(held), strict=True):
                cases.expect(
                    torch.equal(old, now),
                    f"draw changed {place} of the state that it was given in place; expected a new "
                    "one, for a step that fails goes back to the old",
                )
            resumed = _steps(other, copied, shape, size, told)
            for i, (expected, got) in enumerate(zip(went_on, resumed, strict=True)):
                cases.expect(
                    torch.equal(expected, got),
                    f"{i + 1} steps after a restart from the saved state: expected the loss "
                    f"{float(expected):.9g}, bit for bit, got {float(got):.9g}; what the next step "
                    "needs has to be in the state",
                )


class _Around(nn.Module):
    """A model inside another module, as wrappers of many libraries have it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


@contextmanager
def _one_process() -> Iterator[bool]:
    """A process group of this process alone, and whether there is one."""
    from torch import distributed as dist

    if not dist.is_available():
        yield False
        return
    if dist.is_initialized():
        yield dist.get_world_size() == 1
        return
    with tempfile.TemporaryDirectory() as folder:
        place = (Path(folder) / "store").as_uri()
        dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
        try:
            yield True
        finally:
            dist.destroy_process_group()


@law(
    "loss",
    why="Models of many devices are modules around the user's, which is what the loss is given.",
    means="training on several devices fails, or its gradients are not added up",
    applies=discrete,
)
def wrapped_model_has_the_same_gradient(subject: Subject, cases: Cases) -> None:
    shape, size = subject.shapes[0], batch_size(subject, ROWS)
    batch = batch_of(shape, size, cases.seed + 5)

    def gradient(wrap: Any, noisy: bool = False) -> list[Tensor]:
        model = network(subject, shape, cases.seed)
        model = Noisy(model) if noisy else model
        objective = bound(subject, wrap(model), cases.seed, shape)
        objective(batch)
        objective(batch).loss.backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    bare = gradient(lambda model: model)
    said = "gradient with the model wrapped, and without"
    with cases.case("a module around the model"):
        same_tensors(cases, gradient(_Around), bare, said)
    with cases.case("a module around a model that takes noise levels"):
        noisy = gradient(lambda model: model, noisy=True)
        same_tensors(cases, gradient(_Around, noisy=True), noisy, said)
    with _one_process() as there:
        if there:
            with cases.case("DistributedDataParallel of one process"):
                wrap = nn.parallel.DistributedDataParallel
                same_tensors(cases, gradient(wrap), bare, said)


def _keeps(subject: Subject) -> str:
    if said := discrete(subject):
        return said
    if not hasattr(subject.make(), "chains"):
        return "it offers no chains(state), so it keeps none from step to step"
    return ""


@law(
    "loss",
    why="Persistent chains sample the model because each goes on from where it was.",
    means="moves of chains are lost, and others are counted twice: the chains mix more slowly",
    applies=_keeps,
)
def every_negative_is_kept(subject: Subject, cases: Cases) -> None:
    shape, size = subject.shapes[0], batch_size(subject, 64)
    batch = batch_of(shape, size, cases.seed + 5)
    objective = bound(subject, network(subject, shape, cases.seed), cases.seed, shape)
    with cases.case(f"8 steps on {size} events of shape {shape}"):
        for _ in range(8):
            draws, objective.state = objective.draw(batch)
            chains = objective.loss.chains(objective.state).x.flatten(1)  # type: ignore[attr-defined]
            ends = draws.negatives.flatten(1)
            found = (ends[:, None] == chains[None]).all(2)
            kept = int(found.any(1).sum())
            room = min(len(ends), len(chains))
            cases.expect(
                kept >= room,
                f"of {len(ends)} negatives of a step: expected to find {room} among the chains "
                f"afterwards, got {kept}; two chains may have been written to one slot",
            )
