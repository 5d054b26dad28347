"""Steps that cannot be compiled whole: their parts are, and the chains stay the same."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import CompileWarning, traceable
from ebmkit.chains import parts, run_chain
from ebmkit.chains.conduct import Conduct, conducted
from ebmkit.chains.parts import CompiledParts, called_by, taken_apart

from .conftest import Net, Where, points, seeded

calls: list[str] = []


@traceable
def moved(energy: Any, x: Tensor, noise: Tensor, *, size: float) -> tuple[Where, Tensor]:
    calls.append("moved")
    energies, gradient = ebmkit.energy_and_gradient(energy, x)
    return Where(x - size * gradient + noise), energies


@attrs.frozen
class Halting:
    """Descends until no chain is above a level, so that its steps depend on the chains."""

    traceable = False

    size: float = 0.05

    def init(self, energy: Any, x: Tensor) -> Where:
        return Where(x)

    def draw(self, state: Where, *, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype)

    def step(self, energy: Any, state: Where, noise: Tensor) -> tuple[Where, dict[str, Tensor]]:
        for _ in range(5):
            state, energies = moved(energy, state.x, noise, size=self.size)
            if bool((energies < -1).all()):
                break
        return state, {"energy": energies.mean()}


def both(sampler: Any, energy: Any, steps: int = 7, x: Tensor | None = None) -> list[Tensor]:
    """Points of eager chains and of compiled ones, which must not warn."""
    found = []
    for mode in ("off", "chunk"):
        with warnings.catch_warnings(), conducted(Conduct(compile=mode)):  # type: ignore[arg-type]
            warnings.simplefilter("error")
            g = seeded(2)
            x = points() if x is None else x
            found.append(run_chain(sampler, energy, x, steps=steps, generator=g).x)
    return found


def test_a_part_is_compiled_once_and_leads_the_same_way(net: Net, traced: list[Any]) -> None:
    eager, compiled = both(Halting(), net)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    assert not torch.equal(eager, points())
    assert len(traced) == 1
    # In a graph's stead the function itself would have been called at every step.
    calls.clear()
    both(Halting(), net)
    assert len(traced) == 1 and len(calls) == 7 * 5 + 5  # eager steps, and one for the plan


@pytest.mark.parametrize(
    "sampler",
    [
        {"use": "nuts", "step_size": 0.2, "max_depth": 2},
        {"use": "adaptive", "sampler": {"use": "nuts", "step_size": 0.2, "max_depth": 3}},
        {
            "use": "parallel-tempering",
            "inverse_temperatures": [1.0, 0.5],
            "sampler": {"use": "nuts", "step_size": 0.3, "max_depth": 2},
        },
    ],
    ids=["nuts", "adaptive", "tempered"],
)
def test_the_no_u_turn_sampler_is_compiled_by_parts_alone_and_within_others(
    sampler: dict[str, Any], net: Net, traced: list[Any]
) -> None:
    name = sampler.pop("use")
    eager, compiled = both(ebmkit.create("sampler", name, **sampler), net)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
    assert traced


def test_compiled_to_machine_code_it_is_the_same(net: Net) -> None:
    sampler = ebmkit.create("sampler", "nuts", step_size=0.3, max_depth=2)
    eager, compiled = both(sampler, net, steps=12)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def test_long_trajectories_are_put_together_of_parts(traced: list[Any]) -> None:
    # At this step size a sixth doubling is reached, beyond what is one piece.
    model = ebmkit.create("model", "harmonic").double()
    sampler = ebmkit.create("sampler", "nuts", step_size=0.04)
    eager, compiled = both(sampler, model, 2, points().double())
    torch.testing.assert_close(compiled, eager)
    assert len(traced) == 6


def test_weights_that_have_changed_are_seen(net: Net, traced: list[Any]) -> None:
    both(Halting(), net)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    eager, compiled = both(Halting(), net)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    assert len(traced) == 1
    net.eval()
    both(Halting(), net)
    assert len(traced) == 2


def test_keywords_shapes_and_functions_make_graphs_of_their_own(
    net: Net, traced: list[Any]
) -> None:
    both(Halting(), net)
    both(Halting(0.01), net)
    both(Halting(), net, x=points()[:3])
    assert len(traced) == 3
    # A function may hold anything: its graph is good for one run.
    for _ in range(2):
        eager, compiled = both(Halting(), lambda x: x.square().sum(1))
        torch.testing.assert_close(compiled, eager)
    assert len(traced) == 5


def test_a_shape_that_changes_within_a_run_is_told_and_computed(net: Net) -> None:
    class Shrinking(Halting):
        def step(self, energy: Any, state: Where, noise: Tensor) -> Any:
            half = len(state.x) // 2
            one, energies = moved(energy, state.x[:half], noise[:half], size=0.1)
            if bool(energies.isfinite().all()):
                two, _ = moved(energy, state.x[half:], noise[half:], size=0.1)
            return Where(torch.cat([one.x, two.x])), {}

    x = points()[:5]
    sampler = Shrinking()
    eager = run_chain(sampler, net, x, steps=4, generator=seeded(2)).x
    with (
        pytest.warns(CompileWarning, match="shape"),
        conducted(Conduct(compile="chunk")),
    ):
        found = run_chain(sampler, net, x, steps=4, generator=seeded(2)).x
    torch.testing.assert_close(found, eager)


def test_a_part_that_cannot_be_traced_is_told_by_its_layer(traced: list[Any]) -> None:
    class Forking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 100) else 2 * x

    model = nn.Sequential(nn.Linear(2, 1), Forking(), nn.Flatten(0))
    conduct = Conduct(compile="chunk")
    with pytest.warns(CompileWarning, match=r"layer '1' \(Forking\)"), conducted(conduct):
        found = run_chain(Halting(), model, points(), steps=3, generator=seeded(2)).x
    expected = run_chain(Halting(), model, points(), steps=3, generator=seeded(2)).x
    assert torch.equal(found, expected)
    assert conduct.decision.startswith("eager: layer '1'")


def test_a_wrong_compiler_is_found_out(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, **_: Any) -> Any:
        return lambda *given: torch.utils._pytree.tree_map(
            lambda leaf: leaf + 0.1 if isinstance(leaf, Tensor) else leaf, graph.forward(*given)
        )

    monkeypatch.setattr(parts, "compiled", wrong)
    expected = run_chain(Halting(), net, points(), steps=3, generator=seeded(2)).x
    with (
        pytest.warns(CompileWarning, match="fault of the compiler"),
        conducted(Conduct(compile="chunk")),
    ):
        found = run_chain(Halting(), net, points(), steps=3, generator=seeded(2)).x
    assert torch.equal(found, expected)


def test_auto_counts_each_part_once(net: Net, traced: list[Any]) -> None:
    decisions = []
    for runs in (1, 10**6, 10**9):
        conduct = Conduct(compile="auto", runs=runs)
        with conducted(conduct):
            run_chain(Halting(), net, points(), steps=3, generator=seeded(2))
        decisions.append(conduct.decision)
    assert decisions[0] == "eager: 3 steps do not pay for compiling"
    assert decisions[2] == "compiled, in 1 parts"


class TestTakenApart:
    def test_a_module_its_method_and_a_function(self, net: Net) -> None:
        assert taken_apart(net)[:4] == (net, (), None, True)
        assert taken_apart(net.forward)[:4] == (net, (), Net.forward, True)
        assert taken_apart(math.sin)[:4] == (None, (), math.sin, False)

    def test_what_is_bound_and_what_attrs_classes_hold(self, net: Net) -> None:
        @attrs.frozen(eq=False)
        class Scaled:
            energy: Any
            scale: Tensor
            _name: str

            def __call__(self, x: Tensor) -> Tensor:
                return self.energy(self.scale * x)

        bound, scale = torch.arange(3), torch.tensor(2.0)
        energy = Scaled(partial(net, condition=bound), scale, "one")
        taken = taken_apart(energy)
        assert taken.module is net
        assert taken.tensors[0] == {"scale": scale}
        assert taken.tensors[1]["energy"][1] == {"condition": bound}
        assert taken.what == taken_apart(attrs.evolve(energy, scale=3 * scale)).what
        assert taken.what != taken_apart(attrs.evolve(energy, name="two")).what
        assert taken.alone and not taken_apart(attrs.evolve(energy, energy=math.sin)).alone
        other = torch.tensor(5.0)
        again: Any = taken.again(({"scale": other}, {"energy": ((), {"condition": 2 * bound})}))
        assert again.scale is other and again._name == "one"
        assert again.energy.func is net
        assert torch.equal(again.energy.keywords["condition"], 2 * bound)

    def test_another_model_s_energy_is_computed_as_it_stands(
        self, net: Net, traced: list[Any]
    ) -> None:
        other = Net()
        with called_by(CompiledParts(net)):
            found = moved(other, points(), points(), size=0.1)
            assert not traced
            moved(net, points(), points(), size=0.1)
        assert len(traced) == 1
        assert torch.equal(found[0].x, moved(other, points(), points(), size=0.1)[0].x)


def test_a_part_may_call_others(net: Net, traced: list[Any]) -> None:
    @traceable
    def twice(energy: Any, x: Tensor, noise: Tensor) -> tuple[Where, Tensor]:
        state, _ = moved(energy, x, noise, size=0.1)
        return moved(energy, state.x, noise, size=0.2)

    class Twice(Halting):
        def step(self, energy: Any, state: Where, noise: Tensor) -> Any:
            return twice(energy, state.x, noise)[0], {}

    eager, compiled = both(Twice(), net)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    assert len(traced) == 1
    with conducted(conduct := Conduct(compile="chunk")):
        run_chain(Twice(), net, points(), steps=3, generator=seeded(2))
    assert conduct.decision == "compiled, in 1 parts"


def test_a_user_s_mistake_is_no_fault_of_compiling(net: Net, traced: list[Any]) -> None:
    class Refusing(Halting):
        def step(self, energy: Any, state: Where, noise: Tensor) -> Any:
            steps.append(moved(energy, state.x, noise, size=0.1))
            if len(steps) > 2:
                raise ebmkit.UserError("no such thing")
            return steps[-1][0], {}

    steps: list[Any] = []
    with warnings.catch_warnings(), conducted(Conduct(compile="chunk")):
        warnings.simplefilter("error")
        with pytest.raises(ebmkit.UserError, match="no such thing"):
            run_chain(Refusing(), net, points(), steps=3, generator=seeded(2))


def test_what_a_function_inside_an_energy_holds_may_change(net: Net, traced: list[Any]) -> None:
    held = [1.0]

    @attrs.frozen(eq=False)
    class Bent:
        energy: Any
        bend: Any

        def __call__(self, x: Tensor) -> Tensor:
            found: Tensor = self.energy(x) + self.bend(x)
            return found

    energy = Bent(net, lambda x: held[0] * x.square().sum(1))
    for held[0] in (1.0, 3.0):
        eager, compiled = both(Halting(), energy)
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    assert len(traced) == 2
