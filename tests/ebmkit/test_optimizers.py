"""Optimizers of torch.optim by name: keys checked before anything is built, schedules followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ebmkit
from ebmkit import SpecError
from ebmkit.optimizers import _classes

REFUSED: list[tuple[Any, str, tuple[str, ...]]] = [
    ({"use": "adm"}, ".use", ("no optimizer 'adm'", "did you mean 'adam")),
    ({"use": "lbfgs"}, ".use", ("no optimizer 'lbfgs' that fits",)),
    ({"use": "SparseAdam"}, ".use", ("that fits",)),
    ({"use": "muon"}, ".use", ("that fits",)),
    ({"use": "Optimizer"}, ".use", ("no optimizer",)),
    ({"use": 3}, ".use", ("no optimizer 3",)),
    ({"use": ""}, ".use", ("no optimizer ''",)),
    ({"use": "adam", "learning_rate": 1}, ".learning_rate", ("no such key", "known: lr, betas")),
    ({"use": "adam", "bets": [0.9, 0.9]}, ".bets", ("did you mean 'betas'?",)),
    ({"use": "adam", "params": []}, ".params", ("no such key",)),
    ({"use": "adam", "lr": "fast"}, ".lr.use", ("no scheduler is called 'fast'",)),
    ({"use": "adam", "lr": True}, ".lr", ("expected a scheduler",)),
    ({"use": "adam", "lr": float("inf")}, ".lr", ("expected a finite number, got inf",)),
    ({"use": "adam", "lr": float("nan")}, ".lr", ("expected a finite number, got nan",)),
    ({"use": "adam", "lr": 10**400}, ".lr", ("at most 64 bits",)),
    ({"use": "adam", "eps": -(10**400)}, ".eps", ("at most 64 bits",)),
    ({"use": "adam", "lr": -1.0}, "", ("adam refuses its keys: Invalid learning rate: -1.0",)),
    ({"use": "adam", "betas": [2, 0.9]}, "", ("Invalid beta parameter",)),
    ({"use": "adam", "betas": 0.9}, ".betas", ("expected a list of 2 numbers, got 0.9",)),
    ({"use": "adam", "betas": [0.9]}, ".betas", ("expected a list of 2 numbers",)),
    ({"use": "adam", "amsgrad": 1}, ".amsgrad", ("expected true or false, got 1",)),
    ({"use": "adam", "eps": "small"}, ".eps", ("expected a number, got 'small'",)),
    ({"use": "sgd", "nesterov": True}, "", ("Nesterov momentum requires",)),
    (
        {"use": "adam", "lr": {"use": "linear", "start_value": 1, "end_val": 0}},
        ".lr.end_val",
        ("did you mean 'end_value'?",),
    ),
]


@pytest.mark.parametrize(("table", "path", "words"), REFUSED)
def test_what_is_refused(table: Any, path: str, words: tuple[str, ...], small: Any) -> None:
    spec = {**small, "training": {**small["training"], "optimizer": table}}
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(spec)
    problem = caught.value.problems[0]
    assert problem.path == f"training.optimizer{path}"
    for word in words:
        assert word in problem.message


def optimizer(small: Any, table: Any) -> torch.optim.Optimizer:
    spec = {**small, "training": {**small["training"], "optimizer": table}}
    built = ebmkit.compose(spec).trainer.optimizer
    assert built is not None
    return built


@pytest.mark.parametrize("name", sorted(_classes()))
def test_every_class_of_torch_takes_a_step(name: str, small: Any) -> None:
    spec = {**small, "training": {**small["training"], "optimizer": {"use": name, "lr": 1e-3}}}
    pipeline = ebmkit.compose(spec)
    pipeline.train_step()
    again = ebmkit.compose(pipeline.tables)
    assert again.tables == pipeline.tables


def test_keys_reach_the_class(small: Any) -> None:
    table = {"use": "AdamW", "lr": 1, "betas": [0.5, 0.75], "weight_decay": 0.25}
    built = optimizer(small, table)
    assert isinstance(built, torch.optim.AdamW)
    (group,) = built.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1.0, (0.5, 0.75), 0.25)


def test_a_bare_name_has_the_classs_own_defaults(small: Any) -> None:
    built = optimizer(small, "sgd")
    assert isinstance(built, torch.optim.SGD)
    assert built.param_groups[0]["lr"] == 1e-3


def test_keys_without_a_name_are_those_of_adam(small: Any) -> None:
    built = optimizer(small, {"lr": 0.5})
    assert isinstance(built, torch.optim.Adam)
    assert built.param_groups[0]["lr"] == 0.5


def test_on_cpus_steps_are_fused_unless_said_otherwise(small: Any) -> None:
    for name in ("adam", "adamw", "sgd"):
        assert optimizer(small, name).param_groups[0]["fused"] is True
        for other in ({"foreach": True}, {"fused": False}, {"differentiable": True}):
            built = optimizer(small, {"use": name, **other})
            assert not built.param_groups[0]["fused"], (name, other)
    assert "fused" not in optimizer(small, "rmsprop").param_groups[0]
    # It is the same optimizer.
    ends = []
    for table in ({"use": "adam", "lr": 0.1}, {"use": "adam", "lr": 0.1, "fused": False}):
        pipeline = ebmkit.compose(
            {**small, "training": {**small["training"], "optimizer": table, "compile": "off"}}
        )
        pipeline.train_step()
        ends.append(torch.cat([p.detach().flatten() for p in pipeline.model.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_a_schedule_is_followed_and_spread_over_the_run(small: Any) -> None:
    schedule = {"use": "linear", "start_value": 0.6, "end_value": 0.1}
    spec = {
        **small,
        "training": {**small["training"], "optimizer": {"use": "sgd", "lr": schedule}},
    }
    pipeline = ebmkit.compose(spec)
    assert pipeline.trainer.optimizer is not None
    rates = []
    for _ in range(6):
        pipeline.train_step()
        rates.append(pipeline.trainer.optimizer.param_groups[0]["lr"])
    stated = ebmkit.create("scheduler", "linear", n_steps=6, start_value=0.6, end_value=0.1)
    expected = [stated(step) for step in range(6)]
    assert rates == pytest.approx(expected)
    assert rates[0] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.1)


SCHEDULES: list[tuple[dict[str, Any], str]] = [
    ({"use": "linear", "start_value": 0.1, "end_value": -0.1}, "expected a finite number ≥ 0"),
    ({"use": "constant", "value": 0.1, "clock": "chain"}, 'set clock = "training"'),
    ({"use": "multi-step", "start_value": 0.1, "milestones": [3, 2]}, "milestones"),
]


@pytest.mark.parametrize(("schedule", "words"), SCHEDULES)
@pytest.mark.parametrize("path", ["training.optimizer.lr", "training.data_noise"])
def test_schedules_of_the_training_are_checked_before_step_0(
    schedule: dict[str, Any], words: str, path: str, small: Any
) -> None:
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(small, **{path: schedule})
    (problem,) = caught.value.problems
    assert problem.path.startswith(path)
    assert words in problem.render()


def test_noise_on_the_data_follows_its_schedule(small: Any) -> None:
    noise = {"use": "linear", "start_value": 10.0, "end_value": 0.0}
    pipeline = ebmkit.compose(small, dataset=torch.zeros(32, 2), **{"training.data_noise": noise})
    spreads = [float(pipeline.trainer._batch(step).x.std()) for step in (0, 3, 5)]
    assert spreads[0] > spreads[1] > spreads[2] == 0
    assert spreads[0] == pytest.approx(10, rel=0.5)
    assert pipeline.tables["training"]["data_noise"]["use"] == "linear"
