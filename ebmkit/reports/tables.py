"""The tables of a report: what the files of a run's directory say, as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebmkit.reports.reading import Checkpoint, Kept, Records
from ebmkit.reports.section import Section

MEANINGS = {
    "kl_nats": "KL(data‖model) in nats, by quadrature",
    "log_z": "log ∫ exp(−E), the model's normaliser",
    "log_z_lower": "lower bracket on log Z, by annealing",
    "log_z_upper": "upper bracket on log Z, by annealing",
    "log_likelihood": "mean log density of the data under the model, nats a row",
    "log_likelihood_lower": "the same, from the upper bracket on log Z",
    "log_likelihood_upper": "the same, from the lower bracket on log Z",
    "data_mass": "mass of the data's density on the grid",
    "outside": "the model's mass at the grid's edge",
    "energy_gap": "mean E(samples) − mean E(data)",
    "auroc": "probability that a sample's energy exceeds a data point's; 0.5 is best",
    "mmd2": "squared maximum mean discrepancy between data and samples, unbiased",
    "test_loss": "the stated loss, on the data to judge against",
    "kept_step": "training step whose weights are judged",
    "n_samples": "chains drawn to judge",
    "chain_steps": "steps of each of them",
}
"""Of the evaluation's numbers."""
ERRORS = {"kl_nats": "kl_error"}
"""Where a number's error stands; of others under its own name with _error."""
SPREAD = ("worst", "median", "energy")
"""What a diagnosis says of a number for every number of the event, and for the energy."""
ASIDE = ("step", "refused")
LONGEST = 300
"""Characters of a value in a table."""


def text(value: Any) -> str:
    """A value of a file, for a person; numbers to six digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        said = ", ".join(f"{key}: {text(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        said = ", ".join(f"[{text(v)}]" if isinstance(v, list | tuple) else text(v) for v in value)
    elif isinstance(value, int) and abs(value) >= 10**18:
        return "a whole number of more than 18 digits"
    else:
        said = str(value)
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def evaluation(found: Mapping[str, Any]) -> Section | None:
    """The evaluation's numbers, each with its error and what it says."""
    rows = []
    errors = {ERRORS.get(name, f"{name}_error") for name in found} & set(found)
    for name, value in found.items():
        if name in ASIDE or name in errors:
            continue
        error = found.get(ERRORS.get(name, f"{name}_error"))
        about = f" ± {error:.2g}" if isinstance(error, int | float) else ""
        rows.append((name, text(value) + about, MEANINGS.get(name, "")))
    if not rows:
        return None
    step = found.get("step")
    after = f"After step {text(step)}." if step is not None else ""
    return Section("Evaluation", after, ("number", "value", "what it says"), rows)


def refused(found: Mapping[str, Any]) -> Iterator[str]:
    """Why numbers of the evaluation are missing."""
    reasons = found.get("refused")
    for name, reason in reasons.items() if isinstance(reasons, Mapping) else ():
        yield f"No {name}: {text(reason)}."


def diagnosis(found: Mapping[str, Any]) -> Section | None:
    """What ``ebmkit diagnose`` found."""
    if not found:
        return None
    rows: list[tuple[str, ...]] = []
    for name, value in found.items():
        if name in ("verdict", "reason", "notes", "step") or value is None:
            continue
        if not isinstance(value, Mapping):
            rows.append((name, text(value), "", ""))
        elif set(value) == set(SPREAD):
            rows.append((name, *(text(value[of]) for of in SPREAD)))
        else:
            inner = ((f"{name}: {key}", v) for key, v in value.items() if v is not None)
            rows += [(key, text(v), "", "") for key, v in inner]
    said = f"{text(found.get('verdict', 'no verdict'))}: {text(found.get('reason', ''))}"
    return Section(
        "Diagnosis of the chains", said, ("number", "value, or worst", *SPREAD[1:]), rows
    )


def metrics(found: Records) -> Section | None:
    """Where each metric began and ended, and between what it was."""
    names = dict.fromkeys(n for r in found.kept for n in r if n not in ("step", "seconds"))
    rows = []
    for name in names:
        values = [record[name] for record in found.kept if name in record]
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            numbers = (values[0], values[-1], min(finite), max(finite))
            rows.append((name, *map(text, numbers)))
        else:
            rows.append((name, *["not finite"] * 4))
    if not rows:
        return None
    first, last = (text(int(found.kept[place]["step"])) for place in (0, -1))
    said = f"{len(found.kept)} records, of steps {first} to {last}."
    return Section("Metrics in numbers", said, ("metric", "first", "last", "least", "most"), rows)


def parts(spec: Mapping[str, Any]) -> Section | None:
    """Whose each part is, by the resolved spec."""
    owners = spec.get("parts")
    if not isinstance(owners, Mapping) or not owners:
        return None
    rows = []
    for key, owner in owners.items():
        kind, _, name = key.partition(":")
        distribution, _, version = text(owner).partition("==")
        rows.append((kind, name, distribution, version))
    return Section("Parts", "", ("kind", "name", "distribution", "version"), rows)


def status(found: Mapping[str, Any]) -> Section | None:
    """All that the run says of its end."""
    rows = [(name.replace("_", " "), text(value)) for name, value in found.items() if value != ""]
    return Section("How it ran", "", ("what", "value"), rows) if rows else None


def checkpoints(found: Sequence[Checkpoint]) -> Section | None:
    """The checkpoints that are kept."""
    rows = [(c.name, str(c.step), _size(c.size)) for c in found]
    return Section("Checkpoints", "", ("file", "after step", "size"), rows) if rows else None


def ending(kept: Kept) -> str:
    """How the run ended, in a sentence or two."""
    said = kept.status
    if not said:
        return "How it ended is not known."
    word = text(said.get("status", "unknown"))
    where = f"step {text(said.get('step'))} of {text(said.get('total_steps'))}"
    reason = text(said["reason"]).rstrip(".") if said.get("reason") else ""
    if word == "running":
        return f"It has not ended: it is running still, or was killed. {_traces(kept)}"
    return f"{word.capitalize()} after {where}{f': {reason}' if reason else ''}."


def _traces(kept: Kept) -> str:
    """How far a run has come that does not say so itself."""
    record = f"step {text(int(kept.records.kept[-1]['step']))}" if kept.records.kept else "no step"
    checkpoint = f"step {kept.checkpoints[-1].step}" if kept.checkpoints else "no step"
    return f"Its last record is of {record}, its last checkpoint of {checkpoint}."


def _size(count: float) -> str:
    units = ["bytes", "kB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.3g}\N{NO-BREAK SPACE}{units[0]}"
