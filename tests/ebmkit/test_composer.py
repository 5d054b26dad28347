"""Same spec and seed, same weights; live parts; and a process that is left as it was found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, Pipeline, SpecError, UserError
from ebmkit.composer import load_spec
from ebmkit.devices import find_device
from ebmkit.errors import BrokenPluginError, DeviceError
from ebmkit.hooks import Hooks
from ebmkit.plan import resolved
from ebmkit.seeds import stream

ROWS = torch.linspace(-1, 1, 400).reshape(200, 2)


def weights(pipeline: Pipeline) -> dict[str, Tensor]:
    assert isinstance(pipeline.trainer.model, nn.Module)
    return copy.deepcopy(pipeline.trainer.model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def trained(spec: Any, steps: int = 20, **overrides: Any) -> Pipeline:
    pipeline = ebmkit.compose(copy.deepcopy(spec), **overrides)
    for _ in range(steps):
        pipeline.train_step()
    return pipeline


class TestDeterminism:
    @pytest.mark.parametrize("loss", ["cd", "pcd"])
    @pytest.mark.parametrize("sampler", ["langevin", "mala"])
    def test_same_seed_same_weights_bit_for_bit(self, small: Any, loss: str, sampler: str) -> None:
        overrides = {"loss": {"use": loss, "k_steps": 2}, "sampler": {"use": sampler}}
        one, other = (trained(small, **overrides) for _ in range(2))
        assert same(weights(one), weights(other))
        assert torch.equal(one.sample(7, steps=3), other.sample(7, steps=3))

    def test_the_first_weights_too(self, small: Any) -> None:
        assert same(weights(ebmkit.compose(small)), weights(ebmkit.compose(small)))

    def test_another_seed_other_weights(self, small: Any) -> None:
        one, other = trained(small), trained(small, **{"training.seed": 2})
        assert not any(
            torch.equal(a, b)
            for a, b in zip(weights(one).values(), weights(other).values(), strict=True)
        )

    def test_a_finite_set_goes_by_epochs_in_a_seeded_order(self, small: Any) -> None:
        spec = copy.deepcopy(small) | {"dataset": {"use": "two-moons", "n_samples": 48}}
        spec["training"] = {**spec["training"], "steps": None, "epochs": 4}
        pipeline = ebmkit.compose(spec)
        assert pipeline.training.steps == 12
        batches = [pipeline.trainer.feed.draw().x for _ in range(6)]
        first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
        assert not torch.equal(first, second)
        rows = [sorted(map(tuple, epoch.tolist())) for epoch in (first, second)]
        assert rows[0] == rows[1]
        assert len(set(rows[0])) == 48
        assert same(weights(trained(spec)), weights(trained(spec)))

    def test_samples_are_those_of_the_seed_or_of_the_generator(self, small: Any) -> None:
        pipeline = trained(small, 2)
        assert torch.equal(pipeline.sample(5, steps=2), pipeline.sample(5, steps=2))
        draws = [
            pipeline.sample(5, steps=2, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[1], draws[2])


def test_the_process_is_left_as_it_was_found(small: Any) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    settings = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )
    pipeline = ebmkit.compose(copy.deepcopy(small), dataset=ROWS)
    pipeline.fit(hooks=Hooks({}))
    pipeline.sample(5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert settings == (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )


def test_streams_of_one_seed_are_independent() -> None:
    def first(seed: int, purpose: str) -> float:
        return float(torch.rand(1, generator=stream(seed, purpose)))

    assert first(0, "a") == first(0, "a")
    assert len({first(seed, purpose) for seed in range(20) for purpose in "abcd"}) == 80


class TestLiveParts:
    def test_a_module(self, small: Any) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0))
        before = copy.deepcopy(net.state_dict())
        pipeline = trained(small, 3, model=net)
        assert pipeline.trainer.model is net
        assert not same(before, dict(net.state_dict()))
        assert pipeline.tables["model"] == {"use": "<Sequential>"}

    def test_a_tensor_as_data(self, small: Any) -> None:
        pipeline = trained(small, 3, dataset=ROWS)
        assert pipeline.dataset.event_shape == (2,)
        batch = pipeline.data(50, generator=torch.Generator().manual_seed(0))
        known = {tuple(row) for row in ROWS.tolist()}
        assert {tuple(row) for row in batch.x.tolist()} <= known

    def test_a_sampler_a_loss_and_a_schedule(self, small: Any) -> None:
        sampler = ebmkit.create("sampler", "langevin", step_size=0.02)
        loss = ebmkit.create("loss", "cd", sampler=sampler, k_steps=2)
        slow = ebmkit.create("scheduler", "constant", value=0.5)
        pipeline = trained(small, 1, sampler=sampler, loss=loss, **{"training.optimizer.lr": slow})
        assert pipeline.sampler is sampler
        assert pipeline.loss is loss
        assert pipeline.trainer.optimizer is not None
        assert pipeline.trainer.optimizer.param_groups[0]["lr"] == 0.5

    def test_a_plain_function_can_be_judged_and_not_trained(self, small: Any) -> None:
        pipeline = ebmkit.compose(small, model=lambda x: x.square().sum(1) / 2)
        assert any("no parameters to train" in line for line in pipeline.notices)
        with pytest.raises(UserError, match="model: it has no parameters to train"):
            pipeline.train_step()
        assert pipeline.sample(4, steps=2).shape == (4, 2)

    def test_a_module_whose_weights_are_all_frozen(self, small: Any) -> None:
        net = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)).requires_grad_(False)
        with pytest.raises(UserError, match="no parameters to train"):
            trained(small, 1, model=net)

    def test_a_module_in_double_precision_of_double_data(self, small: Any) -> None:
        net = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)).double()
        pipeline = trained(small, 2, model=net, dataset=ROWS.double())
        assert pipeline.sample(3, steps=2).dtype == torch.float64

    def test_overrides_as_tables_and_as_paths(self, small: Any) -> None:
        pipeline = ebmkit.compose(small, training={"batch_size": 8}, **{"sampler.step_size": 0.5})
        assert pipeline.training.batch_size == 8
        assert pipeline.training.steps == 6
        assert pipeline.tables["sampler"]["step_size"] == 0.5

    def test_tables_given_are_not_changed(self, small: Any) -> None:
        spec = copy.deepcopy(small)
        ebmkit.compose(spec, **{"sampler.step_size": 0.5})
        assert spec == small


FOREIGN = """
import torch
from torch import nn


