"""A kernel exponential family whose kernels see the points through networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import field, validators
from torch import Tensor, nn

from ebmkit import doc, generator_or_new, whole
from ebmkit_energies._events import as_shape, flattened, positive, positives, sizes
from ebmkit_energies._weights import ACTIVATIONS, MOST_WEIGHTS, draw_weights, undrawn_linear


class FeatureMap(nn.Module):
    """Features of rows: a network's last hidden layer, and the row itself, mixed linearly."""

    def __init__(self, widths: list[int], n_features: int, activation: type[nn.Module]) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [undrawn_linear(before, after), activation()]
        self.hidden = nn.Sequential(*modules)
        # No bias: it would cancel in every difference of features.
        mixed = nn.Linear(widths[-1] + widths[0], n_features, bias=False, device="meta")
        self.mixed = mixed.to_empty(device=torch.get_default_device())

    def draw(self, *, generator: torch.Generator) -> None:
        """Draw all weights anew, uniform in ±1/√(numbers that an output takes in)."""
        draw_weights(self.hidden, generator)
        weight = self.mixed.weight
        with torch.no_grad():
            drawn = torch.empty_like(weight, device=generator.device)
            bound = 1 / math.sqrt(weight.shape[1])
            weight.copy_(drawn.uniform_(-bound, bound, generator=generator))

    def forward(self, rows: Tensor) -> Tensor:
        features: Tensor = self.mixed(torch.cat([self.hidden(rows), rows], 1))
        return features


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class DeepKernel(nn.Module):
    """A deep kernel exponential family: Gaussian kernels on learned features, on a Gaussian base.

    E(x) = ‖x‖² / (2 s²) − Σ_l α_l Σ_r ρ_r exp(−‖φ_r(x) − φ_r(z_l)‖² / (2 σ_r²))

    x (batch, *event), flattened; s ``base_scale``, fixed; z_l ``n_inducing`` inducing points, α_l
    their weights; σ_r a lengthscale and ρ_r > 0 a weight of each kernel, Σ ρ_r = 1; φ_r(x) =
    W_r [h_r(x), x], h_r a network of the widths ``hidden``. All but s is trained by the gradient of
    the loss. The sum is at most Σ |α_l| in size, so exp(−E) is normalisable, and with the first
    α_l = 0 the model starts as its base. The first z_l are standard normal, for data that are
    whitened or standardised; weights and biases of a layer start uniform in ±1/√(numbers it takes
    in), and each ρ_r as 1/(number of kernels).

    Raises ValueError where points have other events than ``event_shape``.

    Source: Learning deep kernels for exponential family densities (Wenliang, Sutherland, Strathmann
    and Gretton, 2019).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"n_inducing": 5, "hidden": [6], "n_features": 4},
    )

    event_shape: tuple[int, ...] = field(
        converter=as_shape, validator=sizes, metadata=doc("shape of one point; the data's")
    )
    n_inducing: int = field(
        default=200,
        validator=validators.and_(whole, validators.ge(1)),
        metadata=doc("number of inducing points z, ≥ 1"),
    )
    lengthscales: list[float] = field(
        factory=lambda: [1.0, 1.8, 3.2],
        validator=[validators.min_len(1), positives],
        metadata=doc("first σ_r of each kernel, units of its features, > 0; one kernel a number"),
    )
    hidden: list[int] = field(
        factory=lambda: [30, 30],
        validator=[validators.min_len(1), validators.max_len(1000), sizes],
        metadata=doc("width of each hidden layer of a kernel's network, ≥ 1, at least one layer"),
    )
    n_features: int = field(
        default=30,
        validator=validators.and_(whole, validators.ge(1)),
        metadata=doc("number of features φ_r that a kernel compares, ≥ 1"),
    )
    activation: Literal["silu", "softplus", "tanh", "gelu", "selu", "elu", "relu"] = field(
        default="softplus",
        validator=validators.in_(tuple(ACTIVATIONS)),
        metadata=doc("function between layers; with relu the score jumps"),
    )
    base_scale: float = field(
        default=2.0,
        validator=positive,
        metadata=doc("standard deviation s of the Gaussian base, units of x, > 0"),
    )
    generator: torch.Generator | None = field(
        default=None,
        validator=validators.optional(validators.instance_of(torch.Generator)),
        metadata=doc("source of the first weights and inducing points; not kept"),
    )
    maps: nn.ModuleList = field(init=False)
    inducing_points: nn.Parameter = field(init=False)
    weights: nn.Parameter = field(init=False)
    log_lengthscales: nn.Parameter = field(init=False)
    kernel_logits: nn.Parameter = field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        # A generator can be neither copied nor pickled, and has done its work after `draw`.
        generator, self.generator = generator_or_new(self.generator), None
        dim, n_kernels = math.prod(self.event_shape), len(self.lengthscales)
        widths = [dim, *self.hidden]
        n_weights = sum((before + 1) * after for before, after in pairwise(widths))
        n_weights += (widths[-1] + dim) * self.n_features
        n_weights = n_kernels * (n_weights + 2) + self.n_inducing * (dim + 1)
        if n_weights > MOST_WEIGHTS:
            raise ValueError(
                f"hidden, n_features, n_inducing: {self.hidden}, {self.n_features} and "
                f"{self.n_inducing} for {dim} inputs and {n_kernels} kernels make {n_weights:,} "
                f"weights, expected at most {MOST_WEIGHTS:,}; state narrower layers or fewer points"
            )
        activation = ACTIVATIONS[self.activation]
        self.maps = nn.ModuleList(
            FeatureMap(widths, self.n_features, activation) for _ in range(n_kernels)
        )
        self.inducing_points = nn.Parameter(torch.empty(self.n_inducing, dim))
        self.weights = nn.Parameter(torch.empty(self.n_inducing))
        self.log_lengthscales = nn.Parameter(torch.empty(n_kernels))
        self.kernel_logits = nn.Parameter(torch.empty(n_kernels))
        self.draw(generator=generator)

    def draw(self, *, generator: torch.Generator) -> None:
        """Draw all weights and inducing points anew; the numbers depend on the generator alone."""
        for features in self.maps:
            assert isinstance(features, FeatureMap)
            features.draw(generator=generator)
        with torch.no_grad():
            points = torch.empty_like(self.inducing_points, device=generator.device)
            self.inducing_points.copy_(points.normal_(generator=generator))
            self.weights.zero_()
            self.log_lengthscales.copy_(torch.tensor(self.lengthscales).log())
            self.kernel_logits.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Energies (batch,) of points (batch, *event).

        Raises:
            ValueError: wrong shape or dtype of the points.
        """
        rows = flattened(x, self.event_shape, self)
        energies = (rows * rows).sum(1) * (0.5 / self.base_scale**2)
        for share, values in self._kernels(rows):
            energies = energies - values @ (self.weights * share)
        return energies

    def kernels(self, x: Tensor) -> Tensor:
        """Σ_r ρ_r exp(−‖φ_r(x) − φ_r(z_l)‖² / (2 σ_r²)), (batch, n_inducing): what α weighs.

        Raises:
            ValueError: wrong shape or dtype of the points.
        """
        rows = flattened(x, self.event_shape, self)
        weighed = [share * values for share, values in self._kernels(rows)]
        return torch.stack(weighed).sum(0)

    def _kernels(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """ρ_r, and the kernel's values at each row and inducing point (batch, n_inducing)."""
        precisions = (-2 * self.log_lengthscales).exp()
        shares = self.kernel_logits.softmax(0)
        for features, precision, share in zip(self.maps, precisions, shares, strict=True):
            ours, theirs = features(rows), features(self.inducing_points)
            # From the middle of the inducing points, the squares below cancel the least.
            middle = theirs.mean(0)
            ours, theirs = ours - middle, theirs - middle
            # −‖a − b‖²/2σ² = (a·b − ‖b‖²/2 − ‖a‖²/2)/σ², without an array (batch, M, features).
            exponents = nn.functional.linear(
                ours, theirs * precision, -0.5 * precision * (theirs * theirs).sum(1)
            ) - (ours * ours).sum(1, keepdim=True) * (0.5 * precision)
            yield share, exponents.exp()
