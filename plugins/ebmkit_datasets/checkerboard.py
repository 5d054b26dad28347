"""Every other square of a board."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import field
from torch import Tensor

from ebmkit import doc
from ebmkit_datasets._planar import Planar, positive

_SIDE = 4
# Draws keep this far from the edges of a square, in units of its side, so that rounding to float32
# cannot carry a point into a square where the density is zero.
_MARGIN = 2.0**-20


@attrs.frozen(kw_only=False)
class Checkerboard(Planar):
    """Uniform on the eight dark squares of a 4×4 board.

    p(x) = 1/(8a²) where ⌊(x₁ + h)/a⌋ + ⌊(x₂ + h)/a⌋ is even and x lies in [−h, h)², otherwise 0

    x (batch, 2); h ``half_width``, a = h/2 the side of a square. The log density is −inf outside
    the dark squares.

    Source: FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models
    (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, 2019)
    """

    half_width: float = field(
        default=4.0, validator=positive, metadata=doc("half the width h of the board, > 0")
    )

    def _square(self) -> float:
        return 2 * self.half_width / _SIDE

    def _draw(self, size: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        device = generator.device
        dark = torch.randint(_SIDE * _SIDE // 2, (size,), generator=generator, device=device)
        row = dark // (_SIDE // 2)
        column = 2 * (dark % (_SIDE // 2)) + row % 2
        u = torch.rand(size, 2, generator=generator, device=device, dtype=dtype)
        within = u.clamp(_MARGIN, 1 - _MARGIN)
        return self._square() * (torch.stack([column, row], dim=1) + within) - self.half_width

    def _log_density(self, x: Tensor) -> Tensor:
        place = ((x + self.half_width) / self._square()).floor()
        on_board = ((place >= 0) & (place < _SIDE)).all(dim=1)
        dark = on_board & (place.sum(1) % 2 == 0)
        level = -math.log(_SIDE * _SIDE / 2 * self._square() ** 2)
        log_density = torch.full_like(place[:, 0], level).masked_fill(~dark, -math.inf)
        return log_density.masked_fill(x.isnan().any(dim=1), math.nan)
