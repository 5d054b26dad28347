"""What laws for samplers walk chains by: energies, starts, steps, and states as trees of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ebmkit.errors import UserError
from ebmkit.holding import frozen
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases
from ebmkit.testing.samplers.stationary import keywords
from ebmkit.testing.subject import Subject

BATCHES = (0, 1, 5)
DTYPES = (torch.float32, torch.float64)


class Landscape(reference.Network):
    """A network that takes a noise level where a sampler gives it one, and is the same at all.

    Its widths are about ½, which the samplers that adapt to them cross in few steps.
    """

    noise_conditional = True

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        noise_level: Any = None,  # noqa: ARG002
    ) -> Tensor:
        return super().forward(4 * x, condition)


def tensors(tree: Any, path: str = "state") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a NamedTuple, or of what is nested in it, each with its place.

    Raises:
        TypeError: something in it is neither a tensor nor a tuple.
    """
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        for name, value in zip(names, tree, strict=True):
            yield from tensors(value, f"{path}.{name}")
    elif tree is not None:
        raise TypeError(f"{path}: expected a tensor or a NamedTuple of tensors, got {tree!r}")


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same NamedTuple of what the function makes of its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if not isinstance(tree, tuple):
        return tree
    parts = [mapped(function, part) for part in tree]
    return tree._make(parts) if hasattr(tree, "_make") else tuple(parts)


def same(one: Any, other: Any) -> str:
    """Where two trees of tensors differ in a bit; empty where they do not."""
    for (place, a), (_, b) in zip(tensors(one), tensors(other), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{place} is {told(a)} and {told(b)}"
        # Not what is NaN in both.
        if not torch.equal(a.nan_to_num(1e30), b.nan_to_num(1e30)):
            return place
    return ""


def told(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def over(cases: Cases, tries: int, check: Callable[..., None], **choices: Any) -> None:
    """Try a check on choices by hypothesis, each a case; what it raises first comes out as it is."""
    from hypothesis import Phase, given, settings
    from hypothesis import strategies as st

    raised: list[Exception] = []

    # Not shrunk: choices are few and small, and what is broken may not be so a second time.
    @settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=tries,
        phases=(Phase.explicit, Phase.generate),
    )
    @given(**{name: st.sampled_from(list(values)) for name, values in choices.items()})
    def each(**drawn: Any) -> None:
        if raised:
            return
        try:
            with cases.case(", ".join(f"{name} {value}" for name, value in drawn.items())):
                check(**drawn)
        except Exception as error:
            raised.append(error)

    each()
    if raised:
        raise raised[0]


def is_discrete(sampler: Any) -> bool:
    return getattr(sampler, "discrete", False) is True


def event_shapes(subject: Subject) -> tuple[tuple[int, ...], ...]:
    """Shapes of events that the sampler is tried on; one-hot ones end with its categories."""
    categories = getattr(subject.make(), "categories", None)
    return subject.shapes if categories is None else ((2, categories), (2, 2, categories))


def starts(
    subject: Subject, batch: int, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> Tensor:
    """Points (batch, *shape): normal, or where states are discrete such states."""
    sampler = subject.make()
    if not is_discrete(sampler):
        return reference.normal(batch, *shape, seed=seed).to(dtype)
    if (categories := getattr(sampler, "categories", None)) is None:
        return (reference.normal(batch, *shape, seed=seed) > 0).to(dtype)
    chosen = reference.normal(batch, *shape, seed=seed).argmax(-1)
    return torch.nn.functional.one_hot(chosen, categories).to(dtype)


def landscape(shape: tuple[int, ...], dtype: torch.dtype) -> Landscape:
    return Landscape(shape).to(dtype)


def unsuited(subject: Subject) -> str:
    sampler = subject.make()
    try:
        getattr(sampler, "check", lambda _: None)(Landscape(event_shapes(subject)[0]))
    except UserError as error:
        return f"its check refuses the kit's network: {error}"
    return ""


def begun(sampler: Any, energy: Any, x: Tensor) -> Any:
    return frozen(energy, lambda: sampler.init(energy, x))


def stepped(
    sampler: Any, energy: Any, state: Any, noise: Any, values: Mapping[str, Any]
) -> tuple[Any, Any]:
    found: tuple[Any, Any] = frozen(
        energy, partial(sampler.step, energy, state, noise, **dict(values))
    )
    return found


def walked(sampler: Any, energy: Any, state: Any, steps: int, generator: torch.Generator) -> Any:
    """The state after so many steps."""
    values = keywords(sampler)
    for _ in range(steps):
        noise = sampler.draw(state, generator=generator)
        state, _ = stepped(sampler, energy, state, noise, values)
    return state
