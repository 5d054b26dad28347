"""Chains that turn non-finite: found one by one, and dealt with as stated."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ebmkit
from ebmkit import Batch
from ebmkit.chains import run_chain
from ebmkit.chains.conduct import Conduct, conducted
from ebmkit.chains.guard import Held, bad_rows, held_back, where_rows
from ebmkit.chains.starts import rows_like

from .conftest import Jump, Walk, Where, cliff, points, seeded


def walk(policy: str, steps: int, **keywords: Any) -> tuple[Any, Conduct]:
    conduct = Conduct(on_divergence=policy, **keywords)  # type: ignore[arg-type]
    with conducted(conduct):
        chain = run_chain(Walk(1.0), cliff, torch.zeros(200, 2), steps=steps, generator=seeded(4))
    return chain, conduct


def jump(x: Tensor, inner: Tensor, energy: Tensor) -> Jump:
    return Jump(x, Where(inner), energy, torch.tensor(1.0))


@given(
    st.lists(st.sampled_from([0.0, 1.5, math.nan, math.inf, -math.inf]), min_size=0, max_size=5),
    st.data(),
)
def test_a_row_is_bad_where_anything_of_it_is_not_finite(row: list[float], data: Any) -> None:
    n = len(row)
    where = data.draw(st.sampled_from(["x", "inner", "energy"]))
    parts = {"x": torch.zeros(n, 2), "inner": torch.zeros(n, 2), "energy": torch.zeros(n)}
    if where == "energy":
        parts["energy"] = torch.tensor(row)
    else:
        parts[where][:, 1] = torch.tensor(row)
    expected = [not math.isfinite(v) for v in row]
    assert bad_rows(jump(**parts)).tolist() == expected


def test_what_belongs_to_all_chains_is_not_split() -> None:
    one = jump(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3))
    two = jump(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3))._replace(
        taken=torch.tensor(7.0)
    )
    mixed = where_rows(torch.tensor([True, False, True]), one, two)
    assert mixed.x[:, 0].tolist() == mixed.inner.x[:, 0].tolist() == [1, 0, 1]
    assert mixed.energy.tolist() == [1, 0, 1]
    assert mixed.taken == 7


def test_a_bad_chain_goes_back_to_the_point_before_and_stays_there() -> None:
    def at(x: float, energy: list[float]) -> Jump:
        return jump(torch.full((2, 2), x), torch.ones(2, 2), torch.tensor(energy))

    nobody = torch.tensor([False, False])
    state, held = held_back(at(1, [1, 1]), at(2, [1, 1]), Held(nobody, at(0, [1, 1])))
    assert not held.bad.any() and held.last.x[0, 0] == 1
    state, held = held_back(state, at(3, [math.nan, 5]), held)
    assert held.bad.tolist() == [True, False]
    assert state.x[:, 0].tolist() == [1, 3]
    assert held.last.x[:, 0].tolist() == [1, 2]
    state, held = held_back(state, at(4, [1, 1]), held)
    assert held.bad.tolist() == [True, False]
    assert state.x[:, 0].tolist() == [1, 4]


def test_stop_counts_the_chains_and_looks_before_the_end() -> None:
    with pytest.raises(ebmkit.DivergenceError, match="after 100 steps") as caught:
        walk("stop", 1000)
    assert caught.value.chains is not None and 0 < caught.value.chains < 200


def test_freeze_holds_each_at_its_last_finite_point() -> None:
    chain, conduct = walk("freeze", 30)
    assert chain.bad.any() and not chain.bad.all()
    assert chain.x.isfinite().all() and chain.state.energy.isfinite().all()
    assert (chain.x[:, 0] <= 2).all()
    frozen = int(chain.bad.sum())
    assert int(chain.metrics["chains_frozen"]) == frozen
    assert conduct.counts() == {"chains_restarted": 0, "chains_frozen": frozen}
    # Chains that did not come there went their way as if alone.
    free = run_chain_without_guard(30)
    torch.testing.assert_close(chain.x[~chain.bad], free[~chain.bad])


def run_chain_without_guard(steps: int) -> Tensor:
    return run_chain(
        Walk(1.0), lambda x: x.sum(1), torch.zeros(200, 2), steps=steps, generator=seeded(4)
    ).x


@pytest.mark.parametrize("policy", ["freeze", "restart"])
def test_a_last_point_of_no_energy_is_told_too(policy: str) -> None:
    # Unadjusted Langevin keeps no energies: where it stepped to shows in the next step alone.
    sampler = ebmkit.create("sampler", "langevin", step_size=1.0)
    conduct = Conduct(on_divergence=policy, starts=lambda n, *_: torch.zeros(n, 2))  # type: ignore[arg-type]
    with conducted(conduct):
        chain = run_chain(sampler, cliff, torch.ones(300, 2), steps=1, generator=seeded())
    assert cliff(chain.x).isfinite().all()
    told = conduct.counts()["chains_frozen" if policy == "freeze" else "chains_restarted"]
    still = (chain.x == (1 if policy == "freeze" else 0)).all(1)
    assert int(still.sum()) == told > 0


def test_restart_begins_anew_where_it_is_told_and_counts() -> None:
    places: list[int] = []

    def starts(n: int, generator: torch.Generator, condition: Tensor | None) -> Tensor:
        places.append(n)
        return torch.full((n, 2), -50.0)

    chain, conduct = walk("restart", 60, starts=starts)
    assert chain.bad is None
    assert chain.x.isfinite().all() and chain.state.energy.isfinite().all()
    anew = chain.x[:, 1] < -20
    assert 0 < anew.sum() < 200
    # From so far off none comes to the cliff again: as many restarts as chains that are there.
    assert int(chain.metrics["chains_restarted"]) == int(anew.sum())
    assert conduct.counts() == {"chains_restarted": int(anew.sum()), "chains_frozen": 0}
    assert set(places) == {200}
    assert chain.state.taken == 60


def test_adaptation_goes_on_over_a_restart() -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.5, target_acceptance=0.6)
    conduct = Conduct(on_divergence="restart", starts=lambda n, *_: torch.zeros(n, 2))
    x = points(20)
    x[3] = math.nan
    with conducted(conduct):
        chain = run_chain(sampler, lambda x: x.square().sum(1), x, steps=25, generator=seeded())
    assert conduct.counts()["chains_restarted"] == 1
    assert chain.state.steps == 25


@pytest.mark.parametrize(
    "sampler",
    [
        {"use": "preconditioned-langevin", "step_size": 0.01},
        {"use": "adaptive", "sampler": "mala"},
        {"use": "adaptive", "sampler": "hmc"},
        {"use": "parallel-tempering", "sampler": "mala", "inverse_temperatures": [1.0, 0.5]},
        {"use": "nuts", "step_size": 0.2},
    ],
    ids=lambda table: f"{table['use']}-{table.get('sampler', '')}",
)
def test_what_chains_share_outlives_one_that_is_bad(sampler: dict[str, Any]) -> None:
    name = sampler["use"]
    part = ebmkit.create("sampler", name, **{k: v for k, v in sampler.items() if k != "use"})
    x = torch.randn(30, 2, generator=seeded())
    x[4] = math.nan
    conduct = Conduct(on_divergence="freeze")
    with conducted(conduct):
        chain = run_chain(
            part, lambda x: x.square().sum(1) / 2, x, steps=40, warm_up=40, generator=seeded()
        )
    assert chain.bad.nonzero().flatten().tolist() == [4]
    alive = ~chain.bad
    assert chain.x[alive].isfinite().all()
    assert (chain.x[alive] != x[alive]).any(1).sum() > 25


def test_starts_that_are_bad_themselves_end_the_run() -> None:
    with pytest.raises(ebmkit.DivergenceError, match="10 starts anew were not finite either"):
        walk("restart", 60, starts=lambda n, *_: torch.full((n, 2), 5.0))


@pytest.mark.parametrize("policy", ["stop", "freeze", "restart"])
def test_chains_that_are_all_fine_are_the_same_under_every_policy(policy: str) -> None:
    sampler = ebmkit.create("sampler", "mala", step_size=0.3)
    model = ebmkit.create("model", "gaussian", mean=[0.0, 1.0])
    found = ebmkit.sample(
        sampler, model, points(), steps=12, generator=seeded(), on_divergence=policy
    )
    plain = ebmkit.sample(sampler, model, points(), steps=12, generator=seeded())
    assert torch.equal(found, plain)


@pytest.mark.parametrize("policy", ["freeze", "restart"])
@pytest.mark.parametrize("n", [0, 1])
def test_few_chains(policy: str, n: int) -> None:
    sampler = ebmkit.create("sampler", "langevin", step_size=0.1)
    model = ebmkit.create("model", "harmonic")
    assert ebmkit.sample(sampler, model, torch.ones(n, 3), steps=3, on_divergence=policy).shape == (
        n,
        3,
    )


def test_sample_restarts_from_rows_that_are_finite() -> None:
    source = torch.tensor([[math.nan, 0.0], [-5.0, 0.0]])
    found = ebmkit.sample(
        Walk(1.0),
        cliff,
        torch.zeros(100, 2),
        steps=10,
        generator=seeded(),
        on_divergence="restart",
        restart_from=source,
    )
    assert found.isfinite().all() and (found[:, 0] <= 2).all()


SPEC: dict[str, Any] = {
    "model": {"use": "mlp", "hidden": [16], "base_scale": 2.0},
    "sampler": {"use": "langevin", "step_size": 0.05},
    "loss": {"use": "pcd", "k_steps": 5, "buffer_size": 128},
    "dataset": {"use": "two-moons"},
    "training": {
        "steps": 60,
        "batch_size": 32,
        "seed": 3,
        "device": "cpu",
        "checkpoint_every": 5,
        "log_every": 1,
    },
    "evaluation": {"n_samples": 20, "chain_steps": 5},
}


class Faulty(torch.nn.Module):
    """An energy that is NaN in a corner, where some chains come."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * cliff(x)