class Foreign(nn.Sequential):
    \"\"\"Draws its weights from torch's global generator, as most modules do.\"\"\"

    def __init__(self, width: int = 3):
        super().__init__(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1), nn.Flatten(0))


class Failing(nn.Module):
    \"\"\"Cannot be built.\"\"\"

    def __init__(self, reason: str = "value"):
        super().__init__()
        raise {"value": ValueError("no such width"), "key": KeyError("oops")}[reason]
"""


class TestForeignModules:
    @pytest.fixture(autouse=True)
    def _foreign(self, install: Any) -> None:
        entries = {"foreign": "foo_f:Foreign", "failing": "foo_f:Failing"}
        install("foo-f", {"ebmkit.models": entries}, {"foo_f.py": FOREIGN})

    def test_the_global_generator_is_seeded_for_it_and_left_as_found(self, small: Any) -> None:
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = ebmkit.compose(small, model="foreign")
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        other = ebmkit.compose(small, model="foreign")
        assert same(weights(one), weights(other))
        third = ebmkit.compose(small, model="foreign", **{"training.seed": 9})
        assert not same(weights(one), weights(third))
        assert same(
            weights(trained(small, model="foreign")), weights(trained(small, model="foreign"))
        )

    def test_what_a_constructor_refuses_is_a_problem_with_its_path(self, small: Any) -> None:
        with pytest.raises(SpecError) as caught:
            ebmkit.compose(small, model="failing")
        assert str(caught.value) == "model: no such width"

    def test_what_a_constructor_breaks_on_is_the_plugins_fault(self, small: Any) -> None:
        with pytest.raises(
            BrokenPluginError, match=r"model 'failing' of foo-f 1.0 failed .* KeyError"
        ):
            ebmkit.compose(small, model={"use": "failing", "reason": "key"})


class TestSources:
    def test_a_path_a_string_and_a_recipe(self, tmp_path: Path, small: Any) -> None:
        from ebmkit.spec import to_toml

        path = tmp_path / "p.toml"
        path.write_text(to_toml(small))
        assert load_spec(path).tables == load_spec(str(path)).tables == small
        assert load_spec("two-moons").tables["dataset"]["use"] == "two-moons"
        assert load_spec("ebmkit-core:two-moons").tables == load_spec("two-moons").tables
        spec = load_spec("two-moons")
        assert load_spec(spec) is spec

    def test_a_file_without_its_usual_ending(
        self, tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ebmkit.spec import to_toml

        (tmp_path / "mine").write_text(to_toml(small))
        monkeypatch.chdir(tmp_path)
        assert load_spec("mine").tables == small


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "meta", "xpu", "abacus", "cpu:1", ""):
        with pytest.raises(DeviceError):
            find_device(name)


def test_a_schedule_that_outlives_the_run_is_noticed(small: Any) -> None:
    slow = {"use": "linear", "start_value": 0.1, "end_value": 0.01, "n_steps": 100}
    pipeline = ebmkit.compose(small, **{"sampler.step_size": slow})
    assert pipeline.notices == (
        "sampler.step_size: stated for 100 training steps, the run ends after 6",
    )


def test_defaults_are_in_the_resolved_tables(small: Any) -> None:
    minimal = {
        "model": "mlp",
        "sampler": "langevin",
        "loss": "cd",
        "dataset": "two-moons",
    }
    tables = ebmkit.compose(minimal).tables
    assert tables["training"]["steps"] == 1000
    assert tables["training"]["optimizer"]["use"] == "adam"
    assert tables["model"]["activation"] == "silu"
    assert tables["loss"]["sampler"] == "@sampler"
    assert tables["parts"]["loss:cd"].startswith("ebmkit-core==")


def test_paths_are_strings_in_the_resolved_tables() -> None:
    said = resolved({"path": Path("a") / "b", "more": (Path("c"), 1.0)})
    assert said == {"path": str(Path("a") / "b"), "more": ["c", 1.0]}


class Counting(nn.Module):
    """Counts in which mode it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(1)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        out: Tensor = self.norm(self.layer(x))
        return out.squeeze(1)


