"""The chain runner: schedules by their clock, trajectories, purity, the divergence guard."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from attrs import field
from attrs.validators import gt
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ebmkit
from ebmkit import scheduled
from ebmkit.chains import run_chain
from ebmkit.chains.run import _windows
from ebmkit.chains.stepping import _rounds


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


@pytest.mark.parametrize(
    "wrong",
    [{"steps": -1}, {"steps": 1, "thin": 0}, {"steps": 4, "thin": 2}, {"steps": 1, "warm_up": -1}],
)
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


@attrs.frozen
class Learner:
    """Counts how it was tuned and settled, in its state."""

    def init(self, energy: Any, x: Tensor) -> Lesson:
        return Lesson(x, torch.zeros(()), torch.zeros(()))

    def draw(self, state: Lesson, *, generator: torch.Generator) -> Tensor:
        return torch.randn(state.x.shape, generator=generator)

    def step(self, energy: Any, state: Lesson, noise: Tensor) -> tuple[Lesson, dict[str, Tensor]]:
        # A step after the settling is worth 1, one before it 100.
        worth = torch.where(state.settled > 0, 1.0, 100.0)
        return state._replace(x=state.x + noise), {"worth": worth}

    def tune(self, state: Lesson, energy: Any) -> Lesson:
        assert energy(state.x).shape == (3,)
        return state._replace(tuned=state.tuned + 1)

    def settle(self, state: Lesson) -> Lesson:
        return state._replace(settled=state.settled + 1)


class Lesson(NamedTuple):
    x: Tensor
    tuned: Tensor
    settled: Tensor


class TestWarmUp:
    def test_tunes_along_the_way_and_settles_at_its_end(self) -> None:
        chain = run(Learner(), 10, warm_up=500)
        assert chain.state.tuned == 6
        assert chain.state.settled == 1
        assert chain.metrics["worth"] == 1
        assert chain.steps == 10
        assert run(Learner(), 10).state.settled == 0

    @given(st.integers(1, 3000))
    def test_windows_fill_it_and_leave_the_last_fifth_alone(self, steps: int) -> None:
        windows = _windows(steps)
        assert sum(windows) == steps and min(windows) > 0
        assert len(windows) <= 7
        assert windows[-1] >= steps // 5

    def test_its_points_are_not_kept(self) -> None:
        chain = run(Recorder(), 6, warm_up=4, trajectory=True, thin=2)
        assert chain.trajectory[:, 0, 0].tolist() == [6, 8, 10]


class TestMoments:
    @given(st.integers(0, 25), st.integers(1, 4))
    def test_are_those_of_the_trajectory(self, steps: int, thin: int) -> None:
        chain = run_chain(
            Learner(),
            flat,
            torch.zeros(3, 2),
            steps=steps,
            thin=thin,
            trajectory=True,
            moments=True,
            generator=torch.Generator().manual_seed(steps),
        )
        kept = chain.trajectory.double()
        if not len(kept):
            assert chain.moments is None
            return
        assert chain.moments.n == len(kept)
        torch.testing.assert_close(chain.moments.mean.double(), kept.mean(0), rtol=1e-4, atol=1e-5)
        if len(kept) > 1:
            torch.testing.assert_close(
                chain.moments.variance.double(), kept.var(0), rtol=1e-4, atol=1e-5
            )
        else:
            assert chain.moments.variance.isnan().all()

    def test_take_no_more_memory_for_more_steps(self) -> None:
        chain = run(Recorder(), 500, moments=True)
        assert chain.trajectory is None
        assert chain.moments.mean.shape == (3, 2)
        assert chain.moments.mean[0, 0] == 250.5


def test_fields_of_the_state_are_traced() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.2)
    chain = run_chain(
        sampler,
        lambda x: x.square().sum(1),
        torch.ones(4, 2),
        steps=6,
        thin=2,
        trajectory=True,
        trace=("energy",),
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(chain.traces["energy"], chain.trajectory.square().sum(2))


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    run(Recorder(), 25, warm_up=5, progress=lambda *at: told.append(at))
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_an_interrupt_hands_over_what_there_is() -> None:
    def interrupt(done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(ebmkit.ChainInterrupt) as caught:
        run(Recorder(), 50, trajectory=True, progress=interrupt)
    chain = caught.value.chain
    assert chain.steps == len(chain.trajectory) == 20
    assert chain.x[0, 0] == 20
    assert isinstance(caught.value, KeyboardInterrupt)


@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "nuts", "underdamped-langevin"])
def test_a_state_goes_on_bit_for_bit(name: str) -> None:
    sampler = ebmkit.create("sampler", name, step_size=0.1)
    model = ebmkit.create("model", "mlp", event_shape=(2,), hidden=[8], base_scale=1.0)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))

    def chain(steps: int, generator: torch.Generator, **keywords: Any) -> Any:
        return run_chain(sampler, model, x, steps=steps, generator=generator, **keywords)

    whole = chain(25, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    first = chain(11, generator)
    second = chain(14, generator, state=first.state)
    for one, other in zip(whole.state, second.state, strict=True):
        assert torch.equal(one, other)


def test_parameters_are_detached_while_chains_run() -> None:
    seen = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.weight.requires_grad)
            return super().forward(x).squeeze(1)

    model = Watched(2, 1)
    weight = model.weight
    with torch.random.fork_rng(devices=[]):
        ebmkit.sample(ebmkit.create("sampler", "langevin"), model, torch.zeros(3, 2), steps=2)
    assert seen and not any(seen)
    assert model.weight is weight and weight.requires_grad and weight.grad is None


def test_random_numbers_drawn_ahead_are_those_drawn_one_by_one() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.2)
    model = ebmkit.create("model", "harmonic")
    x = torch.ones(5, 3)
    generator = torch.Generator().manual_seed(3)
    state = sampler.init(model, x)
    for _ in range(23):
        noise = sampler.draw(state, generator=generator)
        state, _ = sampler.step(model, state, noise, step_size=0.2)
    chain = run_chain(sampler, model, x, steps=23, generator=torch.Generator().manual_seed(3))
    assert torch.equal(chain.x, state.x)


def test_large_noise_is_not_drawn_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    class Loud(Learner):
        def draw(self, state: Lesson, *, generator: torch.Generator) -> Tensor:
            drawn.append("draw")
            return super().draw(state, generator=generator)

        def step(self, energy: Any, state: Lesson, noise: Tensor) -> Any:
            drawn.append("step")
            return super().step(energy, state, noise)

    monkeypatch.setattr("ebmkit.chains.run.MOST_BYTES", 2 * 6 * 4)
    run(Loud(), 5)
    assert drawn == ["draw", "draw", "step", "step"] * 2 + ["draw", "step"]
    drawn.clear()
    monkeypatch.setattr("ebmkit.chains.run.MOST_BYTES", 10**6)
    run(Loud(), 60)
    assert drawn[:11] == ["draw"] * 10 + ["step"]


@pytest.mark.parametrize(
    ("length", "total", "numbers", "rounds"),
    [
        (10, 1000, 100, 10),  # 100 steps at most
        (10, 49, 100, 4),
        (10, 19, 100, 1),
        (2, 1000, 100, 50),
        (2, 2 * 92, 100, 46),  # the half of them, so that none are left over
        (10, 130, 100, 6),  # of 13 rounds one is left over, where of 10 three were
        (10, 180, 100, 9),
        (10, 1000, 10_000, 2),  # 40 kB a step, of at most 1 MiB
        (10, 1000, 2**17, 1),
    ],
)
def test_a_graph_goes_through_its_steps_as_often_as_memory_and_the_run_allow(
    length: int, total: int, numbers: int, rounds: int
) -> None:
    x = torch.zeros(5)
    assert _rounds(length, total, torch.zeros(numbers), x) == rounds


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


def test_a_field_that_is_asked_for_twice_is_kept_once() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.2)
    x = torch.ones(4, 2)

    def chain(**keywords: Any) -> Any:
        return run_chain(
            sampler,
            lambda x: x.square().sum(1),
            x,
            steps=6,
            generator=torch.Generator().manual_seed(0),
            **keywords,
        )

    found = chain(trajectory=True, trace=("x", "energy", "energy"), thin=2)
    plain = chain(trajectory=True, thin=2)
    assert torch.equal(found.trajectory, plain.trajectory)
    assert torch.equal(found.traces["x"], plain.trajectory)
    assert found.traces["energy"].shape == (3, 4)
    assert chain(trace=("energy",), thin=7).traces["energy"].shape == (0, 4)


@pytest.mark.parametrize(
    ("trace", "message"),
    [("energy", "expected names"), (("enrgy",), "no field 'enrgy'; did you mean 'energy'")],
)
def test_wrong_fields_are_told(trace: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_chain(
            ebmkit.create("sampler", "mala"),
            lambda x: x.square().sum(1),
            torch.ones(4, 2),
            steps=2,
            trace=trace,
            generator=torch.Generator(),
        )


def test_an_interrupted_chain_goes_on_exactly() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.1)
    model = ebmkit.create("model", "harmonic")
    x = torch.ones(3, 2)
    calls = []

    def energy(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 26:
            raise KeyboardInterrupt
        found: Tensor = model(x)
        return found

    whole = run_chain(sampler, model, x, steps=40, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(ebmkit.ChainInterrupt) as caught:
        run_chain(sampler, energy, x, steps=40, generator=generator)
    chain = caught.value.chain
    assert chain.steps == 20
    assert 0 < chain.metrics["acceptance_rate"] <= 1
    rest = run_chain(sampler, model, x, steps=20, generator=generator, state=chain.state)
    assert torch.equal(rest.x, whole.x)


def test_an_interrupt_in_the_warm_up_has_no_metrics() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(ebmkit.ChainInterrupt) as caught:
        run(Recorder(), 50, warm_up=30, progress=interrupt)
    assert caught.value.chain.metrics == {}
    assert caught.value.chain.steps == 0


def test_threads_that_share_a_model_leave_it_whole() -> None:
    model = ebmkit.create("model", "mlp", event_shape=(2,), hidden=[8])
    sampler = ebmkit.create("sampler", "langevin", step_size=0.01)
    x = torch.zeros(8, 2)
    expected = ebmkit.sample(sampler, model, x, steps=5, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(30):
            generator = torch.Generator().manual_seed(0)
            found.append(ebmkit.sample(sampler, model, x, steps=5, generator=generator))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 90
    assert all(torch.equal(one, expected) for one in found)
    assert all(type(p) is nn.Parameter and p.requires_grad for p in model.parameters())


def test_a_training_step_that_is_interrupted_has_not_been() -> None:
    spec = {
        "model": {"use": "mlp", "hidden": [8]},
        "sampler": {"use": "langevin", "step_size": 0.01},
        "loss": {"use": "pcd", "k_steps": 4, "buffer_size": 64},
        "dataset": torch.randn(64, 2, generator=torch.Generator().manual_seed(3)),
        "training": {"steps": 9, "batch_size": 16, "seed": 1, "device": "cpu"},
    }
    plain, broken = ebmkit.compose(spec), ebmkit.compose(spec)
    for _ in range(5):
        plain.train_step()
        broken.train_step()
    forward = broken.trainer.model.forward

    def interrupt(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    broken.trainer.model.forward = interrupt
    with pytest.raises(KeyboardInterrupt):
        broken.train_step()
    broken.trainer.model.forward = forward
    for _ in range(4):
        plain.train_step()
        broken.train_step()
    for one, other in zip(plain.model.parameters(), broken.model.parameters(), strict=True):
        assert torch.equal(one, other)
