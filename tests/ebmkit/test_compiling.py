"""A loss and its gradient as one compiled graph: the same numbers, and when it is worth it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, compiling, graphs
from ebmkit.errors import CompileError, EnergyError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(**options: Any) -> nn.Module:
    options = {"event_shape": [2], "hidden": [8, 8], "base_scale": 2.0} | options
    model: nn.Module = ebmkit.create("model", "mlp", generator=seeded(), **options)
    return model.double()


POINTS = torch.randn(16, 2, generator=seeded(1), dtype=torch.float64)


class Nothing(NamedTuple):
    pass


class MeanEnergy:
    """The smallest loss there is; others below differ from it in what makes them hard to compile."""

    def init(self, model: Any, batch: Batch, *, generator: torch.Generator) -> Nothing:
        return Nothing()

    def draw(
        self, model: Any, batch: Batch, state: Nothing, step: int, *, generator: torch.Generator
    ) -> tuple[Any, Nothing]:
        return Nothing(), state

    def __call__(self, model: Any, batch: Batch, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        energies = model(batch.x)
        return energies.square().mean(), {"energy": energies.detach().mean()}


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs run as they were traced, which takes no compiler; the list counts them."""
    graphs: list[Any] = []

    def keep(graph: Any, **_: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "compiled", keep)
    return graphs


def step(objective: ebmkit.Objective, batch: Any = POINTS) -> tuple[Tensor, list[Tensor], Any]:
    """Loss, gradients and metrics of one call."""
    assert isinstance(objective.model, nn.Module)
    objective.model.zero_grad()
    output = objective(batch)
    output.loss.backward()
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for p in objective.model.parameters()
    ]
    return output.loss.detach(), gradients, output.metrics


def same(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


LOSSES = {
    "score-matching": {},
    "sliced-score-matching": {"n_projections": 2},
    "denoising-score-matching": {"sigma": 0.3},
}


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_and_eager_agree_over_training(name: str) -> None:
    runs = []
    for mode in ("off", "on"):
        model = network()
        loss = ebmkit.create("loss", name, **LOSSES[name])
        objective = ebmkit.objective(loss, model, generator=seeded(), compile=mode)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        seen = []
        for _ in range(3):
            seen.append(step(objective))
            optimizer.step()
        runs.append(seen)
        assert objective.computation.decision.startswith("compiled" if mode == "on" else "eager")
    same(runs[0], runs[1], 1e-10)


def test_compiling_leaves_global_settings_as_they_are() -> None:
    def settings() -> Any:
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            list(warnings.filters),
        )

    before, state = settings(), torch.get_rng_state()
    objective = ebmkit.objective(MeanEnergy(), network(), generator=seeded(), compile="on")
    step(objective)
    assert objective.computation.decision == "compiled"
    assert settings() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_contrastive_divergence_agrees(traced_only: list[Any]) -> None:
    sampler = ebmkit.create("sampler", "langevin", step_size=0.01)
    outcomes = []
    for mode in ("off", "on"):
        loss = ebmkit.create("loss", "pcd", sampler=sampler, buffer_size=32, k_steps=2)
        objective = ebmkit.objective(loss, network(), generator=seeded(), compile=mode)
        outcomes.append([step(objective) for _ in range(2)])
    same(*outcomes)
    assert len(traced_only) == 1


def test_the_gradient_is_scaled_by_what_comes_after_the_loss(traced_only: list[Any]) -> None:
    model = network()
    objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    _, gradients, _ = step(objective)
    model.zero_grad()
    (3 * objective(POINTS).loss + next(model.parameters()).sum()).backward()
    expected = [3 * g for g in gradients]
    expected[0] = expected[0] + 1
    same([p.grad for p in model.parameters()], expected)


def test_frozen_shared_and_unused_parameters(traced_only: list[Any]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 4, dtype=torch.float64)
            self.again = self.first  # one module under two names
            self.tied = nn.Linear(2, 4, dtype=torch.float64)
            self.tied.weight = self.first.weight  # one tensor in two modules
            self.frozen = nn.Linear(4, 1, dtype=torch.float64).requires_grad_(False)
            self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.register_buffer("shift", torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            energies: Tensor = self.frozen(
                self.first(x).sin() + self.again(x) * self.tied(x)
            ).squeeze(1)
            return energies + self.shift

    model = Odd()
    eager = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="off")
    compiled = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    before = copy.deepcopy(model.state_dict())
    same(step(compiled), step(eager))
    same(model.state_dict(), before)
    # What changes between steps is read anew: weights, frozen ones and buffers as well.
    with torch.no_grad():
        model.shift += 1
        model.frozen.weight += 1
        model.first.weight += 1
    same(step(compiled), step(eager))
    assert len(traced_only) == 1


def test_a_graph_for_each_shape_and_mode_of_the_model(traced_only: list[Any]) -> None:
    model = network()
    eager = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="off")
    compiled = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    for rows in (16, 7, 16, 7):
        same(step(compiled, POINTS[:rows]), step(eager, POINTS[:rows]))
    assert len(traced_only) == 2
    model.eval()
    same(step(compiled), step(eager))
    assert len(traced_only) == 3


