"""ebmkit diagnose: its table, its JSON, the files that it leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
WITHOUT_SAMPLER = """
[model]
use = "mlp"
[loss]
use = "dsm"
sigma = 0.3
[dataset]
use = "two-moons"
[training]
device = "cpu"
"""
PLAIN = ("--no-plugin", "ebmkit-core:pictures", "diagnose")
QUICK = ("--chains", 4, "--steps", 40, "--warm-up", 10)


@pytest.fixture
def run(trained: Any, tmp_path: Path) -> Path:
    """A run of its own, trained for a moment."""
    copied = tmp_path / "run"
    shutil.copytree(trained[0], copied)
    return copied


def strict(text: str) -> Any:
    """JSON without NaN and Infinity, which are none of its tokens."""

    def refuse(token: str) -> None:
        raise AssertionError(token)

    return json.loads(text, parse_constant=refuse)


def test_a_table_and_the_verdict(run: Path, cli: Command) -> None:
    said = cli(*PLAIN, run, *QUICK)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in lines if "\t" in line}
    assert {"R̂", "bulk ESS", "tail ESS"} <= set(rows)
    assert all(len(rows[name]) == 3 for name in ("R̂", "bulk ESS", "tail ESS"))
    assert rows["chains"] == ["4"]
    assert rows["steps"] == ["40 after 10, every 1 kept"]
    found = strict((run / "diagnosis.json").read_text(encoding="utf-8"))
    assert lines[-1] == f"{found['verdict']}: {found['reason']}"
    assert found["step"] == 12
    # Four chains of forty steps have no effective sample size of 400.
    assert found["verdict"] == "not yet"


def test_json_is_what_is_kept(run: Path, cli: Command) -> None:
    said = cli("diagnose", run, *QUICK, "--json")
    assert said.code == 0, said.err
    kept = (run / "diagnosis.json").read_text(encoding="utf-8")
    assert strict(said.out) == strict(kept)
    assert (run / "diagnosis.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed(run: Path, cli: Command) -> None:
    told = [strict(cli(*PLAIN, run, *QUICK, "--json", "--seed", seed).out) for seed in (1, 1, 2)]
    energies = [found["mean_energy"] for found in told]
    assert energies[0] == energies[1] != energies[2]


def test_training_is_told_from_what_the_metrics_writer_kept(run: Path, cli: Command) -> None:
    records = [{"step": i, "energy_gap": 0.5, "force": 2.0} for i in range(20)]
    lines = [json.dumps(record) for record in records]
    (run / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 20, "energ']) + "\n")
    found = strict(cli(*PLAIN, run, *QUICK, "--json").out)
    assert found["training"] == {
        "records": 10,
        "energy_difference": -0.5,
        "expanding": 1.0,
        "tendency": "expansion",
        "force": 2.0,
        "force_growth": 1.0,
    }
    assert "expansion: E(data) − E(chains) -0.5 nats" in cli(*PLAIN, run, *QUICK).out
    (run / "metrics.jsonl").unlink()
    assert strict(cli(*PLAIN, run, *QUICK, "--json").out)["training"] is None


def test_chains_that_diverge_are_a_verdict(run: Path, cli: Command) -> None:
    assert cli("diagnose", run, *QUICK).code == 0
    assert (run / "diagnosis.png").is_file()
    spec = run / "spec.toml"
    text = spec.read_text(encoding="utf-8")
    changed = text.replace('use = "mala"\nstep_size = 0.05', 'use = "langevin"\nstep_size = 1e30')
    assert changed != text
    spec.write_text(changed, encoding="utf-8")
    said = cli("diagnose", run, *QUICK, "--json")
    assert said.code == 0, said.err
    found = strict(said.out)
    assert found["verdict"] == "diverging"
    assert "not finite" in found["reason"]
    assert found["r_hat"] is None
    # The picture of the earlier diagnosis does not stay to be taken for this one's.
    assert not (run / "diagnosis.png").exists()
    table = cli(*PLAIN, run, *QUICK)
    assert table.code == 0
    assert table.out.splitlines()[-1].startswith("diverging: ")


def test_without_the_picture(run: Path, cli: Command) -> None:
    said = cli(*PLAIN, run, *QUICK)
    assert said.code == 0
    assert (run / "diagnosis.json").is_file()
    assert not (run / "diagnosis.png").exists()


def test_a_run_without_a_sampler(cli: Command, tmp_path: Path) -> None:
    settings = {
        "training.steps": 2,
        "training.batch_size": 16,
        "model.hidden": [8],
        "evaluation.n_samples": 20,
        "evaluation.chain_steps": 2,
    }
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    spec, out = tmp_path / "sm.toml", tmp_path / "run"
    spec.write_text(WITHOUT_SAMPLER, encoding="utf-8")
    done = cli(*PLAIN[:2], "train", spec, "--out", out, *words)
    assert done.code == 0, done.err
    said = cli("diagnose", out, *QUICK)
    assert said.code == 2
    assert said.errors == ["the pipeline has no [sampler] to diagnose; add one"]
    assert not (out / "diagnosis.json").exists()


@pytest.mark.parametrize(
    "words", [("--chains", 1), ("--steps", 3), ("--warm-up", -1), ("--seed", -1), ("--thin", 2)]
)
def test_words_that_do_not_fit(words: tuple[object, ...], run: Path, cli: Command) -> None:
    said = cli("diagnose", run, *words)
    assert said.code == 2
    assert said.err


def test_where_there_is_no_run(cli: Command, tmp_path: Path) -> None:
    said = cli("diagnose", tmp_path)
    assert said.code == 2
    assert "holds no run" in said.errors[0]
