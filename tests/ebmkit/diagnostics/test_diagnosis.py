"""Pipelines whose chains are known to arrive, or not to."""

from __future__ import annotations

import json
import math
import time
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from torch import Tensor

import ebmkit
from ebmkit import Batch, Diagnosis, UserError

ROWS = torch.linspace(-1, 1, 1000).reshape(500, 2)
FAR = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])


def pipeline(sampler: Any = None, k_steps: int = 5, **parts: Any) -> ebmkit.Pipeline:
    """A Gaussian of mean (1, −1) and covariance 1, untrained, and data of its width."""
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(500, 2, generator=g) + torch.tensor([1.0, -1.0])
    tables: dict[str, Any] = {
        "model": {"use": "gaussian", "mean": [1.0, -1.0], "trainable": True},
        "loss": {"use": "cd", "sampler": "@sampler", "k_steps": k_steps},
        "training": {"steps": 2, "batch_size": 16, "device": "cpu", "seed": 1},
        "evaluation": {"n_samples": 50, "chain_steps": 5},
        "sampler": {"use": "mala", "step_size": 0.7} if sampler is None else sampler,
    }
    return ebmkit.compose(tables, **{"dataset": normal, **parts})


def diagnosed(made: ebmkit.Pipeline, **changes: Any) -> Diagnosis:
    return ebmkit.diagnose(made, **{"chains": 8, "steps": 400, "warm_up": 100, **changes})


class TestVerdicts:
    def test_a_gaussian_by_good_steps_is_converged(self) -> None:
        found = diagnosed(pipeline(), steps=3000)
        assert found.verdict == "converged", found.reason
        assert found.thin == 2
        assert found.trajectory is not None
        assert found.energies is not None
        assert found.trajectory.shape == (1500, 8, 2)
        assert found.energies.shape == (1500, 8)
        # The chains are right, too: E = ½ χ² of two, mean 1, at five Monte Carlo standard errors.
        assert found.mean_energy is not None
        assert found.mean_energy_error is not None
        assert abs(found.mean_energy - 1) < 5 * found.mean_energy_error
        assert 0.001 < found.mean_energy_error < 0.1
        assert found.acceptance_rate is not None
        assert 0.3 < found.acceptance_rate < 1
        assert found.ess_bulk is not None
        assert found.seconds is not None
        assert found.ess_per_second == pytest.approx(found.ess_bulk.worst / found.seconds)
        assert found.still_numbers == 0
        assert found.e_bfmi is None

    def test_two_far_modes_are_not_yet(self) -> None:
        def energy(x: Tensor) -> Tensor:
            distances = (x[:, None] - FAR).square().sum(-1)
            return -torch.logsumexp(-distances / 2, 1)

        made = pipeline(model=energy, dataset=FAR.repeat(100, 1))
        found = diagnosed(made)
        assert found.verdict == "not yet"
        assert found.r_hat is not None
        assert found.r_hat.worst > 1.2
        assert found.worst_number == (0,)
        assert found.r_hat.energy < 1.05

    def test_steps_that_are_too_small_are_not_yet(self) -> None:
        made = pipeline({"use": "mala", "step_size": 1e-4})
        assert diagnosed(made).verdict == "not yet"

    def test_steps_that_are_far_too_large_are_diverging(self) -> None:
        made = pipeline({"use": "langevin", "step_size": 5.0})
        found = diagnosed(made)
        assert found.verdict == "diverging"
        assert "8 of 8 chains are not finite" in found.reason
        assert found.r_hat is None
        assert found.trajectory is None

    def test_a_growth_is_seen_before_it_overflows(self) -> None:
        made = pipeline({"use": "langevin", "step_size": 2.02})
        found = diagnosed(made, steps=60, warm_up=10)
        assert found.verdict == "diverging"
        assert "move away from the data" in found.reason
        assert found.trajectory is not None

    def test_an_energy_without_a_floor_is_diverging(self) -> None:
        made = pipeline({"use": "langevin", "step_size": 0.05}, model=lambda x: -x.sum(1))
        assert diagnosed(made).verdict == "diverging"

    def test_chains_that_were_restarted_are_diverging(self) -> None:
        made = pipeline(
            {"use": "langevin", "step_size": 5.0}, **{"chains.on_divergence": "restart"}
        )
        found = diagnosed(made)
        assert found.verdict == "diverging"
        assert "restarted or held still" in found.reason

    def test_chains_that_stand_still(self) -> None:
        made = pipeline(Still(), model=lambda x: x.sum(1) * 0, dataset=torch.ones(20, 2))
        found = diagnosed(made)
        assert found.verdict == "not yet"
        assert "No chain moves" in found.reason
        assert found.still_numbers == 2
        assert found.worst_number is None