def test_too_many_shapes_run_eagerly_and_are_reported_once(traced_only: list[Any]) -> None:
    model = network()
    objective = auto(model)
    for rows in range(1, compiling.MOST_GRAPHS + 1):
        step(objective, POINTS[:rows])
    exact = ebmkit.create("loss", "sm")
    eager = ebmkit.objective(exact, model, generator=seeded(), compile="off")
    with pytest.warns(ebmkit.CompileWarning, match="changed their shapes") as caught:
        outcomes = [step(objective, POINTS[:rows]) for rows in (10, 11, 10)]
    same(outcomes, [step(eager, POINTS[:rows]) for rows in (10, 11, 10)])
    assert len(caught) == 1
    assert len(traced_only) == compiling.MOST_GRAPHS


def auto(model: nn.Module, *, loss: Any = None) -> ebmkit.Objective:
    """An objective that would compile if it were only up to the number of steps."""
    loss = loss or ebmkit.create("loss", "sm")
    return ebmkit.objective(loss, model, generator=seeded(), steps=10**7)


def test_no_gradient_no_graph(traced_only: list[Any]) -> None:
    objective = ebmkit.objective(MeanEnergy(), network(), generator=seeded(), compile="on")
    with torch.no_grad():
        output = objective(POINTS)
    assert not output.loss.requires_grad
    assert not traced_only


def test_autocast_is_part_of_the_graph(traced_only: list[Any]) -> None:
    model = network().float()
    outcomes = []
    for mode in ("off", "on"):
        objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile=mode)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outcomes.append(step(objective, POINTS.float()))
    same(*outcomes, tolerance=1e-6)
    plain = step(ebmkit.objective(MeanEnergy(), model, compile="off"), POINTS.float())
    assert not torch.allclose(plain[0], outcomes[0][0], rtol=1e-6, atol=0)


def test_auto_decides_by_the_steps_and_never_by_the_clock(traced_only: list[Any]) -> None:
    def decision(**options: Any) -> str:
        loss = ebmkit.create("loss", "sm")
        objective = ebmkit.objective(loss, network(), generator=seeded(), **options)
        step(objective)
        return objective.computation.decision

    assert decision() == "eager: an unknown number of steps do not pay for compiling"
    assert decision(steps=10) == "eager: 10 steps do not pay for compiling"
    assert not traced_only
    assert "2000 steps would save about" in decision(steps=2000)
    assert decision(steps=10**7) == "compiled"
    assert len(traced_only) == 1
    assert decision(steps=10**7, compile="off").startswith("eager")


def test_the_estimate_of_what_compiling_saves_grows_with_the_steps() -> None:
    model = network()
    batch = Batch(POINTS)
    exact = ebmkit.create("loss", "sm")
    draws, _ = ebmkit.objective(exact, model, generator=seeded()).draw(batch)
    graph, _ = graphs.trace(exact, model, batch, draws)
    worth = [not graphs.not_worth(graph, 10**power) for power in range(9)]
    assert worth == sorted(worth)
    assert worth[0] is False
    assert worth[-1] is True


def test_a_loss_of_few_operations_is_never_worth_compiling(traced_only: list[Any]) -> None:
    """Forward and backward of an energy alone, as in contrastive divergence: measured, they take a
    little longer as a graph, whatever the length of the run."""
    objective = auto(network(), loss=MeanEnergy())
    step(objective)
    assert objective.computation.decision == "eager: a compiled step would take no less time"
    assert not traced_only


class Impatient(MeanEnergy):
    """Reads a number from a tensor, which no graph can follow."""

    def __call__(self, model: Any, batch: Batch, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        energies = model(batch.x)
        return energies.mean() * float(energies.detach().abs().max() > 0), {}


def test_what_cannot_be_traced_runs_eagerly_with_one_warning() -> None:
    model = network()
    eager = ebmkit.objective(Impatient(), model, generator=seeded(), compile="off")
    objective = auto(model, loss=Impatient())
    with pytest.warns(ebmkit.CompileWarning, match="Impatient runs eagerly") as caught:
        outcomes = [step(objective) for _ in range(3)]
    assert len(caught) == 1
    same(outcomes[0], step(eager))
    assert objective.computation.decision.startswith("eager: ")


def test_on_says_what_cannot_be_compiled_and_what_to_do() -> None:
    objective = ebmkit.objective(Impatient(), network(), generator=seeded(), compile="on")
    with pytest.raises(CompileError, match=r'Impatient cannot be compiled: .*compile = "off"'):
        objective(POINTS)


def test_the_layer_at_fault_is_named() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.max() > 0 else 2 * x

    model = nn.Sequential(nn.Linear(2, 4), Stubborn(), nn.Linear(4, 1), nn.Flatten(0)).double()
    objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    with pytest.raises(CompileError, match=r"layer '1' \(Stubborn\)"):
        objective(POINTS)


def test_a_model_that_changes_its_buffers_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0))
    model.double()
    objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    with pytest.raises(CompileError, match=r"changes its buffer '1\.num_batches_tracked'"):
        objective(POINTS)


