"""What holds for the chains of both samplers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ebmkit_hamiltonian.hmc import HMC
from ebmkit_hamiltonian.nuts import NUTS
from torch import Tensor, nn

from ebmkit.chains import run_chain

BOTH = pytest.mark.parametrize(
    "sampler",
    [HMC(step_size=0.3, n_leapfrog=4, jitter=0.2), NUTS(step_size=0.3, max_depth=5)],
    ids=str,
)


def energy(x: Tensor) -> Tensor:
    rows = x.flatten(1) if x.ndim > 1 else x[:, None]
    return rows.square().sum(1) / 2 + rows.mean(1).cos()


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (7, 1, 8, 8), (7,), (0, 3), (0, 1, 8, 8)])
def test_shapes_and_dtypes_are_kept(
    sampler: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(shape, generator=generator(), dtype=dtype)
    before = x.clone()
    state, g = sampler.init(energy, x), generator(2)
    for _ in range(3):
        noise = sampler.draw(state, generator=g)
        given = [part for part in (*state, *noise) if part is not None]
        kept = [part.clone() for part in given]
        new, metrics = sampler.step(energy, state, noise, step_size=0.3)
        # A step changes nothing that it was given.
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
        for old, part in zip(state, new, strict=True):
            assert part.shape == old.shape and part.dtype == dtype
            assert not part.requires_grad and part.isfinite().all()
        assert all(
            m.ndim == 0 and m.dtype == dtype and not m.requires_grad for m in metrics.values()
        )
        state = new
    assert torch.equal(x, before)
    assert (state.x != x).all(tuple(range(1, x.ndim)) or 0).all() or not len(x)
    torch.testing.assert_close(state.energy, energy(state.x))
    assert "acceptance_rate" in metrics


@BOTH
def test_an_event_s_shape_does_not_matter(sampler: Any) -> None:
    x = torch.randn(9, 12, generator=generator(), dtype=torch.float64)
    flat = run_chain(sampler, energy, x, steps=4, generator=generator(2))
    shaped = run_chain(sampler, energy, x.view(9, 1, 3, 4), steps=4, generator=generator(2))
    torch.testing.assert_close(shaped.x.flatten(1), flat.x)


@BOTH
def test_the_generator_is_all_the_chance_there_is(sampler: Any) -> None:
    x = torch.randn(6, 3, generator=generator())
    ends = []
    for seed in (2, 2, 3):
        torch.manual_seed(len(ends))
        untouched = torch.get_rng_state()
        ends.append(run_chain(sampler, energy, x, steps=4, generator=generator(seed)).x)
        assert torch.equal(torch.get_rng_state(), untouched)
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


@BOTH
def test_draws_read_no_values_of_the_state(sampler: Any) -> None:
    state = sampler.init(energy, torch.randn(6, 3, generator=generator()))
    other = type(state)(*(torch.full_like(part, torch.nan) for part in state))
    a, b = (sampler.draw(s, generator=generator(2)) for s in (state, other))
    assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


@BOTH
def test_continued_from_a_saved_state_it_is_the_same_to_the_bit(
    sampler: Any, tmp_path: Any
) -> None:
    g = generator(2)
    state = sampler.init(energy, torch.randn(6, 3, generator=generator()))

    def steps(state: Any, n: int) -> Any:
        for _ in range(n):
            noise = sampler.draw(state, generator=g)
            state, _ = sampler.step(energy, state, noise, step_size=0.3)
        return state

    middle = steps(state, 3)
    torch.save((middle._asdict(), g.get_state()), tmp_path / "state.pt")
    whole = steps(middle, 3)
    saved, random = torch.load(tmp_path / "state.pt")
    g.set_state(random)
    again = steps(type(state)(**saved), 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@BOTH
def test_a_step_size_may_be_a_tensor_or_a_schedule(sampler: Any) -> None:
    state = sampler.init(energy, torch.randn(6, 3, generator=generator()))
    noise = sampler.draw(state, generator=generator(2))
    number, _ = sampler.step(energy, state, noise, step_size=0.25)
    tensor, _ = sampler.step(energy, state, noise, step_size=torch.tensor(0.25))
    assert all(torch.equal(a, b) for a, b in zip(number, tensor, strict=True))
    scheduled = type(sampler)(step_size=lambda step: 0.25)
    chain = run_chain(scheduled, energy, state.x, steps=2, generator=generator(2))
    constant = run_chain(
        type(sampler)(step_size=0.25), energy, state.x, steps=2, generator=generator(2)
    )
    assert torch.equal(chain.x, constant.x)


@BOTH
def test_the_model_s_parameters_get_no_gradients(sampler: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    chain = run_chain(
        sampler, model, torch.randn(6, 3, generator=generator()), steps=3, generator=generator(2)
    )
    assert all(p.grad is None for p in model.parameters())
    assert not any(part.requires_grad for part in (*chain.state, *chain.metrics.values()))


@BOTH
def test_the_state_s_hamiltonian_is_that_at_the_beginning_of_the_trajectory(sampler: Any) -> None:
    state = sampler.init(energy, torch.randn(6, 3, generator=generator()))
    assert torch.equal(state.hamiltonian, state.energy)
    noise = sampler.draw(state, generator=generator(2))
    after, _ = sampler.step(energy, state, noise, step_size=0.3)
    expected = state.energy + noise.momentum.square().sum(1) / 2
    torch.testing.assert_close(after.hamiltonian, expected)
