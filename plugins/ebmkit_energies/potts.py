"""The Potts model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor, nn

from ebmkit import doc, finite
from ebmkit_energies._events import as_shape, finites, flattened, sizes
from ebmkit_energies._lattice import check_sides, colours, log_partition, neighbours


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Potts(nn.Module):
    """The Potts model: sites on a lattice that want to be of the same category as their neighbours.

    E(x) = −J Σ δ(sᵢ, sⱼ) − Σ h[sᵢ],  the first sum over pairs of neighbours

    x (batch, *sites, q), one-hot along the last axis: sᵢ is the category of site i. The lattice, of
    one, two or more dimensions, is the event without its last axis, and a side of one site has no
    bonds. J ``coupling``, h ``field``; the tensors are ``strength`` = J without dimensions and
    ``bias`` = h (q,): buffers in float64, or with ``trainable`` parameters in torch's default dtype.
    A Gibbs sweep draws the sites of one colour together, given the others.

    Raises ValueError where points have other events than ``event_shape``, where ``field`` has not a
    number for each category, and for a periodic lattice with a side of two sites.

    Source: Some generalized order-disorder transformations (Potts, 1952).
    """

    discrete: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"event_shape": [4, 3], "field": [0.1, 0.5, -0.3], "periodic": True},
        {"event_shape": [2, 2, 3], "trainable": True},
    )

    event_shape: tuple[int, ...] = attrs.field(
        converter=as_shape,
        validator=[validators.min_len(2), sizes],
        metadata=doc("sides of the lattice, then the number of categories q ≥ 2; the data's"),
    )
    coupling: float = attrs.field(
        default=0.8,
        validator=finite,
        metadata=doc("J; ordered in two dimensions above log(1 + √q)"),
    )
    field: list[float] | None = attrs.field(
        default=None,
        validator=validators.optional(finites),
        metadata=doc("h, one number for each category, the higher the likelier; none for zeros"),
    )
    periodic: bool = attrs.field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether each side is closed to a ring"),
    )
    trainable: bool = attrs.field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether J and h are parameters that training changes"),
    )
    strength: Tensor = attrs.field(init=False)
    bias: Tensor = attrs.field(init=False)
    colour: Tensor = attrs.field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        *sides, q = self.event_shape
        if q < 2:
            raise ValueError(
                f"event_shape: expected at least 2 categories along the last axis, got {q}"
            )
        if self.field is not None and len(self.field) != q:
            raise ValueError(
                f"field: expected {q} numbers, one for each category, got {len(self.field)}"
            )
        check_sides(sides, self.periodic, "Potts")
        values: dict[str, float | list[float]] = {
            "strength": self.coupling,
            "bias": [0.0] * q if self.field is None else self.field,
        }
        for name, value in values.items():
            if self.trainable:
                dtype = torch.get_default_dtype()
                setattr(self, name, nn.Parameter(torch.tensor(value, dtype=dtype)))
            else:
                self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        colour = colours(sides, self.periodic)
        self.n_colours = int(colour.max()) + 1
        self.register_buffer("colour", colour, persistent=False)

    @property
    def categories(self) -> int:
        """Number of categories q."""
        return self.event_shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Energies (batch,) of states (batch, *sites, q).

        Raises:
            ValueError: wrong shape or dtype of the states.
        """
        x = self._checked(x)
        # Every bond is seen from both of its ends.
        pull = self.strength / 2 * self._around(x) + self.bias.to(x.dtype)
        return -(x * pull).flatten(1).sum(1)

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E (batch, *sites, q), detached: −J Σ xⱼ − h, the sum over neighbours."""
        x = self._checked(x)
        around, bias = self.strength * self._around(x), self.bias.to(x.dtype)
        return -(x * (around / 2 + bias)).flatten(1).sum(1), -(around + bias)

    @property
    def n_uniforms(self) -> int:
        """Numbers that a sweep takes for each chain: one a site."""
        return math.prod(self.event_shape[:-1])

    @torch.no_grad()
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """States (batch, *sites, q) after each site was drawn once, colour by colour, by its own of
        the uniforms (batch, sites); NaN where a neighbour or a parameter is not finite."""
        x = self._checked(x)
        uniforms = uniforms.reshape(*x.shape[:-1], 1)
        bias = self.bias.to(x.dtype)
        for colour in range(self.n_colours):
            weights = (self.strength * self._around(x) + bias).softmax(-1)
            drawn = _one_hot(weights, uniforms)
            x = torch.where((self.colour == colour)[..., None], drawn, x)
        return x

    def log_partition(self) -> Tensor:
        """log Σ exp(−E(x)), exact, in float64, without dimensions, by a transfer matrix: where the
        sites across the longest side have at most 2²⁰ states together, 2¹² where periodic.

        Raises:
            EvaluationError: the lattice is wider.
        """
        strength, bias = self.strength.detach().double(), self.bias.detach().double()
        bond = strength * torch.eye(self.categories).to(strength)
        return log_partition(self.event_shape[:-1], self.periodic, bond, bias)

    def extra_repr(self) -> str:
        names = (a.name for a in attrs.fields(type(self)) if a.init)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _checked(self, x: Tensor) -> Tensor:
        flattened(x, self.event_shape, self)
        return x

    def _around(self, x: Tensor) -> Tensor:
        return neighbours(x, len(self.event_shape) - 1, self.periodic)


def _one_hot(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One-hot states (…, q) drawn with weights (…, q) by uniforms (…, 1); NaN where a weight is."""
    sums = weights.cumsum(-1)
    # Of the whole sum, which is not quite 1: a category of weight 0 is never drawn.
    chosen = (uniforms * sums[..., -1:] >= sums[..., :-1]).sum(-1, keepdim=True)
    drawn = (torch.arange(weights.shape[-1], device=weights.device) == chosen).to(weights.dtype)
    return torch.where(weights.isnan().any(-1, keepdim=True), torch.nan, drawn)
