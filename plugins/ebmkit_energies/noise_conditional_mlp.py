"""A multilayer perceptron that is told how much noise is on the points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import field, validators
from torch import Tensor, nn

from ebmkit import doc, generator_or_new, whole
from ebmkit_energies._conditions import (
    N_NOISE_FEATURES,
    labels_of,
    levels_of,
    n_labels,
    noise_features,
)
from ebmkit_energies._events import as_shape, flattened, positive, sizes
from ebmkit_energies._mlp_gradient import output_and_gradient
from ebmkit_energies._weights import (
    ACTIVATIONS,
    MOST_WEIGHTS,
    draw_weights,
    undrawn_linear,
)


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class NoiseConditionalMLP(nn.Module):
    """A multilayer perceptron of the points and of the level of noise on them.

    E(x | σ) = (s / σ) f(x / √(s² + σ²), t / 4, sin t, cos t) + ‖x‖² / (2 (b² + σ²)),  t = log(σ / s)

    x (batch, *event), flattened, is data plus noise of standard deviation σ (batch,), the keyword
    ``noise_level``; s ``data_scale``; b ``base_scale`` (without it there is no second term);
    f = linear ∘ activation ∘ … ∘ linear. Multiplying x, σ, s and b by one number leaves E as it is,
    and with b = s f's slope is of order 1 at every level for data of spread s. With ``conditional``
    the label's one-hot vector is appended to what f takes in. Without ``noise_level`` σ is
    ``lowest_level``. Weights and biases of a layer start uniform in ±1/√(numbers it takes in).

    Raises ValueError where points have other events than ``event_shape``, where σ is not positive or
    not one number a row, where labels are missing, wrong or not asked for, and where ``conditional``
    comes without ``n_classes``.

    Source: Improved Techniques for Training Score-Based Generative Models (Song and Ermon, 2020);
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras and others, 2022).
    """

    noise_conditional: ClassVar[bool] = True

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"hidden": [8], "base_scale": 1.0},
        {"hidden": [8, 8], "conditional": True, "n_classes": 4},
    )

    event_shape: tuple[int, ...] = field(
        converter=as_shape, validator=sizes, metadata=doc("shape of one point; the data's")
    )
    hidden: list[int] = field(
        factory=lambda: [128, 128],
        validator=[validators.min_len(1), validators.max_len(1000), sizes],
        metadata=doc("width of each hidden layer, ≥ 1, at least one layer"),
    )
    activation: Literal["silu", "softplus", "tanh", "gelu"] = field(
        default="silu",
        validator=validators.in_(("silu", "softplus", "tanh", "gelu")),
        metadata=doc("function between layers; each is smooth"),
    )
    data_scale: float = field(
        default=1.0,
        validator=positive,
        metadata=doc("standard deviation s of the data, units of x, > 0"),
    )
    base_scale: float | None = field(
        default=None,
        validator=validators.optional(positive),
        metadata=doc(
            "standard deviation b of the Gaussian base without noise, > 0; data_scale suits; none "
            "for none"
        ),
    )
    lowest_level: float = field(
        default=0.01,
        validator=positive,
        metadata=doc("σ where no noise_level is said, units of x, > 0; the lowest trained"),
    )
    conditional: bool = field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether the energy depends on a label"),
    )
    n_classes: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(whole, validators.ge(1))),
        metadata=doc("number of labels, ≥ 1, read where conditional; the data's"),
    )
    generator: torch.Generator | None = field(
        default=None,
        validator=validators.optional(validators.instance_of(torch.Generator)),
        metadata=doc("source of the first weights; not kept"),
    )
    layers: nn.Sequential = field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        # A generator can be neither copied nor pickled, and has done its work after `draw`.
        generator, self.generator = generator_or_new(self.generator), None
        labels = n_labels(self.conditional, self.n_classes)
        widths = [math.prod(self.event_shape) + N_NOISE_FEATURES + labels, *self.hidden]
        n_weights = sum((before + 1) * after for before, after in pairwise([*widths, 1]))
        if n_weights > MOST_WEIGHTS:
            raise ValueError(
                f"hidden: {self.hidden} between {widths[0]} inputs and 1 output makes {n_weights:,} "
                f"weights, expected at most {MOST_WEIGHTS:,}; state narrower layers"
            )
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [undrawn_linear(before, after), ACTIVATIONS[self.activation]()]
        self.layers = nn.Sequential(*modules, undrawn_linear(widths[-1], 1))
        self.draw(generator=generator)

    def draw(self, *, generator: torch.Generator) -> None:
        """Draw all weights and biases anew; the numbers depend on the generator alone."""
        draw_weights(self.layers, generator)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        noise_level: Tensor | float | None = None,
    ) -> Tensor:
        """Energies (batch,) of points (batch, *event) at levels σ, a number or (batch,), given labels
        (batch,) where conditional.

        Raises:
            ValueError: wrong shape or dtype of the points or levels, a level that is not positive,
                or labels missing, wrong or unasked for.
        """
        rows, sigma, _, inputs = self._inputs(x, condition, noise_level)
        network: Tensor = self.layers(inputs).squeeze(1)
        energies = network * (self.data_scale / sigma)
        if self.base_scale is not None:
            variance = self.base_scale**2 + sigma * sigma
            energies = energies + (rows * rows).sum(1) / (2 * variance)
        return energies

    def energy_and_gradient(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        noise_level: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """E (batch,) and ∇E (batch, *event) by the chain rule written out; None where ``layers`` hold
        others than this class puts there."""
        rows, sigma, factor, inputs = self._inputs(x, condition, noise_level)
        found = output_and_gradient(self.layers, inputs, rows.shape[1])
        if found is None:
            return None
        network, gradient = found
        height = self.data_scale / sigma
        energies, gradient = network * height, gradient * (height.unsqueeze(1) * factor)
        if self.base_scale is not None:
            variance = self.base_scale**2 + sigma * sigma
            energies = energies + (rows * rows).sum(1) / (2 * variance)
            gradient = gradient + rows / variance.unsqueeze(1)
        return energies, gradient.view(x.shape)

    def _inputs(
        self, x: Tensor, condition: Tensor | None, noise_level: Tensor | float | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The points as rows, σ (batch,), the factor on the points (batch, 1), and what the first layer
        takes in."""
        rows = flattened(x, self.event_shape, self)
        sigma = levels_of(noise_level, self.lowest_level, rows, self)
        factor = (self.data_scale**2 + sigma * sigma).rsqrt().unsqueeze(1)
        inputs = [rows * factor, noise_features(sigma, self.data_scale)]
        n_classes = n_labels(self.conditional, self.n_classes)
        labels = labels_of(condition, n_classes, len(rows), self)
        if labels is not None:
            inputs.append(nn.functional.one_hot(labels, n_classes).to(rows.dtype))
        return rows, sigma, factor, torch.cat(inputs, 1)
