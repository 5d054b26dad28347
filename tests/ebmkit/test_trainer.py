"""Training steps against the same thing written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.hooks import Hooks

SPEC: dict[str, Any] = {
    "model": {"use": "mlp", "hidden": [16]},
    "sampler": {"use": "langevin", "step_size": 0.01},
    "loss": {"use": "pcd", "k_steps": 2, "buffer_size": 64},
    "dataset": {"use": "two-moons"},
    "training": {"steps": 10, "batch_size": 32, "optimizer": {"use": "sgd", "lr": 0.1}},
    "evaluation": {"n_samples": 50, "chain_steps": 2},
}


def composed(**overrides: Any) -> ebmkit.Pipeline:
    return ebmkit.compose(SPEC, **overrides)


def weights(pipeline: ebmkit.Pipeline, *, averaged: bool = False) -> list[Tensor]:
    module = pipeline.model if averaged else pipeline.trainer.model
    assert isinstance(module, nn.Module)
    return [p.detach().clone() for p in module.parameters()]


def test_the_average_follows_its_formula() -> None:
    pipeline = composed(**{"training.ema_decay": 0.9})
    mean = weights(pipeline)
    for step in range(30):
        pipeline.train_step()
        share = max(0.1, 9 / (step + 10))
        mean = [m + share * (w - m) for m, w in zip(mean, weights(pipeline), strict=True)]
    for expected, kept in zip(mean, weights(pipeline, averaged=True), strict=True):
        torch.testing.assert_close(kept, expected)
    assert not torch.equal(weights(pipeline)[0], weights(pipeline, averaged=True)[0])


def test_the_learning_rate_follows_its_schedule_to_the_end() -> None:
    lr = {"use": "linear", "start_value": 0.9, "end_value": 0.0}
    pipeline = composed(**{"training.optimizer": {"use": "sgd", "lr": lr}})
    assert pipeline.trainer.optimizer is not None
    seen = []
    for _ in range(10):
        pipeline.train_step()
        seen.append(pipeline.trainer.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.9 - 0.1 * i for i in range(10)])


def test_the_gradient_is_clipped_and_its_norm_before_that_is_the_metric() -> None:
    pipeline = composed(**{"training.gradient_clip": 1e-3})
    before = weights(pipeline)
    metrics = pipeline.train_step()
    moved = [(b - a) for a, b in zip(before, weights(pipeline), strict=True)]
    norm = torch.cat([m.flatten() for m in moved]).norm() / 0.1
    assert metrics["gradient_norm"] > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_noise_on_the_data_is_off_unless_asked_and_may_be_scheduled() -> None:
    class Seeing:
        seen: list[Tensor]

        def __init__(self) -> None:
            self.seen = []

        def init(self, model: Any, batch: Any, *, generator: torch.Generator) -> None:
            return None

        def draw(self, model: Any, batch: Any, state: None, step: int, *, generator: Any) -> Any:
            self.seen.append(batch.x)
            return None, None

        def __call__(self, model: Any, batch: Any, draws: None) -> Any:
            return model(batch.x).mean(), {}

    noise = {"use": "linear", "start_value": 1.0, "end_value": 0.0, "n_steps": 2}
    for expected, value in (([0, 0], 0.0), ([0.5, 0.5], 0.5), ([1.0, 0.0], noise)):
        loss = Seeing()
        data = torch.zeros(4096, 2)
        pipeline = composed(
            loss=loss, dataset=data, **{"training.data_noise": value, "training.batch_size": 4096}
        )
        for _ in range(2):
            pipeline.train_step()
        # Five standard errors of a standard deviation of 8,192 numbers.
        for seen, scale in zip(loss.seen, expected, strict=True):
            assert abs(seen.std() - scale) <= 5 * scale / (2 * 8192) ** 0.5


def test_data_that_are_not_finite_are_the_users_to_mend() -> None:
    class Broken:
        event_shape = (2,)

        def draw(self, size: int, *, generator: torch.Generator) -> ebmkit.Batch:
            return ebmkit.Batch(torch.full((size, 2), torch.inf))

    with pytest.raises(ebmkit.DataError, match=r"dataset Broken: 32 of 32 points .* step 0"):
        composed(dataset=Broken()).train_step()


def test_a_gradient_that_is_not_finite_stops_before_the_step_is_taken() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            # √0 has a finite value and an infinite slope in the weight.
            return (x * (self.weight - 1).abs().sqrt()).sum(1)

    pipeline = composed(model=Steep())
    with pytest.raises(ebmkit.DivergenceError, match=r"gradient's norm is (nan|inf) at step 0"):
        pipeline.train_step()
    assert weights(pipeline)[0].tolist() == [1.0, 1.0]


def test_bf16_runs_the_loss_under_autocast_and_keeps_weights_in_float32() -> None:
    seen = []
    pipeline = composed(**{"training.precision": "bf16"})
    module = pipeline.trainer.model
    assert isinstance(module, nn.Module)
    module.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    pipeline.train_step()
    assert all(seen)
    assert {w.dtype for w in weights(pipeline)} == {torch.float32}


def test_a_second_half_from_a_checkpoint_equals_an_undisturbed_run_bit_for_bit() -> None:
    overrides = {"training.optimizer": {"use": "adam", "lr": 1e-2}, "training.ema_decay": 0.99}
    whole = composed(**overrides)
    for _ in range(12):
        whole.train_step()
    first = composed(**overrides)
    for _ in range(5):
        first.train_step()
    second = composed(**overrides)
    second.load_state_dict(first.state_dict())
    for _ in range(7):
        second.train_step()
    assert second.step == 12
    for averaged in (False, True):
        pairs = zip(
            weights(whole, averaged=averaged), weights(second, averaged=averaged), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_samples_start_at_the_persistent_chains_and_repeat_with_the_seed() -> None:
    pipeline = composed()
    pipeline.train_step()
    still = pipeline.sample(40, steps=0)
    chains = pipeline.trainer.objective.state.x
    assert all((chains == row).all(1).any() for row in still)
    assert len(still.unique(dim=0)) == 40
    assert pipeline.sample(200, steps=1).shape == (200, 2)
    assert torch.equal(pipeline.sample(10), pipeline.sample(10))


def test_a_conditional_model_is_trained_and_sampled_at_its_labels() -> None:
    pipeline = composed(
        model={"use": "mlp", "hidden": [8], "conditional": True},
        dataset={"use": "digits"},
    )
    run = pipeline.fit(hooks=Hooks({}))
    assert run.step == 10
    drawn = pipeline.sample_batch(30, steps=1)
    assert drawn.condition is not None
    assert drawn.x.shape == (30, 1, 8, 8)
    fives = pipeline.sample_batch(6, steps=1, condition=torch.full((6,), 5))
    assert fives.condition is not None
    assert fives.condition.tolist() == [5] * 6
    assert "kl_nats" in pipeline.evaluate()["refused"]


def test_samples_at_a_condition_start_at_the_persistent_chains_that_are_at_it() -> None:
    pipeline = composed(
        model={"use": "mlp", "hidden": [8], "conditional": True},
        dataset={"use": "digits"},
    )
    pipeline.train_step()
    chains = pipeline.trainer.objective.chains
    assert chains is not None and chains.condition is not None
    # A digit that many chains are at, the others in turn, and one that no chain is at any more.
    most = int(chains.condition.bincount().argmax())
    absent = (most + 1) % 10
    chains.condition[chains.condition == absent] = most
    wanted = torch.tensor([most] * 5 + list(range(10)))
    drawn = pipeline.sample_batch(len(wanted), steps=0, condition=wanted)
    assert torch.equal(drawn.condition, wanted)
    for x, label in zip(drawn.x, wanted, strict=True):
        at = chains.condition[(chains.x == x).flatten(1).all(1)]
        assert len(at) > 0
        assert label in at or label not in chains.condition
    own = drawn.x[wanted == most].flatten(1)
    assert len(own.unique(dim=0)) == len(own)


@pytest.fixture
def graphs_as_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs run as they were traced, which takes no compiler."""
    monkeypatch.setattr("ebmkit.compiling.compiled", lambda graph, **_: graph.forward)