@pytest.mark.parametrize("source", ["data", "base", "buffer"])
def test_training_goes_on_and_counts_what_it_lost(source: str, tmp_path: Path) -> None:
    pipeline = ebmkit.compose(
        SPEC,
        model=Faulty(),
        dataset=points(300).clamp(-1, 1),
        chains={"on_divergence": "restart", "restart_from": source},
        **{"sampler.step_size": 0.3, "training.optimizer.lr": 1e-4},
    )
    run = pipeline.fit(out=tmp_path / "run")
    state = pipeline.trainer.objective.state
    assert state.x.isfinite().all() and (state.x[:, 0] <= 2).all()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "finished"
    records = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    counted = sum(record["chains_restarted"] for record in records)
    assert status["chains_restarted"] == counted > 0
    assert any(f"{int(counted)} chains turned non-finite" in line for line in run.notices)
    again = ebmkit.load(tmp_path / "run", model=Faulty(), dataset=points(300).clamp(-1, 1))
    assert again.trainer.objective.conduct.counts()["chains_restarted"] == counted


def test_a_buffer_takes_no_chain_that_was_held_still() -> None:
    pipeline = ebmkit.compose(
        SPEC,
        model=Faulty(),
        dataset=points(300).clamp(-1, 1),
        chains={"on_divergence": "freeze"},
        **{"sampler.step_size": 0.3, "training.optimizer.lr": 1e-4},
    )
    objective = pipeline.trainer.objective
    for _ in range(30):
        before = objective.state
        metrics = pipeline.train_step()
        state = objective.state
        assert state.x.isfinite().all()
        if before is not None:
            moved = int((state.x != before.x).any(1).sum())
            assert moved == 32 - int(metrics["chains_frozen"])
    assert objective.conduct.counts()["chains_frozen"] > 0