class TestDrift:
    def test_chains_that_have_arrived_do_not_drift(self) -> None:
        found = diagnosed(pipeline(k_steps=30))
        assert found.drift is not None
        assert (found.drift.short_steps, found.drift.long_steps) == (30, 500)
        assert abs(found.drift.drift) < 5 * found.drift.standard_error
        assert not found.drift.notable

    def test_a_short_run_model(self) -> None:
        """Five steps at the data leave chains there, where the model's energy is 72 nats higher."""
        data = torch.full((100, 2), 12.0) + torch.linspace(-1, 1, 200).reshape(100, 2)
        made = pipeline({"use": "mala", "step_size": 0.05}, k_steps=5, dataset=data)
        found = diagnosed(made)
        assert found.drift is not None
        assert found.drift.long_steps == 250
        assert found.drift.notable
        assert found.drift.drift < -20
        assert "chains of that length have not arrived" in found.reason

    def test_the_long_run_goes_on_where_the_short_one_ended(self) -> None:
        found = diagnosed(pipeline(Counting(), model=lambda x: x.sum(1)))
        assert found.drift is not None
        # Counting on from 5 to 250 in both numbers; a state made anew would count from 0.
        assert (found.drift.short_energy, found.drift.long_energy) == (10.0, 500.0)

    def test_it_starts_at_the_data_where_training_does(self) -> None:
        ends = torch.tensor([-1.0, 1.0]).repeat(50, 1).T.flatten()
        made = pipeline(
            Still(),
            model=lambda x: (x.square() - 1).square().sum(1),
            dataset=ends[:, None].expand(100, 2),
        )
        found = diagnosed(made)
        assert found.drift is not None
        assert found.drift.short_energy == 0
        # Without chains in training it starts as sampling does, around the data.
        tables = {**made.tables, "loss": {"use": "dsm", "sigma": 0.1}}
        del tables["sampler"], tables["dataset"]
        other = ebmkit.compose(tables, sampler=Still(), dataset=made.dataset, model=made.model)
        found = diagnosed(other)
        assert found.drift is not None
        assert found.drift.short_steps == 5
        assert found.drift.short_energy > 0.5


class StillState(NamedTuple):
    x: Tensor


class Still:
    """Leaves every chain where it is."""

    def init(self, energy: Any, x: Tensor) -> StillState:
        return StillState(x)

    def draw(self, state: StillState, *, generator: torch.Generator) -> None:
        return None

    def step(self, energy: Any, state: StillState, noise: Any) -> tuple[StillState, Any]:
        return state, {}


class CountingState(NamedTuple):
    x: Tensor
    done: Tensor


class Counting:
    """Puts every number at the count of steps, slowly."""

    def init(self, energy: Any, x: Tensor) -> CountingState:
        return CountingState(x, torch.zeros(len(x)))

    def draw(self, state: CountingState, *, generator: torch.Generator) -> None:
        return None

    def step(self, energy: Any, state: CountingState, noise: Any) -> tuple[CountingState, Any]:
        done = state.done + 1
        return CountingState(done[:, None].expand(len(done), 2), done), {}


class Slow(Still):
    traceable = False

    def step(self, energy: Any, state: StillState, noise: Any) -> tuple[StillState, Any]:
        time.sleep(0.001)
        return super().step(energy, state, noise)


class WithHamiltonian(NamedTuple):
    x: Tensor
    hamiltonian: Tensor


@attrs.frozen
class Independent:
    """Normal draws, each with the Hamiltonian E(x) + ½ z²."""

    shift: float = 0.0

    def init(self, energy: Any, x: Tensor) -> WithHamiltonian:
        return WithHamiltonian(x, energy(x))

    def draw(self, state: WithHamiltonian, *, generator: torch.Generator) -> Any:
        x = state.x
        return (
            torch.randn(x.shape, generator=generator),
            torch.randn(len(x), generator=generator),
        )

    def step(self, energy: Any, state: WithHamiltonian, noise: Any) -> Any:
        normal, momentum = noise
        x = normal + torch.tensor([1.0, -1.0])
        return WithHamiltonian(x, energy(x) + momentum.square() / 2), {}


class HalfStill(Still):
    """Normal draws of the first number; the second is 0 all along."""

    def draw(self, state: StillState, *, generator: torch.Generator) -> Any:
        return torch.randn(state.x.shape, generator=generator)

    def step(self, energy: Any, state: StillState, noise: Any) -> tuple[StillState, Any]:
        return StillState(noise * torch.tensor([1.0, 0.0])), {}


