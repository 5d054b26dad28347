"""Ackley's funnel with many shallow wells."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import doc, finite
from ebmkit_energies._analytic import Analytic
from ebmkit_energies._events import positive


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Ackley(Analytic):
    """Ackley's funnel with many shallow wells on its nearly flat outside.

    E(x) = −a exp(−b √(1/d Σᵢ xᵢ²)) − exp(1/d Σᵢ cos(c xᵢ)) + a + e

    x (batch, *event) of d numbers; a ``a``, b ``b``, c ``c``. The minimum is 0, at 0. The funnel's
    tip is a cone: E has no derivative at 0, and the gradient there is taken to be 0, the mean of
    the gradients around it.

    Raises ValueError where points have other events than ``event_shape``.

    Source: A Connectionist Machine for Genetic Hillclimbing (Ackley, 1987).
    """

    a: float = field(
        default=20.0,
        validator=validators.and_(finite, validators.ge(0)),
        metadata=doc("depth a of the funnel, ≥ 0"),
    )
    b: float = field(
        default=0.2,
        validator=positive,
        metadata=doc("steepness b of the funnel, per unit of x, > 0"),
    )
    c: float = field(
        default=2 * math.pi,
        validator=positive,
        metadata=doc("angular frequency c of the wells, > 0; 2π sets them one apart"),
    )

    def _energies(self, x: Tensor) -> Tensor:
        square = x.square().mean(1)
        # The root's derivative at 0 is infinite and would turn the gradient into NaN; the inner
        # `where` keeps that branch from being differentiated at all.
        away = square > 0
        distance = torch.where(away, torch.where(away, square, 1.0).sqrt(), 0.0)
        # The same sum as above, written so that nothing cancels near the minimum.
        funnel = torch.expm1(distance * -self.b) * -self.a
        wells = torch.expm1((x * self.c).cos().mean(1) - 1) * -math.e
        return funnel + wells