def test_a_compiler_that_fails_is_no_fault_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, **_: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no C++ compiler found\nand much more")

        return call

    monkeypatch.setattr(compiling, "compiled", broken)
    objective = auto(network())
    with pytest.warns(ebmkit.CompileWarning, match="no C\\+\\+ compiler found; compile"):
        step(objective)
    assert torch.isfinite(step(objective)[0])


def test_a_mistake_of_the_users_is_said_as_it_is(traced_only: list[Any]) -> None:
    model = nn.Linear(2, 1)
    objective = auto(model, loss=ebmkit.create("loss", "sm"))
    with pytest.raises(EnergyError, match="model Linear must return one energy a row"):
        objective(POINTS.float())


def test_a_model_without_parameters_or_that_is_a_function(traced_only: list[Any]) -> None:
    function = ebmkit.objective(MeanEnergy(), lambda x: x.square().sum(1), compile="on")
    assert torch.isfinite(function(POINTS).loss)
    assert "no nn.Module" in function.computation.decision
    gaussian = ebmkit.create("model", "gaussian", mean=[0.0, 0.0])
    with pytest.raises(CompileError, match="no parameters to train"):
        ebmkit.objective(MeanEnergy(), gaussian, compile="on")(POINTS.float())


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="compile: expected one of auto, on, off, got 'always'"):
        ebmkit.objective(MeanEnergy(), network(), compile="always")  # type: ignore[arg-type]


def test_code_can_ask_whether_it_is_traced(traced_only: list[Any]) -> None:
    asked = []

    class Asking(MeanEnergy):
        def __call__(self, model: Any, batch: Batch, draws: Any) -> Any:
            asked.append(ebmkit.tracing())
            return super().__call__(model, batch, draws)

    step(ebmkit.objective(Asking(), network(), generator=seeded(), compile="on"))
    assert asked == [True]
    assert not ebmkit.tracing()


def test_the_key_of_a_pipeline(
    small: dict[str, Any], tmp_path: Path, traced_only: list[Any], cli: Callable[..., Any]
) -> None:
    weights = []
    for mode in ("off", "on"):
        spec = copy.deepcopy(small) | {"loss": {"use": "sm"}}
        spec["training"]["compile"] = mode
        pipeline = ebmkit.compose(spec)
        pipeline.fit(out=tmp_path / mode, hooks=ebmkit.hooks.Hooks({}))
        status = json.loads((tmp_path / mode / "status.json").read_text())
        assert status["compile"].startswith("compiled" if mode == "on" else "eager")
        weights.append(pipeline.trainer.model.state_dict())
    torch.testing.assert_close(*weights)
    assert len(traced_only) == 1
    said = cli("train", "gaussian-mixture-sm", "--set", "training.compile=always")
    assert said.code == 2
    assert "training.compile" in said.err


class Tempered(nn.Module):
    """Reads a plain attribute, a buffer and a submodule; one parameter is of no use to the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.temperature = 2.0
        self.spare = nn.Parameter(torch.ones(3))
        self.register_buffer("scale", torch.ones(1))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x * self.scale).squeeze(1) / self.temperature


def set_temperature(model: Any) -> None:
    model.temperature = 3.0


def set_activation(model: Any) -> None:
    model.layers[1] = nn.Sigmoid()  # without attributes, as nn.Tanh is


def set_layers(model: Any) -> None:
    model.layers[0], model.layers[2] = (
        layer.double() for layer in (nn.Linear(2, 8), nn.Linear(8, 1))
    )


def set_scale(model: Any) -> None:
    model.scale = torch.full((2,), 0.5).double()


@pytest.mark.parametrize("change", [set_temperature, set_activation, set_layers, set_scale])
def test_a_model_that_was_changed_gets_another_graph(
    change: Callable[[Any], None], traced_only: list[Any]
) -> None:
    model = Tempered()
    objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    step(objective)
    step(objective)
    assert len(traced_only) == 1
    change(model)
    compiled = step(objective)
    assert len(traced_only) == 2
    eager = step(ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="off"))
    same(compiled, eager)


def test_what_the_loss_does_not_depend_on_gets_no_gradient(traced_only: list[Any]) -> None:
    """As in eager mode: a zero would let weight decay move it."""
    model = Tempered()
    objective = ebmkit.objective(MeanEnergy(), model, generator=seeded(), compile="on")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    objective(POINTS).loss.backward()
    assert len(traced_only) == 1
    assert model.spare.grad is None
    assert model.layers[0].weight.grad is not None
    optimizer.step()
    assert torch.equal(model.spare, torch.ones(3).double())


def test_directions_in_chunks_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from ebmkit.calculus import taylor

    monkeypatch.setitem(taylor.directional_derivatives.__kwdefaults__, "memory", 2000)
    objective = ebmkit.objective(ebmkit.create("loss", "sm"), network(), compile="on")
    with pytest.raises(CompileError, match="its 2 directions go in chunks of 1"):
        objective(POINTS)
