"""The page on losses shows all that was measured, under the settings that are in the benchmark."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def benchmark(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import which_loss

    return which_loss


@pytest.fixture
def report(benchmark: Any) -> Any:
    import _which_loss_report

    return _which_loss_report


@pytest.fixture
def measured(report: Any, benchmark: Any) -> Any:
    return report.Measured(benchmark.RESULTS)


def test_every_run_is_there_under_the_present_settings(benchmark: Any) -> None:
    results = benchmark.Results(benchmark.RESULTS, Path("rows.csv"))
    cases = [
        case
        for part in (benchmark.trials(), benchmark.losses(results), benchmark.tips())
        for case in (*part, *benchmark.paces(results))
    ]
    missing = {case.key for case in cases if results.figures(case) is None}
    assert not missing
    assert set(results.cases) == {case.key for case in cases}


def test_tables_are_made_of_the_figures(report: Any, measured: Any, benchmark: Any) -> None:
    for name, text in report.fragments(measured).items():
        written = (benchmark.RESULTS.parent / name).read_text(encoding="utf-8")
        assert written == text, f"{name}: python benchmarks/which_loss.py --report writes it anew"


def test_the_page_shows_all_of_them(report: Any, measured: Any, root: Path) -> None:
    page = (root / "docs" / "which-loss.md").read_text(encoding="utf-8")
    for name in [*report.fragments(measured), *report.PICTURES]:
        assert f"measurements/{name}" in page
        assert (root / "docs" / "measurements" / name).is_file()


def test_what_the_page_says_of_losses_is_so(report: Any, measured: Any) -> None:
    def middle(data: str, loss: str, of: Any) -> float:
        return statistics.median(of(run) for run in measured.seeds(data, loss))

    moons, gaussians = (
        {loss: middle(data, loss, report.kl) for loss in report.LOSSES}
        for data in ("two moons", "eight Gaussians")
    )
    assert max(moons["CD"], moons["PCD"]) < moons["DSM"] < min(moons["SM"], moons["SSM"])
    assert max(gaussians.values()) == gaussians["PCD"] < 0.1
    forest, energy, test = (report.MEASURES[name] for name in ("forest", "energy", "test loss"))
    wine = {loss: middle("wine", loss, forest) for loss in report.LOSSES}
    assert max(wine["CD"], wine["PCD"]) < min(wine["SM"], wine["SSM"], wine["DSM"])
    assert max(middle("digits", loss, energy) for loss in report.LOSSES) == middle(
        "digits", "DSM", energy
    )
    losses = {loss: middle("digits", loss, test) for loss in [*report.LOSSES, report.BASELINE]}
    assert min(losses.values()) == losses["DSM"]
    assert losses["PCD"] > losses[report.BASELINE] > losses["SM"]
    for data in report.DATA:
        pace = measured.pace(data)
        assert min(pace.values()) == pace["DSM"]
    pace = measured.pace("digits")
    assert 4 < pace["SM"] / pace["SSM"] < 6


def test_what_the_page_says_of_tips_is_so(report: Any, measured: Any) -> None:
    def middle(tip: str, setting: str, lr: float) -> float:
        runs = measured.of("tip", tip=tip, setting=setting, lr=lr)
        return statistics.median(report.kl(run) for run in runs if "reason" not in run)

    good, large = report.TIP_RATES
    plain = middle(*report.PLAIN, good), middle(*report.PLAIN, large)
    assert middle("1 L2 on energies", "weight 0.01", large) < plain[1] / 5
    assert middle("1 L2 on energies", "weight 1", good) > 5 * plain[0]
    assert middle("3 learning rate", "falling to 0 by a cosine", large) < plain[1] / 5
    assert middle("3 learning rate", "a tenth", good) > 1.5 * plain[0]
    assert middle("4 sampling steps", "k = 1", good) > 2 * plain[0]
    assert middle("5 batch size", "32", good) > 2 * plain[0]
    assert middle("5 batch size", "1024", large) > 10 * plain[1]
    assert middle("no tip of the seven", "averaged weights (0.99)", large) < plain[1] / 4
    for setting in report.TIPS["7 watching energies"]:
        assert middle("7 watching energies", setting, large) == plain[1]
    small = [
        report.kl(run)
        for run in measured.of("tip", lr=large)
        if "reason" not in run and abs(run["energy_gap"]) < 0.5
    ]
    assert max(small) > 200


def test_spread_is_median_least_and_largest(report: Any) -> None:
    runs = [{"kl_nats": kl} for kl in (0.5, 0.1, 0.3)]
    assert report.spread(runs, report.kl) == "0.30 (0.10 to 0.50)"
    lost = [*runs, {"reason": "step 3: the loss is nan"}]
    assert report.spread(lost, report.kl) == "0.30 (0.10 to 0.50), 1 of 4 failed"
    assert report.spread(lost[3:], report.kl) == "all 1 failed"
    assert report.spread([{"kl_nats": 0.001}], report.kl) == "0.001 (0.001 to 0.001)"


def test_the_learning_rate_is_the_best_of_the_trials(benchmark: Any, tmp_path: Path) -> None:
    results = benchmark.Results(tmp_path / "results.json", Path("rows.csv"))
    kls: dict[float, dict[str, Any]] = dict(
        zip(
            benchmark.LEARNING_RATES,
            ({"kl_nats": 0.4}, {"kl_nats": 0.2}, {"reason": "nan"}),
            strict=True,
        )
    )
    for case in benchmark.trials():
        if (case.about["data"], case.about["loss"]) == ("two moons", "SM"):
            results.take(case, kls[case.about["lr"]])
    assert benchmark.best_rate(results, "two moons", "SM") == benchmark.LEARNING_RATES[1]
    again = benchmark.Results(tmp_path / "results.json", Path("rows.csv"))
    assert benchmark.best_rate(again, "two moons", "SM") == benchmark.LEARNING_RATES[1]
    with pytest.raises(SystemExit, match="SSM on wine: no learning rate"):
        benchmark.best_rate(results, "wine", "SSM")


def test_figures_of_other_settings_are_not_taken(benchmark: Any, tmp_path: Path) -> None:
    results = benchmark.Results(tmp_path / "results.json", Path("rows.csv"))
    case = next(benchmark.tips())
    results.take(case, {"kl_nats": 0.1})
    assert results.figures(case) == {"kl_nats": 0.1}
    case.spec["training"]["steps"] += 1
    assert results.figures(case) is None


@pytest.mark.parametrize(
    ("does", "keys"),
    [("train", {"kl_nats", "memory_mib", "seconds"}), ("baseline", {"kl_nats"})],
)
def test_a_run_in_a_process_of_its_own(
    benchmark: Any, root: Path, does: str, keys: set[str]
) -> None:
    spec = benchmark.loss_case("eight Gaussians", "DSM", 2e-3, 0)
    spec["training"]["steps"] = 2
    spec["evaluation"] = {"n_samples": 20, "chain_steps": 2}
    worker = root / "benchmarks" / "_which_loss_worker.py"
    asked = json.dumps({"does": does, "spec": spec, "noise": None})
    done = subprocess.run(
        [sys.executable, str(worker)], input=asked, capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    assert keys <= set(figures)
    # Of one Gaussian for eight modes: the modes are 2 nats of knowledge, less what its tails share.
    assert does == "train" or 0.5 < figures["kl_nats"] < 2.5


def test_rows_are_judged_against_a_gaussian(benchmark: Any, root: Path) -> None:
    """The baseline on Gaussian rows is the truth itself: samples are told apart by chance alone."""
    worker = root / "benchmarks" / "_which_loss_worker.py"
    spec = benchmark.loss_case("digits", "SM", 2e-3, 0)
    asked = json.dumps({"does": "baseline", "spec": spec, "noise": 3.0})
    done = subprocess.run(
        [sys.executable, str(worker)], input=asked, capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    # Under noise of 3 the digits, of a range of 2, are all but Gaussian. 360 rows against 360: the
    # standard error of an AUROC of one half is 0.022, and these are four of them.
    assert abs(figures["energy_auroc"] - 0.5) < 0.09
    assert abs(figures["told"]["perceptron"] - 0.5) < 0.09
    # E‖s‖²/2 + E tr ∇s of a Gaussian is −tr(C⁻¹)/2, with C near 9 plus the digits' variance.
    assert -64 / 18 < figures["test_loss"] < -64 / 20
