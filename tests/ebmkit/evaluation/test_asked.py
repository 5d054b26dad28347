"""Brackets on log Z as a pipeline's [evaluation] asks for them."""

from __future__ import annotations

from typing import Any

import pytest

import ebmkit
from ebmkit.errors import SpecError

MALA = {"use": "mala", "step_size": 0.2, "target_acceptance": 0.574}


def tables(**evaluation: Any) -> dict[str, Any]:
    return {
        "model": {"use": "gaussian", "mean": [1.0, 0.0], "trainable": True},
        "loss": {"use": "dsm", "sigma": 0.1},
        "dataset": {"use": "gaussian-mixture"},
        "sampler": MALA,
        "evaluation": {"n_samples": 200, "chain_steps": 200, **evaluation},
    }


def test_nothing_is_bracketed_unless_asked_for() -> None:
    numbers = ebmkit.compose(tables()).evaluate()
    assert numbers["log_z_method"] == "exact"
    assert "log_likelihood" in numbers
    assert not [name for name in numbers if "annealing" in name or "lower" in name]


@pytest.mark.parametrize("sampler", [None, MALA])
def test_brackets_contain_what_is_exact_and_are_the_same_each_time(sampler: Any) -> None:
    said = {"annealing_steps": 100, "annealing_chains": 150, "annealing_sampler": sampler}
    pipeline = ebmkit.compose(tables(**said))
    numbers = pipeline.evaluate()
    assert (numbers["annealing_steps"], numbers["annealing_chains"]) == (100, 150)
    for side in ("forward", "reverse"):
        error = numbers[f"log_z_{side}_error"]
        assert 0 < error < 0.1
        assert abs(numbers[f"log_z_{side}"] - numbers["log_z"]) < 5 * error
    assert pipeline.evaluate() == numbers


def test_what_anneals_has_to_be_exact() -> None:
    said = tables(annealing_steps=5)
    said["sampler"] = {"use": "langevin"}
    with pytest.raises(SpecError, match=r"annealing_sampler: .* the pipeline's Langevin does not"):
        ebmkit.compose(said)
    with pytest.raises(SpecError, match=r"annealing_sampler: .* True, and Langevin does not"):
        ebmkit.compose(tables(annealing_steps=5, annealing_sampler="langevin"))
    ladder = {"use": "parallel-tempering", "sampler": MALA}
    with pytest.raises(SpecError, match=r"annealing_sampler: .* ParallelTempering does not"):
        ebmkit.compose(tables(annealing_steps=5, annealing_sampler=ladder))
    del said["sampler"]
    with pytest.raises(SpecError, match=r"annealing_sampler: .* there is none"):
        ebmkit.compose(said)
    # Nothing is annealed, or by another.
    said["sampler"] = {"use": "langevin"}
    for evaluation in ({"annealing_steps": 0}, {"annealing_steps": 5, "annealing_sampler": MALA}):
        assert ebmkit.compose({**said, "evaluation": evaluation}).step == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"annealing_steps": -1}, "evaluation.annealing_steps"),
        ({"annealing_chains": 1}, "evaluation.annealing_chains"),
        ({"annealing_sampler": {"use": "gibbs"}}, "it moves discrete states"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    said: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        ebmkit.compose(tables(**said))


def test_an_rbm_is_bracketed_along_its_bridge() -> None:
    pipeline = ebmkit.compose(
        {
            "model": {"use": "rbm", "n_hidden": 8, "weight_scale": 0.5},
            "loss": {"use": "pcd", "sampler": {"use": "gibbs"}, "k_steps": 1},
            "dataset": {"use": "digits", "binarise": True},
            "training": {"steps": 1},
            "evaluation": {"n_samples": 200, "chain_steps": 100, "annealing_steps": 300},
        }
    )
    pipeline.train_step()
    numbers = pipeline.evaluate()
    assert numbers["log_z_method"] == "exact"
    assert abs(numbers["log_z_forward"] - numbers["log_z"]) < 5 * numbers["log_z_forward_error"]
    assert numbers["log_z_forward_error"] < 0.2
    assert "log_z_lower" not in numbers.get("refused", {})
