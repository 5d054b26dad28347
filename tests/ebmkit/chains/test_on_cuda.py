"""Chains on a CUDA device are recorded as graphs, and are the chains that eager steps make.

Collected only where there is such a device; ``test_capture.py`` has what needs none.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.chains import run_chain
from ebmkit.chains.conduct import Conduct, conducted

from .conftest import Net, cliff
from .test_graphs import SAMPLERS, sampler_of

CUDA = torch.device("cuda")
# What torch says where a thread of its own is the first to call cuBLAS.
pytestmark = pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator(CUDA).manual_seed(seed)


def points(n: int = 12, size: int = 2) -> Tensor:
    return torch.randn(n, size, generator=seeded(1), device=CUDA)


def ways(sampler: Any, model: Any, steps: int, **keywords: Any) -> dict[str, Any]:
    """Chains by how they are compiled; what was compiled was recorded too, and nothing fell back."""
    found = {}
    for mode in ("off", "step", "chunk"):
        conduct = Conduct(compile=mode)  # type: ignore[arg-type]
        with warnings.catch_warnings(), conducted(conduct):
            warnings.simplefilter("error", ebmkit.CompileWarning)
            found[mode] = run_chain(
                sampler, model, points(), steps=steps, generator=seeded(2), **keywords
            )
        assert conduct.decision.endswith("CUDA graph") or mode == "off", conduct.decision
    return found


def alike(found: dict[str, Any], tolerance: float = 1e-4) -> None:
    for mode in ("step", "chunk"):
        torch.testing.assert_close(
            found[mode].x,
            found["off"].x,
            rtol=tolerance,
            atol=tolerance,
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_recorded_and_eager_chains_agree_to_rounding(name: str) -> None:
    found = ways(sampler_of(name), Net().to(CUDA), 33)
    alike(found)
    assert not torch.equal(found["off"].x, points())


def test_a_formula_of_its_own_for_the_gradient() -> None:
    model = ebmkit.create("model", "mlp", event_shape=(2,), hidden=[16]).to(CUDA)
    alike(ways(sampler_of("langevin"), model, 23))


def test_trajectories_are_copied_out_of_the_graph_before_it_runs_again() -> None:
    found = ways(sampler_of("mala"), Net().to(CUDA), 31, trajectory=True, thin=4, warm_up=7)
    for mode in ("step", "chunk"):
        kept, expected = found[mode].trajectory, found["off"].trajectory
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-4)
        for name, value in found["off"].metrics.items():
            torch.testing.assert_close(found[mode].metrics[name], value, rtol=1e-3, atol=1e-4)


def test_weights_are_read_where_they_are() -> None:
    net, sampler = Net().to(CUDA), sampler_of("langevin")
    before = ways(sampler, net, 10)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    after = ways(sampler, net, 10)
    alike(after)
    assert not torch.allclose(before["chunk"].x, after["chunk"].x)
    net.last.weight = nn.Parameter(net.last.weight.detach() * -3)  # elsewhere in memory
    alike(ways(sampler, net, 10))


def test_convolutions() -> None:
    options = {"event_shape": (3, 16, 16), "channels": [16, 32]}
    model = ebmkit.create("model", "conv", **options).to(CUDA)
    x = torch.randn(4, 3, 16, 16, generator=seeded(), device=CUDA)
    found = [
        ebmkit.sample(
            sampler_of("langevin"),
            model,
            x,
            steps=20,
            generator=seeded(2),
            compile=mode,  # type: ignore[arg-type]
        )
        for mode in ("off", "chunk")
    ]
    # Convolutions take products of ten bits of mantissa by default.
    torch.testing.assert_close(*found, rtol=1e-2, atol=1e-2)


class Cliff(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return cliff(x)


@pytest.mark.parametrize("policy", ["freeze", "restart"])
def test_chains_that_diverge_are_counted(policy: str) -> None:
    start = points(200)
    start[:, 0].clamp_(max=1.0)
    count = "chains_frozen" if policy == "freeze" else "chains_restarted"
    found = []
    for mode in ("off", "chunk"):
        conduct = Conduct(
            compile=mode,  # type: ignore[arg-type]
            on_divergence=policy,  # type: ignore[arg-type]
            starts=lambda n, *_: start[:n],
        )
        with conducted(conduct):
            chain = run_chain(
                ebmkit.create("sampler", "langevin", step_size=0.5),
                Cliff(),
                start,
                steps=20,
                generator=seeded(3),
            )
        assert chain.x.isfinite().all()
        found.append(float(chain.metrics[count]))
    assert min(found) > 10
    if policy == "freeze":
        assert found[0] == found[1]


def test_moments_of_a_gaussian() -> None:
    """20,000 chains: means and variances within five standard errors, a false alarm in 400,000 runs."""
    model = ebmkit.create(
        "model", "gaussian", mean=[1.0, -2.0], covariance=[[1.0, 0.6], [0.6, 2.0]]
    )
    sampler = ebmkit.create("sampler", "mala", step_size=0.5)
    x = torch.zeros(20_000, 2, device=CUDA)
    x = ebmkit.sample(
        sampler, model.to(CUDA), x, steps=300, generator=seeded(4), compile="chunk"
    ).double()
    n = len(x)
    for i, (mean, variance) in enumerate([(1.0, 1.0), (-2.0, 2.0)]):
        assert abs(float(x[:, i].mean()) - mean) < 5 * (variance / n) ** 0.5
        assert abs(float(x[:, i].var()) - variance) < 5 * variance * (2 / n) ** 0.5


def test_training_by_recorded_chains_is_training_by_eager_ones() -> None:
    spec = {
        "model": {"use": "mlp", "hidden": [16]},
        "sampler": {"use": "langevin", "step_size": 0.01},
        "loss": {"use": "pcd", "sampler": "@sampler", "k_steps": 8, "buffer_size": 64},
        "dataset": {"use": "two-moons"},
        "training": {"steps": 6, "batch_size": 16, "seed": 1, "device": "cuda"},
        "evaluation": {"n_samples": 50, "chain_steps": 5},
    }
    found = []
    for chains, loss in (("off", "off"), ("chunk", "off"), ("chunk", "on")):
        pipeline = ebmkit.compose(spec, **{"chains.compile": chains, "training.compile": loss})
        pipeline.fit()
        module = pipeline.model
        assert isinstance(module, nn.Module)
        found.append([p.detach() for p in module.parameters()])
        said = pipeline.trainer.objective.conduct.decision
        assert said.endswith("CUDA graph") == (chains == "chunk"), said
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-4)
