"""Packages that `ebmkit new-plugin` writes, built as wheels and installed beside a wheel of ours in a
fresh environment, where they are found, checked, and trained with, and their own tests pass."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ebmkit.registry import KINDS
from ebmkit.scaffold import SUMMARIES, Scaffold

ROOT = Path(__file__).parents[2]
QUICK = (
    "training.steps=3",
    "training.batch_size=32",
    "training.device=cpu",
    "evaluation.n_samples=50",
    "evaluation.chain_steps=2",
)
OVERRIDES = [word for setting in QUICK for word in ("--set", setting)]


class Fresh(NamedTuple):
    """An environment with six packages in it, where their sources are, and their wheels."""

    environment: Any
    sources: Path
    wheels: dict[str, Path]


@pytest.fixture(scope="module")
def fresh(ours: tuple[Any, Any]) -> Fresh:
    made, environment = ours
    sources = made.work / "sources"
    for kind in SUMMARIES:
        name = f"ebmkit-fresh-{kind}"
        Scaffold(name, kind, author="Ann", email="ann@example.org").write(sources / name)
    wheels = made.wheels(*sorted(sources.iterdir()))
    environment.install(*(wheels[f"ebmkit_fresh_{kind}"] for kind in SUMMARIES))
    return Fresh(environment, sources, wheels)


def test_they_are_listed_and_train(fresh: Fresh) -> None:
    environment, work = fresh.environment, fresh.environment.work
    listed = environment.ebmkit(["list-plugins"]).splitlines()
    commands = []
    for kind in SUMMARIES:
        name = f"ebmkit-fresh-{kind}"
        [line] = [line for line in listed if f"\t{name}\t" in line]
        assert line.startswith(f"{kind}\tfresh-{kind}\t{name}\t0.1.0\tok\t")
        pipeline = fresh.sources / name / "pipeline.toml"
        commands.append(["train", pipeline, "--out", kind, *OVERRIDES])
    environment.ebmkit(*commands, timeout=900)
    for kind in SUMMARIES:
        spec = tomllib.loads((work / kind / "spec.toml").read_text(encoding="utf-8"))
        assert spec["parts"][f"{kind}:fresh-{kind}"] == f"ebmkit-fresh-{kind}==0.1.0"
        assert (work / kind / "speed.txt").is_file()


def test_the_command_finds_that_they_keep_the_laws(fresh: Fresh) -> None:
    """Without a name it checks all six, and nothing else."""
    said = fresh.environment.ebmkit(["check"], timeout=1200).splitlines()
    checked = [line for line in said if not line.startswith(" ")]
    assert checked[:-1] == [
        f"{kind} ebmkit-fresh-{kind}:fresh-{kind}" for kind in KINDS if kind in SUMMARIES
    ]
    assert re.fullmatch(r"6 parts, \d+ laws, \d+ cases: all laws kept", checked[-1]), said


@pytest.mark.parametrize("kind", SUMMARIES)
def test_their_own_tests_pass(kind: str, fresh: Fresh) -> None:
    tests = fresh.sources / f"ebmkit-fresh-{kind}" / "tests"
    words = ("-m", "pytest", "-v", "-p", "no:cacheprovider", tests)
    said = fresh.environment.run(*words, timeout=1200)
    assert len(re.findall(rf"test_ebmkit_fresh_{kind}\.py::test_it\[.* PASSED", said)) > 5, said


def test_their_types_are_strict(fresh: Fresh) -> None:
    files = [
        str(path)
        for kind in SUMMARIES
        for path in sorted((fresh.sources / f"ebmkit-fresh-{kind}").rglob("*.py"))
    ]
    assert len(files) == 2 * len(SUMMARIES)
    fresh.environment.types(*files)


def test_the_wheel_holds_the_templates(fresh: Fresh) -> None:
    wheel = zipfile.ZipFile(fresh.wheels["ebmkit_core"])
    there = {name for name in wheel.namelist() if "/templates/" in name}
    wanted = {p for p in (ROOT / "ebmkit" / "templates").rglob("*") if p.is_file()}
    assert there == {p.relative_to(ROOT).as_posix() for p in wanted}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_a_wheel_holds_the_part_and_its_licence(kind: str, fresh: Fresh) -> None:
    record = f"ebmkit_fresh_{kind}-0.1.0.dist-info"
    package = f"ebmkit_fresh_{kind}"
    assert set(zipfile.ZipFile(fresh.wheels[package]).namelist()) == {
        *(f"{package}/__init__.py", f"{package}/py.typed"),
        *(f"{record}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")),
        f"{record}/licenses/LICENSE",
    }
