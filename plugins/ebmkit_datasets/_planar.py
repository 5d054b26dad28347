"""What every set of points in the plane has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import Batch, DataError, doc, expect_memory, finite, whole

Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], Any]

positive: Validator = validators.and_(finite, validators.gt(0.0))

# Squares of coordinates, over a variance, stay finite in float64 up to here.
_FARTHEST = 1e140
_WHILE_DRAWN = 96
"""Bytes of a point, and of what it is made of while it is drawn."""


@attrs.frozen(kw_only=False)
class Planar(ABC):
    """A density in the plane that can be drawn from and evaluated exactly; abstract.

    With ``n_samples`` the set is finite: its points are one draw of the process from ``seed``.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"n_samples": 300})

    n_samples: int | None = field(
        default=None,
        validator=validators.optional(
            validators.and_(whole, validators.ge(1), validators.le(10**8))
        ),
        metadata=doc("points in a finite set, 1 to 10⁸; none for endless fresh draws"),
    )
    seed: int = field(
        default=0,
        validator=validators.and_(whole, validators.ge(0), validators.lt(2**63)),
        metadata=doc("seed of a finite set's points, ≥ 0"),
    )

    @abstractmethod
    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Fresh points (size, 2) of the process, on the generator's device."""

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor:
        """Log density in nats (batch,) of finite float64 points x (batch, 2)."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point, (2,)."""
        return (2,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        """``size`` fresh points, or rows of a finite set drawn with replacement."""
        if self.n_samples is None:
            return Batch(self._draw(size, generator, torch.get_default_dtype()))
        index = torch.randint(self.n_samples, (size,), generator=generator, device=generator.device)
        return Batch(self[index.cpu()].to(generator.device))

    def log_density(self, x: Tensor) -> Tensor:
        """Exact log density in nats (batch,) of points x (batch, 2), in the dtype of x."""
        if x.ndim != 2 or x.shape[1] != 2 or not x.is_floating_point():
            raise DataError(
                f"{type(self).__name__}.log_density: expected floating-point points of shape "
                f"(batch, 2), got {x.dtype} of shape {tuple(x.shape)}; reshape or convert them"
            )
        wide = x.to(torch.float64).clamp(-_FARTHEST, _FARTHEST)
        return self._log_density(wide).to(x.dtype)

    @cached_property
    def _points(self) -> Tensor:
        # Drawn on the CPU in float64 whatever the default dtype and the device of later draws, so
        # that equal configurations hold equal points.
        expect_memory(f"n_samples = {len(self):,}", _WHILE_DRAWN * len(self))
        generator = torch.Generator().manual_seed(self.seed)
        return self._draw(len(self), generator, torch.float64)

    def __bool__(self) -> bool:
        # Truth would otherwise ask for the length, which an endless set does not have.
        return True

    def __len__(self) -> int:
        if self.n_samples is None:
            raise TypeError(
                f"{type(self).__name__} is endless and has no length or rows; set n_samples for a "
                f"finite set, or take points with draw(size, generator=...)"
            )
        return self.n_samples

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        """Rows of a finite set, in torch's default dtype."""
        return self._points[index].to(torch.get_default_dtype(), copy=True)
