"""Every example runs, with few steps, and does what it says."""

from __future__ import annotations

import functools
import json
import math
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmkit

EXAMPLES = Path(__file__).parents[2] / "examples"
PIPELINES = sorted(EXAMPLES.glob("*.toml"))
TESTED = {
    "01_contrastive_divergence.py",
    "02_persistent.py",
    "03_schedulers.py",
    "04_complete_training.py",
    "05_compose.py",
    "08_score_matching.py",
    "09_sliced_and_denoising.py",
}


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Collects the step size and noise scale of every Langevin step."""
    kind = type(ebmkit.create("sampler", "langevin"))
    original = kind.step
    values: list[tuple[float, float]] = []

    @functools.wraps(original)
    def step(*args: Any, step_size: float, noise_scale: float) -> Any:
        values.append((step_size, noise_scale))
        return original(*args, step_size=step_size, noise_scale=noise_scale)

    monkeypatch.setattr(kind, "step", step)
    return values


def test_every_script_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_contrastive_divergence(used: list[tuple[float, float]]) -> None:
    torch.manual_seed(0)
    names = load("01_contrastive_divergence.py")
    first = torch.nn.utils.parameters_to_vector(names["BoundedNetwork"](2).parameters())
    torch.manual_seed(0)
    model, output = names["main"](k_steps=10, batch_size=128)
    changed = torch.nn.utils.parameters_to_vector(model.parameters()).cpu()
    assert output.loss.isfinite()
    assert output.negatives.shape == (128, 2)
    assert not output.negatives.requires_grad
    assert used == [(0.1, 1.0)] * 10
    # The head's bias adds the same to both halves of the batch, so its gradient may vanish.
    assert (changed != first).double().mean() > 0.9
    assert model(10 * torch.randn(500, 2, device=output.negatives.device)).abs().max() <= 1


def test_persistent() -> None:
    objective, output = load("02_persistent.py")["main"](steps=8, buffer_size=256)
    assert output.loss.isfinite()
    assert output.negatives.shape == (128, 2)
    assert objective.state.x.shape == (256, 2)
    assert objective.step == 8
    # Each negative of the last step stands in a slot of its own.
    same = (objective.state.x[:, None] == output.negatives[None]).all(-1)
    assert same.any(0).all() and same.sum() == 128
    # Chains go on: slots were moved several times since they last restarted.
    assert objective.state.age.max() > 1


def test_schedulers(used: list[tuple[float, float]]) -> None:
    losses = load("03_schedulers.py")["main"](steps=5, k_steps=4)
    assert all(math.isfinite(loss) for loss in losses.values())
    training, chain = used[:20], used[20:]
    assert len(chain) == 20

    def cosine(t: int, n: int, a: float, b: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * t / (n - 1))) / 2

    for step in range(5):
        expected = cosine(step, 5, 3e-2, 5e-3), cosine(step, 5, 3e-1, 1e-2)
        # Constant along a chain on the training clock, …
        assert training[4 * step : 4 * step + 4] == [pytest.approx(expected)] * 4
        # … and the same along every chain on the chain's, spread over its four steps.
        for k, values in enumerate(chain[4 * step : 4 * step + 4]):
            linear = 3e-1 + (1e-2 - 3e-1) * k / 3
            assert values == pytest.approx((cosine(k, 4, 3e-2, 5e-3), linear))


def test_complete_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names = load("04_complete_training.py")
    first = torch.nn.utils.parameters_to_vector(names["Network"](2, 16).parameters())
    torch.manual_seed(0)
    model, history = names["main"](epochs=2, out=tmp_path / "loss.png", width=16)
    changed = torch.nn.utils.parameters_to_vector(model.parameters()).cpu()
    assert len(history) == 2 and all(map(math.isfinite, history))
    assert (changed != first).double().mean() > 0.9
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "epoch 2/2" in capsys.readouterr().out


def test_compose(tmp_path: Path) -> None:
    names = load("05_compose.py")
    # Points in place of the moons, whose density would be integrated for longer than all the rest.
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    small = {"evaluation": {"n_samples": 50, "chain_steps": 5}, "dataset": points}
    pipeline = names["main"](steps=3, out=tmp_path / "run", **small)
    assert pipeline.step == 3
    assert pipeline.sample(7).shape == (7, 2)
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"spec.toml", "metrics.jsonl", "checkpoints", "samples.png", "training.png"} <= kept
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["step"] == 3

    pipeline = ebmkit.compose(names["PIPELINE"], training={"steps": 2})
    assert pipeline.train_step()["loss"].isfinite()
    assert len(pipeline.dataset) == 3000


def test_score_matching(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    _, history = load("08_score_matching.py")["main"](epochs=4)
    assert len(history) == 4 and all(map(math.isfinite, history))
    assert history[-1] < history[0] < 1
    assert "epoch 4/4" in capsys.readouterr().out


def test_sliced_and_denoising() -> None:
    names = load("09_sliced_and_denoising.py")
    errors = names["main"](steps=150)
    assert set(errors) == set(names["LOSSES"])
    # A score of zero everywhere would be off by E‖x‖ = √(π/2) = 1.25.
    assert all(error < 0.4 for error in errors.values())


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_pipelines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    pipeline = ebmkit.compose(path)
    metrics = [pipeline.train_step() for _ in range(3)]
    assert all(m["loss"].isfinite() for m in metrics)
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert pipeline.dataset.event_shape == (2,)
    assert pipeline.tables["model"]["use"] == written["model"]["use"]


def test_own_data_keeps_rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    pipeline = ebmkit.compose(EXAMPLES / "07_own_data.toml")
    assert len(pipeline.dataset) == 480
    assert len(pipeline.dataset.held_out_batch.x) == 120
