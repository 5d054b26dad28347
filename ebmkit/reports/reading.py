"""What a run's directory says, read as it is: a run that died leaves files that are torn or missing,
and one from a stranger may hold anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from ebmkit.errors import SpecError
from ebmkit.reports.section import Picture, read_picture
from ebmkit.rundir import EVALUATION, SPEC, STATUS, RunDirectory, step_of
from ebmkit.spec import SIZE_LIMIT, parse_toml

DIAGNOSIS, METRICS = "diagnosis.json", "metrics.jsonl"
LARGEST_JSON = 4_000_000
LARGEST_PICTURE = 20_000_000
LARGEST_LINE = 1_000_000
"""Bytes; what is larger is left out, and said to be."""
MOST_PICTURES = 60
MOST_RECORDS = 20_000
"""Records of the metrics that are used; of more every second, fourth, … one is."""


class Checkpoint(NamedTuple):
    name: str
    step: int
    size: int
    """In bytes."""


class Records(NamedTuple):
    """A run's metrics, one record every so many steps."""

    kept: tuple[Mapping[str, float], ...]
    """Numbers by name; those of "step" are there, whole and in their order."""
    torn: int
    """Lines that are no records."""
    thinning: int
    """How many lines were read for each that is kept."""


@attrs.frozen
class Kept:
    """A run's directory."""

    name: str
    spec_text: str
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    diagnosis: Mapping[str, Any]
    records: Records
    pictures: tuple[Picture, ...]
    checkpoints: tuple[Checkpoint, ...]
    missing: tuple[str, ...]
    """What is not there or could not be read, in one sentence each."""


def read(path: Path) -> Kept:
    """A run's directory, with what is wrong with it.

    Raises:
        RunDirectoryError: there is no run.
    """
    directory = RunDirectory.open(path)
    missing: list[str] = []
    text, spec = _spec(path / SPEC, missing)
    records = read_records(path / METRICS, MOST_RECORDS)
    if not records.kept:
        missing.append(f"There are no metrics ({METRICS}).")
    if records.torn:
        missing.append(f"{METRICS} has lines that cannot be read and are left out: {records.torn}.")
    if records.thinning > 1:
        missing.append(f"Of the metrics one record in {records.thinning} is used.")
    found = Kept(
        name=path.resolve().name,
        spec_text=text,
        spec=spec,
        status=_json(path / STATUS, "how the run ended is not known", missing),
        evaluation=_json(path / EVALUATION, "the run was not evaluated", missing),
        diagnosis=_json(path / DIAGNOSIS, "", missing),
        records=records,
        pictures=_pictures(path, missing),
        checkpoints=_checkpoints(directory),
        missing=(),
    )
    return attrs.evolve(found, missing=tuple(missing))


def read_records(path: Path, most: int | None = None) -> Records:
    """A metrics file's records, with the lines that are none counted and left out. Of more than
    ``most`` every second, fourth, … is kept, and the last."""
    kept: list[Mapping[str, float]] = []
    seen = torn = 0
    thinning = 1
    last: Mapping[str, float] | None = None
    if _plain(path):
        with path.open("rb") as file:
            while line := file.readline(LARGEST_LINE):
                cut = len(line) == LARGEST_LINE and not line.endswith(b"\n")
                while cut and (rest := file.readline(LARGEST_LINE)):
                    cut = not rest.endswith(b"\n")
                    line = b""
                record = _record(line)
                if record is None:
                    torn += 1
                    continue
                last = record
                if seen % thinning == 0:
                    kept.append(record)
                seen += 1
                if most is not None and len(kept) > most:
                    kept, thinning = kept[::2], 2 * thinning
    if last is not None and kept[-1] is not last:
        kept.append(last)
    # Of a step that was taken twice, before and after a resume, the later record counts.
    by_step = {record["step"]: record for record in kept}
    return Records(tuple(by_step[step] for step in sorted(by_step)), torn, thinning)


def _record(line: bytes) -> Mapping[str, float] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    if not 0 <= found["step"] < 2**53:
        return None
    numbers = {name: _float(value) for name, value in found.items() if name != "step"}
    return {"step": found["step"], **{n: v for n, v in numbers.items() if v is not None}}


def _float(value: Any) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None
    except OverflowError:
        return None


def _plain(path: Path, largest: int | None = None) -> bool:
    """Whether it is a file of the directory's own: a link may lead to anybody's."""
    if path.is_symlink() or not path.is_file():
        return False
    return largest is None or path.stat().st_size <= largest


def _spec(path: Path, missing: list[str]) -> tuple[str, Mapping[str, Any]]:
    if not _plain(path, SIZE_LIMIT):
        missing.append(f"{SPEC} is too large, or no file of the directory's own.")
        return "", {}
    text = path.read_bytes().decode(errors="replace")
    try:
        return text, parse_toml(text, SPEC).tables
    except SpecError as error:
        missing.append(f"{error}.")
        return text, {}


def _json(path: Path, lack: str, missing: list[str]) -> Mapping[str, Any]:
    if not path.exists():
        if lack:
            missing.append(f"There is no {path.name}: {lack}.")
        return {}
    try:
        if not _plain(path, LARGEST_JSON):
            raise ValueError("it is too large, or no file of the directory's own")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        missing.append(f"{path.name} cannot be read: {reason}.")
        return {}
    return found


def _pictures(path: Path, missing: list[str]) -> tuple[Picture, ...]:
    found: list[Picture] = []
    for place in sorted(path.glob("*.png")):
        picture = read_picture(place) if _plain(place, LARGEST_PICTURE) else None
        if picture is None:
            missing.append(f"{place.name} is no whole PNG image of the directory's own.")
        elif len(found) == MOST_PICTURES:
            missing.append(
                f"There are more than {MOST_PICTURES} pictures; the others are left out."
            )
            break
        else:
            found.append(picture)
    return tuple(found)


def _checkpoints(directory: RunDirectory) -> tuple[Checkpoint, ...]:
    return tuple(
        Checkpoint(path.name, step_of(path), path.stat().st_size)
        for path in directory.checkpoints()
    )
