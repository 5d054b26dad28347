"""Compiled chains: the same chains as eager ones, kept apart where they would not be the same."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import CompileWarning
from ebmkit.chains import chunks, run_chain, stepping
from ebmkit.chains.conduct import Conduct, conducted
from ebmkit.graphs import Work
from ebmkit.loops import loops_in
from ebmkit.lowering import made_graph

from .conftest import Net, Walk, points, seeded

SAMPLERS: dict[str, dict[str, Any]] = {
    "langevin": {"step_size": 0.02},
    "mala": {"step_size": 0.3, "target_acceptance": 0.6},
    "underdamped-langevin": {"step_size": 0.1},
    "preconditioned-langevin": {"step_size": 0.01},
    "gradient-descent": {"step_size": 0.02},
    "hmc": {"step_size": 0.2, "n_leapfrog": 3},
    "parallel-tempering": {"inverse_temperatures": [1.0, 0.5], "sampler": "mala"},
    "adaptive": {"sampler": "mala"},
}


def sampler_of(name: str) -> Any:
    return ebmkit.create("sampler", name, **SAMPLERS[name])


def ways(sampler: Any, model: Any, steps: int, **keywords: Any) -> dict[str, Tensor]:
    return {
        mode: ebmkit.sample(
            sampler, model, points(), steps=steps, generator=seeded(2), compile=mode, **keywords
        )
        for mode in ("off", "step", "chunk")
    }


def alike(found: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for mode in ("step", "chunk"):
        torch.testing.assert_close(found[mode], found["off"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["langevin", "mala"])
def test_compiled_and_eager_chains_agree_to_rounding(name: str, net: Net) -> None:
    alike(ways(sampler_of(name), net, 23))
    alike(ways(sampler_of(name), ebmkit.create("model", "mlp", event_shape=(2,)), 23))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_traced(name: str, net: Net, traced: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ways(sampler_of(name), net, 13)
    alike(found)
    assert len(traced) == 2
    assert not torch.equal(found["off"], points())


def test_trajectories_thinning_and_warm_up_are_the_same(net: Net, traced: list[Any]) -> None:
    alike(ways(sampler_of("mala"), net, 31, trajectory=True, thin=4, warm_up=7))
    assert len(traced) == 2


@pytest.mark.parametrize("clock", ["chain", "training"])
def test_scheduled_parameters_are_inputs_of_the_graph(
    clock: str, net: Net, traced: list[Any]
) -> None:
    schedule = ebmkit.create(
        "scheduler", "linear", start_value=0.1, end_value=0.01, n_steps=20, clock=clock
    )
    sampler = ebmkit.create("sampler", "langevin", step_size=schedule)
    net.eval()
    alike(ways(sampler, net, 20))
    conduct = Conduct(compile="chunk", runs=3)
    seen = len(traced)
    with conducted(conduct):
        for step in (0, 5, 19):
            found = run_chain(
                sampler, net, points(), steps=20, generator=seeded(), training_step=step
            )
            with conducted(Conduct()):
                expected = run_chain(
                    sampler, net, points(), steps=20, generator=seeded(), training_step=step
                )
            torch.testing.assert_close(found.x, expected.x, rtol=1e-5, atol=1e-5)
    assert len(traced) == seen


def test_a_training_run_looks_once_at_chains_that_are_alike(
    net: Net, traced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Work] = []

    def look() -> Work:
        looks.append(Work())
        return looks[-1]

    monkeypatch.setattr(stepping, "Work", look)
    sampler, conduct = sampler_of("langevin"), Conduct(compile="chunk", runs=4)
    with conducted(conduct):
        for n, seen in ((12, 1), (12, 1), (5, 2), (12, 2)):
            found = run_chain(sampler, net, points(n), steps=10, generator=seeded())
            with conducted(Conduct()):
                expected = run_chain(sampler, net, points(n), steps=10, generator=seeded())
            torch.testing.assert_close(found.x, expected.x, rtol=1e-5, atol=1e-5)
            assert len(looks) == seen
    assert len(traced) == 2
    assert conduct.decision.startswith("compiled")


def test_a_condition_is_an_input_of_the_graph(traced: list[Any]) -> None:
    model = ebmkit.create(
        "model", "mlp", event_shape=(2,), hidden=[8], conditional=True, n_classes=3
    )
    for labels in (torch.zeros(12, dtype=torch.long), torch.arange(12) % 3):
        alike(ways(sampler_of("langevin"), partial(model, condition=labels), 10))
    assert len(traced) == 2


def test_weights_are_inputs_of_the_graph(net: Net, traced: list[Any]) -> None:
    sampler = sampler_of("langevin")
    before = ways(sampler, net, 10)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    after = ways(sampler, net, 10)
    alike(after)
    assert not torch.allclose(before["chunk"], after["chunk"])
    assert len(traced) == 2


def test_what_a_graph_has_followed_makes_another_graph(net: Net, traced: list[Any]) -> None:
    class Switched(Net):
        sign = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.sign

    switched = Switched()
    switched.sign = 1.0
    for sign in (1.0, 0.5):
        switched.sign = sign
        alike(ways(sampler_of("langevin"), switched, 10))
    assert len(traced) == 4
    alike(ways(ebmkit.create("sampler", "langevin", step_size=0.01), net, 10))
    alike(ways(ebmkit.create("sampler", "langevin", step_size=0.02), net, 10))
    assert len(traced) == 8


def test_a_plain_function_is_traced_anew_each_time(traced: list[Any]) -> None:
    weights = torch.tensor([1.0, 4.0])
    found = ways(sampler_of("langevin"), lambda x: (x.square() * weights).sum(1), 10)
    alike(found)
    weights = torch.tensor([9.0, 4.0])
    again = ways(sampler_of("langevin"), lambda x: (x.square() * weights).sum(1), 10)
    alike(again)
    assert not torch.allclose(found["chunk"], again["chunk"])
    assert len(traced) == 4


def test_graphs_go_with_their_model(traced: list[Any]) -> None:
    net = Net()
    ways(sampler_of("langevin"), net, 10)
    gone = weakref.ref(net)
    kept = len(chunks._kept)
    del net
    gc.collect()
    assert gone() is None
    assert len(chunks._kept) < kept


def test_no_more_graphs_are_kept_than_stated(
    net: Net, traced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "MOST_GRAPHS", 2)
    for n in (3, 4, 5, 5):
        ebmkit.sample(sampler_of("langevin"), net, points(n), steps=10, compile="chunk")
    assert len(traced) == 3
    assert len(chunks._kept[net]["graph"]) == 2


class Looks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.detach().sum()) > -math.inf else -x


@pytest.mark.parametrize("mode", ["step", "chunk"])
def test_what_cannot_be_compiled_runs_eagerly_and_is_named_once(mode: str) -> None:
    net = Net()
    net.layers.insert(1, Looks())
    sampler = sampler_of("langevin")
    conduct = Conduct(compile=mode)  # type: ignore[arg-type]
    expected = ebmkit.sample(sampler, net, points(), steps=5, generator=seeded(), compile="off")

    def twice() -> Any:
        with conducted(conduct):
            run_chain(sampler, net, points(), steps=5, generator=seeded())
            return run_chain(sampler, net, points(), steps=5, generator=seeded())

    with pytest.warns(CompileWarning, match=r"layer 'layers\.1' \(Looks\)") as told:
        found = twice()
    assert len(told) == 1
    assert torch.equal(found.x, expected)
    assert conduct.decision.startswith("eager: layer 'layers.1'")


def test_a_sampler_that_cannot_be_traced_is_named() -> None:
    class Odd(Walk):
        def step(self, energy: Any, state: Any, noise: Tensor, *, scale: float) -> Any:
            if bool(noise.sum() > 1e9):
                raise AssertionError
            return super().step(energy, state, noise, scale=scale)

    with pytest.warns(CompileWarning, match="sampler Odd"):
        ebmkit.sample(Odd(), Net(), points(), steps=5, compile="chunk")


def test_one_that_says_so_is_left_alone() -> None:
    class Wild(Walk):
        traceable = False

    conduct = Conduct(compile="chunk")
    with warnings.catch_warnings(), conducted(conduct):
        warnings.simplefilter("error")
        run_chain(Wild(), Net(), points(), steps=5, generator=seeded())
    assert "Wild" in conduct.decision


def test_a_compiler_that_is_wrong_is_found_out(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, **_: Any) -> Any:
        return lambda *arguments: torch.utils._pytree.tree_map(
            lambda leaf: leaf + 0.1 if isinstance(leaf, Tensor) else leaf,
            graph.forward(*arguments),
        )

    monkeypatch.setattr(chunks, "compiled", wrong)
    sampler = sampler_of("langevin")
    expected = ebmkit.sample(sampler, net, points(), steps=10, generator=seeded(), compile="off")
    with pytest.warns(CompileWarning, match="fault of the compiler"):
        found = ebmkit.sample(sampler, net, points(), steps=10, generator=seeded(), compile="chunk")
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b: torch.add(x, a @ b, alpha=0.5),
        lambda x, a, b: torch.sub(x, a @ b, alpha=0.5),
        lambda x, a, b: x.clone().add_(a @ b, alpha=-0.5),
        lambda x, a, b: torch.addmm(x, a, b, alpha=0.5, beta=0.25).relu(),
    ],
)
def test_factors_in_sums_with_products_survive_compiling(function: Any) -> None:
    # torch 2.13 compiles add(x, a @ b, alpha=0.5) to x + a @ b.
    x, a, b = points(64, 8, 1), points(64, 16, 2), points(16, 8, 3)
    graph = made_graph(function, x, a, b)
    with torch.no_grad():
        found = torch.compile(graph.forward, fullgraph=True, dynamic=False)(x, a, b)
    torch.testing.assert_close(found, function(x, a, b), rtol=1e-4, atol=1e-4)


class TestAuto:
    def test_short_runs_are_eager_and_say_so(self, net: Net, traced: list[Any]) -> None:
        conduct = Conduct(compile="auto")
        with conducted(conduct):
            run_chain(sampler_of("langevin"), net, points(), steps=50, generator=seeded())
        assert conduct.decision == "eager: 50 steps do not pay for compiling"
        assert not traced

    def test_long_ones_are_estimated_from_the_operations_of_a_step(
        self, net: Net, traced: list[Any]
    ) -> None:
        sampler = sampler_of("langevin")
        decisions = []
        for runs in (2000, 10**7):
            conduct = Conduct(compile="auto", runs=runs)
            with conducted(conduct):
                for _ in range(3):
                    run_chain(sampler, net, points(), steps=100, generator=seeded())
            decisions.append(conduct.decision)
        assert decisions[0].startswith("eager: 200000 steps would save about")
        assert decisions[1] == "compiled, 100 steps a graph"
        assert len(traced) == 1

    def test_where_torch_cannot_compile_loops_steps_are_written_out(
        self, net: Net, traced: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stepping, "LOOPS", False)
        conduct = Conduct(compile="chunk")
        with conducted(conduct):
            run_chain(sampler_of("langevin"), net, points(), steps=100, generator=seeded())
        assert conduct.decision == "compiled, 10 steps a graph"
        assert not any(loops_in(graph) for graph in traced)

    def test_the_estimate_counts_operations_and_what_they_write(self) -> None:
        x = torch.randn(100, 50)
        with Work() as work:
            y = (x @ x.T).exp()
            y.T.sum()
        assert (work.calls, work.computed, work.traffic) == (3, 2, 4 * (100 * 100 + 1))
        verdicts = [not work.not_worth(10**power, 10 * work.calls) for power in range(10)]
        assert verdicts == sorted(verdicts)
        assert not verdicts[3] and verdicts[9]

    def test_a_look_is_taken_at_long_runs_and_at_large_models(self) -> None:
        wide = nn.Sequential(nn.Linear(100, 1000), nn.Linear(1000, 1))
        assert stepping._work(wide, torch.zeros(7, 100)) == 7 * 102_001
        conv = nn.Conv2d(1, 4, 3)
        assert stepping._work(conv, torch.zeros(7, 1, 8, 8)) == 7 * 40 * 64
        assert stepping._work(conv, torch.zeros(0, 1, 8, 8)) == 0
        assert stepping._work(None, torch.zeros(7, 100)) == 0

    def test_a_function_is_left_alone(self, traced: list[Any]) -> None:
        conduct = Conduct(compile="auto", runs=10**9)
        with conducted(conduct):
            run_chain(
                sampler_of("langevin"),
                lambda x: x.square().sum(1),
                points(),
                steps=10,
                generator=seeded(),
            )
        assert "no nn.Module" in conduct.decision
        assert not traced


@pytest.mark.parametrize(
    ("longest", "total", "expected"),
    [(10, 1, 1), (10, 7, 7), (10, 10, 10), (10, 15, 10), (10, 18, 9), (10, 500, 10), (1, 9, 1)],
)
def test_few_steps_are_left_over(longest: int, total: int, expected: int) -> None:
    assert stepping._chunk(longest, total) == expected


def test_a_pipeline_compiles_its_chains(traced: list[Any], tmp_path: Any) -> None:
    spec = {
        "model": {"use": "mlp", "hidden": [8]},
        "sampler": {"use": "langevin", "step_size": 0.01},
        "loss": {"use": "pcd", "k_steps": 4, "buffer_size": 64},
        "dataset": {"use": "two-moons"},
        "training": {"steps": 3, "batch_size": 16, "seed": 1, "device": "cpu"},
        "evaluation": {"n_samples": 50, "chain_steps": 5},
    }
    weights = []
    for mode in ("off", "chunk"):
        pipeline = ebmkit.compose(spec, **{"chains.compile": mode})
        run = pipeline.fit(out=tmp_path / mode)
        weights.append([p.detach() for p in pipeline.model.parameters()])
        assert run.directory is not None
        status = (run.directory / "status.json").read_text()
        wanted = "compiled, 4 steps a graph" if mode == "chunk" else "eager: compile is off"
        assert f'"compile_chains": "{wanted}"' in status
    assert len(traced) == 2  # training, and judging
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def strided(x: Tensor) -> Tensor:
    """Energies whose gradient is an expanded view."""
    return 1.5 * x.sum(1)


class Strided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return strided(x) + 0.0 * x[:, 0]


@pytest.mark.parametrize("name", ["mala", "parallel-tempering", "langevin"])
def test_strides_that_change_along_a_chain_do_no_harm(name: str) -> None:
    x = points(1).expand(8, 2)
    sampler = sampler_of(name)
    for model in (Net(), Strided()):
        found = [
            ebmkit.sample(sampler, model, x, steps=25, generator=seeded(), compile=mode)  # type: ignore[arg-type]
            for mode in ("off", "chunk")
        ]
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


class Open(Net):
    """A model with much in it that its code depends on."""

    def __init__(self) -> None:
        super().__init__()
        self._beta = 1.0
        self.betas = [1.0]
        self.settings = {"beta": 1.0}
        self.activation: Any = torch.sin
        self.twin = nn.Linear(2, 2)
        self.other = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        factor = self._beta * self.betas[0] * self.settings["beta"]
        inner = self.activation(self.other(self.twin(x))).sum(1)
        return factor * super().forward(x) + inner


def _tie(model: Open) -> None:
    model.other.weight = model.twin.weight


def _untie(model: Open) -> None:
    model.other.weight = nn.Parameter(model.twin.weight.detach().clone())
    with torch.no_grad():
        model.twin.weight.mul_(-1)


CHANGES: dict[str, Any] = {
    "underscored": lambda m: setattr(m, "_beta", 3.0),
    "list": lambda m: m.betas.__setitem__(0, 3.0),
    "dict": lambda m: m.settings.__setitem__("beta", 3.0),
    "callable": lambda m: setattr(m, "activation", torch.cos),
    "hook": lambda m: m.register_forward_hook(lambda *a: 3 * a[2]),
    "pre-hook": lambda m: m.layers.register_forward_pre_hook(lambda _, a: (2 * a[0],)),
    "forward": lambda m: setattr(m, "forward", lambda x: x.square().sum(1)),
    "tied": _tie,
    "untied": lambda m: (_tie(m), _untie(m)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_is_never_used_for_what_its_model_has_become(
    change: str, traced: list[Any]
) -> None:
    model, sampler = Open(), sampler_of("langevin")
    if change == "untied":
        _tie(model)
    before = ways(sampler, model, 10)
    CHANGES[change](model)
    after = ways(sampler, model, 10)
    alike(after)
    assert not torch.allclose(before["off"], after["off"])


def test_a_model_that_changes_at_every_call_is_not_compiled_for_ever(traced: list[Any]) -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting()
    model.calls = 0
    conduct = Conduct(compile="chunk", runs=20)

    def train() -> None:
        with conducted(conduct):
            for steps in range(10, 22):
                run_chain(sampler_of("langevin"), model, points(), steps=steps, generator=seeded())

    with pytest.warns(CompileWarning, match="changed more than 8 times"):
        train()
    assert len(traced) == 8


def test_a_graph_that_fails_later_gives_way_to_eager_steps(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing(graph: Any, **_: Any) -> Any:
        def run(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("no more")
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(chunks, "compiled", failing)
    sampler = sampler_of("langevin")
    expected = ebmkit.sample(sampler, net, points(), steps=250, generator=seeded(), compile="off")
    with pytest.warns(CompileWarning, match="no more"):
        found = ebmkit.sample(
            sampler, net, points(), steps=250, generator=seeded(), compile="chunk"
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 3


def test_an_energy_with_bound_positions_does_not_keep_its_model(traced: list[Any]) -> None:
    class Two(Net):
        def forward(self, scale: float, x: Tensor) -> Tensor:  # type: ignore[override]
            return scale * super().forward(x)

    model = Two()
    alike(ways(sampler_of("langevin"), partial(model, 0.5), 10))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
