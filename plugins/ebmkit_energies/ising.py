"""The Ising model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor, nn

from ebmkit import doc, finite
from ebmkit_energies._bipartite import states
from ebmkit_energies._events import as_shape, flattened, sizes
from ebmkit_energies._lattice import check_sides, colours, log_partition, neighbours


@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Ising(nn.Module):
    """The Ising model: spins on a lattice that want to be as their neighbours are.

    E(x) = −J Σ sᵢ sⱼ − h Σ sᵢ,  s = 2x − 1, the first sum over pairs of neighbours

    x (batch, *event) of zeros and ones; the event is the lattice, of one, two or more dimensions,
    and a side of one site has no bonds. J ``coupling``, h ``field``; the tensors are ``strength`` = J
    and ``bias`` = h without dimensions: buffers in float64, or with ``trainable`` parameters in
    torch's default dtype. A Gibbs sweep draws the sites of one colour together, given the others.

    Raises ValueError where points have other events than ``event_shape``, and for a periodic lattice
    with a side of two sites.

    Source: Beitrag zur Theorie des Ferromagnetismus (Ising, 1925).
    """

    discrete: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"event_shape": [2, 3], "field": 0.3},
        {"event_shape": [5], "periodic": True, "trainable": True},
    )

    event_shape: tuple[int, ...] = attrs.field(
        converter=as_shape,
        validator=[validators.min_len(1), sizes],
        metadata=doc("sides of the lattice; the data's"),
    )
    coupling: float = attrs.field(
        default=0.4, validator=finite, metadata=doc("J; ordered in two dimensions above 0.4407")
    )
    field: float = attrs.field(
        default=0.0, validator=finite, metadata=doc("h, which draws spins up where > 0")
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
        check_sides(self.event_shape, self.periodic, "Ising")
        for name, value in (("strength", self.coupling), ("bias", self.field)):
            if self.trainable:
                dtype = torch.get_default_dtype()
                setattr(self, name, nn.Parameter(torch.tensor(value, dtype=dtype)))
            else:
                self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        colour = colours(self.event_shape, self.periodic)
        self.n_colours = int(colour.max()) + 1
        self.register_buffer("colour", colour, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Energies (batch,) of states (batch, *event).

        Raises:
            ValueError: wrong shape or dtype of the states.
        """
        spins = 2 * self._checked(x) - 1
        # Every bond is seen from both of its ends.
        pull = self.strength / 2 * self._around(spins) + self.bias
        return -(spins * pull).flatten(1).sum(1)

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E (batch,) and ∇E (batch, *event), detached: −2 (J Σ sⱼ + h), the sum over neighbours."""
        spins = 2 * self._checked(x) - 1
        around = self.strength * self._around(spins)
        energies = -(spins * (around / 2 + self.bias)).flatten(1).sum(1)
        return energies, -2 * (around + self.bias)

    @property
    def n_uniforms(self) -> int:
        """Numbers that a sweep takes for each chain: one a site."""
        return math.prod(self.event_shape)

    @torch.no_grad()
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """States (batch, *event) after each site was drawn once, colour by colour, by its own of the
        uniforms (batch, sites); NaN where a neighbour or a parameter is not finite."""
        x = self._checked(x)
        uniforms = uniforms.reshape(x.shape)
        for colour in range(self.n_colours):
            up = (2 * (self.strength * self._around(2 * x - 1) + self.bias)).sigmoid()
            x = torch.where(self.colour == colour, states(up, uniforms), x)
        return x

    def log_partition(self) -> Tensor:
        """log Σ exp(−E(x)), exact, in float64, without dimensions, by a transfer matrix: for lattices
        of at most 20 sites across the longest side, 12 where periodic.

        Raises:
            EvaluationError: the lattice is wider.
        """
        strength, bias = self.strength.detach().double(), self.bias.detach().double()
        bond = strength * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).to(strength)
        site = bias * torch.tensor([-1.0, 1.0]).to(bias)
        return log_partition(self.event_shape, self.periodic, bond, site)

    def extra_repr(self) -> str:
        names = (a.name for a in attrs.fields(type(self)) if a.init)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _checked(self, x: Tensor) -> Tensor:
        flattened(x, self.event_shape, self)
        return x

    def _around(self, spins: Tensor) -> Tensor:
        return neighbours(spins, len(self.event_shape), self.periodic)
