"""A multilayer perceptron."""

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
from ebmkit_energies._conditions import labels_of, n_labels
from ebmkit_energies._events import as_shape, flattened, positive, sizes
from ebmkit_energies._mlp_gradient import output_and_gradient
from ebmkit_energies._weights import ACTIVATIONS, MOST_WEIGHTS, draw_weights, undrawn_linear


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class MLP(nn.Module):
    """A multilayer perceptron, with an output bound, a Gaussian base and labels if wanted.

    E(x) = B tanh(f(c x)) + ‖x‖² / (2 s²),  f = linear ∘ activation ∘ … ∘ linear

    x (batch, *event), flattened; B ``output_bound`` (without it the network's output is taken as it
    is), c ``input_scale``, s ``base_scale`` (without it there is no second term). A bound and a base
    together make exp(−E) normalisable; a bound alone never does on unbounded data. With
    ``conditional`` the label's one-hot vector is appended to c x. Weights and biases of a layer
    start uniform in ±1/√(numbers it takes in).

    Raises ValueError where points have other events than ``event_shape``, where labels are missing,
    wrong or not asked for, and where ``conditional`` comes without ``n_classes``.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"hidden": [8, 8]},
        {
            "hidden": [8],
            "activation": "softplus",
            "output_bound": 5.0,
            "base_scale": 2.0,
            "conditional": True,
            "n_classes": 4,
        },
    )

    event_shape: tuple[int, ...] = field(
        converter=as_shape, validator=sizes, metadata=doc("shape of one point; the data's")
    )
    hidden: list[int] = field(
        factory=lambda: [128, 128],
        validator=[validators.min_len(1), validators.max_len(1000), sizes],
        metadata=doc("width of each hidden layer, ≥ 1, at least one layer"),
    )
    activation: Literal["silu", "softplus", "tanh", "gelu", "selu", "elu", "relu"] = field(
        default="silu",
        validator=validators.in_(tuple(ACTIVATIONS)),
        metadata=doc("function between layers; with relu the score is constant in pieces"),
    )
    output_bound: float | None = field(
        default=None,
        validator=validators.optional(positive),
        metadata=doc("bound B of the network's part of the energy, > 0; 1 is tanh; none for none"),
    )
    base_scale: float | None = field(
        default=None,
        validator=validators.optional(positive),
        metadata=doc("standard deviation s of the Gaussian base, units of x, > 0; none for none"),
    )
    input_scale: float = field(
        default=1.0,
        validator=positive,
        metadata=doc("factor c on x before the first layer, > 0; 1 / the data's spread suits"),
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
        widths = [math.prod(self.event_shape) + labels, *self.hidden]
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

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Energies (batch,) of points (batch, *event), given labels (batch,) where conditional.

        Raises:
            ValueError: wrong shape or dtype of the points, or labels missing, wrong or unasked for.
        """
        rows, inputs = self._inputs(x, condition)
        energies: Tensor = self.layers(inputs).squeeze(1)
        if self.output_bound is not None:
            energies = energies.tanh() * self.output_bound
        if self.base_scale is not None:
            energies = energies.add((rows * rows).sum(1), alpha=0.5 / self.base_scale**2)
        return energies

    def energy_and_gradient(
        self, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """E (batch,) and ∇E (batch, *event) by the chain rule written out; None where ``layers`` hold
        others than this class puts there."""
        rows, inputs = self._inputs(x, condition)
        found = output_and_gradient(self.layers, inputs, rows.shape[1])
        if found is None:
            return None
        energies, gradient = found
        factor: float | Tensor = self.input_scale
        if self.output_bound is not None:
            bounded = energies.tanh()
            energies = bounded * self.output_bound
            slope = (1 - bounded * bounded) * (self.output_bound * self.input_scale)
            factor = slope.unsqueeze(1)
        if isinstance(factor, Tensor) or factor != 1:
            gradient = gradient * factor
        if self.base_scale is not None:
            energies = energies.add((rows * rows).sum(1), alpha=0.5 / self.base_scale**2)
            gradient = gradient.add(rows, alpha=1 / self.base_scale**2)
        return energies, gradient.view(x.shape)

    def _inputs(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The points as rows, and what the first layer takes in."""
        rows = flattened(x, self.event_shape, self)
        inputs = rows if self.input_scale == 1 else rows * self.input_scale
        n_classes = n_labels(self.conditional, self.n_classes)
        labels = labels_of(condition, n_classes, len(rows), self)
        if labels is not None:
            one_hot = nn.functional.one_hot(labels, n_classes).to(rows.dtype)
            inputs = torch.cat([inputs, one_hot], 1)
        return rows, inputs