class TestHamiltonians:
    def test_their_e_bfmi_is_reported(self) -> None:
        found = diagnosed(pipeline(sampler=Independent()), steps=800)
        assert found.hamiltonians is not None
        assert found.hamiltonians.shape == (800, 8)
        # Independent Hamiltonians have 2 in the mean.
        assert found.e_bfmi is not None
        assert found.e_bfmi == pytest.approx([2.0] * 8, abs=0.4)
        assert found.verdict == "converged"
        assert found.acceptance_rate is None

    def test_not_where_steps_are_left_out(self) -> None:
        assert diagnosed(pipeline(sampler=Independent()), thin=2).e_bfmi is None


class TestStarts:
    def test_half_of_them_at_persistent_chains(self) -> None:
        made = pipeline(sampler=Still())
        loss = {"use": "pcd", "sampler": "@sampler", "k_steps": 1, "buffer_size": 64}
        tables = {**made.tables, "loss": loss}
        del tables["sampler"], tables["dataset"]
        made = ebmkit.compose(tables, sampler=Still(), dataset=ROWS)
        made.train_step()
        buffer = made.loss.chains(made.trainer.objective.state).x  # type: ignore[attr-defined]
        found = diagnosed(made, warm_up=0, steps=8)
        assert found.trajectory is not None
        x = found.trajectory[0]
        at_chains = (x[:, None] == buffer).all(-1).any(1)
        assert at_chains.tolist() == [True] * 4 + [False] * 4

    def test_discrete_ones_keep_the_states_of_the_data(self) -> None:
        made = pipeline(DiscreteStill(), model=lambda x: x.sum(1) * 0, dataset=Bits())
        x = diagnosed(made, chains=64, warm_up=0, steps=8).trajectory
        assert x is not None
        assert set(x.unique().tolist()) == {0.0, 1.0}
        alike = (x[0] == x[0, :, :1]).all(1)
        assert alike[:32].all()
        assert 0 < alike[32:].sum() < 32


class DiscreteStill(Still):
    discrete = True


class Bits:
    """Three bits, all alike in a row."""

    event_shape = (3,)
    discrete = True

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.rand(size, 1, generator=generator).round().expand(size, 3))


class TestConditional:
    def test_all_chains_are_at_one_condition(self) -> None:
        class Shifted(torch.nn.Module):
            conditional = True

            def __init__(self) -> None:
                super().__init__()
                self.at = torch.nn.Parameter(torch.zeros(()))

            def forward(self, x: Tensor, condition: Tensor) -> Tensor:
                seen.update(condition.tolist())
                return (x - 5.0 * condition[:, None]).square().sum(1) / 2 + self.at

        class Labelled:
            event_shape = (2,)
            n_classes = 3

            def draw(self, size: int, *, generator: torch.Generator) -> Batch:
                labels = torch.randint(3, (size,), generator=generator)
                return Batch(torch.randn(size, 2, generator=generator), labels)

        seen: set[int] = set()
        made = pipeline(model=Shifted(), dataset=Labelled())
        seen.clear()
        found = diagnosed(made, condition=torch.tensor(2))
        assert seen == {2}
        assert found.trajectory is not None
        assert abs(float(found.trajectory.mean()) - 10) < 0.5
        assert found.as_dict()["condition"] == 2
        seen.clear()
        diagnosed(made)
        assert len(seen) == 1