def test_a_poisoned_row_of_data_ends_the_run_with_everything_kept(tmp_path: Path) -> None:
    data = points(200)
    data[7] = 1e30
    pipeline = ebmkit.compose(SPEC, dataset=data, **{"training.batch_size": 8})
    with pytest.raises(ebmkit.DivergenceError):
        pipeline.fit(out=tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "diverged"
    assert pipeline.trainer.objective.state.x.isfinite().all()
    kept = ebmkit.load(tmp_path / "run", dataset=data)
    assert all(p.isfinite().all() for p in kept.model.parameters())
    assert kept.step <= status["step"]


def test_a_learning_rate_far_too_large_too(tmp_path: Path) -> None:
    pipeline = ebmkit.compose(
        SPEC,
        **{
            "training.optimizer": {"use": "sgd", "lr": 10.0, "momentum": 0.9},
            "model.base_scale": 10.0,
            "training.steps": 500,
        },
    )
    with pytest.raises(ebmkit.DivergenceError):
        pipeline.fit(out=tmp_path / "run")
    state = pipeline.trainer.objective.state
    assert state is None or state.x.isfinite().all()
    kept = ebmkit.load(tmp_path / "run")
    assert all(p.isfinite().all() for p in kept.model.parameters())
    assert kept.sample(5).isfinite().all()


def test_a_buffer_to_restart_from_is_asked_for_before_training() -> None:
    with pytest.raises(ebmkit.SpecError, match=r"chains\.restart_from: .* keeps none"):
        ebmkit.compose(SPEC, loss={"use": "cd"}, chains={"restart_from": "buffer"})
    with pytest.raises(ebmkit.SpecError, match=r"chains\.on_divergence"):
        ebmkit.compose(SPEC, chains={"on_divergence": "ignore"})


def test_metrics_are_of_the_steps_that_have_some() -> None:
    told: list[Tensor] = []

    class Telling(Walk):
        """Tells the mean energy that a step came to, which is NaN where a chain fell."""

        def step(self, energy: Any, state: Jump, noise: Tensor, *, scale: float) -> Any:
            after, _ = super().step(energy, state, noise, scale=scale)
            told.append(after.energy.mean())
            return after, {"energy": told[-1]}

    conduct = Conduct(on_divergence="freeze")
    with conducted(conduct):
        chain = run_chain(Telling(0.5), cliff, torch.zeros(6, 2), steps=60, generator=seeded())
    finite = torch.stack(told).isfinite()
    assert 10 < finite.sum() < 60
    torch.testing.assert_close(chain.metrics["energy"], torch.stack(told)[finite].mean())


def test_a_shared_number_that_one_chain_spoils_stays_as_it_was() -> None:
    before = jump(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3))
    after = before._replace(energy=torch.tensor([1.0, math.nan, 1.0]), taken=torch.tensor(math.nan))
    held, _ = held_back(before, after, Held(torch.zeros(3, dtype=torch.bool), before))
    assert held.taken == 1


