"""ebmkit check"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

import click

from ebmkit.errors import EbmkitError, UserError, did_you_mean
from ebmkit.registry import HOME, Component, Registry, registry, same

if TYPE_CHECKING:
    from ebmkit.testing import Report
    from ebmkit.testing.crashes import Crash


@click.command()
@click.argument("names", nargs=-1, metavar="[DIST[:NAME]]...")
@click.option("--built-in", is_flag=True, help="Also the parts that come with ebmkit.")
@click.option("--json", "as_json", is_flag=True, help="Every law's outcome as one JSON document.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="What random choices begin with."
)
def command(names: tuple[str, ...], built_in: bool, as_json: bool, seed: int) -> int:
    """Try on installed plugins what holds of every part of their kinds.

    Without names, on all that do not come with ebmkit. Exit 0 where every law is kept, 1 where one is
    broken or a part cannot be used.
    """
    if find_spec("hypothesis") is None:
        raise UserError(
            "the laws are tried on inputs that hypothesis makes, and it is not installed: pip install "
            f"'{HOME}[testing]'"
        )
    chosen = _chosen(registry(), names, built_in)
    documents: list[dict[str, Any]] = []
    crashes: list[dict[str, Any]] = []
    for component in chosen:
        head = f"{component.kind} {component.qualified}"
        if not as_json:
            click.echo(head)  # at once: the laws take seconds to tens of them
        for document, lines in _checked(component, seed, crashes):
            documents.append({"part": head, **document})
            if not as_json:
                click.echo("\n".join(f"  {line}" for line in lines))
    good = all(document["good"] for document in documents)
    counts = _counts(documents)
    if as_json:
        found = {"good": good, "seed": seed, "counts": counts, "parts": documents}
        click.echo(json.dumps(found | {"crashes": crashes}, indent=2))
    else:
        click.echo(_verdict(counts, good))
    return 0 if good else 1


def _counts(documents: list[dict[str, Any]]) -> dict[str, int]:
    """What became of how many laws, each counted once a part: as broken where a configuration breaks
    it, and as raised where the part raised in one and broke it in none."""
    laws: dict[tuple[str, str], set[str]] = {}
    untried = set()
    for document in documents:
        for law in document["laws"]:
            laws.setdefault((document["part"], law["law"]), set()).add(law["status"])
        if all(law["status"] == "not asked" for law in document["laws"]):
            untried.add(document["part"])
    order = ("broken", "failed", "kept", "not asked")
    worst = [min(found, key=order.index) for found in laws.values()]
    return {
        "parts": len({document["part"] for document in documents}),
        "not_tried": len(untried),
        "cases": sum(document["cases"] for document in documents),
        "kept": worst.count("kept"),
        "broken": worst.count("broken"),
        "raised": worst.count("failed"),
    }


def _verdict(counts: dict[str, int], good: bool) -> str:
    from ebmkit.testing.reports import counted

    laws = counts["kept"] + counts["broken"] + counts["raised"]
    head = ", ".join(
        counted(number, what)
        for number, what in ((counts["parts"], "part"), (laws, "law"), (counts["cases"], "case"))
    )
    if good:
        return f"{head}: all laws kept"
    said = []
    if laws:
        said.append(
            f"{counts['kept']} kept, {counts['broken']} broken, {counts['raised']} that raised"
        )
    if untried := counts["not_tried"]:
        said.append(f"{counted(untried, 'part')} could not be tried in full")
    return f"{head}: {'; '.join(said)}"


def _chosen(found: Registry, names: tuple[str, ...], built_in: bool) -> list[Component]:
    """The components that are named, each target of a kind once; never none.

    Raises:
        UserError: a name that nobody has, or nothing to try.
    """
    # A recipe is no code; `ebmkit validate` reads it.
    parts = [c for c in found.components if c.kind != "recipe"]
    wanted: list[Component] = []
    for text in names:
        distribution, _, name = text.partition(":")
        owned = [c for c in parts if same(c.distribution, distribution)]
        if not owned:
            known = sorted({c.distribution for c in parts})
            raise UserError(
                f"no installed distribution {distribution!r} offers parts"
                f"{did_you_mean(distribution, known)} (known: {', '.join(known)})"
            )
        mine = [c for c in owned if name in ("", c.name)]
        if not mine:
            offered = sorted({c.name for c in owned})
            raise UserError(
                f"{distribution} offers no {name!r}{did_you_mean(name, offered)} (it offers: "
                f"{', '.join(offered)})"
            )
        blocked = [c for c in mine if c.status == "blocked"]
        if blocked:
            raise UserError(f"{blocked[0].qualified} is blocked: {blocked[0].reason}")
        wanted += mine
    if not names:
        wanted += [c for c in parts if not same(c.distribution, HOME) and c.status != "blocked"]
    if built_in:
        wanted += [c for c in parts if same(c.distribution, HOME) and c.status != "blocked"]
    if not wanted:
        raise UserError(
            "there is nothing to check: no plugin is installed beside ebmkit's own parts, which "
            "--built-in checks"
        )
    # An alias leads to what another name leads to.
    return list({(c.kind, c.target): c for c in reversed(wanted)}.values())[::-1]


def _checked(
    component: Component, seed: int, crashes: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """What becomes of each configuration of a part, as data and in words; what it raises is added to
    the crashes, once for all configurations."""
    from ebmkit.fitness import misfit, unfit
    from ebmkit.testing import report, subjects

    document = {"configuration": {}, "good": False, "cases": 0, "laws": []}
    shown: dict[Any, str] = {}
    known: dict[Any, int] = {}
    try:
        if component.status == "incompatible":
            raise UserError(component.reason)
        part = registry().load(component)
        if wrong := misfit(component, part):
            raise UserError(wrong)
        for subject in subjects(component.kind, part):
            # Parts that report to the terminal do so while they are tried.
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                if wrong := unfit(component, subject.make()):
                    raise UserError(wrong)
                tried = report(subject, seed=seed)
            for crash, names in tried.crashes():
                if crash.key not in known:
                    known[crash.key] = len(crashes)
                    head = {"part": f"{component.kind} {component.qualified}"}
                    crashes.append(head | _crash(crash) | {"laws": []})
                laws = crashes[known[crash.key]]["laws"]
                laws += [name for name in names if name not in laws]
            yield document | _document(tried, known), [*tried.lines(shown)]
    except Exception as error:
        said = str(error) if isinstance(error, EbmkitError) else f"{type(error).__name__}: {error}"
        yield document | {"reason": said}, [f"cannot be checked: {said}"]


def _document(tried: Report, crashes: dict[Any, int]) -> dict[str, Any]:
    return {
        "configuration": {name: repr(value) for name, value in tried.subject.keywords.items()},
        "good": tried.good,
        "cases": tried.cases,
        "laws": [
            {"law": o.law.name, "status": o.status, "cases": o.cases, "reason": o.reason}
            | ({"crash": crashes[o.crash.key]} if o.crash else {})
            for o in tried.outcomes
        ],
    }


def _crash(crash: Crash) -> dict[str, Any]:
    return {
        "type": crash.type,
        "message": crash.message,
        "place": crash.place,
        "subject": crash.subject,
        "event_shape": crash.event_shape,
        "dtype": crash.dtype,
        "case": crash.case,
        "hint": crash.hint,
        "traceback": crash.frames,
    }
