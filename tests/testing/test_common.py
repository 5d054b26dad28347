"""The laws of all kinds bite: each mutant breaks the law that it is made for, and no other one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import field
from attrs.validators import ge, gt, instance_of, optional
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, Metrics, doc, finite, whole
from ebmkit.testing import fresh, reference
from ebmkit.testing.reference import Contrast
from ebmkit.testing.reports import Report, laws_of, report
from ebmkit.testing.subject import Subject
from ebmkit.testing.using import numbers, used

IN_PROCESSES = ("importing-changes-nothing", "survives-spawn")
QUICK = (
    "configuration-round-trip",
    "fields-documented",
    "wrong-values-refused",
    "pickles",
    "deterministic-under-a-generator",
)


def reported(subject: Subject, names: tuple[str, ...] = QUICK, seed: int = 0) -> Report:
    return report(subject, [law for law in laws_of(subject.kind) if law.name in names], seed)


def broken(found: Report) -> dict[str, str]:
    assert {outcome.status for outcome in found.outcomes} <= {"kept", "broken", "not asked"}, [
        outcome.crash for outcome in found.outcomes
    ]
    return {o.law.name: o.reason for o in found.outcomes if o.status == "broken"}


@attrs.frozen
class Points:
    """Normal points, of a set's size or without end."""

    scale: float = field(default=1.0, validator=[finite, gt(0)], metadata=doc("deviation, > 0"))
    n_samples: int | None = field(
        default=None, validator=optional([whole, ge(1)]), metadata=doc("size, ≥ 1; none: no end")
    )

    event_shape = (3,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(self.scale * torch.randn(size, 3, generator=generator))


@attrs.frozen
class Undocumented(Points):
    """Normal points."""

    shift: float = field(default=0.0, validator=finite)


class Untyped:
    """Normal points; ``scale`` is their deviation."""

    event_shape = (3,)

    def __init__(self, scale=1.0) -> None:  # type: ignore[no-untyped-def]
        self.scale = scale

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(self.scale * torch.randn(size, 3, generator=generator))


@attrs.frozen
class Filed(Points):
    """Normal points."""

    path: Path = field(default=Path("rows.csv"), metadata=doc("a file"))
    others: list[Path] = field(factory=lambda: [Path("a"), Path("b/c")], metadata=doc("more files"))
    log: Path | None = field(default=None, metadata=doc("a file to write; none for none"))


@attrs.frozen
class Moved(Points):
    """Normal points."""

    path: Path = field(
        default=Path("rows.csv"),
        converter=lambda value: Path("folder") / value,
        metadata=doc("a file"),
    )


@attrs.frozen
class AcceptsNaN(Points):
    """Normal points."""

    scale: float = field(default=1.0, validator=instance_of(float), metadata=doc("deviation"))


@attrs.frozen
class AcceptsBooleans(Points):
    """Normal points."""

    n_samples: int | None = field(
        default=None, validator=optional(ge(1)), metadata=doc("size, ≥ 1; none: no end")
    )


def _nameless(_: Any, __: Any, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value < 9:
        raise ValueError("wrong value")


@attrs.frozen
class NamesNoField(Points):
    """Normal points."""

    scale: float = field(default=1.0, validator=_nameless, metadata=doc("deviation, > 0"))


@attrs.frozen
class Fails(Points):
    """Normal points."""

    scale: float = field(
        default=2.0, validator=lambda *a: 1 / (a[2] - 1), metadata=doc("deviation, > 1")
    )


@attrs.frozen
class Halves(Points):
    """Normal points."""

    scale: float = field(
        default=1.0,
        converter=lambda value: value / 2 if isinstance(value, float) else value,
        validator=[finite, gt(0)],
        metadata=doc("deviation, > 0"),
    )


@attrs.frozen
class Cannot(Points):
    """Normal points."""

    transform: Any = field(factory=lambda: lambda x: x, metadata=doc("what is done to them"))


class Forgets(Points):
    """Normal points."""

    def __reduce__(self) -> Any:
        return Forgets, ()


class OfTorch(Points):
    """Normal points."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.randn(size, 3))


class OfNumpy(Points):
    """Normal points."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.tensor(np.random.randn(size, 3)))  # noqa: NPY002


class OfPython(Points):
    """Normal points."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.full((size, 3), random.gauss()))


class OfTheSystem(Points):
    """Normal points."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return super().draw(size, generator=ebmkit.generator_or_new(None))


class SeedsItAnew(Points):
    """Normal points."""

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return super().draw(size, generator=generator.manual_seed(0))


class SeldomMoves(reference.RandomWalk):
    """A random walk that stays where it is under most seeds."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        moves = float(noise.uniform[0]) < 0.3
        return super().step(energy, state, noise, step_size=step_size) if moves else (state, {})


class GlobalWalk(reference.RandomWalk):
    """A random walk that seeds everything."""

    def step(self, energy: Any, state: Any, noise: Any, *, step_size: Any) -> Any:
        torch.manual_seed(0)
        return super().step(energy, state, noise, step_size=step_size)


class Dropout(nn.Module):
    """An energy that is another one at every call."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, True).flatten(1).sum(1)


class GlobalContrast(Contrast):
    """A loss of noise that it draws while it is computed."""

    def __call__(self, model: Any, batch: Batch, draws: Tensor) -> tuple[Tensor, Metrics]:
        return super().__call__(model, batch, torch.randn_like(draws))


class Wanders:
    """A schedule that is drawn."""

    def __call__(self, step: int) -> float:
        return random.random()


class Idle:
    """A hook that does nothing."""

    @ebmkit.hookimpl
    def run_start(self) -> None:
        pass


class Seeds:
    """A hook that seeds numpy before the first step."""

    @ebmkit.hookimpl
    def run_start(self) -> None:
        np.random.seed(1)  # noqa: NPY002


GENERATOR = "deterministic-under-a-generator"
MUTANTS: list[tuple[str, Any, str, str]] = [
    ("dataset", Undocumented, "fields-documented", "shift: expected"),
    ("dataset", Untyped, "fields-documented", "scale: expected a type"),
    ("dataset", AcceptsNaN, "wrong-values-refused", "nan is accepted"),
    ("dataset", AcceptsBooleans, "wrong-values-refused", "True is accepted"),
    ("dataset", NamesNoField, "wrong-values-refused", "that names scale"),
    ("dataset", Fails, "wrong-values-refused", "got ZeroDivisionError"),
    ("dataset", Halves, "configuration-round-trip", "scale: expected 0.5"),
    ("dataset", Moved, "configuration-round-trip", "path: expected "),
    ("dataset", Cannot, "pickles", "expected it to be pickled"),
    ("dataset", Forgets(2.0), "pickles", "scale: expected 2.0"),
    ("dataset", OfTorch, GENERATOR, "torch's global generator"),
    ("dataset", OfNumpy, GENERATOR, "numpy's global random state"),
    ("dataset", OfPython, GENERATOR, "python's global random state"),
    ("dataset", OfTheSystem, GENERATOR, "same numbers of the same seed"),
    ("dataset", SeedsItAnew, GENERATOR, "other numbers of one of 20 other seeds"),
    ("sampler", GlobalWalk, GENERATOR, "torch's global generator"),
    ("model", Dropout, GENERATOR, "torch's global generator"),
    ("loss", GlobalContrast, GENERATOR, "torch's global generator"),
    ("scheduler", Wanders, GENERATOR, "python's global random state"),
    ("hook", Seeds, GENERATOR, "numpy's global random state"),
]


@pytest.mark.parametrize(
    ("kind", "part", "law", "said"), MUTANTS, ids=lambda v: getattr(v, "__name__", None)
)
def test_mutants_are_caught(kind: str, part: Any, law: str, said: str) -> None:
    found = reported(Subject(kind, part))
    assert not found.good
    reasons = broken(found)
    assert said in reasons[law]
    # Numbers that are others at every call are not those of the pickle either.
    assert set(reasons) <= ({law, "pickles"} if law == GENERATOR else {law})


def test_a_docstring_is_expected() -> None:
    part = type("Bare", (Points,), {"__doc__": None, "__module__": __name__})
    laws = [law for law in laws_of("dataset") if law.name == "fields-documented"]
    assert "expected a docstring" in broken(report(Subject("dataset", part), laws))[laws[0].name]


def test_none_that_is_no_default_does_not_come_back() -> None:
    @attrs.frozen
    class Bounded(Points):
        """Normal points."""

        bound: float | None = field(default=1.0, metadata=doc("bound; none for none"))

    subject = Subject("dataset", Bounded(bound=None))
    assert "bound: expected None" in broken(reported(subject))["configuration-round-trip"]


def test_live_parts_are_handed_on() -> None:
    sampler = ebmkit.create("sampler", "langevin", step_size=0.3)
    subject = Subject("loss", ebmkit.create("loss", "cd", sampler=sampler, k_steps=3))
    assert broken(reported(subject, QUICK[:1])) == {}


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("dataset", Points),
        ("dataset", Points(2.0, 50)),
        ("dataset", Filed),
        ("dataset", Filed(path=Path("x"), log=Path("y"))),
        ("sampler", reference.RandomWalk),
        ("sampler", SeldomMoves),
        ("loss", Contrast),
        ("scheduler", reference.Constant),
        ("hook", Idle),
    ],
)
def test_good_parts_keep_them(kind: str, part: Any) -> None:
    found = reported(Subject(kind, part))
    assert broken(found) == {}
    assert found.good


