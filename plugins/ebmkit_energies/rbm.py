"""A restricted Boltzmann machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs import field, validators
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebmkit import UserError, doc, finite, generator_or_new, tracing, whole
from ebmkit_energies._bipartite import Bipartite
from ebmkit_energies._events import as_shape, flattened, sizes
from ebmkit_energies._weights import MOST_WEIGHTS


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class RBM(nn.Module):
    """A restricted Boltzmann machine (RBM) of binary units, its hidden units summed out.

    F(v) = −b·v − Σⱼ softplus(cⱼ + Wⱼ·v) = −log Σₕ exp(b·v + c·h + hᵀ W v)

    v (batch, *event), flattened, of zeros and ones; h the ``n_hidden`` hidden units. The parameters
    are ``visible_bias`` = b (visible,), ``hidden_bias`` = c (hidden,), which start at 0, and
    ``weight`` = W (hidden, visible), which starts normal of standard deviation ``weight_scale``.
    A Gibbs sweep draws all hidden units given the visible ones, then the visible ones given those.

    Raises ValueError where points have other events than ``event_shape``.

    Source: Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002); the
    first weights: A Practical Guide to Training Restricted Boltzmann Machines (Hinton, 2010).
    """

    discrete: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"event_shape": [2, 3], "n_hidden": 4, "weight_scale": 1.0},
    )

    event_shape: tuple[int, ...] = field(
        converter=as_shape, validator=sizes, metadata=doc("shape of one point; the data's")
    )
    n_hidden: int = field(
        default=64,
        validator=validators.and_(whole, validators.ge(1)),
        metadata=doc("number of hidden units, ≥ 1; up to 20 the normaliser is exact"),
    )
    weight_scale: float = field(
        default=0.01,
        validator=validators.and_(finite, validators.ge(0)),
        metadata=doc("standard deviation of the first weights, ≥ 0"),
    )
    generator: torch.Generator | None = field(
        default=None,
        validator=validators.optional(validators.instance_of(torch.Generator)),
        metadata=doc("source of the first weights; not kept"),
    )
    visible_bias: nn.Parameter = field(init=False)
    hidden_bias: nn.Parameter = field(init=False)
    weight: nn.Parameter = field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        # A generator can be neither copied nor pickled, and has done its work after `draw`.
        generator, self.generator = generator_or_new(self.generator), None
        n_visible = math.prod(self.event_shape)
        if n_visible * self.n_hidden > MOST_WEIGHTS:
            raise ValueError(
                f"n_hidden: {self.n_hidden} on {n_visible} visible units makes "
                f"{n_visible * self.n_hidden:,} weights, expected at most {MOST_WEIGHTS:,}; state "
                "fewer hidden units"
            )
        self.visible_bias = nn.Parameter(torch.zeros(n_visible))
        self.hidden_bias = nn.Parameter(torch.zeros(self.n_hidden))
        self.weight = nn.Parameter(torch.zeros(self.n_hidden, n_visible))
        self.draw(generator=generator)

    def draw(self, *, generator: torch.Generator) -> None:
        """Draw all weights anew and set the biases to 0; the numbers depend on the generator alone."""
        with torch.no_grad():
            drawn = torch.empty_like(self.weight, device=generator.device)
            self.weight.copy_(drawn.normal_(0, self.weight_scale, generator=generator))
            self.visible_bias.zero_()
            self.hidden_bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Free energies F (batch,) of states (batch, *event).

        Raises:
            ValueError: wrong shape or dtype of the states.
        """
        return self.units().energies(flattened(x, self.event_shape, self))

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F (batch,) and ∇F (batch, *event), detached."""
        energies, gradient = self.units().energies_and_gradient(
            flattened(x, self.event_shape, self)
        )
        return energies, gradient.view(x.shape)

    @property
    def n_uniforms(self) -> int:
        """Numbers that a sweep takes for each chain: one a unit, the hidden units' first."""
        return self.n_hidden + math.prod(self.event_shape)

    @torch.no_grad()
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """States (batch, *event) after a Gibbs sweep by uniforms (batch, ``n_uniforms``); NaN where
        weights or states are not finite."""
        return self.units().sweep(flattened(x, self.event_shape, self), uniforms).view(x.shape)

    @torch.no_grad()
    def hidden_probabilities(self, x: Tensor) -> Tensor:
        """p(h = 1 | v), (batch, hidden), of states (batch, *event)."""
        return self.units().hidden(flattened(x, self.event_shape, self))

    @torch.no_grad()
    def visible_probabilities(self, hidden: Tensor) -> Tensor:
        """p(v = 1 | h), (batch, *event), of hidden states (batch, hidden)."""
        return self.units().visible(hidden).view(-1, *self.event_shape)

    def log_partition(self) -> Tensor:
        """log Σᵥ exp(−F(v)), exact, in float64, without dimensions, by going through all states of
        the layer with fewer units: a few seconds for 20.

        Raises:
            EvaluationError: both layers have more than 20 units.
        """
        return self.units().log_partition()

    def bridge(self, inverse_temperature: float | Tensor, base: Tensor | None = None) -> RBMBridge:
        """The energy at an inverse temperature in [0, 1] between independent visible units and this.

        ``base`` are the probabilities of ones at 0, (*event,) inside (0, 1); none for ½.

        Raises:
            UserError: ``base`` has another shape, or a probability is not inside (0, 1), or the
                inverse temperature is not in [0, 1].
        """
        return RBMBridge(self, inverse_temperature, base)

    def units(self) -> Bipartite:
        """The parameters as two layers of units."""
        return Bipartite(self.visible_bias, self.weight, self.hidden_bias)