def test_chains_run_in_evaluation_mode_and_change_no_statistics(small: Any) -> None:
    net = Counting()
    pipeline = ebmkit.compose(small, model=net)
    assert net.norm.num_batches_tracked == 0
    net.modes.clear()
    pipeline.train_step()
    assert net.modes.count(True) == 1
    assert net.norm.num_batches_tracked == 1
    net.modes.clear()
    pipeline.sample(3, steps=2)
    assert not any(net.modes)
    assert net.training
    assert net.norm.num_batches_tracked == 1


@attrs.frozen
class Poisoned:
    """Points of which one is not finite."""

    event_shape: tuple[int, ...] = (2,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        x = torch.randn(size, 2, generator=generator)
        x[0] = torch.nan
        return Batch(x)


def test_data_that_are_not_finite_are_refused(small: Any) -> None:
    with pytest.raises(ebmkit.DataError, match="Poisoned: 1 of 16 points of the batch at step 0"):
        trained(small, 1, dataset=Poisoned())


def test_divergence_takes_no_step(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    pipeline = trained(small, 2, **{"sampler.step_size": 1e-2})
    pipeline.train_step()
    assert isinstance(pipeline.trainer.model, nn.Module)
    with torch.no_grad():
        for parameter in pipeline.trainer.model.parameters():
            parameter.mul_(1e38)
    before = weights(pipeline)
    with pytest.raises(ebmkit.DivergenceError) as caught:
        pipeline.train_step()
    assert pipeline.step == 3
    assert same(before, weights(pipeline))
    assert caught.value.exit_code == 1


def test_the_average_of_weights_is_what_is_judged(small: Any) -> None:
    pipeline = trained(small, 5, **{"training.ema_decay": 0.5})
    assert pipeline.model is pipeline.trainer.averaged
    assert isinstance(pipeline.model, nn.Module)
    assert not same(dict(pipeline.model.state_dict()), weights(pipeline))
    assert not any(p.requires_grad for p in pipeline.model.parameters())


def test_a_limit_on_the_gradient(small: Any) -> None:
    sgd = {"use": "sgd", "lr": 1.0}
    overrides = {"training.optimizer": sgd, "training.gradient_clip": 1e-3}
    pipeline = ebmkit.compose(small, **overrides)
    before = weights(pipeline)
    norm = pipeline.train_step()["gradient_norm"]
    moved = sum(
        float((b - a).square().sum())
        for a, b in zip(before.values(), weights(pipeline).values(), strict=True)
    )
    assert norm > 1e-3
    assert moved**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_a_recipe_by_its_name(cli: Callable[..., Any]) -> None:
    assert cli("validate", "eight-gaussians").out == "eight-gaussians: fine\n"
