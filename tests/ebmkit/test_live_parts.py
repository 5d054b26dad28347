"""What is said to somebody who writes a part of their own and gives it as an object."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, PluginError, SpecError, UserError
from ebmkit.protocols import Dataset, Loss, Sampler


class Mean:
    """The mean energy of the data, as a loss."""

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> tuple[()]:
        return ()

    def draw(
        self, model: Any, batch: Batch, state: Any, step: int, *, generator: torch.Generator
    ) -> Any:
        return None, state

    def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
        return model(batch.x).square().mean(), {}


def altered(**methods: Any) -> Any:
    """The loss with other methods."""
    return type("Mine", (Mean,), methods)()


def calls(called: Callable[[Any, Batch], Any]) -> Any:
    return altered(__call__=lambda self, model, batch, draws: called(model, batch))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0))


def refused(small: dict[str, Any], **overrides: Any) -> list[str]:
    named = {key.replace("__", "."): value for key, value in overrides.items()}
    with pytest.raises(SpecError) as caught:
        ebmkit.compose(copy.deepcopy(small), **named)
    return [problem.render() for problem in caught.value.problems]


class Asking(Mean):
    """Cannot be made without a number."""

    def __init__(self, weight: float, *more: float, scale: float = 1.0) -> None:
        self.weight = weight


class TestClasses:
    @pytest.mark.parametrize("kind", ["model", "sampler", "loss", "dataset"])
    def test_a_class_of_each_kind(self, small: Any, kind: str) -> None:
        said = refused(small, **{kind: Mean})
        assert said[0] == f"{kind}: expected an object, got the class Mean; write Mean()"

    def test_one_that_needs_arguments(self, small: Any) -> None:
        (said,) = refused(small, loss=Asking)
        assert said.endswith("got the class Asking; write Asking(…)")

    def test_one_inside_another_part(self, small: Any) -> None:
        (said,) = refused(small, loss__sampler=Mean)
        assert said == "loss.sampler: expected an object, got the class Mean; write Mean()"

    def test_a_schedules(self, small: Any) -> None:
        (said,) = refused(small, sampler__step_size=Mean)
        assert said == "sampler.step_size: expected an object, got the class Mean; write Mean()"

    def test_an_object_of_it_trains(self, small: Any) -> None:
        pipeline = ebmkit.compose(copy.deepcopy(small), loss=Mean(), model=network())
        assert pipeline.fit().pipeline.step == 6


class TestObjectsOfNoKind:
    @pytest.mark.parametrize(
        ("kind", "protocol", "methods"),
        [
            ("loss", Loss, ["init", "draw"]),
            ("sampler", Sampler, ["init", "draw", "step"]),
            ("dataset", Dataset, ["draw"]),
        ],
    )
    def test_they_hear_what_the_protocol_asks_for(
        self, small: Any, kind: str, protocol: Any, methods: list[str]
    ) -> None:
        said = refused(small, **{kind: lambda model, batch: 0.0})[0]
        assert said.startswith(f"{kind}: function object is no {kind}: it lacks ")
        assert "page of the protocols" in said
        assert f"`ebmkit new-plugin NAME --kind {kind}`" in said
        for name in methods:
            form = said.partition(f" {name}(")[2].partition(")")[0]
            wanted = [*inspect.signature(getattr(protocol, name)).parameters][1:]
            stars = {"args": "*args", "kwargs": "**kwargs"}
            told = [word for word in form.split(", ") if word != "*"]
            assert told == [stars.get(n, n) for n in wanted]

    def test_an_objective_says_so_too(self) -> None:
        with pytest.raises(
            UserError, match=r"^loss: function object is no loss: it lacks init, draw"
        ):
            ebmkit.objective(lambda model, batch: 0.0, network())  # type: ignore[arg-type]


class Scaled:
    """A sampler that stays where it is, with a parameter that a schedule could change."""

    size = 0.5

    def init(self, energy: Any, x: Tensor) -> Any:
        return Batch(x)

    def draw(self, state: Any, *, generator: torch.Generator) -> None:
        """Nothing is drawn."""

    def step(self, energy: Any, state: Any, noise: Any, *, size: Any) -> Any:
        return state, {}


class TestSignatures:
    def test_a_draw_that_takes_too_few(self, small: Any) -> None:
        short = altered(draw=lambda self, model, batch, state, *, generator: (None, state))
        (said,) = refused(small, loss=short)
        assert said.startswith(
            "loss: draw of Mine takes (model, batch, state, *, generator) and is"
        )
        assert "called with model, batch, state, step, generator=…" in said
        assert said.endswith("write def draw(self, model, batch, state, step, *, generator)")

    def test_one_without_the_generator(self, small: Any) -> None:
        (said,) = refused(small, loss=altered(init=lambda self, model, batch: ()))
        assert said.endswith("write def init(self, model, batch, *, generator)")

    def test_a_call_that_takes_too_few(self, small: Any) -> None:
        (said,) = refused(small, loss=altered(__call__=lambda self, model, batch: None))
        assert said.endswith("write def __call__(self, model, batch, draws)")

    def test_a_module_is_judged_by_its_forward(self, small: Any) -> None:
        class Module(nn.Module):
            init = Mean.init
            draw = Mean.draw

            def forward(self, model: Any) -> None: ...

        (said,) = refused(small, loss=Module())
        assert said.startswith("loss: __call__ of Module takes (model) and is called with model, ")

    def test_what_is_no_method(self, small: Any) -> None:
        (said,) = refused(small, loss=altered(draw=3))
        assert said.startswith("loss: draw of Mine is no method; a loss has init(")

    def test_an_objective_says_so_too(self) -> None:
        with pytest.raises(UserError, match=r"^loss: init of Mine takes"):
            ebmkit.objective(altered(init=lambda self: ()), network())

    def test_a_steps_keywords_are_fields(self, small: Any) -> None:
        ebmkit.compose(copy.deepcopy(small), sampler=Scaled(), loss=Mean())
        unknown = type("Other", (Scaled,), {"step": lambda self, energy, state, noise, *, rate: 0})
        (said,) = refused(small, sampler=unknown(), loss=Mean())
        assert said.startswith(
            "sampler: step of Other takes the keyword rate, which is no field of"
        )

    def test_a_steps_scheduled_parameters_stand_behind_a_star(self, small: Any) -> None:
        placed = type("Other", (Scaled,), {"step": lambda self, energy, state, noise, size: 0})
        (said,) = refused(small, sampler=placed(), loss=Mean())
        assert "(missing a required argument: 'size')" in said
        assert said.endswith("(self, energy, state, noise), with scheduled parameters behind a *")


RETURNED = {
    "the loss alone": (
        lambda model, batch: model(batch.x).mean(),
        ["returned a tensor of shape (), expected the pair (loss, metrics)", "`return loss, {}`"],
    ),
    "three things": (
        lambda model, batch: (model(batch.x).mean(), {}, None),
        ["returned an object of type tuple of 3, expected the pair"],
    ),
    "nothing": (lambda model, batch: None, ["returned None, expected the pair"]),
    "a row's loss each": (
        lambda model, batch: (model(batch.x), {}),
        ["returned as loss a tensor of shape (16,), expected one without dim", "loss.mean()"],
    ),
    "a number": (
        lambda model, batch: (model(batch.x).mean().item(), {}),
        ["returned as loss an object of type float", "without item()"],
    ),
    "no metrics": (
        lambda model, batch: (model(batch.x).mean(), None),
        ["returned as metrics None, expected a dict", "return {}"],
    ),
    "a metric that is a number": (
        lambda model, batch: (model(batch.x).mean(), {"gap": 1.0}),
        ["returned as metric 'gap' an object of type float", "without item()"],
    ),
    "a loss without a gradient": (
        lambda model, batch: (model(batch.x).mean().detach(), {}),
        ["a loss that does not depend on the model's parameters", "leave out detach()"],
    ),
}


class TestReturns:
    @pytest.mark.parametrize("case", RETURNED)
    def test_what_a_call_returns(self, small: Any, case: str) -> None:
        called, words = RETURNED[case]
        pipeline = ebmkit.compose(copy.deepcopy(small), loss=calls(called), model=network())
        objective = ebmkit.objective(calls(called), network())
        for use in (pipeline.fit, lambda: objective(torch.zeros(16, 2))):
            with pytest.raises(PluginError) as caught:
                use()
            said = str(caught.value)
            assert said.startswith(f"loss: __call__ of Mine (module {__name__}) returned ")
            assert all(word in said for word in words), said

    @pytest.mark.parametrize("case", RETURNED)
    def test_what_a_call_returns_where_it_is_to_be_compiled(self, case: str) -> None:
        called, words = RETURNED[case]
        objective = ebmkit.objective(calls(called), network(), compile="on")
        with pytest.raises(PluginError) as caught:
            objective(torch.zeros(16, 2))
        if case != "a number":  # item() cannot be traced at all, so the value is another there
            assert all(word in str(caught.value) for word in words)

    @pytest.mark.parametrize(
        ("returned", "told"),
        [
            (torch.zeros(2, 2), "a tensor of shape (2, 2)"),
            (None, "None"),
            ((1, 2, 3), "tuple of 3"),
        ],
    )
    def test_what_draw_returns(self, small: Any, returned: Any, told: str) -> None:
        loss = altered(draw=lambda self, model, batch, state, step, *, generator: returned)
        with pytest.raises(PluginError) as caught:
            ebmkit.compose(copy.deepcopy(small), loss=loss).fit()
        said = str(caught.value)
        assert said.startswith("loss: draw of Mine ")
        assert f"{told}, expected the pair (draws, state); end it in `return draws, state`" in said

    def test_no_gradient_is_asked_for_where_nothing_is_trained(self) -> None:
        detached = calls(lambda model, batch: (model(batch.x).mean().detach(), {}))
        frozen = network().requires_grad_(False)
        x = torch.zeros(4, 2)
        assert ebmkit.objective(detached, frozen)(x).loss.isfinite()
        assert ebmkit.objective(detached, lambda x: x.sum(1))(x).loss == 0
        with torch.no_grad():
            assert ebmkit.objective(Mean(), network())(x).loss.isfinite()


class TestData:
    def test_an_array(self, small: Any) -> None:
        (said,) = refused(small, dataset=np.zeros((5, 2)))
        assert said.startswith("dataset: ndarray object is no dataset")
        assert said.endswith("write torch.as_tensor(rows, dtype=torch.float32)")

    def test_a_list_is_not_printed_whole(self, small: Any) -> None:
        (said,) = refused(small, dataset=[[0.0, 1.0]] * 10_000)
        assert said.startswith(
            "dataset: expected a dataset: a name, a table with `use`, got [[0.0, "
        )
        assert said.endswith("...]; write torch.as_tensor(rows, dtype=torch.float32)")
        assert len(said) < 300


class TestLoading:
    def test_a_live_part_is_to_be_given_again(self, small: Any, tmp_path: Path) -> None:
        out = tmp_path / "run"
        ebmkit.compose(copy.deepcopy(small), loss=Mean(), model=network()).fit(out=out)
        with pytest.raises(SpecError) as caught:
            ebmkit.load(out)
        said = {p.path: p.message for p in caught.value.problems}
        assert [*said] == ["model", "loss"]
        assert said["loss"].startswith("was a live object of type Mean when the run was made")
        assert said["loss"].endswith("as ebmkit.load(..., loss=...)")
        assert ebmkit.load(out, loss=Mean(), model=network()).step == 6

    def test_one_inside_another_part(self, small: Any, tmp_path: Path) -> None:
        out = tmp_path / "run"
        given = {
            "loss.sampler": ebmkit.create("sampler", "langevin", step_size=0.01),
            "sampler.step_size": ebmkit.create("scheduler", "constant", value=0.01),
        }
        ebmkit.compose(copy.deepcopy(small), **given).fit(out=out)
        with pytest.raises(SpecError) as caught:
            ebmkit.load(out)
        assert {p.path: p.message.partition("again")[2] for p in caught.value.problems} == {
            path: f', from Python, as ebmkit.load(..., **{{"{path}": ...}})' for path in given
        }
        assert ebmkit.load(out, **given).step == 6
