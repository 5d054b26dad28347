"""Data, model, loss and samplers of different kinds of states are told apart before step 0."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, PluginError, SpecError
from ebmkit.errors import Problem

POTTS = {"use": "potts", "trainable": True}
PCD = {"use": "persistent-contrastive-divergence", "k_steps": 1, "buffer_size": 16}
DIGITS = {"use": "digits", "binarise": True}


@attrs.frozen
class States:
    """Random states: bits, or one-hot along the last axis where ``one_hot``."""

    shape: tuple[int, ...] = (4, 3)
    one_hot: bool = True
    discrete: bool = True

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        shape = (size, *self.shape)
        if not self.one_hot:
            return Batch(torch.randint(2, shape, generator=generator).float())
        index = torch.randint(shape[-1], shape[:-1], generator=generator)
        return Batch(nn.functional.one_hot(index, shape[-1]).float())


def tables(**changes: Any) -> dict[str, Any]:
    return {
        "model": "mlp",
        "sampler": "gibbs-with-gradients",
        "loss": {**PCD, "sampler": "@sampler"},
        "dataset": States(),
        "training": {"steps": 2, "batch_size": 8},
        "evaluation": {"n_samples": 8, "chain_steps": 2},
        **changes,
    }


def problems(**changes: Any) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(tables(**changes))
    return caught.value.problems


@pytest.mark.parametrize("model", ["rbm", "ising"])
def test_a_discrete_model_of_continuous_data(model: str) -> None:
    langevin = {"sampler": "langevin", "dataset": torch.randn(40, 3)}
    (problem,) = problems(model=model, **langevin)
    assert problem.path == "model"
    assert "is of discrete states and the data are continuous" in problem.message
    # The other way round is a network of bits.
    assert ebmkit.compose(tables(dataset=States(one_hot=False))).train_step()


def test_a_discrete_sampler_of_continuous_data_is_told_how_data_say_so() -> None:
    (problem,) = problems(dataset=torch.randint(2, (40, 3)).float())
    assert problem.path == "sampler"
    assert "discrete = true" in problem.message


def test_one_hot_states_of_bits() -> None:
    # The shape fits, and the rows do not.
    (problem,) = problems(model=POTTS, dataset=States(one_hot=False))
    assert problem.path == "model"
    assert "of 3 categories, and rows of the data, of shape (4, 3), are not" in problem.message
    assert ebmkit.compose(tables(model=POTTS)).train_step()


@pytest.mark.parametrize("sampler", ["gibbs", "gibbs-with-gradients"])
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize(
    ("model", "data", "categories", "words"),
    [
        ("mlp", States(one_hot=False), 3, "one-hot along the last axis, got a row"),
        ("mlp", States(), 2, "a last axis of 2 categories"),
        ("rbm", States(one_hot=False), 3, "of states of zeros and ones, got 3"),
        ("rbm", States(), 3, "of states of zeros and ones, got 3"),
        (POTTS, States(), 2, "the energy is of 3 categories, got 2"),
    ],
)
def test_categories_of_a_sampler_that_are_not_those_of_the_states(
    sampler: str, outer: bool, model: Any, data: Any, categories: int, words: str
) -> None:
    table: dict[str, Any] = {"use": sampler, "categories": categories}
    if outer:
        table = {"use": "parallel-tempering", "sampler": table, "n_replicas": 2}
    (problem,) = problems(model=model, dataset=data, sampler=table)
    assert problem.path in ("sampler", "sampler.categories")
    assert words in problem.message


@pytest.mark.parametrize("sampler", ["gibbs", "gibbs-with-gradients"])
def test_categories_that_are_those_of_the_states_train(sampler: str) -> None:
    table = {"use": sampler, "categories": 3}
    for model in ("mlp", POTTS):
        pipeline = ebmkit.compose(tables(model=model, sampler=table))
        pipeline.train_step()
        assert (pipeline.sample(5).sum(-1) == 1).all()


def test_the_sampler_of_a_loss_and_that_which_anneals() -> None:
    three = {"use": "gibbs", "categories": 3}
    (problem,) = problems(
        dataset=States(one_hot=False), loss={**PCD, "sampler": three}, sampler="gibbs"
    )
    assert problem.path == "loss.sampler"
    evaluation = {"annealing_steps": 3, "annealing_sampler": three}
    (problem,) = problems(dataset=States(one_hot=False), evaluation=evaluation)
    assert problem.path == "evaluation.annealing_sampler"


def test_a_conditional_network_of_bits_is_tried_with_labels() -> None:
    pipeline = ebmkit.compose(
        tables(dataset=DIGITS, model={"use": "mlp", "conditional": True, "hidden": [4]})
    )
    assert pipeline.train_step()


class Broken:
    """Its chains cannot begin."""

    discrete = True

    def init(self, energy: Any, x: Tensor) -> Any:
        raise KeyError("no such state")

    def draw(self, state: Any, *, generator: torch.Generator) -> Any: ...

    def step(self, energy: Any, state: Any, noise: Any) -> Any: ...


def test_a_sampler_that_fails_at_its_start_is_named() -> None:
    with pytest.raises(PluginError, match=r"sampler: init of Broken .* KeyError"):
        ebmkit.compose(tables(sampler=Broken(), loss={**PCD, "sampler": Broken()}))


LOSSES = ["score-matching", "sliced-score-matching", "denoising-score-matching"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("place", ["loss", "evaluation.loss", "hooks.early-stopping.loss"])
def test_losses_of_continuous_points_on_discrete_data(loss: str, place: str) -> None:
    hooks = {"early-stopping": {"patience": 5, "every": 1}} if "hooks" in place else {}
    changes = tables(dataset={**DIGITS, "validation": 0.1}, hooks=hooks)
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(changes, **{place: {"use": loss}})
    (problem,) = caught.value.problems
    assert problem.path == place
    assert "is of continuous points alone and the data are discrete" in problem.message


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_continuous_points_on_a_discrete_model(name: str) -> None:
    changes = {"model": "rbm", "dataset": torch.randn(40, 3), "sampler": "langevin"}
    found = {problem.path: problem.message for problem in problems(loss=name, **changes)}
    assert set(found) == {"loss", "model"}
    assert "has no score" in found["loss"]
    model = ebmkit.create("model", "rbm", event_shape=[3], n_hidden=2)
    with pytest.raises(ebmkit.UserError, match="has no score"):
        ebmkit.objective(ebmkit.create("loss", name), model)(torch.ones(2, 3))
