"""What energies with a formula have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import attrs
from attrs import field, validators
from torch import Tensor, nn

from ebmkit import EvaluationError, doc
from ebmkit_energies._events import as_optional_shape, flattened, sizes


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Analytic(nn.Module, ABC):
    """An energy with a formula, of the numbers in an event in their order."""

    event_shape: tuple[int, ...] | None = field(
        default=None,
        kw_only=True,
        converter=as_optional_shape,
        validator=validators.optional(sizes),
        metadata=doc("shape of one point; none for any that the formula takes, flattened"),
    )

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        if self.event_shape is not None:
            self._check(math.prod(self.event_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Energies (batch,) of points (batch, *event), in their dtype.

        Raises:
            ValueError: the points have a shape or dtype that the energy does not take.
        """
        return self._energies(self._rows(x))

    def extra_repr(self) -> str:
        names = (a.name for a in attrs.fields(type(self)) if a.init)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _size(self) -> int:
        """How many numbers an event has."""
        if self.event_shape is None:
            raise EvaluationError(
                f"{type(self).__name__}: log_partition depends on how many numbers an event has; "
                "state event_shape"
            )
        return math.prod(self.event_shape)

    def _rows(self, x: Tensor) -> Tensor:
        """Points as rows (batch, size), checked."""
        rows = flattened(x, self.event_shape, self)
        self._check(rows.shape[1])
        return rows

    def _check(self, size: int) -> None:
        """Raise ValueError where an event of ``size`` numbers is none that the formula takes."""

    @abstractmethod
    def _energies(self, x: Tensor) -> Tensor:
        """Energies (batch,) of rows (batch, size)."""
