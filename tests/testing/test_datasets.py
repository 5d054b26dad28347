"""The kit's laws of data sets: sound ones keep them, and each of these broken ones breaks one."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from ebmkit_datasets.two_moons import TwoMoons
from torch import Tensor

from ebmkit import Batch
from ebmkit.testing import Subject, report
from ebmkit.testing.reports import laws_of

LAWS = [law for law in laws_of("dataset") if ".testing.datasets." in law.check.__module__]


def test_a_set_of_one_row_keeps_every_law() -> None:
    found = report(Subject("dataset", TwoMoons, {"n_samples": 1}), LAWS)
    assert found.good, "\n".join(found.lines())


class Blob:
    """A Gaussian of standard deviation ½; what the broken ones below are made from."""

    event_shape: tuple[int, ...] = (2,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(0.5 * torch.randn(size, *self.event_shape, generator=generator))

    def log_density(self, x: Tensor) -> Tensor:
        return -2 * x.square().sum(1) - math.log(math.pi / 2)


class Table:
    """A finite labelled set, some of its rows kept apart."""

    event_shape = (3,)
    n_classes = 2
    n_samples = 50
    held_out = range(50, 60)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(60, 3, generator=generator)
        self.y = torch.arange(60) % 2

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: Any) -> Batch:
        return Batch(self.x[:50][index], self.y[:50][index])

    @property
    def held_out_batch(self) -> Batch:
        rows = list(self.held_out)
        return Batch(self.x[rows], self.y[rows])

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return self[torch.randint(50, (size,), generator=generator)]


@pytest.mark.parametrize("kind", [Blob, Table])
def test_the_sound_ones_keep_every_law(kind: Any) -> None:
    found = report(Subject("dataset", kind), LAWS)
    assert found.good and len(LAWS) == 7, "\n".join(found.lines())


class Short(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return super().draw(max(size - 1, 0), generator=generator)


class Bare(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Any:
        return super().draw(size, generator=generator).x


class Flat(Blob):
    event_shape = (1, 2)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(super().draw(size, generator=generator).x.flatten(1))


class Doubled(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(super().draw(size, generator=generator).x.double())


class NotANumber(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        x = super().draw(size, generator=generator).x
        return Batch(torch.where(x > 1, torch.nan, x))


class LabelsFromOne(Table):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        x, y = super().draw(size, generator=generator)
        return Batch(x, None if y is None else y + 1)


class LabelsLost(Table):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(super().draw(size, generator=generator).x)


class GlobalGenerator(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(0.5 * torch.randn(size, 2))


class NumpysGenerator(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        noise = torch.from_numpy(np.random.randn(size, 2)).float()  # noqa: NPY002
        return Batch(super().draw(size, generator=generator).x + 0 * noise)


class PythonsGenerator(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(super().draw(size, generator=generator).x + random.random() / 10)


class Reseeds(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        torch.manual_seed(0)
        return super().draw(size, generator=generator)


class SameDraw(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return super().draw(size, generator=torch.Generator().manual_seed(0))


class SameSeed(Blob):
    """Reads the generator's seed, and takes no numbers from it."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        own = torch.Generator().manual_seed(generator.initial_seed())
        return super().draw(size, generator=own)


class Counts(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        self.calls = getattr(self, "calls", 0) + 1
        return Batch(super().draw(size, generator=generator).x + 0.01 * self.calls)


class Unnormalised(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        return -2 * x.square().sum(1)


class WideDensity(Blob):
    """A density that integrates to 1, of twice the draws' scale."""

    def log_density(self, x: Tensor) -> Tensor:
        return -x.square().sum(1) / 2 - math.log(2 * math.pi)


class ShiftedDensity(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x - 0.1)


class TurnedDensity(Blob):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        x = super().draw(size, generator=generator).x
        return Batch(torch.stack([x[:, 0], x[:, 1] + x[:, 0]], 1))

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(torch.stack([x[:, 0], x[:, 1] + x[:, 0]], 1))


class Impossible(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        known = super().log_density(x) - math.log(0.5)
        return torch.where(x[:, 0] > 0, known, -math.inf)


class NanDensity(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x).log().mul(0) + super().log_density(x)


class MeanDensity(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        known = super().log_density(x)
        return known + (known.mean() if len(x) else 0) * 1e-3


class ColumnDensity(Blob):
    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x)[:, None]


class WrongLength(Table):
    def __len__(self) -> int:
        return 60


class NoEnd(Table):
    def __getitem__(self, index: Any) -> Batch:
        if isinstance(index, int):
            index %= 50
        return super().__getitem__(index)


class LabelsOfOthers(Table):
    def __getitem__(self, index: Any) -> Batch:
        x, y = super().__getitem__(index)
        if not isinstance(index, int) or y is None:
            return Batch(x, y)
        return Batch(x, self.y[:50][index - 1])


class DrawsOfNoRows(Table):
    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        x, y = super().draw(size, generator=generator)
        return Batch(x + 0.001, y)


class TrainedOn(Table):
    held_out = range(40, 50)


class TrainedOnTwo(Table):
    """A split that is off by two rows."""

    held_out = range(48, 58)


class NothingHeldOut(Table):
    held_out = range(0)


class ValidatedOnHeldOut(Table):
    @property
    def validation_batch(self) -> Batch:
        return self.held_out_batch


STATED, SEED = "draws-as-stated", "draws-follow-their-generator"
ONE, AGREES = "log-density-integrates-to-one", "draws-are-of-the-density"
ROW, ROWS, APART = "log-density-a-row", "rows-consistent", "rows-kept-apart"
BROKEN = {
    Short: STATED,
    Bare: STATED,
    Flat: STATED,
    Doubled: STATED,
    NotANumber: STATED,
    LabelsFromOne: STATED,
    LabelsLost: STATED,
    GlobalGenerator: SEED,
    NumpysGenerator: SEED,
    PythonsGenerator: SEED,
    Reseeds: SEED,
    SameDraw: SEED,
    SameSeed: SEED,
    Counts: SEED,
    Unnormalised: ONE,
    WideDensity: AGREES,
    ShiftedDensity: AGREES,
    TurnedDensity: AGREES,
    Impossible: AGREES,
    NanDensity: ROW,
    MeanDensity: ROW,
    ColumnDensity: ROW,
    WrongLength: ROWS,
    NoEnd: ROWS,
    LabelsOfOthers: ROWS,
    DrawsOfNoRows: ROWS,
    TrainedOn: APART,
    TrainedOnTwo: APART,
    NothingHeldOut: APART,
    ValidatedOnHeldOut: APART,
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_each_broken_one_is_caught(broken: Any) -> None:
    (law,) = [law for law in LAWS if law.name == BROKEN[broken]]
    found = report(Subject("dataset", broken), [law])
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.status == "broken", "\n".join(found.lines())


def test_a_density_of_another_scale_integrates_to_one_all_the_same() -> None:
    laws = [law for law in LAWS if law.name == ROW]
    found = report(Subject("dataset", WideDensity), laws)
    assert found.good, "\n".join(found.lines())
