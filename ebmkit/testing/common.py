"""Laws of all kinds: importing, pickling and using a part touches nothing but the part."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmkit.plan import resolved
from ebmkit.sources import find_module
from ebmkit.testing.configured import configuration, made
from ebmkit.testing.fresh import (
    effects_of_import,
    in_fresh_process,
    random_states,
    stirred,
    unfindable,
)
from ebmkit.testing.laws import ALL, Cases, law
from ebmkit.testing.subject import Subject
from ebmkit.testing.using import Used, numbers, used

DTYPES = (torch.float32, torch.float64)
CLOSE = 1e-5
"""How far numbers of another process may be off, of float32: kernels may add in another order."""
OTHERS = 20
"""Seeds that are tried beside one, until one gives other numbers."""


def _unimportable(subject: Subject) -> str:
    return unfindable(str(getattr(subject.type, "__module__", "builtins")))


def _local(subject: Subject) -> str:
    if "<locals>" in getattr(subject.type, "__qualname__", ""):
        return "it is defined inside of a function, where pickle looks for nothing"
    return ""


@law(
    *ALL,
    why="A plugin is imported beside others, in the middle of somebody's program.",
    means="naming the part in a pipeline changes random numbers, dtypes, speed or warnings of all code",
    applies=_unimportable,
)
def importing_changes_nothing(subject: Subject, cases: Cases) -> None:
    """In a fresh process, and beyond what ebmkit, torch and the packages that the module imports
    change themselves."""
    module = subject.type.__module__
    with cases.case(f"import {module}"):
        origin = Path(str(getattr(find_module(module), "origin", None)))
        written = origin.stat().st_mtime_ns if origin.is_file() else 0
        good, found = _effects(module, origin, written)
        cases.expect(good, f"expected {module} to be imported in a fresh process, got {found}")
        cases.expect(not found, f"expected to find all as it was, got {'; '.join(found)}")


@functools.cache
def _effects(module: str, origin: Path, written: int) -> tuple[bool, Any]:  # noqa: ARG001
    """What an import in a fresh process told: once, for all configurations of a module's parts, as
    long as its file stays as it is."""
    return in_fresh_process(effects_of_import, module)


@law(
    *ALL,
    why="Parts are sent to the worker processes of loaders and of parallel training.",
    means="training in several processes fails, or uses another part than was stated",
    applies=_local,
)
def pickles(subject: Subject, cases: Cases) -> None:
    """As it is made, and once it was used; a hook that was used may hold what lives here alone."""
    shape = subject.shapes[0]
    for label in ("as made", "once used")[: 1 if subject.kind == "hook" else 2]:
        with cases.case(label):
            new = made(subject, cases.seed)
            expected = numbers(subject.kind, new, shape, cases.seed, torch.float32)
            # Not a copy, which may be made by the same methods as what is pickled.
            part = made(subject, cases.seed) if subject.made else subject.part
            again = _loaded(cases, _pickled(cases, new if label == "once used" else part))
            before, after = configuration(subject, part), configuration(subject, again)
            for name, value in before.items():
                cases.expect(
                    resolved(value) == resolved(after.get(name)),
                    f"{name}: expected {value!r} after pickling, got {after.get(name)!r}",
                )
            found = numbers(subject.kind, again, shape, cases.seed, torch.float32)
            _expect_same(cases, expected, found, "the part that was pickled")


@law(
    *ALL,
    why="Processes that are spawned import everything anew, as on macOS and Windows all do.",
    means="what works in one process fails in the workers, or gives other numbers there",
    applies=lambda subject: _local(subject) or _unimportable(subject),
)
def survives_spawn(subject: Subject, cases: Cases) -> None:
    """In a fresh process the part comes out of its pickle and gives the same numbers."""
    shape = subject.shapes[0]
    with cases.case("fresh process"):
        part = made(subject, cases.seed)
        expected = numbers(subject.kind, part, shape, cases.seed, torch.float32)
        given = _pickled(cases, part)
        good, found = in_fresh_process(
            numbers_there, subject.kind, given, shape, cases.seed, torch.get_num_threads()
        )
        cases.expect(good, f"expected its pickle to be used in a fresh process, got {found}")
        _expect_same(cases, expected, found, "a fresh process")


def numbers_there(
    kind: str, part: bytes, shape: tuple[int, ...], seed: int, threads: int
) -> list[Tensor]:
    """What a pickled part gives in the process that calls this."""
    torch.set_num_threads(threads)
    return numbers(kind, pickle.loads(part), shape, seed, torch.float32)


@law(
    *ALL,
    why="A run is repeated by its seed, and runs beside it have generators of their own.",
    means="the same seed gives another result, or two seeds the same, or other code's numbers change",
)
def deterministic_under_a_generator(subject: Subject, cases: Cases) -> None:
    """Of a seed that gives other numbers there need be but one among many: a chain that has rejected
    every proposal is where it was."""

    def run(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Used:
        with stirred():
            before = random_states()
            part = made(subject, cases.seed, shape)
            _expect_untouched(cases, before, "making it")
            found = used(subject.kind, part, shape, seed, dtype)
            _expect_untouched(cases, before, "using it")
        return found

    for dtype in DTYPES:
        for shape in subject.shapes:
            with cases.case(f"{str(dtype).removeprefix('torch.')}, event shape {shape}"):
                first, second = (run(cases.seed, shape, dtype) for _ in range(2))
                cases.expect(
                    _equal(first.numbers, second.numbers),
                    "expected the same numbers of the same seed, got others: draw from the generator "
                    "that is given, and from nothing else",
                )
                others = (run(cases.seed + n, shape, dtype).numbers for n in range(1, OTHERS + 1))
                cases.expect(
                    not first.drew or any(not _equal(first.numbers, other) for other in others),
                    f"expected other numbers of one of {OTHERS} other seeds, got the same, though it "
                    "draws",
                )


def _expect_untouched(cases: Cases, before: dict[str, Any], during: str) -> None:
    after = random_states()
    for name in before:
        cases.expect(
            before[name] == after[name],
            f"expected {during} to leave {name} as it was, and it was advanced or seeded",
        )


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num())
        for x, y in zip(a, b, strict=True)
    )


def _expect_same(cases: Cases, expected: list[Tensor], found: list[Tensor], where: str) -> None:
    cases.expect(
        len(expected) == len(found),
        f"expected {len(expected)} tensors of {where}, got {len(found)}",
    )
    for a, b in zip(expected, found, strict=True):
        same = a.shape == b.shape and torch.allclose(
            a.double(), b.double(), rtol=CLOSE, atol=CLOSE, equal_nan=True
        )
        if not same:
            cases.expect(False, f"expected the same numbers of {where}, got {_off(a, b)}")


def _off(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"shape {tuple(b.shape)} for {tuple(a.shape)}"
    return f"numbers that are off by up to {float((a.double() - b.double()).abs().max()):.3g}"


def _pickled(cases: Cases, part: Any) -> bytes:
    try:
        return pickle.dumps(part)
    except Exception as error:
        cases.expect(False, f"expected it to be pickled, got {type(error).__name__}: {error}")
        raise


def _loaded(cases: Cases, given: bytes) -> Any:
    try:
        return pickle.loads(given)
    except Exception as error:
        cases.expect(
            False, f"expected its pickle to be loaded, got {type(error).__name__}: {error}"
        )
        raise
