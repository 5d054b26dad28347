"""A residual convolutional network for images."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import field, validators
from torch import Tensor, nn
from torch.nn import functional

from ebmkit import doc, generator_or_new, whole
from ebmkit_energies._conditions import (
    N_NOISE_FEATURES,
    labels_of,
    levels_of,
    n_labels,
    noise_features,
)
from ebmkit_energies._events import as_shape, flattened, positive, sizes
from ebmkit_energies._weights import (
    ACTIVATIONS,
    MOST_WEIGHTS,
    draw_weights,
    undrawn_conv,
    undrawn_linear,
)


class _Block(nn.Module):
    """h + conv(a(conv(a(h)) + V φ)), with the middle term where there are noise features φ."""

    def __init__(self, width: int, activation: str, n_features: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.first = undrawn_conv(width, width)
        self.shift = undrawn_linear(n_features, width) if n_features else None
        self.second = undrawn_conv(width, width)

    def forward(self, maps: Tensor, features: Tensor | None) -> Tensor:
        inner = self.first(self.activation(maps))
        if self.shift is not None:
            inner = inner + self.shift(features).unsqueeze(-1).unsqueeze(-1)
        after: Tensor = maps + self.second(self.activation(inner))
        return after


# nn.Module looks after attributes, identity and repr itself, so attrs writes the constructor alone.
@attrs.define(slots=False, eq=False, repr=False, on_setattr=attrs.setters.NO_OP)
class Conv(nn.Module):
    """A residual convolutional network for images, without normalisation.

    E(x | y, σ) = r B tanh(w_y · h(x / √(s² + σ²), σ) + c_y) + ‖x‖² / (2 (b² + σ²))

    x (batch, channels, height, width) or (batch, height, width). h are the numbers of the last stage's
    maps after the activation a; a stage is a 3×3 convolution and then ``blocks`` times
    h ← h + conv(a(conv(a(h)) + V φ)), and each stage after the first halves height and width first,
    by average pooling, rounded up. B ``output_bound`` (without it no tanh), s ``data_scale``, b
    ``base_scale`` (without it there is no second term). With ``conditional`` each label y has a
    head w_y, c_y of its own; else there is one. With ``noise_conditional`` x is data plus noise of
    standard deviation σ (batch,), the keyword ``noise_level``, ``lowest_level`` where none is said;
    r = s / σ, φ = (t / 4, sin t, cos t) and t = log(σ / s). Else σ = 0, r = 1 and there is no V φ.
    Weights and biases of a layer start uniform in ±1/√(numbers that an output takes in).

    Raises ValueError where events are no images, too small to be halved, or others than
    ``event_shape``, where labels or levels are missing, wrong or not asked for, and where
    ``conditional`` comes without ``n_classes``.

    Source: Identity Mappings in Deep Residual Networks (He and others, 2016).
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"event_shape": [1, 8, 8], "channels": [4, 3]},
        {
            "event_shape": [5, 4],
            "channels": [4],
            "output_bound": 5.0,
            "base_scale": 2.0,
            "conditional": True,
            "n_classes": 4,
            "noise_conditional": True,
        },
    )

    event_shape: tuple[int, ...] = field(
        converter=as_shape,
        validator=sizes,
        metadata=doc("(channels, height, width) or (height, width) of one image; the data's"),
    )
    channels: list[int] = field(
        factory=lambda: [32, 64],
        validator=[validators.min_len(1), sizes],
        metadata=doc("number of maps in each stage, ≥ 1, at least one stage"),
    )
    blocks: int = field(
        default=1,
        validator=[whole, validators.ge(1), validators.le(100)],
        metadata=doc("residual blocks in each stage"),
    )
    activation: Literal["silu", "softplus", "tanh", "gelu"] = field(
        default="silu",
        validator=validators.in_(("silu", "softplus", "tanh", "gelu")),
        metadata=doc("function a before each convolution of a block; each is smooth"),
    )
    output_bound: float | None = field(
        default=None,
        validator=validators.optional(positive),
        metadata=doc("bound B of the network's part of the energy, > 0; none for none"),
    )
    data_scale: float = field(
        default=1.0,
        validator=positive,
        metadata=doc("standard deviation s of the data, units of x, > 0"),
    )
    base_scale: float | None = field(
        default=None,
        validator=validators.optional(positive),
        metadata=doc("standard deviation b of the Gaussian base, units of x, > 0; none for none"),
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
    noise_conditional: bool = field(
        default=False,
        validator=validators.instance_of(bool),
        metadata=doc("whether the energy depends on the level of noise on x"),
    )
    lowest_level: float = field(
        default=0.01,
        validator=positive,
        metadata=doc("σ where no noise_level is said, > 0, read where noise_conditional"),
    )
    generator: torch.Generator | None = field(
        default=None,
        validator=validators.optional(validators.instance_of(torch.Generator)),
        metadata=doc("source of the first weights; not kept"),
    )
    entries: nn.ModuleList = field(init=False)
    stages: nn.ModuleList = field(init=False)
    head: nn.Linear = field(init=False)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def __attrs_post_init__(self) -> None:
        # A generator can be neither copied nor pickled, and has done its work after `draw`.
        generator, self.generator = generator_or_new(self.generator), None
        n_heads = n_labels(self.conditional, self.n_classes) or 1
        n_last = self._last_size() * self.channels[-1]
        n_features = N_NOISE_FEATURES if self.noise_conditional else 0
        widths = [1 if len(self.event_shape) == 2 else self.event_shape[0], *self.channels]
        self._check_number(widths, n_features, n_last, n_heads)
        self.entries = nn.ModuleList(undrawn_conv(*pair) for pair in pairwise(widths))
        self.stages = nn.ModuleList(
            nn.ModuleList(_Block(width, self.activation, n_features) for _ in range(self.blocks))
            for width in self.channels
        )
        self.head = undrawn_linear(n_last, n_heads)
        self.draw(generator=generator)

    def draw(self, *, generator: torch.Generator) -> None:
        """Draw all weights and biases anew; the numbers depend on the generator alone."""
        draw_weights(self, generator)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        noise_level: Tensor | float | None = None,
    ) -> Tensor:
        """Energies (batch,) of images (batch, *event), given labels (batch,) where conditional, at
        levels σ, a number or (batch,), where noise-conditional.

        Raises:
            ValueError: wrong shape or dtype of the images, or labels or levels missing, wrong or
                unasked for.
        """
        rows = flattened(x, self.event_shape, self)
        labels = labels_of(condition, n_labels(self.conditional, self.n_classes), len(rows), self)
        if not self.noise_conditional:
            if noise_level is not None:
                raise ValueError(
                    "Conv: got a noise_level and is not noise-conditional; set "
                    "noise_conditional = true"
                )
            energies = self._network(rows / self.data_scale, labels, None)
            if self.base_scale is not None:
                energies = energies + (rows * rows).sum(1) / (2 * self.base_scale**2)
            return energies
        sigma = levels_of(noise_level, self.lowest_level, rows, self)
        factor = (self.data_scale**2 + sigma * sigma).rsqrt().unsqueeze(1)
        features = noise_features(sigma, self.data_scale)
        energies = self._network(rows * factor, labels, features) * (self.data_scale / sigma)
        if self.base_scale is not None:
            variance = self.base_scale**2 + sigma * sigma
            energies = energies + (rows * rows).sum(1) / (2 * variance)
        return energies

    def _network(self, rows: Tensor, labels: Tensor | None, features: Tensor | None) -> Tensor:
        """The network's part of the energies (batch,), bounded, of scaled rows (batch, size)."""
        n_maps = 1 if len(self.event_shape) == 2 else self.event_shape[0]
        maps = rows.reshape(len(rows), n_maps, *self.event_shape[-2:])
        for number, (entry, stage) in enumerate(zip(self.entries, self.stages, strict=True)):
            # Windows that overhang an odd size average what is there, so that no pixel is ignored.
            maps = functional.avg_pool2d(maps, 2, ceil_mode=True) if number else maps
            maps = entry(maps)
            for block in stage:  # type: ignore[attr-defined]
                maps = block(maps, features)
        outputs: Tensor = self.head(getattr(functional, self.activation)(maps).flatten(1))
        chosen = outputs if labels is None else outputs.gather(1, labels.unsqueeze(1))
        energies = chosen.squeeze(1)
        return energies if self.output_bound is None else energies.tanh() * self.output_bound

    def _last_size(self) -> int:
        """Numbers in one of the last stage's maps."""
        if len(self.event_shape) not in (2, 3):
            raise ValueError(
                "event_shape: expected (channels, height, width) or (height, width), got "
                f"{self.event_shape}; choose images, or the model mlp"
            )
        height, width = self.event_shape[-2:]
        for stage in range(1, len(self.channels)):
            if min(height, width) < 2:
                raise ValueError(
                    f"channels: {len(self.channels)} stages halve images of "
                    f"{self.event_shape[-2]}×{self.event_shape[-1]} {len(self.channels) - 1} times, "
                    f"expected at most {stage} stages; state fewer"
                )
            height, width = (height + 1) // 2, (width + 1) // 2
        return height * width

    def _check_number(self, widths: list[int], n_features: int, n_last: int, n_heads: int) -> None:
        convolutions = sum((9 * before + 1) * after for before, after in pairwise(widths))
        shift = n_features + 1 if n_features else 0
        inner = sum(self.blocks * width * (2 * (9 * width + 1) + shift) for width in self.channels)
        n_weights = convolutions + inner + (n_last + 1) * n_heads
        if n_weights > MOST_WEIGHTS:
            raise ValueError(
                f"channels: {self.channels} with {self.blocks} blocks a stage on images of "
                f"{self.event_shape} makes {n_weights:,} weights, expected at most "
                f"{MOST_WEIGHTS:,}; state fewer channels, or more stages"
            )
