"""A run's page: sections in their order, filled into the template."""

from __future__ import annotations

import datetime
import importlib.metadata
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmkit.reports import tables
from ebmkit.reports.reading import Kept, read
from ebmkit.reports.section import Section

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks

TEMPLATE = "page.html"
GOOD, BAD = ("finished", "converged"), ("diverged", "diverging", "failed")
HEADLINES = ("kl_nats", "test_loss", "log_likelihood", "auroc", "mmd2")
MOST_HEADLINES = 3
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def written(directory: Path, hooks: Hooks) -> tuple[str, list[str]]:
    """The page of a run, as HTML that needs no other file, and what it lacks, one line each.

    It is the same for the same files, but for the date in its last line.

    Raises:
        RunDirectoryError: there is no run.
    """
    kept = read(directory)
    added, failures = hooks.report_sections(directory, kept.records.kept)
    lacks = [*kept.missing, *(f"A section is left out: {failure}" for failure in failures)]
    return _filled(kept, added, lacks), lacks


def _filled(kept: Kept, added: Sequence[Section], lacks: Iterable[str]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebmkit", "reports"),
        autoescape=True,
        finalize=printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        name=kept.name,
        badges=_badges(kept),
        ending=tables.ending(kept),
        headlines=_headlines(kept.evaluation),
        notices=[*_notices(kept), *lacks],
        sections=_sections(kept, added),
        spec=kept.spec_text,
        version=importlib.metadata.version("ebmkit-core"),
        today=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def printable(value: Any) -> Any:
    """Text without characters that no page may hold."""
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def _sections(kept: Kept, added: Sequence[Section]) -> list[Section]:
    shown = {name for section in added for name in section.shows}
    pictures = [picture for picture in kept.pictures if picture.title not in shown]
    sections = [
        tables.evaluation(kept.evaluation),
        tables.diagnosis(kept.diagnosis),
        *added,
        Section("Pictures", pictures=pictures) if pictures else None,
        tables.metrics(kept.records),
        tables.parts(kept.spec),
        tables.status(kept.status),
        tables.checkpoints(kept.checkpoints),
    ]
    return [section for section in sections if section is not None]


def _badges(kept: Kept) -> list[tuple[str, str]]:
    """Words on how it went, each with what to make of it."""
    words = [
        ("", kept.status.get("status", "unknown")),
        ("chains: ", kept.diagnosis.get("verdict")),
    ]
    return [
        (of + tables.text(word), "good" if word in GOOD else "bad" if word in BAD else "open")
        for of, word in words
        if word is not None
    ]


def _headlines(evaluation: Mapping[str, Any]) -> list[Sequence[str]]:
    judged = tables.evaluation({n: evaluation[n] for n in evaluation if n != "step"})
    rows = {row[0]: row for row in judged.rows} if judged else {}
    return [rows[name] for name in HEADLINES if name in rows][:MOST_HEADLINES]


def _notices(kept: Kept) -> list[str]:
    said = [*tables.refused(kept.evaluation)]
    for found in (kept.status.get("notices"), kept.diagnosis.get("notes")):
        said += map(tables.text, found if isinstance(found, list) else ())
    return said