class TestCalls:
    def test_seconds_are_those_of_the_steps_after_the_warm_up(self) -> None:
        made = pipeline(Slow(), k_steps=1)
        began = time.perf_counter()
        found = diagnosed(made, steps=100, warm_up=200)
        whole = time.perf_counter() - began
        assert found.seconds is not None
        # Warm-up and drift sleep 0.2 s and 0.05 s besides.
        assert 0.1 <= found.seconds <= whole - 0.25

    def test_a_number_that_never_changes_has_no_part_in_the_worst(self) -> None:
        found = diagnosed(pipeline(HalfStill(), dataset=ROWS * torch.tensor([1.0, 0.0])), steps=900)
        assert found.still_numbers == 1
        assert found.worst_number == (0,)
        assert found.r_hat is not None
        assert found.r_hat.worst == found.r_hat.median < 1.01
        assert found.verdict == "converged", found.reason

    def test_a_seed_reproduces_it(self) -> None:
        runs = [
            diagnosed(pipeline(), steps=40, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        a, b, c = (run.trajectory for run in runs)
        assert a is not None and b is not None and c is not None
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        first, second = (
            {k: v for k, v in run.as_dict().items() if "second" not in k} for run in runs[:2]
        )
        assert first == second
        made = pipeline()
        assert (
            diagnosed(made, steps=40).as_dict()["drift"]
            == diagnosed(made, steps=40).as_dict()["drift"]
        )

    def test_it_leaves_the_pipeline_as_it_was(self) -> None:
        made, untouched = pipeline(), pipeline()
        diagnosed(made, steps=40)
        assert {k: float(v) for k, v in made.train_step().items()} == {
            k: float(v) for k, v in untouched.train_step().items()
        }

    def test_memory_is_bounded_by_thinning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ebmkit.diagnostics.running.KEPT_BYTES", 10 * 8 * 2 * 4)
        found = diagnosed(pipeline(), steps=95)
        assert found.thin == 10
        assert found.trajectory is not None
        assert len(found.trajectory) == 9

    def test_json_has_no_token_that_json_has_not(self) -> None:
        for made in (pipeline(), pipeline({"use": "langevin", "step_size": 5.0})):
            found = diagnosed(made, steps=40)
            told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
            assert told["verdict"] == found.verdict
            assert not {"trajectory", "energies", "hamiltonians"} & set(told)
        broken = attrs.evolve(found, mean_energy=math.nan, e_bfmi=(math.inf, 1.0))
        told = broken.as_dict()
        assert told["mean_energy"] is None
        assert told["e_bfmi"] == [None, 1.0]

    def test_a_schedule_on_the_chains_clock_is_noted(self) -> None:
        schedule = {"use": "linear", "start_value": 0.7, "end_value": 0.1, "clock": "chain"}
        found = diagnosed(pipeline({"use": "mala", "step_size": schedule}), steps=40)
        assert found.notes
        assert found.notes[0].startswith("step_size follows the chain's clock")
        assert found.drift is None

    @pytest.mark.parametrize(
        "changes",
        [{"chains": 1}, {"steps": 3}, {"warm_up": -1}, {"thin": 0}, {"steps": 40, "thin": 11}],
    )
    def test_what_is_refused(self, changes: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="expected"):
            diagnosed(pipeline(), **changes)

    def test_without_a_sampler_there_is_nothing_to_diagnose(self) -> None:
        made = ebmkit.compose(
            {
                "model": {"use": "mlp", "hidden": [4]},
                "loss": {"use": "sm"},
                "training": {"steps": 1, "batch_size": 8, "device": "cpu"},
            },
            dataset=ROWS[:50],
        )
        with pytest.raises(UserError, match=r"no \[sampler\] to diagnose"):
            ebmkit.diagnose(made)


class TestArviZ:
    @pytest.mark.parametrize("modern", [False, True])
    def test_the_groups_that_it_is_given(
        self, modern: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys
        import types

        def keywords(posterior: Any = None, *, sample_stats: Any = None) -> dict[str, Any]:
            return {"posterior": posterior, "sample_stats": sample_stats}

        def mapping(data: Any, *, name: Any = None) -> dict[str, Any]:
            return {"posterior": None, "sample_stats": None, **data}

        module = types.SimpleNamespace(from_dict=mapping if modern else keywords)
        monkeypatch.setitem(sys.modules, "arviz", module)
        found = diagnosed(pipeline(sampler=Independent()), steps=10)
        given = ebmkit.to_arviz(found, name="y")
        assert found.trajectory is not None
        assert found.energies is not None
        assert found.hamiltonians is not None
        assert (given["posterior"]["y"] == found.trajectory.transpose(0, 1).numpy()).all()
        assert set(given["sample_stats"]) == {"lp", "energy"}
        assert (given["sample_stats"]["lp"] == -found.energies.T.numpy()).all()
        assert (given["sample_stats"]["energy"] == found.hamiltonians.T.numpy()).all()
        plain = ebmkit.to_arviz(torch.zeros(5, 3, 2))
        assert plain["posterior"]["x"].shape == (3, 5, 2)
        assert plain["sample_stats"] is None
        lost = diagnosed(pipeline({"use": "langevin", "step_size": 5.0}))
        with pytest.raises(UserError, match="no trajectory: Langevin"):
            ebmkit.to_arviz(lost)

    def test_without_it_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "arviz", None)
        with pytest.raises(UserError, match=r'pip install "ebmkit-core\[arviz\]"'):
            ebmkit.to_arviz(torch.zeros(5, 3, 2))