@pytest.mark.usefixtures("graphs_as_traced")
def test_a_gradient_that_is_known_takes_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for mode in ("off", "on"):
        pipeline = composed(**{"training.compile": mode})
        if mode == "on":
            monkeypatch.setattr(torch.autograd, "backward", None)
        metrics = [pipeline.train_step() for _ in range(3)]
        ends.append((weights(pipeline), [m["gradient_norm"] for m in metrics]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("graphs_as_traced")
@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_waits_for_a_gradient_gets_it(mode: str, when: str) -> None:
    pipeline = composed(**{"training.compile": mode})
    (first, *_) = pipeline.model.parameters()
    seen: list[Tensor] = []
    if when == "before":
        first.register_hook(lambda gradient: 2 * gradient)
    else:
        first.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    pipeline.train_step()
    found = first.grad
    other = composed(**{"training.compile": mode})
    other.train_step()
    (expected, *_) = other.model.parameters()
    factor = 2 if when == "before" else 1
    torch.testing.assert_close(found, factor * expected.grad)
    assert len(seen) == (when == "after")
    assert when == "before" or torch.equal(seen[0], found)


@pytest.mark.parametrize("compiler", ["real", "traced"])
def test_parameters_with_equal_gradients_are_clipped_once_each(
    compiler: str, request: pytest.FixtureRequest
) -> None:
    if compiler == "traced":
        request.getfixturevalue("graphs_as_traced")

    class Twofold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(2, 1))
            self.b = nn.Parameter(torch.ones(2, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ (self.a + self.b)).square().squeeze(1)

    ends = []
    for mode in ("off", "on"):
        pipeline = ebmkit.compose(
            {**SPEC, "model": None},
            model=Twofold(),
            **{"training.compile": mode, "training.gradient_clip": 0.01},
        )
        pipeline.train_step()
        ends.append(weights(pipeline))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-6, atol=1e-7)
