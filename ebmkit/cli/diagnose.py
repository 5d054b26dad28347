"""ebmkit diagnose"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmkit.cli._output import notice, table, warnings_as_notices

if TYPE_CHECKING:
    from ebmkit.diagnostics import Diagnosis

DIAGNOSIS, METRICS = "diagnosis.json", "metrics.jsonl"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--chains", type=click.IntRange(min=2), default=16, show_default=True)
@click.option(
    "--steps",
    type=click.IntRange(min=4),
    default=2000,
    show_default=True,
    help="Steps of each chain after its warm-up.",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Steps before, which are not judged.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws; the run's by default.")
@click.option("--json", "as_json", is_flag=True, help="What was found as JSON.")
def command(
    run: Path, chains: int, steps: int, warm_up: int, seed: int | None, as_json: bool
) -> None:
    """Say whether a run's sampler arrives at its model's distribution, and how training went.

    Chains are converged where every R̂ is below 1.01 and every effective sample size above 400. What was
    found is kept in the run's directory, as diagnosis.json and diagnosis.png.
    """
    import json

    from ebmkit.diagnostics import diagnose
    from ebmkit.files import write_atomically
    from ebmkit.hooks import Hooks
    from ebmkit.loading import load
    from ebmkit.seeds import stream

    pipeline = load(run)
    hooks = Hooks.installed(stated=pipeline.hooks)
    for line in hooks.left_out:
        notice(f"left out: {line}")
    with warnings_as_notices():
        found = diagnose(
            pipeline,
            chains=chains,
            steps=steps,
            warm_up=warm_up,
            metrics=_records(run / METRICS),
            generator=None if seed is None else stream(seed, "diagnosis", pipeline.device),
        )
    said = json.dumps({"step": pipeline.step, **found.as_dict()}, indent=2, allow_nan=False)
    write_atomically(run / DIAGNOSIS, (said + "\n").encode())
    hooks.diagnosis_done(run, found)
    if as_json:
        click.echo(said)
        return
    table(["number", "worst", "median", "energy"], _spreads(found))
    click.echo()
    table(["number", "value"], _numbers(found))
    for note in found.notes:
        notice(note)
    click.echo(f"\n{found.verdict}: {found.reason}")


def _records(path: Path) -> list[dict[str, Any]]:
    """What a metrics writer kept, where there is one; a line that was torn is left out."""
    import json

    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _spreads(found: Diagnosis) -> list[list[str]]:
    rows = []
    for name, spread, digits in (
        ("R̂", found.r_hat, ".4f"),
        ("bulk ESS", found.ess_bulk, ".0f"),
        ("tail ESS", found.ess_tail, ".0f"),
    ):
        if spread is not None:
            values = (spread.worst, spread.median, spread.energy)
            rows.append([name, *(format(value, digits) for value in values)])
    return rows


def _numbers(found: Diagnosis) -> list[list[str]]:
    rows = [
        ["chains", str(found.chains)],
        ["steps", f"{found.steps} after {found.warm_up}, every {found.thin} kept"],
    ]
    if found.mean_energy is not None:
        error = found.mean_energy_error
        rows.append(["mean energy", f"{found.mean_energy:.6g} ± {error:.2g} nats"])
    for name, value in (
        ("acceptance rate", found.acceptance_rate),
        ("ESS per second", found.ess_per_second),
        ("least E-BFMI", None if found.e_bfmi is None else min(found.e_bfmi)),
    ):
        if value is not None:
            rows.append([name, f"{value:.4g}"])
    if found.still_numbers:
        rows.append(["numbers that never change", str(found.still_numbers)])
    if found.drift is not None:
        drift = found.drift
        rows.append(
            [
                f"drift from step {drift.short_steps} to {drift.long_steps}",
                f"{drift.drift:.4g} ± {drift.standard_error:.2g} nats",
            ]
        )
    if found.training is not None:
        training = found.training
        rows.append(
            [
                "training, later half",
                f"{training.tendency}: E(data) − E(chains) {training.energy_difference:.4g} nats in "
                f"the mean, below 0 in {training.expanding:.0%} of records",
            ]
        )
        if training.force_growth is not None:
            rows.append(
                [
                    "training, force",
                    f"{training.force:.4g}, {training.force_growth:.3g} times before",
                ]
            )
    return rows
