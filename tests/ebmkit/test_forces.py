"""The metric ``force``: the mean of ‖∇E‖ at the negatives of a step that is recorded."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch
from ebmkit.forces import mean_force

SPEC: dict[str, Any] = {
    "model": {"use": "mlp", "hidden": [16]},
    "sampler": {"use": "langevin", "step_size": 0.01},
    "loss": {"use": "pcd", "k_steps": 2, "buffer_size": 64},
    "dataset": {"use": "two-moons"},
    "training": {"steps": 10, "batch_size": 32, "optimizer": {"use": "sgd", "lr": 0.1}},
    "evaluation": {"n_samples": 50, "chain_steps": 2},
}


class Draws(NamedTuple):
    negatives: Tensor
    condition: Tensor | None


class Given:
    """A loss whose negatives are given."""

    def __init__(self, draws: Any) -> None:
        self.draws = draws

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> None:
        return None

    def draw(
        self, model: Any, batch: Batch, state: None, step: int, *, generator: torch.Generator
    ) -> Any:
        return self.draws, None

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        return ebmkit.bind(model, batch.condition)(batch.x).mean(), {}


class Bowl(nn.Module):
    """E(x | c) = s (1 + c) ‖x‖² / 2 over all numbers of an event, so that ‖∇E‖ = s (1 + c) ‖x‖."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        steep = self.scale if condition is None else self.scale * (1 + condition)
        return steep * x.square().flatten(1).sum(1) / 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(loss: Any, model: Any, batch: Any) -> dict[str, Tensor]:
    return ebmkit.objective(loss, model, generator=seeded())(batch, force=True).metrics


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_a_gaussian(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(40, *shape, generator=seeded(), dtype=dtype)
    model = Bowl().to(dtype)
    found = told(Given(Draws(x, None)), model, torch.zeros(5, *shape, dtype=dtype))
    torch.testing.assert_close(found["force"], 3 * x.flatten(1).norm(dim=1).mean())
    assert found["force"].dtype == dtype and not found["force"].requires_grad
    assert model.scale.grad is None and model.scale.requires_grad


def test_by_a_formula_and_of_events_of_one_number() -> None:
    gaussian = ebmkit.create(
        "model", "gaussian", mean=[1.0, -1.0], covariance=[[4.0, 0.0], [0.0, 0.25]]
    )
    x = torch.randn(40, 2, generator=seeded())
    gradient = (x - torch.tensor([1.0, -1.0])) / torch.tensor([4.0, 0.25])
    torch.testing.assert_close(mean_force(gaussian, x), gradient.norm(dim=1).mean())
    numbers = torch.tensor([1.0, -2.0, 6.0])
    torch.testing.assert_close(mean_force(lambda x: x.square() / 2, numbers), torch.tensor(3.0))


def test_of_a_conditional_model_at_the_negatives_conditions() -> None:
    x = torch.randn(4, 2, generator=seeded())
    condition = torch.tensor([0.0, 1.0, 2.0, 7.0])
    batch = Batch(torch.zeros(3, 2), torch.ones(3))
    expected = (3 * (1 + condition) * x.norm(dim=1)).mean()
    found = told(Given(Draws(x, condition)), Bowl(), batch)
    torch.testing.assert_close(found["force"], expected)
    # Conditions that the draws do not tell are not made up.
    assert "force" not in told(Given(Draws(x, None)), Bowl(), batch)


def test_it_is_asked_for() -> None:
    objective = ebmkit.objective(Given(Draws(torch.ones(4, 2), None)), Bowl())
    assert "force" not in objective(torch.zeros(3, 2)).metrics


def test_not_of_discrete_states() -> None:
    states = torch.randint(2, (20, 6), generator=seeded()).float()
    rbm = ebmkit.create("model", "rbm", event_shape=[6], n_hidden=3)
    assert "force" not in told(Given(Draws(states, None)), rbm, states)
    sampler = ebmkit.create("sampler", "gibbs-with-gradients")
    found = told(ebmkit.create("loss", "cd", sampler=sampler, k_steps=2), Bowl(), states)
    assert "force" not in found and "acceptance_rate" in found
    whole = Given(Draws(states.long(), None))
    assert "force" not in told(whole, lambda x: x.float().sum(1), states)


def test_not_of_losses_without_negatives() -> None:
    loss = ebmkit.create("loss", "dsm", sigma=0.1)
    assert "force" not in told(loss, Bowl(), torch.randn(8, 2, generator=seeded()))
    empty = Given(Draws(torch.zeros(0, 2), None))
    assert "force" not in told(empty, Bowl(), torch.zeros(8, 2))


def refusing(x: Tensor) -> Tensor:
    if x.requires_grad:
        raise TypeError("an energy of something else")
    return x.sum(1)


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: x.detach().sum(1),
        lambda x: x.sum(),
        lambda x: x.sum(1).long(),
    ],
)
def test_none_of_an_energy_without_a_gradient(energy: Any) -> None:
    state = torch.get_rng_state()
    assert mean_force(energy, torch.zeros(3, 2)) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("energy", "said"),
    [
        # Forward works, and backward does not.
        (lambda x: torch.special.gammainc(x + 1, torch.ones_like(x)).sum(1), "energy .*Error"),
        (refusing, "energy refusing: TypeError: an energy of something else"),
    ],
)
def test_where_it_cannot_be_computed_that_is_said_once(energy: Any, said: str) -> None:
    objective = ebmkit.objective(Given(Draws(torch.zeros(3, 2), None)), energy)
    with pytest.warns(RuntimeWarning, match=f"the metric force is left out.*{said}"):
        assert "force" not in objective(torch.zeros(4, 2), force=True).metrics
    assert "force" not in objective(torch.zeros(4, 2), force=True).metrics


