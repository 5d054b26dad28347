"""Errors that go to another process, or are copied, are the same errors there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import ebmkit
from ebmkit import errors
from ebmkit.errors import DivergenceError, Problem, SpecError

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
PLAIN = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, BaseException)
    and kind not in (SpecError, DivergenceError)
]
pytestmark = pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)


def test_a_spec_error_keeps_its_problems(again: Callable[[Any], Any]) -> None:
    problems = [
        Problem("loss.k_steps", "expected a whole number, got 'a'", 7),
        Problem("", "no [loss]"),
    ]
    error = SpecError(iter(problems), "mine.toml")  # type: ignore[arg-type]
    error.add_note("said while composing")
    other = again(error)
    assert type(other) is SpecError
    assert other.problems == tuple(problems)
    assert all(isinstance(problem, Problem) for problem in other.problems)
    assert other.origin == "mine.toml"
    assert (
        str(other)
        == str(error)
        == ("mine.toml:7: loss.k_steps: expected a whole number, got 'a'\nmine.toml: no [loss]")
    )
    assert other.__notes__ == ["said while composing"]
    assert other.exit_code == 2


def test_a_spec_error_of_a_composed_spec(again: Callable[[Any], Any]) -> None:
    with pytest.raises(SpecError) as caught:
        ebmkit.compose("two-moons", loss={"k_steps": "a", "kstep": 1}, training={"steps": 0})
    other = again(caught.value)
    assert len(other.problems) >= 3
    assert (other.problems, str(other)) == (caught.value.problems, str(caught.value))


def test_a_divergence_keeps_its_step(again: Callable[[Any], Any]) -> None:
    other = again(DivergenceError("the loss is nan", step=3, chains=2))
    assert type(other) is DivergenceError
    assert (str(other), other.step, other.chains) == ("the loss is nan", 3, 2)


def test_an_interrupt_keeps_its_chains(again: Callable[[Any], Any]) -> None:
    def interrupt(done: int, _: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(ebmkit.ChainInterrupt) as caught:
        ebmkit.sample(
            ebmkit.create("sampler", "langevin"),
            lambda x: x.square().sum(1),
            torch.zeros(4, 2),
            steps=9,
            progress=interrupt,
        )
    error = caught.value
    error.condition = torch.arange(4)
    other = again(error)
    assert (type(other), str(other)) == (type(error), str(error))
    assert torch.equal(other.chain.x, error.chain.x)
    assert torch.equal(other.condition, torch.arange(4))


@pytest.mark.parametrize("kind", PLAIN)
def test_every_other_error_keeps_its_text(
    kind: type[BaseException], again: Callable[[Any], Any]
) -> None:
    other = again(kind("the culprit: the remedy"))
    assert (type(other), str(other)) == (kind, "the culprit: the remedy")