class RBMBridge(nn.Module):
    """Between independent visible units and an RBM; what ``RBM.bridge`` returns.

    F(v) = −((1 − β) b₀ + β b)·v − Σⱼ softplus(β (cⱼ + Wⱼ·v)), with β the inverse temperature and
    b₀ = log(p / (1 − p)) of the base's probabilities p. At β = 0 log Z = Σᵢ softplus(b₀ᵢ) + n log 2
    for n hidden units, at β = 1 it is the RBM's.

    Source: On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov and Murray, 2008).
    """

    discrete: ClassVar[bool] = True
    inverse_temperature: Tensor
    base_bias: Tensor

    def __init__(
        self, rbm: RBM, inverse_temperature: float | Tensor, base: Tensor | None = None
    ) -> None:
        super().__init__()
        self.rbm = rbm
        self.event_shape = rbm.event_shape
        self.n_uniforms = rbm.n_uniforms
        like = rbm.visible_bias.detach()
        beta = torch.as_tensor(inverse_temperature, dtype=like.dtype, device=like.device)
        if not tracing() and not 0 <= float(beta) <= 1:
            raise UserError(
                f"bridge: expected an inverse temperature in [0, 1], got {float(beta):g}"
            )
        self.register_buffer("inverse_temperature", beta)
        self.register_buffer(
            "base_bias", torch.zeros_like(like) if base is None else self._bias(base)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Energies (batch,) of states (batch, *event)."""
        return self.units().energies(flattened(x, self.event_shape, self))

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (batch,) and their gradients (batch, *event), detached."""
        rows = flattened(x, self.event_shape, self)
        energies, gradient = self.units().energies_and_gradient(rows)
        return energies, gradient.view(x.shape)

    @torch.no_grad()
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        """States (batch, *event) after a Gibbs sweep by uniforms (batch, ``n_uniforms``)."""
        return self.units().sweep(flattened(x, self.event_shape, self), uniforms).view(x.shape)

    def log_partition(self) -> Tensor:
        """log Σᵥ exp(−F(v)) in float64, without dimensions; at β = 0 by its formula.

        Raises:
            EvaluationError: β is not 0 and both layers have more than 20 units.
        """
        if float(self.inverse_temperature) != 0:
            return self.units().log_partition()
        bias = self.base_bias.double()
        return softplus(bias, threshold=40).sum() + self.rbm.n_hidden * math.log(2)

    def units(self) -> Bipartite:
        """The bridge as two layers of units."""
        beta, model = self.inverse_temperature, self.rbm.units()
        return Bipartite(
            (1 - beta) * self.base_bias + beta * model.visible_bias,
            beta * model.weight,
            beta * model.hidden_bias,
        )

    def _bias(self, base: Tensor) -> Tensor:
        if tuple(base.shape) != self.event_shape:
            raise UserError(
                f"bridge: expected base probabilities of shape {self.event_shape}, got "
                f"{tuple(base.shape)}"
            )
        if not tracing() and not bool(((base > 0) & (base < 1)).all()):
            raise UserError(
                "bridge: expected base probabilities inside (0, 1), got some outside; of n rows "
                "with c ones take (c + 1) / (n + 2)"
            )
        like = self.rbm.visible_bias
        return base.detach().flatten().double().logit().to(like.dtype).to(like.device)
