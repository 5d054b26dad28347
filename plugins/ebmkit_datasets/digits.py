"""Handwritten digits of 8×8 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import field, validators
from torch import Tensor

from ebmkit import DataError, doc, finite
from ebmkit_datasets._rows import Rows, Table


@attrs.frozen(kw_only=False)
class Digits(Rows):
    """The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn, with their labels.

    x = g/8 − 1 ("symmetric", in [−1, 1]) or x = g/16 ("unit", in [0, 1]),  g ∈ {0, …, 16}

    or with ``binarise`` the discrete states x = 1 where g ≥ 8, else 0.

    x (batch, 1, 8, 8); the condition is the digit 0 … 9, (batch,) int64.

    Raises DataError where scikit-learn is not installed, ValueError where ``binarise`` comes with a
    ``scale``.

    Source: Optical recognition of handwritten digits (Alpaydin, Kaynak, 1998)
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"binarise": True, "held_out": 0.2, "validation": 0.1},
    )

    scale: Literal["symmetric", "unit"] | None = field(
        default=None,
        validator=validators.optional(validators.in_(("symmetric", "unit"))),
        metadata=doc('range of the pixels: "symmetric", which is usual, [−1, 1]; "unit" [0, 1]'),
    )
    binarise: bool = field(
        default=False,
        kw_only=True,
        validator=validators.instance_of(bool),
        metadata=doc("whether pixels are 1 from half of the range on, else 0: discrete states"),
    )
    held_out: float = field(
        default=0.1,
        kw_only=True,
        validator=validators.and_(finite, validators.ge(0.0), validators.lt(1.0)),
        metadata=doc("fraction of the digits kept apart for evaluation, in [0, 1)"),
    )

    def __attrs_post_init__(self) -> None:
        if self.binarise and self.scale is not None:
            raise ValueError(
                f'scale: expected none where binarise makes pixels 0 or 1, got "{self.scale}"; leave '
                "scale out, or binarise"
            )

    @property
    def discrete(self) -> bool:
        """Whether the digits are discrete states."""
        return self.binarise

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one digit, (1, 8, 8)."""
        return (1, 8, 8)

    @property
    def n_classes(self) -> int:
        """Number of classes, 10."""
        return 10

    def _read(self) -> Table:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError(
                "digits: expected scikit-learn, which brings the digits, but it cannot be imported "
                f'({error}); run pip install "ebmkit-core[sklearn]"'
            ) from error
        bunch = load_digits()
        pixels = torch.from_numpy(bunch.images).to(torch.uint8)
        return Table(pixels[:, None], torch.from_numpy(bunch.target).to(torch.int64))

    def _rescaled(self, events: Tensor) -> Tensor:
        if self.binarise:
            return (events >= 8).to(events.dtype)
        return events / 16 if self.scale == "unit" else events / 8 - 1
