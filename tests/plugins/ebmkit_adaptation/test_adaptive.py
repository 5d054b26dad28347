"""An adapted sampler reaches its target acceptance and its scales, and then samples exactly.

Every statistical comparison is at five standard errors: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import collections
import math
from typing import Any, NamedTuple

import attrs
import pytest
import torch
from ebmkit_adaptation._rescaled import Rescaled
from ebmkit_adaptation.adaptive import AdaptationError, Adaptive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import ebmkit
from ebmkit import UserError
from ebmkit.chains import run_chain
from ebmkit.clocks import scheduled_names


def mala(step_size: Any, **kwargs: Any) -> Any:
    return ebmkit.create("sampler", "mala", step_size=step_size, **kwargs)


def energy(x: Tensor) -> Tensor:
    """Not Gaussian, of two numbers with different scales."""
    return (x[:, 0] / 3).square() / 2 + (x[:, 1].square() + 0.1).sqrt() + (x[:, 0] / 3).pow(4) / 20


def advance(sampler: Any, e: Any, state: Any, steps: int, g: torch.Generator) -> tuple[Any, Tensor]:
    """The state after so many steps, and the mean acceptance."""
    total = torch.zeros(())
    # What the runner passes, which is not what the chains move by.
    keywords = dict.fromkeys(scheduled_names(sampler), 1e9)
    for _ in range(steps):
        state, metrics = sampler.step(e, state, sampler.draw(state, generator=g), **keywords)
        total = total + metrics["acceptance_rate"]
    return state, total / steps


def warmed(sampler: Any, e: Any, x: Tensor, windows: list[int], g: torch.Generator) -> Any:
    """A warm-up: tuned after each window but the last, and then settled."""
    state = sampler.init(e, x)
    for i, steps in enumerate(windows):
        state, _ = advance(sampler, e, state, steps, g)
        if i < len(windows) - 1:
            state = sampler.tune(state, e)
    return sampler.settle(state)


def leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [t for part in tree for t in leaves(part)]


class Place(NamedTuple):
    x: Tensor


@attrs.frozen
class Told:
    """Reports the acceptance that the noise says, and moves every chain by the step size."""

    step_size: Any = 0.3
    reports: bool = True
    discrete: bool = False
    traceable: bool = True
    exact: bool = True

    def init(self, e: Any, x: Tensor) -> Place:
        return Place(x)

    def draw(self, state: Place, *, generator: torch.Generator) -> Tensor:
        return torch.rand((), generator=generator, dtype=torch.float64)

    def step(
        self, e: Any, state: Place, noise: Tensor, *, step_size: Any
    ) -> tuple[Place, dict[str, Tensor]]:
        metrics = {"acceptance_rate": noise} if self.reports else {}
        return Place(state.x + step_size), metrics

    def tune(self, state: Place, e: Any) -> Place:
        return Place(state.x + 100)

    def settle(self, state: Place) -> Place:
        return Place(2 * state.x)

    def check(self, e: Any) -> None:
        raise UserError("not that one")


@given(
    acceptances=st.lists(st.floats(0, 1), min_size=1, max_size=40),
    target=st.floats(0.1, 0.9),
    first=st.floats(1e-6, 1e3),
)
@settings(max_examples=50, deadline=None)
def test_dual_averaging_is_the_recursion(
    acceptances: list[float], target: float, first: float
) -> None:
    sampler = Adaptive(Told(first), target_acceptance=target, mass=False)
    state = sampler.init(energy, torch.zeros(2, 2, dtype=torch.float64))
    mu, shortfall, average = math.log(10 * first), 0.0, 0.0
    expected = first
    for t, acceptance in enumerate(acceptances, 1):
        state, metrics = sampler.step(
            energy, state, torch.tensor(acceptance, dtype=torch.float64), step_size=7.0
        )
        assert float(metrics["step_size"]) == pytest.approx(expected, rel=1e-9)
        shortfall = (1 - 1 / (t + 10)) * shortfall + (target - acceptance) / (t + 10)
        log_step = mu - math.sqrt(t) / 0.05 * shortfall
        average = t**-0.75 * log_step + (1 - t**-0.75) * average
        expected = math.exp(log_step)
    settled = sampler.settle(state)
    after, metrics = sampler.step(energy, settled, torch.tensor(0.0), step_size=7.0)
    assert float(metrics["step_size"]) == pytest.approx(math.exp(average), rel=1e-9)
    assert torch.equal(after.log_step, settled.log_step)


@pytest.mark.parametrize("mass", [True, False])
@pytest.mark.parametrize("factor", [1e-4, 1.0, 10.0])
def test_the_target_is_reached_from_far(factor: float, mass: bool) -> None:
    sampler = Adaptive(mala(factor), target_acceptance=0.574, mass=mass)
    g = torch.Generator().manual_seed(1)
    state = warmed(sampler, energy, torch.randn(300, 2, generator=g), [50, 50, 200], g)
    after, acceptance = advance(sampler, energy, state, 200, g)
    assert float(acceptance) == pytest.approx(0.574, abs=0.03)
    assert torch.equal(after.log_step, state.log_step)


@pytest.mark.parametrize("first", [1e-8, 1.0])
def test_a_badly_scaled_gaussian(first: float) -> None:
    n, variances = 1500, torch.logspace(-4, 4, 5)

    def scaled(x: Tensor) -> Tensor:
        return (x.square() / (2 * variances)).sum(1)

    sampler = Adaptive(mala(first), target_acceptance=0.574)
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 5, generator=g)
    settled = warmed(sampler, scaled, x, [50, 50, 50, 100, 100, 150, 50], g)
    ratio = settled.scale.flatten() / variances.sqrt()
    assert ((ratio - 1).abs() < 0.1).all()
    state, acceptance = advance(sampler, scaled, settled, 60, g)
    assert float(acceptance) == pytest.approx(0.574, abs=0.03)
    for name in ("log_step", "scale", "seen", "total"):
        assert torch.equal(getattr(state, name), getattr(settled, name))
    x = state.x.double()
    assert (x.mean(0).abs() < 5 * (variances / n).sqrt()).all()
    assert ((x.square().mean(0) - variances).abs() < 5 * variances * math.sqrt(2 / n)).all()


def test_a_rescaled_step_is_one_on_the_rescaled_problem() -> None:
    # Second route: the energy of y written out, differentiated by autograd, without the wrapper.
    g = torch.Generator().manual_seed(3)
    x = torch.randn(100, 2, generator=g, dtype=torch.float64)
    scale = torch.tensor([[3.0, 0.7]], dtype=torch.float64)
    epsilon = 0.9
    inner = mala(epsilon)
    sampler = Adaptive(inner, target_acceptance=0.5)
    state = sampler.init(energy, x)._replace(scale=scale)
    state = sampler.restart(state, energy, x)
    noise = sampler.draw(state, generator=g)
    after, metrics = sampler.step(energy, state, noise, step_size=epsilon)

    def rescaled(y: Tensor) -> Tensor:
        return energy(y * scale)

    expected, told = inner.step(
        rescaled, inner.init(rescaled, x / scale), noise, step_size=torch.tensor(epsilon).double()
    )
    assert 5 < (after.x != x).any(1).sum() < 95
    torch.testing.assert_close(after.x, scale * expected.x)
    torch.testing.assert_close(after.inner.gradient, expected.gradient)
    torch.testing.assert_close(metrics["acceptance_rate"], told["acceptance_rate"])
    assert float(metrics["step_size"]) == pytest.approx(epsilon)


def test_the_rescaled_energy_and_its_gradient() -> None:
    y = torch.randn(6, 2, generator=torch.Generator().manual_seed(4))
    rescaled = Rescaled(energy, torch.tensor([[2.0, 0.3]]))
    leaf = y.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(rescaled(leaf).sum(), leaf)
    energies, gradient = rescaled.energy_and_gradient(y)
    torch.testing.assert_close(energies, energy(y * torch.tensor([2.0, 0.3])))
    torch.testing.assert_close(gradient, expected)
    assert not rescaled.discrete


@given(
    batches=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    offset=st.floats(-100, 100),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_scales_are_the_standard_deviations_of_all_points_seen(
    batches: list[int], offset: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    sampler = Adaptive(Told())
    state, seen = None, []
    for batch in batches:
        x = offset + torch.randn(batch, 2, 3, generator=g, dtype=torch.float64)
        state = sampler.init(energy, x) if state is None else sampler.restart(state, energy, x)
        state, _ = sampler.step(energy, state, sampler.draw(state, generator=g), step_size=0.3)
        seen.append(state.x)
    points = torch.cat(seen)
    n = len(points)
    tuned = sampler.tune(state, energy)
    expected = points.std(0) ** (n / (n + 5))
    torch.testing.assert_close(tuned.scale[0], expected)
    assert state.seen == n
    assert tuned.seen == 0 and tuned.steps == 0 and tuned.total == len(batches)
    torch.testing.assert_close(tuned.centre, state.log_average + math.log(10))
    torch.testing.assert_close(tuned.log_step, state.log_average)
    assert torch.equal(tuned.x, state.x)
    # Once tuned, chains that begin again leave the scales alone.
    later = tuned._replace(steps=tuned.steps + 1000, seen=state.seen, squares=state.squares + 1)
    assert torch.equal(sampler.restart(later, energy, later.x).scale, tuned.scale)


def test_without_mass_nothing_is_rescaled_and_averaging_goes_on() -> None:
    sampler = Adaptive(mala(0.1), mass=False)
    g = torch.Generator().manual_seed(5)
    state, _ = advance(sampler, energy, sampler.init(energy, torch.randn(20, 2)), 60, g)
    for after in (sampler.tune(state, energy), sampler.restart(state, energy, state.x)):
        assert after.steps == 60 and torch.equal(after.log_step, state.log_step)
        assert (after.scale == 1).all()
        assert torch.equal(after.inner.x, state.x)


def test_new_chains_keep_what_is_adapted_and_renew_scales_ever_more_rarely() -> None:
    sampler = Adaptive(mala(0.1), target_acceptance=0.574)
    g = torch.Generator().manual_seed(6)
    state, _ = advance(sampler, energy, sampler.init(energy, torch.randn(50, 2)), 30, g)
    x = torch.randn(70, 2, generator=g)
    again = sampler.restart(state, energy, x)
    for name in set(state._fields) - {"x", "inner"}:
        assert torch.equal(getattr(again, name), getattr(state, name))
    assert torch.equal(again.x, x)
    renewals, total = [], 30
    state = again
    for _ in range(50):
        state, _ = advance(sampler, energy, state, 10, g)
        total += 10
        before, state = state.scale, sampler.restart(state, energy, state.x)
        torch.testing.assert_close(state.scale * state.inner.x, state.x)
        if not torch.equal(before, state.scale):
            renewals.append(total)
            assert state.steps == 0 and state.seen == 0
    assert renewals == [50, 150, 350]
    settled = sampler.settle(state)
    settled, _ = advance(sampler, energy, settled, 500, g)
    after = sampler.tune(sampler.restart(settled, energy, settled.x), energy)
    assert torch.equal(after.scale, settled.scale) and torch.equal(after.log_step, settled.log_step)
    assert not after.adapting


def test_persistent_chains_are_adapted_by_the_runner_alone() -> None:
    sampler = Adaptive(mala(1e-3), target_acceptance=0.574)
    g = torch.Generator().manual_seed(7)
    x = torch.randn(200, 2, generator=g)
    previous = None
    for _ in range(40):
        chain = run_chain(sampler, energy, x, steps=10, generator=g, previous=previous)
        x, previous = chain.x, chain.state
    assert chain.metrics["acceptance_rate"] == pytest.approx(0.574, abs=0.05)
    # Of this energy, by quadrature: 2.54 and 1.63.
    grid = torch.linspace(-40, 40, 80_001).double()
    for i, scale in enumerate(previous.scale.flatten()):
        along = torch.zeros(len(grid), 2).double()
        along[:, i] = grid
        weight = (-energy(along)).softmax(0)
        assert float(scale) == pytest.approx(float((weight * grid**2).sum().sqrt()), rel=0.1)


def test_a_restored_state_goes_on() -> None:
    # A checkpoint gives NamedTuples back with their names, though not their types.
    sampler = Adaptive(mala(0.1))
    g = torch.Generator().manual_seed(8)
    state, _ = advance(sampler, energy, sampler.init(energy, torch.randn(20, 2)), 60, g)

    def restored(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return tree.clone()
        make: Any = collections.namedtuple
        return make(type(tree).__name__, tree._fields)(*map(restored, tree))

    expected = sampler.restart(state, energy, state.x)
    found = sampler.restart(restored(state), energy, state.x)
    assert all(map(torch.equal, leaves(found), leaves(expected)))


@pytest.mark.parametrize("mass", [True, False])
def test_a_chain_is_determined_and_goes_on_where_it_stopped(mass: bool) -> None:
    sampler = Adaptive(mala(0.1), mass=mass)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(10)
    whole, _ = advance(sampler, energy, sampler.init(energy, x), 9, g)
    g = torch.Generator().manual_seed(10)
    half, _ = advance(sampler, energy, sampler.init(energy, x), 4, g)
    kept = [tensor.clone() for tensor in leaves(half)]
    again, _ = advance(sampler, energy, half, 5, g)
    assert all(map(torch.equal, leaves(whole), leaves(again)))
    assert all(map(torch.equal, kept, leaves(half)))
    assert not torch.equal(again.x, x)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("fields", [{}, {"mass": False}, {"steps": 4}])
def test_steps_and_restarts_are_traced_into_a_graph(batch: int, fields: dict[str, Any]) -> None:
    sampler = Adaptive(mala(0.1), **fields)
    g = torch.Generator().manual_seed(11)
    state = sampler.init(energy, torch.randn(batch, 2, generator=g))
    state, _ = advance(sampler, energy, state, 1, g)

    def step(state: Any, noise: Any) -> Any:
        return sampler.step(energy, state, noise, step_size=torch.tensor(0.1))

    def restart(state: Any) -> Any:
        return sampler.restart(state, energy, state.x)

    noise = sampler.draw(state, generator=g)
    graph = make_fx(step, tracing_mode="fake")(state, noise)
    again = make_fx(restart, tracing_mode="fake")(state)
    for due in (50, 2, 2, 50, 1):
        state = state._replace(due=torch.tensor(float(due)))
        torch.testing.assert_close(leaves(again(state)), leaves(restart(state)))
        traced, eager = graph(state, noise), step(state, noise)
        torch.testing.assert_close(leaves(traced[0]), leaves(eager[0]))
        torch.testing.assert_close(traced[1], eager[1])
        state, noise = eager[0], sampler.draw(eager[0], generator=g)


@given(
    batch=st.integers(0, 4),
    event=st.sampled_from([(1,), (3,), (1, 8, 8), (4, 2)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    mass=st.booleans(),
    steps=st.sampled_from([None, 1, 5]),
)
@settings(max_examples=40, deadline=None)
def test_shapes_and_dtypes_are_kept(
    batch: int, event: tuple[int, ...], dtype: torch.dtype, mass: bool, steps: int | None
) -> None:
    sampler = Adaptive(mala(0.1), mass=mass, steps=steps)

    def square(x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1)

    g = torch.Generator().manual_seed(12)
    x = torch.randn(batch, *event, generator=g, dtype=dtype)
    state = sampler.init(square, x)
    assert torch.equal(state.x, x)
    state, _ = advance(sampler, square, state, 3, g)
    state = sampler.settle(sampler.restart(sampler.tune(state, square), square, state.x))
    state, _ = advance(sampler, square, state, 1, g)
    assert state.x.shape == x.shape
    tensors = leaves(state._replace(adapting=state.log_step))
    assert all(t.dtype == dtype and not t.requires_grad for t in tensors)
    assert state.scale.shape == (1, *event) and bool(state.scale.isfinite().all())
    # Without chains nothing is learnt.
    assert state.total == (min(3, steps or 3) if batch else 0)
    assert bool(state.log_step.isfinite())


def test_an_acceptance_that_is_nan_counts_as_none() -> None:
    sampler = Adaptive(Told(0.3), mass=False)
    state = sampler.init(energy, torch.zeros(3, 2))
    nan, metrics = sampler.step(energy, state, torch.tensor(math.nan), step_size=0.3)
    zero, _ = sampler.step(energy, state, torch.tensor(0.0), step_size=0.3)
    assert metrics["acceptance_rate"] == 0
    assert all(map(torch.equal, leaves(nan), leaves(zero)))
    assert nan.log_step < state.log_step + math.log(10)


@pytest.mark.parametrize(("acceptance", "way"), [(0.0, 1), (1.0, -1)])
def test_a_step_size_that_ran_away_is_a_number_and_comes_back(acceptance: float, way: int) -> None:
    sampler = Adaptive(Told(0.3), mass=False)
    state = sampler.init(energy, torch.zeros(3, 2))
    for _ in range(300):
        state, metrics = sampler.step(energy, state, torch.tensor(acceptance), step_size=0.3)
    squared = metrics["step_size"] ** 2
    assert 0 < squared < math.inf
    for _ in range(3000):
        state, _ = sampler.step(energy, state, torch.tensor(1 - acceptance), step_size=0.3)
    assert way * float(state.log_step) > 0


def test_adaptation_ends_after_the_steps_that_are_stated() -> None:
    sampler = Adaptive(mala(0.1), steps=20, mass=False)
    g = torch.Generator().manual_seed(13)
    state, _ = advance(sampler, energy, sampler.init(energy, torch.randn(30, 2)), 12, g)
    state = sampler.restart(state, energy, state.x)
    state, _ = advance(sampler, energy, state, 7, g)
    assert state.adapting and state.total == 19
    state, _ = advance(sampler, energy, state, 1, g)
    assert not state.adapting and torch.equal(state.log_step, state.log_average)
    after, _ = advance(sampler, energy, state, 5, g)
    for name in ("log_step", "log_average", "total"):
        assert torch.equal(getattr(after, name), getattr(state, name))
    assert torch.equal(sampler.settle(after).log_step, state.log_step)


def test_scales_of_which_nothing_is_known_stay() -> None:
    g = torch.Generator().manual_seed(14)
    sampler = Adaptive(Told())
    # Of one point, and of points that are all the same in one number and not finite in another.
    state = sampler.init(energy, torch.zeros(1, 3))
    state, _ = sampler.step(energy, state, sampler.draw(state, generator=g), step_size=0.3)
    assert (sampler.tune(state, energy).scale == 1).all()
    x = torch.randn(50, 3, generator=g)
    x[:, 1], x[4, 2] = 5.0, math.nan
    state = sampler.init(energy, x)
    state, _ = sampler.step(energy, state, sampler.draw(state, generator=g), step_size=0.3)
    scale = sampler.tune(state, energy).scale.flatten()
    assert scale[0] != 1 and scale[1] == 1 and scale[2] == 1
    assert (sampler.tune(sampler.init(energy, x), energy).scale == 1).all()


def test_what_the_inner_sampler_offers_is_passed_on() -> None:
    sampler = Adaptive(Told(discrete=True, traceable=False), mass=False)
    assert sampler.discrete and not sampler.traceable
    with pytest.raises(UserError, match="not that one"):
        sampler.check(energy)
    state = sampler.init(energy, torch.zeros(4, 2))
    assert (sampler.tune(state, energy).inner.x == 100).all()
    assert (sampler.settle(sampler.tune(state, energy)).inner.x == 200).all()
    plain = Adaptive(mala(0.1))
    plain.check(energy)
    assert not plain.discrete and plain.traceable
    assert scheduled_names(plain) == ("step_size",)


class Plain:
    """Has no step size."""

    def init(self, e: Any, x: Tensor) -> Place:
        return Place(x)

    def draw(self, state: Place, *, generator: torch.Generator) -> None:
        return None

    def step(self, e: Any, state: Place, noise: None) -> tuple[Place, dict[str, Tensor]]:
        return state, {}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Plain(), "expected one with a step_size, got Plain"),
        (
            Told(exact=False),
            "sampler: expected one that leaves p.* got Told, which does not say so",
        ),
        (ebmkit.create("sampler", "langevin", step_size=0.1), "got Langevin, .* such as mala, hmc"),
        (Told(step_size=lambda step: 0.1), "expected Told.step_size to be a number"),
        (mala(0.1, target_acceptance=0.6), "expected MALA.target_acceptance unset"),
        (Told(discrete=True), "mass: expected false for Told"),
    ],
)
def test_samplers_that_cannot_be_adapted_are_refused(inner: Any, message: str) -> None:
    with pytest.raises(AdaptationError, match=message):
        Adaptive(inner)


def test_a_sampler_that_reports_no_acceptance_is_refused_at_its_first_step() -> None:
    sampler = Adaptive(Told(reports=False))
    state = sampler.init(energy, torch.zeros(4, 2))
    with pytest.raises(UserError, match="Told reports no acceptance_rate"):
        sampler.step(energy, state, torch.tensor(0.5), step_size=0.3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_acceptance": 0.0}, "target_acceptance"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
        ({"target_acceptance": math.nan}, "finite"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "whole"),
    ],
)
def test_what_is_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptive(Told(), **fields)


def test_a_schedule_is_refused_by_name_in_a_spec() -> None:
    schedule = {"use": "constant", "value": 0.1}
    with pytest.raises(UserError, match=r"MALA\.step_size to be a number"):
        ebmkit.create("sampler", "adaptive", sampler=mala(schedule))


def test_it_is_found_by_name_and_goes_inside_others() -> None:
    adaptive = ebmkit.create(
        "sampler", "adaptive", sampler={"use": "mala", "step_size": 0.1}, target_acceptance=0.574
    )
    n, betas = 3000, [1.0, 0.4, 0.15]
    sampler = ebmkit.create(
        "sampler", "parallel-tempering", sampler=adaptive, inverse_temperatures=betas
    )
    variances = torch.tensor([4.0, 0.01])

    def scaled(x: Tensor) -> Tensor:
        return (x.square() / (2 * variances)).sum(1)

    g = torch.Generator().manual_seed(15)
    state = warmed(sampler, scaled, torch.randn(n, 2, generator=g), [40, 40, 60, 150], g)
    state, acceptance = advance(sampler, scaled, state, 30, g)
    assert float(acceptance) == pytest.approx(0.574, abs=0.03)
    for beta, replica in zip(betas, state.replicas, strict=True):
        hot = variances / beta
        assert ((replica.scale.square() / hot - 1).abs() < 0.2).all()
        x = replica.x.double()
        assert ((x.square().mean(0) - hot).abs() < 5 * hot * math.sqrt(2 / n)).all()


class Remembering(Told):
    def restart(self, state: Place, e: Any, x: Tensor) -> Place:
        return Place(x + state.x.mean())


def test_the_inner_sampler_begins_again_with_what_it_keeps() -> None:
    sampler = Adaptive(Remembering(), mass=False)
    state = sampler.init(energy, torch.full((4, 2), 3.0))
    assert (sampler.restart(state, energy, torch.zeros(6, 2)).inner.x == 3).all()
