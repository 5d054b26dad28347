"""A part used once, whatever its kind, and the numbers that come out."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmkit.protocols import Batch
from ebmkit.testing import reference

ROWS = 6
STEPS = 12


class Conditioned(reference.Network):
    """The kit's network for samplers and losses that ask more of an energy: it takes noise levels,
    to no effect, and says of discrete states what it is told to."""

    noise_conditional = True

    def __init__(
        self, event_shape: tuple[int, ...], *, discrete: bool = False, categories: int | None = None
    ) -> None:
        super().__init__(event_shape)
        self.discrete = discrete
        self.categories = categories

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        noise_level: Any = None,  # noqa: ARG002
    ) -> Tensor:
        return super().forward(x, condition)


class Used(NamedTuple):
    """What came of using a part."""

    numbers: list[Tensor]
    drew: bool
    """Whether the part advanced the generator that it was given."""


def used(kind: str, part: Any, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Used:
    """Use a part once, with a generator of that seed, on inputs that are always the same."""
    generator = reference.generator(seed)
    before = generator.get_state()
    found = list(_USES[kind](part, shape, generator, dtype))
    return Used(found, not torch.equal(before, generator.get_state()))


def numbers(
    kind: str, part: Any, shape: tuple[int, ...], seed: int, dtype: torch.dtype
) -> list[Tensor]:
    """What comes of using a part once: a model's energies, a sampler's state after a step, a loss and
    its gradient, a schedule's values, a data set's draws, the weights of a short run with a hook.

    ``seed`` is the part's generator's; what the part is given beside it is always the same.
    """
    return used(kind, part, shape, seed, dtype).numbers


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of states, draws and metrics, in their order."""
    if isinstance(tree, Tensor):
        yield tree.detach()
    elif isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from tensors(tree[name])
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from tensors(item)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, *, discrete: bool = False, categories: Any = None
) -> Tensor:
    """Points (rows, *event): normal, or states of zeros and ones, one-hot along a further axis where
    there are categories."""
    x = reference.normal(ROWS, *shape, seed=3, dtype=dtype)
    if not discrete:
        return x
    if categories is None:
        return (x > 0).to(dtype)
    kinds = (x * 100).long() % categories
    return torch.nn.functional.one_hot(kinds, categories).to(dtype)


def _model(
    model: Any, shape: tuple[int, ...], _: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    if isinstance(model, torch.nn.Module):
        model = copy.deepcopy(model).to(dtype).eval()
    categories = getattr(model, "categories", None)
    stated = tuple(getattr(model, "event_shape", None) or shape)
    plain = stated[:-1] if categories and stated[-1:] == (categories,) else stated
    x = inputs(plain, dtype, discrete=getattr(model, "discrete", False), categories=categories)
    given = []
    if getattr(model, "conditional", None) is True:
        given.append(torch.arange(ROWS) % (getattr(model, "n_classes", None) or 2))
    with torch.no_grad():
        yield model(x, *given)


def _sampler(
    sampler: Any, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    from ebmkit.clocks import values_at
    from ebmkit.holding import frozen

    discrete = getattr(sampler, "discrete", False)
    categories = getattr(sampler, "categories", None)
    x = inputs(shape, dtype, discrete=discrete, categories=categories)
    energy = Conditioned(tuple(x.shape[1:]), discrete=discrete, categories=categories).to(dtype)
    state = frozen(energy, lambda: sampler.init(energy, x))
    noise = sampler.draw(state, generator=generator)
    # In one step all chains may refuse what they were proposed, at one seed as at another.
    yield from tensors(noise)
    given = values_at(sampler, STEPS, 0)(0)
    yield from tensors(frozen(energy, partial(sampler.step, energy, state, noise, **given)))


def _loss(
    loss: Any, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    sampler = getattr(loss, "sampler", None)
    discrete = getattr(sampler, "discrete", False)
    categories = getattr(sampler, "categories", None)
    x = inputs(shape, dtype, discrete=discrete, categories=categories)
    model = Conditioned(tuple(x.shape[1:]), discrete=discrete, categories=categories).to(dtype)
    batch = Batch(x)
    state = loss.init(model, batch, generator=generator)
    draws, after = loss.draw(model, batch, state, 0, generator=generator)
    value, metrics = loss(model, batch, draws)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    yield from tensors([value, metrics, after, *(g for g in gradients if g is not None)])


def _scheduler(
    schedule: Any, _: tuple[int, ...], __: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    from ebmkit.clocks import length_of, spread

    if length_of(schedule) is None:
        schedule = spread(schedule, STEPS)
    length = length_of(schedule) or STEPS
    yield torch.tensor([float(schedule(step)) for step in range(min(length, 100))], dtype=dtype)


def _dataset(
    dataset: Any, _: tuple[int, ...], generator: torch.Generator, __: torch.dtype
) -> Iterator[Tensor]:
    yield from tensors(tuple(dataset.draw(5 * ROWS, generator=generator)))


def _hook(
    hook: Any, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> Iterator[Tensor]:
    from ebmkit import compose
    from ebmkit.hooks import Hooks

    model = reference.Network(shape)
    pipeline = compose(
        {
            "model": model,
            "loss": reference.Contrast(),
            "dataset": reference.Normal(shape),
            "training": {"steps": STEPS, "batch_size": 8, "seed": generator.initial_seed()},
        }
    )
    if check := getattr(hook, "check", None):
        check(pipeline)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        pipeline.fit(hooks=Hooks({"hook": hook}))
    yield from (p.detach().to(dtype) for p in model.parameters())


_USES: dict[str, Any] = {
    "model": _model,
    "sampler": _sampler,
    "loss": _loss,
    "scheduler": _scheduler,
    "dataset": _dataset,
    "hook": _hook,
}