def test_a_force_without_an_energy_does_not_leave_points_of_none() -> None:
    def energy(x: Tensor) -> Tensor:
        # Its force is finite where it is itself NaN.
        return x.square().sum(1) / 2 + torch.where(x[:, 0] > 1, torch.nan, 0.0).detach()

    conduct = Conduct(on_divergence="freeze")
    sampler = ebmkit.create("sampler", "langevin", step_size=0.5)
    with conducted(conduct):
        chain = run_chain(sampler, energy, torch.zeros(200, 2), steps=10, generator=seeded())
    assert energy(chain.x).isfinite().all()
    assert chain.bad.any()


@pytest.mark.parametrize("policy", ["freeze", "restart"])
def test_events_of_a_single_number(policy: str) -> None:
    x = torch.tensor([0.0, math.nan, 1.0])
    sampler = ebmkit.create("sampler", "langevin", step_size=0.1)
    found = ebmkit.sample(
        sampler,
        lambda x: x.square() / 2,
        x,
        steps=5,
        generator=seeded(),
        on_divergence=policy,
        restart_from=torch.tensor([2.0, 3.0]),
    )
    assert found.isfinite().tolist() == [True, policy == "restart", True]


def test_a_restarted_chain_begins_at_a_row_of_its_own_label() -> None:
    labels = torch.arange(400) % 2
    data = Batch(
        (4.0 * labels - 2)[:, None] + 0.1 * torch.randn(400, 1, generator=seeded()), labels
    )
    condition = torch.tensor([0, 1, 1, 0, 7])
    x = rows_like(data, 5, condition, generator=seeded())
    assert (x[:4, 0] > 0).tolist() == [False, True, True, False]
    assert x.isfinite().all()
    plain = rows_like(Batch(data.x), 5, None, generator=seeded())
    assert plain.shape == (5, 1)


def test_wrong_words_and_shapes_are_told_at_once() -> None:
    sampler, model = ebmkit.create("sampler", "langevin"), ebmkit.create("model", "harmonic")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"on_divergence": "restrat"}, "did you mean 'restart'"),
        ({"compile": "on"}, "compile: expected one of auto, off, step, chunk"),
        ({"restart_from": torch.zeros(4, 5)}, r"restart_from: expected rows of shape \(2,\)"),
        ({"restart_from": torch.zeros(0, 2)}, "restart_from"),
    ]
    for keywords, message in wrong:
        with pytest.raises(ValueError, match=message):
            ebmkit.sample(sampler, model, points(), steps=2, **keywords)
    loss = ebmkit.create("loss", "cd", sampler="langevin")
    net = ebmkit.create("model", "mlp", event_shape=(2,))
    with pytest.raises(ebmkit.SpecError, match=r"chains\.compile"):
        ebmkit.objective(loss, net, chains={"compile": "offf"})
    with pytest.raises(ebmkit.SpecError, match=r"chains\.compil: no such key; did you mean"):
        ebmkit.objective(loss, net, chains={"compil": "off"})


def test_starts_that_are_not_finite_are_told_without_a_step_too() -> None:
    sampler, model = ebmkit.create("sampler", "langevin"), ebmkit.create("model", "harmonic")
    with pytest.raises(ebmkit.DivergenceError, match="1 of 2 chains"):
        ebmkit.sample(sampler, model, torch.tensor([[math.nan], [0.0]]), steps=0)


def test_a_pipeline_is_pickled_after_its_steps() -> None:
    pipeline = ebmkit.compose(SPEC, dataset=points(100))
    pipeline.train_step()
    pipeline.sample(4)
    again = pickle.loads(pickle.dumps(pipeline))
    assert torch.equal(again.sample(3), pipeline.sample(3))
