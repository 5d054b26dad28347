"""The chain runner: schedules by their clock, trajectories, purity, the divergence guard."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
import pytest
import torch
from attrs import field
from attrs.validators import gt
from torch import Tensor, nn

import ebmkit
from ebmkit import scheduled
from ebmkit.chains import run_chain


class Where(NamedTuple):
    x: Tensor


@attrs.frozen
class Recorder:
    """Adds its scheduled rate at each step, and keeps the rates it was given."""

    rate: Any = field(default=1.0, validator=scheduled(gt(0)))
    seen: list[float] = field(factory=list)

    def init(self, energy: Any, x: Tensor) -> Where:
        return Where(x)

    def draw(self, state: Where, *, generator: torch.Generator) -> None:
        return None

    def step(
        self, energy: Any, state: Where, noise: None, *, rate: float
    ) -> tuple[Where, dict[str, Tensor]]:
        self.seen.append(rate)
        return Where(state.x + rate), {"rate": torch.tensor(rate)}


def flat(x: Tensor) -> Tensor:
    return 0 * x.sum(1)


def run(sampler: Any, steps: int, **keywords: Any) -> Any:
    x = torch.zeros(3, 2)
    return run_chain(sampler, flat, x, steps=steps, generator=torch.Generator(), **keywords)


def test_a_schedule_on_the_chains_clock_is_spread_over_the_chain() -> None:
    linear = ebmkit.create("scheduler", "linear", start_value=10.0, end_value=1.0, clock="chain")
    sampler = Recorder(linear)
    run(sampler, 10)
    assert sampler.seen == pytest.approx([10, 9, 8, 7, 6, 5, 4, 3, 2, 1])
    run(sampler, 4)
    assert sampler.seen[10:] == pytest.approx([10, 7, 4, 1])


def test_a_schedule_that_the_chain_would_cut_is_refused() -> None:
    linear = ebmkit.create(
        "scheduler", "linear", start_value=10.0, end_value=1.0, n_steps=100, clock="chain"
    )
    with pytest.raises(ValueError, match="stated for 100 chain steps but the chain runs 10"):
        run(Recorder(linear), 10)


def test_a_schedule_on_the_training_clock_stands_still_within_a_chain() -> None:
    linear = ebmkit.create("scheduler", "linear", start_value=11.0, end_value=1.0, n_steps=11)
    sampler = Recorder(linear)
    run(sampler, 3, training_step=4)
    assert sampler.seen == pytest.approx([7.0] * 3)


def test_metrics_are_means_over_the_steps_and_trajectories_are_thinned() -> None:
    linear = ebmkit.create("scheduler", "linear", start_value=1.0, end_value=6.0, clock="chain")
    chain = run(Recorder(linear), 6, trajectory=True, thin=2)
    assert chain.metrics["rate"] == pytest.approx(3.5)
    assert chain.trajectory.shape == (3, 3, 2)
    assert chain.trajectory[:, 0, 0].tolist() == [3, 10, 21]
    torch.testing.assert_close(chain.trajectory[-1], chain.x)


def test_no_steps_leave_the_points_where_they_are() -> None:
    chain = run(Recorder(), 0, trajectory=True)
    assert chain.trajectory.shape == (0, 3, 2)
    assert (chain.x == 0).all()


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"steps": 1, "thin": 0}, {"steps": 4, "thin": 2}])
def test_refuses_wrong_numbers_of_steps(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"steps|thin"):
        run(Recorder(), **wrong)


def test_sampling_leaves_model_parameters_and_global_randomness_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)
    )
    torch.set_rng_state(before)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model[2].eval()
    for name in ("langevin", "mala"):
        sampler = ebmkit.create("sampler", name, step_size=0.01)
        first = ebmkit.sample(
            sampler, model, x, steps=5, generator=torch.Generator().manual_seed(2)
        )
        again = ebmkit.sample(
            sampler, model, x, steps=5, generator=torch.Generator().manual_seed(2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, ebmkit.sample(sampler, model, x, steps=5))
        assert not first.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, False, True, True]
    assert torch.equal(before, torch.get_rng_state())


def test_the_guard_counts_chains_that_are_not_finite() -> None:
    def energy(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, torch.nan, 1.0) * x.square().sum(1)

    sampler = ebmkit.create("sampler", "langevin", step_size=1e-6)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(ebmkit.DivergenceError, match="2 of 3 chains") as caught:
        ebmkit.sample(sampler, energy, x, steps=3)
    assert caught.value.chains == 2


def test_a_metropolis_chain_stuck_at_a_nan_energy_is_not_passed_over() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.1)
    x = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ebmkit.DivergenceError, match="1 of 2 chains"):
        ebmkit.sample(
            sampler, lambda x: torch.where(x[:, 0] > 0.9, torch.nan, 1.0) * x[:, 0], x, steps=3
        )


def test_a_schedule_that_only_the_judging_chains_would_cut_is_found_before_training() -> None:
    schedule = {"use": "linear", "start_value": 0.02, "end_value": 0.01, "clock": "chain"}
    spec: dict[str, Any] = {
        "model": {"use": "mlp", "hidden": [4]},
        "sampler": {"use": "langevin", "step_size": {**schedule, "n_steps": 8}},
        "loss": {"use": "cd", "k_steps": 8},
        "dataset": {"use": "two-moons"},
        "evaluation": {"chain_steps": 5, "n_samples": 10},
    }
    with pytest.raises(
        ebmkit.SpecError, match=r"evaluation\.chain_steps: sampler\.step_size: .* 8"
    ):
        ebmkit.compose(spec)
    pipeline = ebmkit.compose(spec, evaluation={"chain_steps": 8})
    assert pipeline.sample(4).shape == (4, 2)
    with pytest.raises(ebmkit.UserError, match="stated for 8 chain steps but the chain runs 3"):
        pipeline.sample(4, steps=3)