class Noisy(nn.Module):
    """A network that draws global numbers whatever its mode, and one whose statistics move."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(2, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 1), nn.Flatten(0)
            )

    def forward(self, x: Tensor) -> Tensor:
        energies: Tensor = self.layers(x + 0.01 * torch.randn(x.shape))
        return energies


@pytest.mark.parametrize("loss", ["cd", "pcd"])
def test_training_is_the_same_to_the_bit(loss: str) -> None:
    def trained(log_every: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        torch.manual_seed(1)
        pipeline = ebmkit.compose(
            SPEC,
            model=Noisy(),
            loss={"use": loss, "k_steps": 2},
            **{"training.log_every": log_every, "training.steps": 7},
        )
        metrics = [dict(pipeline.train_step()) for _ in range(6)]
        model = pipeline.trainer.module
        assert model is not None
        kept = [t.clone() for t in model.state_dict().values()]
        generators = [g.get_state() for g in map(pipeline.generator, ("loss", "data"))]
        return [*kept, *generators, torch.get_rng_state()], metrics

    always, with_force = trained(1)
    never, without = trained(1000)
    assert all("force" in metrics for metrics in with_force)
    assert not any("force" in metrics for metrics in without)
    for one, other in zip(always, never, strict=True):
        assert torch.equal(one, other)
    for metrics, others in zip(with_force, without, strict=True):
        assert {n: float(v) for n, v in metrics.items() if n != "force"} == {
            n: float(v) for n, v in others.items()
        }


def test_it_is_that_of_the_weights_before_the_update_and_of_the_evaluating_model() -> None:
    pipeline = ebmkit.compose(SPEC, model=(model := Noisy()), **{"training.log_every": 1})
    pipeline.train_step()
    before = copy.deepcopy(model).eval()
    metrics = pipeline.train_step()
    x = pipeline.trainer.objective.state.x
    moved = x[pipeline.trainer.objective.state.age > 1]
    # Numbers that the energy draws itself move it by a hundredth.
    expected = ebmkit.energy_and_gradient(before, moved)[1].norm(dim=1).mean()
    assert len(moved) and metrics["force"] == pytest.approx(float(expected), rel=0.3)


def test_records_have_it_and_other_steps_do_without(tmp_path: Path) -> None:
    class Watching:
        seen: list[int]

        def __init__(self) -> None:
            self.seen = []

        @ebmkit.hookimpl
        def step_end(self, run: ebmkit.Run, metrics: Any) -> None:
            if "force" in metrics:
                self.seen.append(run.step)

    asked = []

    class Counted(Bowl):
        def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
            asked.append(len(x))
            return super().forward(x)

    overrides = {"training.log_every": 4, "training.compile": "off", "chains.compile": "off"}
    pipeline = ebmkit.compose(SPEC, model=Counted(), **overrides)
    counts = []
    for _ in range(10):
        asked.clear()
        pipeline.train_step()
        counts.append(len(asked))
    assert counts == [3, 3, 3, 4, 3, 3, 3, 4, 3, 4]

    watching = Watching()
    hooks = ebmkit.hooks.Hooks.installed(stated={"watching": watching})
    pipeline = ebmkit.compose(SPEC, **overrides)
    pipeline.fit(out=tmp_path / "run", hooks=hooks)
    assert watching.seen == [4, 8, 10]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    forces = [json.loads(line)["force"] for line in lines]
    assert len(forces) == 3 and all(math.isfinite(f) and f > 0 for f in forces)


def test_an_energy_bound_by_more_than_a_condition() -> None:
    def energy(x: Tensor, *, steep: float) -> Tensor:
        return steep * x.square().sum(1) / 2

    x = torch.randn(9, 2, generator=seeded())
    torch.testing.assert_close(mean_force(partial(energy, steep=2.0), x), 2 * x.norm(dim=1).mean())
