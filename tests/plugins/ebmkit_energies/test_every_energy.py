"""What holds of every energy of this package."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from ebmkit_energies.ackley import Ackley
from ebmkit_energies.banana import Banana
from ebmkit_energies.deep_kernel import DeepKernel
from ebmkit_energies.double_well import DoubleWell
from ebmkit_energies.funnel import Funnel
from ebmkit_energies.gaussian import Gaussian
from ebmkit_energies.gaussian_mixture import GaussianMixture
from ebmkit_energies.harmonic import Harmonic
from ebmkit_energies.mlp import MLP
from ebmkit_energies.rastrigin import Rastrigin
from ebmkit_energies.rbm import RBM
from ebmkit_energies.rosenbrock import Rosenbrock
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebmkit import Model, score

laws = settings(deadline=None, max_examples=25, derandomize=True)

MEAN = [0.3, -1.2, 0.5, 2.0, 0.0, -0.7]
COVARIANCE = [[2.0 if i == j else 0.5 ** abs(i - j) for j in range(6)] for i in range(6)]
MEANS = [MEAN, [0.0] * 6, [1.0] * 6]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Each for events of six numbers, in a shape of one's choice.
builders: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "ackley": lambda shape: Ackley(event_shape=shape),
    "banana": lambda shape: Banana(2.0, 0.3, event_shape=shape),
    "deep-kernel": lambda shape: DeepKernel(shape, 7, [1.0, 2.0], [8], 5, generator=generator()),
    "double-well": lambda shape: DoubleWell(1.5, event_shape=shape),
    "funnel": lambda shape: Funnel(event_shape=shape),
    "gaussian": lambda shape: Gaussian(MEAN, COVARIANCE, event_shape=shape),
    "gaussian-trainable": lambda shape: Gaussian(MEAN, COVARIANCE, True, event_shape=shape),
    "gaussian-mixture": lambda shape: GaussianMixture(MEANS, 0.8, [1, 2, 3], event_shape=shape),
    "harmonic": lambda shape: Harmonic(0.7, event_shape=shape),
    "mlp": lambda shape: MLP(shape, [16], generator=generator()),
    "mlp-full": lambda shape: MLP(shape, [8, 9], "tanh", 2.0, 1.5, 0.5, generator=generator()),
    "rastrigin": lambda shape: Rastrigin(event_shape=shape),
    "rbm": lambda shape: RBM(shape, 5, 0.5, generator()),
    "rosenbrock": lambda shape: Rosenbrock(0.9, 4.0, event_shape=shape),
}
every = pytest.mark.parametrize("build", builders.values(), ids=builders)
shapes = st.sampled_from([(6,), (2, 3), (1, 2, 3), (3, 1, 2)])


def points(seed: int, batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, *shape, generator=generator(seed), dtype=dtype)


@every
@laws
@given(
    shape=shapes,
    batch=st.integers(0, 7),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**32),
)
def test_one_energy_a_row_in_the_dtype_of_the_points(
    build: Callable[[tuple[int, ...]], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    energy = build(shape).to(dtype)
    x = points(seed, batch, shape, dtype)
    energies = energy(x)
    assert isinstance(energy, Model)
    assert energies.shape == (batch,)
    assert energies.dtype == dtype
    assert score(energy, x).shape == x.shape
    assert score(energy, x).dtype == dtype
    torch.testing.assert_close(energies, build((6,)).to(dtype)(x.reshape(batch, 6)))
    # A row's energy does not depend on the other rows.
    for row in range(batch):
        torch.testing.assert_close(energy(x[row : row + 1]), energies[row : row + 1])


@every
def test_derivatives_of_both_orders_agree_with_differences(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    energy = build((2, 3)).double()
    x = points(1, 3, (2, 3), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(energy, (x,))
    assert torch.autograd.gradgradcheck(energy, (x,))


@every
def test_single_and_double_precision_agree(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    energy = build((6,))
    x = points(2, 50, (6,), torch.float32)
    single = energy(x)
    double = copy.deepcopy(energy).double()(x.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-4)


@every
def test_copies_pickles_and_saved_tensors_keep_the_energy(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    energy = build((6,))
    x = points(3, 5, (6,), torch.float32)
    expected = energy(x)
    restored = build((6,))
    with torch.no_grad():
        for tensor in itertools.chain(restored.parameters(), restored.buffers()):
            tensor.add_(1.0)
    restored.load_state_dict(energy.state_dict())
    for other in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy)), restored):
        assert torch.equal(other(x), expected)
    ours = {tensor.data_ptr() for tensor in energy.state_dict().values()}
    theirs = {t.data_ptr() for t in copy.deepcopy(energy).state_dict().values()}
    assert not ours & theirs


@every
def test_building_and_calling_leave_the_global_generator_alone(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    before = torch.random.get_rng_state()
    score(build((6,)), points(4, 3, (6,), torch.float32))
    assert torch.equal(torch.random.get_rng_state(), before)


@every
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2), (5,), (5, 6, 1), ()])
def test_other_events_are_refused_with_both_shapes(
    build: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...]
) -> None:
    energy = build((6,))
    with pytest.raises(ValueError, match=type(energy).__name__) as caught:
        energy(torch.zeros(shape))
    assert "(batch, 6)" in str(caught.value)
    assert str(shape) in str(caught.value)


@every
def test_points_that_are_no_floats_are_refused(
    build: Callable[[tuple[int, ...]], nn.Module],
) -> None:
    with pytest.raises(ValueError, match=r"floating dtype, got torch\.int64"):
        build((6,))(torch.zeros(2, 6, dtype=torch.long))


@every
@pytest.mark.parametrize("shape", [[2, 3], torch.Size([2, 3])])
def test_an_event_shape_may_be_any_sequence(
    build: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...]
) -> None:
    energy = build(shape)
    assert energy.event_shape == (2, 3)
    assert type(energy.event_shape) is tuple


@pytest.mark.parametrize("kind", [Ackley, DoubleWell, Harmonic, Rastrigin])
def test_events_without_dimensions_are_one_number(kind: type[nn.Module]) -> None:
    x = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(kind(event_shape=())(x), kind()(x.unsqueeze(1)))
    with pytest.raises(ValueError, match=r"\(batch, \*event\), got \(9,\)"):
        kind()(x)


@every
@pytest.mark.parametrize("shape", [(0,), (-1, 2), (2, 1.5), (True,)])
def test_event_shapes_that_are_none_are_refused(
    build: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"event_shape|must be >= 1"):
        build(shape)


@pytest.mark.parametrize("build", [lambda: Harmonic(2.0), lambda: Gaussian(MEAN, COVARIANCE)])
def test_a_formula_shows_its_fields(build: Callable[[], nn.Module]) -> None:
    shown = repr(build())
    assert "event_shape=None" in shown
    assert "stiffness=2.0" in shown or "mean=[0.3" in shown