MODULE = """
'''A data set of somebody else's.'''
import decimal
import torch
{effect}
from ebmkit import Batch

SCALE = 1.0

class Outside:
    '''Normal points.'''
    event_shape = (3,)

    def draw(self, size, *, generator):
        return Batch(SCALE * torch.randn(size, 3, generator=generator))
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Subject]:
    """A part of a module that can be imported by name, which was given a line of code."""
    monkeypatch.syspath_prepend(tmp_path)
    fresh.find_module.cache_clear()

    def made(effect: str) -> Subject:
        import importlib

        path = tmp_path / "outside_part.py"
        path.write_text(MODULE.format(effect=""))
        monkeypatch.delitem(sys.modules, "outside_part", raising=False)
        module = importlib.import_module("outside_part")
        # After it was imported here, for what it does is to be done in another process.
        path.write_text(MODULE.format(effect=effect))
        return Subject("dataset", module.Outside)

    return made


def test_an_import_that_changes_the_process_is_told(outside: Callable[[str], Subject]) -> None:
    effects = (
        "import os, warnings, logging, random\n"
        "torch.manual_seed(0); random.seed(0); torch.set_default_dtype(torch.float64)\n"
        "warnings.simplefilter('ignore'); os.environ['OUTSIDE'] = '1'\n"
        "logging.getLogger().setLevel(10); torch.set_num_threads(3)\n"
        "torch.use_deterministic_algorithms(True); torch.set_float32_matmul_precision('high')\n"
        "__import__('numpy').random.seed(3); torch.set_default_device('meta')"
    )
    found = reported(outside(effects), IN_PROCESSES[:1])
    assert not found.good
    said = broken(found)[IN_PROCESSES[0]]
    for name in fresh.process_state():
        if name not in ("whether gradients are recorded", _BETWEEN):
            assert f"{name} from" in said


_BETWEEN = "torch's number of threads between operations"


def test_what_dependencies_do_does_not_count(
    outside: Callable[[str], Subject], tmp_path: Path
) -> None:
    (tmp_path / "rude_dependency.py").write_text("import random; random.seed(0)")
    found = reported(outside("import rude_dependency"), IN_PROCESSES)
    assert broken(found) == {}
    assert found.cases == 2


def test_a_part_that_another_process_makes_another_of_is_told(
    outside: Callable[[str], Subject],
) -> None:
    subject = outside("")
    sys.modules[subject.type.__module__].SCALE = 2.0  # type: ignore[attr-defined]
    found = reported(subject, IN_PROCESSES[1:])
    assert not found.good
    assert "the same numbers of a fresh process" in broken(found)["survives-spawn"]


def test_a_function_that_fails_in_a_fresh_process() -> None:
    good, said = fresh.in_fresh_process(int, "many")
    assert not good
    assert said.startswith("ValueError")
    good, said = fresh.in_fresh_process(sys.exit, 3)
    assert not good
    assert "ended with 3" in said


def test_modules_of_no_name_are_not_asked() -> None:
    part = type("Part", (Points,), {"__module__": "__main__"})
    found = reported(Subject("dataset", part), IN_PROCESSES)
    assert {outcome.status for outcome in found.outcomes} == {"not asked"}
    assert not found.good


def test_numbers_are_of_the_part_and_the_seed_alone() -> None:
    walk = reference.RandomWalk()
    first = numbers("sampler", walk, (3,), 0, torch.float64)
    assert all(map(torch.equal, first, numbers("sampler", walk, (3,), 0, torch.float64)))
    assert not torch.equal(first[0], numbers("sampler", walk, (3,), 1, torch.float64)[0])
    assert used("sampler", walk, (3,), 0, torch.float32).drew
    assert not used("scheduler", reference.Constant(), (3,), 0, torch.float32).drew
    (energies,) = numbers("model", reference.Network((3,)), (3,), 0, torch.float64)
    x = reference.normal(6, 3, seed=3)
    assert torch.equal(energies, reference.Network((3,)).double()(x).detach())
