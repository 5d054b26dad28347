"""Laws of data sets: draws and their seed, finite sets and rows kept apart.

A data set of continuous numbers may repeat some of its rows, so that a few of those kept apart occur
among the training rows too; more than ``REPEATED`` of them is taken for a split that is wrong.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from ebmkit.protocols import Batch
from ebmkit.testing import reference
from ebmkit.testing.integrals import n_states
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.subject import Subject
from ebmkit.testing.varied import varied

REPEATED = 0.1
_STATES_A_ROW = 100
"""Of discrete events at least, for rows to be told apart by what they are."""
_MANY = 257


def _finite_set(subject: Subject) -> str:
    if getattr(subject.make(), "n_samples", None) is None:
        return "it is endless"
    return ""


def _apart(subject: Subject) -> str:
    if not list(_kept_apart(subject.make())):
        return "it keeps no rows apart"
    return ""


def _kept_apart(dataset: Any) -> list[tuple[str, Batch]]:
    names = ("held_out_batch", "validation_batch")
    found = [(name, getattr(dataset, name, None)) for name in names]
    return [(name, batch) for name, batch in found if batch is not None]


def whole(cases: Cases, dataset: Any, batch: Any, size: int) -> Batch:
    """A batch of so many points, as a data set says of itself that they are."""
    cases.expect(isinstance(batch, Batch), f"expected a Batch, got {type(batch).__name__}")
    x, labels = batch
    shape = (size, *dataset.event_shape)
    cases.expect(
        isinstance(x, Tensor) and tuple(x.shape) == shape,
        f"expected points of shape {shape}, got {tuple(getattr(x, 'shape', ()))}",
    )
    cases.expect(x.is_floating_point(), f"expected points of a floating dtype, got {x.dtype}")
    cases.expect(bool(x.isfinite().all()), "points are not finite")
    if getattr(dataset, "discrete", False):
        cases.expect(bool(((x == 0) | (x == 1)).all()), "discrete states are neither 0 nor 1")
        if getattr(dataset, "categories", None) is not None:
            cases.expect(bool((x.sum(-1) == 1).all()), "states are not one-hot along the last axis")
    n_classes = getattr(dataset, "n_classes", None)
    if n_classes is None:
        cases.expect(
            labels is None or len(labels) == size,
            f"expected {size} conditions, got {0 if labels is None else len(labels)}",
        )
        return Batch(x, labels)
    cases.expect(
        isinstance(labels, Tensor) and tuple(labels.shape) == (size,),
        f"n_classes is {n_classes}, and labels are not of shape ({size},)",
    )
    kind = labels.dtype
    cases.expect(kind == torch.int64, f"expected labels of torch.int64, got {kind}")
    if size:
        low, high = int(labels.min()), int(labels.max())
        cases.expect(
            low >= 0 and high < n_classes,
            f"expected labels in 0 … {n_classes - 1}, got some from {low} to {high}",
        )
    return Batch(x, labels)


def _same(first: Batch, second: Batch) -> bool:
    if not torch.equal(first.x, second.x):
        return False
    if first.condition is None or second.condition is None:
        return first.condition is second.condition
    return torch.equal(first.condition, second.condition)


@law(
    "dataset",
    why="Models are built for event_shape, and each training step asks for its batch size.",
    means="training stops with a shape error, or labels are out of range",
)
def draws_as_stated(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    dataset = subject.make()
    with cases.case("event_shape"):
        shape = dataset.event_shape
        cases.expect(
            isinstance(shape, tuple) and all(type(n) is int and n >= 1 for n in shape),
            f"event_shape is {shape!r}, expected a tuple of whole numbers ≥ 1",
        )

    def check(size: int, seed: int) -> None:
        batch = dataset.draw(size, generator=reference.generator(seed))
        drawn = whole(cases, dataset, batch, size)
        expected = torch.get_default_dtype()
        cases.expect(
            drawn.x.dtype == expected, f"points are of {drawn.x.dtype}, expected {expected}"
        )

    for size in (0, 1, _MANY):
        with cases.case(f"size {size}"):
            check(size, cases.seed)
    sizes = st.sampled_from([0, 1, _MANY]) | st.integers(2, 40)
    varied(cases, check, examples=12, size=sizes, seed=st.integers(0, 2**32))


def _global_state() -> tuple[Any, ...]:
    import numpy as np

    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002


@law(
    "dataset",
    why="A run is reproduced from its seed, and resumed from its generators' states.",
    means="the same seed gives another run, or other code's randomness changes the data",
)
def draws_follow_their_generator(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    dataset = subject.make()

    def check(seed: int, size: int) -> None:
        before = _global_state()
        generator = reference.generator(seed)
        first = dataset.draw(size, generator=generator)
        after = generator.get_state()
        cases.expect(_global_state() == before, "a draw changes a global random state")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            known = random.getstate()
            random.seed(seed + 1)
            again = dataset.draw(size, generator=reference.generator(seed))
            random.setstate(known)
        cases.expect(_same(first, again), "the same seed gives another draw the second time")
        fresh = subject.make().draw(size, generator=reference.generator(seed))
        cases.expect(_same(first, fresh), "the same seed gives another draw of a fresh data set")
        if getattr(dataset, "n_samples", None) == 1 or size < 16:
            return
        cases.expect(
            not torch.equal(after, reference.generator(seed).get_state()),
            "a draw takes no numbers from its generator",
        )
        following = dataset.draw(size, generator=generator)
        cases.expect(not _same(first, following), "the next draw of a generator is the same")
        other = dataset.draw(size, generator=reference.generator(seed + 1))
        cases.expect(not _same(first, other), f"seeds {seed} and {seed + 1} give the same draw")

    check_sizes = st.sampled_from([64]) | st.integers(0, 100)
    varied(cases, check, examples=8, seed=st.integers(0, 2**32), size=check_sizes)


def _row(cases: Cases, dataset: Any, found: Any, said: str) -> tuple[Tensor, Any]:
    """A row or rows of a finite set: points, or a Batch where they have labels."""
    labelled = getattr(dataset, "n_classes", None) is not None
    x, label = found if isinstance(found, tuple) else (found, None)
    cases.expect(
        isinstance(x, Tensor) and (label is not None or not labelled),
        f"{said} is {type(found).__name__}, expected a tensor, or a Batch where there are labels",
    )
    return x, label


@law(
    "dataset",
    why="Training by epochs and torch's DataLoader go through the rows by their numbers.",
    means="an epoch leaves rows out or takes some twice, and labels are those of other rows",
    applies=_finite_set,
)
def rows_consistent(subject: Subject, cases: Cases) -> None:
    from hypothesis import strategies as st

    dataset = subject.make()
    n = dataset.n_samples
    with cases.case("length"):
        cases.expect(type(n) is int and n >= 1, f"n_samples is {n!r}, expected a whole number ≥ 1")
        cases.expect(len(dataset) == n, f"len is {len(dataset)}, and n_samples {n}")
        try:
            beyond = dataset[n]
        except IndexError:
            pass
        else:
            cases.expect(False, f"row {n} of {n} is {beyond!r}, expected an IndexError")
    every = torch.arange(n)
    with cases.case(f"all {n} rows"):
        x, labels = _row(cases, dataset, dataset[every], "dataset[tensor]")
        whole(cases, dataset, Batch(x, labels), n)
    rows = x.flatten(1)

    def numbered(row: int) -> None:
        one, label = _row(cases, dataset, dataset[row], f"dataset[{row}]")
        cases.expect(
            torch.equal(one, x[row]) and (label is None or int(label) == int(labels[row])),
            f"row {row} alone is not that of all rows",
        )

    varied(cases, numbered, row=st.integers(0, n - 1))

    def drawn(seed: int) -> None:
        batch = dataset.draw(32, generator=reference.generator(seed))
        for place, point in enumerate(batch.x.flatten(1)):
            alike = (rows == point).all(1)
            if labels is not None:
                alike &= labels == batch.condition[place]
            cases.expect(bool(alike.any()), f"point {place} of a draw, with its label, is no row")

    varied(cases, drawn, examples=6, seed=st.integers(0, 2**32))


@law(
    "dataset",
    why="Rows kept apart tell how a model does on what it has not seen.",
    means="test and validation results are too good, for the model was trained on their rows",
    applies=_apart,
)
def rows_kept_apart(subject: Subject, cases: Cases) -> None:
    dataset = subject.make()
    sets: dict[str, Tensor] = {}
    if getattr(dataset, "n_samples", None) is None:
        sets["the draws"] = dataset.draw(5_000, generator=reference.generator(cases.seed)).x
    else:
        found = dataset[torch.arange(dataset.n_samples)]
        sets["the training rows"] = found[0] if isinstance(found, tuple) else found
    for name, batch in _kept_apart(dataset):
        with cases.case(name):
            cases.expect(len(batch.x) > 0, "it holds no rows")
            whole(cases, dataset, batch, len(batch.x))
            again = dict(_kept_apart(subject.make()))[name]
            cases.expect(_same(batch, again), "a fresh data set keeps other rows apart")
            for other, rows in sets.items():
                known = {row.numpy().tobytes() for row in rows.flatten(1)}
                seen = [row.numpy().tobytes() in known for row in batch.x.flatten(1)]
                share = sum(seen) / len(seen)
                if getattr(dataset, "discrete", False):
                    states = n_states(dataset.event_shape, getattr(dataset, "categories", None))
                    if states < _STATES_A_ROW * len(rows):
                        continue  # so few that rows must be alike
                cases.expect(
                    share <= REPEATED,
                    f"{share:.0%} of its rows are among {other}, expected none, and at most "
                    f"{REPEATED:.0%} where data repeat",
                )
            sets[name] = batch.x
