"""Ising and Potts models against their sums over bonds, and against what is known of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ebmkit_energies._lattice import colours
from ebmkit_energies.ising import Ising
from ebmkit_energies.potts import Potts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ebmkit

laws = settings(deadline=None, max_examples=40, derandomize=True)
sides_of = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def bonds(sides: tuple[int, ...], periodic: bool) -> Iterator[tuple[int, int]]:
    """Pairs of neighbours, each once, as places in the flattened lattice."""
    sites = list(itertools.product(*map(range, sides)))
    for site in sites:
        for axis, side in enumerate(sides):
            to = list(site)
            to[axis] += 1
            if to[axis] == side:
                if not periodic or side == 1:
                    continue
                to[axis] = 0
            yield sites.index(site), sites.index(tuple(to))


def every_state(sites: int, q: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(q), repeat=sites))).view(-1, sites)


def ising_energies(states: Tensor, sides: Any, periodic: bool, j: float, h: float) -> Tensor:
    spins = 2.0 * states.double() - 1
    pairs = sum((spins[:, a] * spins[:, b] for a, b in bonds(sides, periodic)), torch.zeros(()))
    return -j * pairs - h * spins.sum(1)


def potts_energies(states: Tensor, sides: Any, periodic: bool, j: float, h: list[float]) -> Tensor:
    same = sum((states[:, a] == states[:, b]).double() for a, b in bonds(sides, periodic))
    return -j * same - torch.tensor(h, dtype=torch.float64)[states].sum(1)


def allowed(sides: tuple[int, ...], periodic: bool) -> bool:
    return not periodic or 2 not in sides


@laws
@given(sides_of, st.booleans(), st.floats(-2, 2), st.floats(-1, 1), st.integers(0, 1000))
def test_ising_is_its_sum_over_bonds(
    sides: tuple[int, ...], periodic: bool, j: float, h: float, seed: int
) -> None:
    if not allowed(sides, periodic):
        with pytest.raises(ValueError, match="periodic"):
            Ising(sides, j, h, periodic)
        return
    model, sites = Ising(sides, j, h, periodic), math.prod(sides)
    states = torch.randint(2, (6, sites), generator=torch.Generator().manual_seed(seed))
    expected = ising_energies(states, sides, periodic, j, h)
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        x = states.to(dtype).view(-1, *sides)
        energies = model(x)
        assert energies.dtype == dtype
        torch.testing.assert_close(energies.double(), expected, rtol=rounding, atol=rounding)
    if 2**sites <= 4096:
        table = ising_energies(every_state(sites, 2), sides, periodic, j, h)
        log_z = model.log_partition()
        torch.testing.assert_close(log_z, (-table).logsumexp(0), rtol=1e-11, atol=1e-11)


@laws
@given(sides_of, st.integers(2, 4), st.booleans(), st.floats(-2, 2), st.integers(0, 1000))
def test_potts_is_its_sum_over_bonds(
    sides: tuple[int, ...], q: int, periodic: bool, j: float, seed: int
) -> None:
    if not allowed(sides, periodic):
        with pytest.raises(ValueError, match="periodic"):
            Potts((*sides, q), j, None, periodic)
        return
    h = [0.3 * k * k - 0.4 for k in range(q)]
    model, sites = Potts((*sides, q), j, h, periodic), math.prod(sides)
    assert model.categories == q
    states = torch.randint(q, (6, sites), generator=torch.Generator().manual_seed(seed))
    expected = potts_energies(states, sides, periodic, j, h)
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        x = torch.nn.functional.one_hot(states, q).to(dtype).view(-1, *sides, q)
        energies = model(x)
        assert energies.dtype == dtype
        torch.testing.assert_close(energies.double(), expected, rtol=rounding, atol=rounding)
    if q**sites <= 4096:
        table = potts_energies(every_state(sites, q), sides, periodic, j, h)
        log_z = model.log_partition()
        torch.testing.assert_close(log_z, (-table).logsumexp(0), rtol=1e-11, atol=1e-11)


@laws
@given(st.lists(st.sampled_from([1, 3, 4, 5]), min_size=1, max_size=3).map(tuple), st.booleans())
def test_no_neighbours_share_a_colour(sides: tuple[int, ...], periodic: bool) -> None:
    colour = colours(sides, periodic).flatten().tolist()
    assert all(colour[a] != colour[b] for a, b in bonds(sides, periodic))
    odd_ring = periodic and any(side in (3, 5) for side in sides)
    assert max(colour) <= (2 if odd_ring else 1)


@pytest.mark.parametrize("j", [-0.8, 0.3, 1.2])
@pytest.mark.parametrize("h", [0.0, 0.5])
@pytest.mark.parametrize("n", [3, 50, 1000])
def test_the_ring_has_its_closed_form(n: int, j: float, h: float) -> None:
    # Z = λ₊ⁿ + λ₋ⁿ with λ = e^J cosh h ± √(e^2J sinh² h + e^−2J).
    root = math.sqrt(math.exp(2 * j) * math.sinh(h) ** 2 + math.exp(-2 * j))
    large, small = (math.exp(j) * math.cosh(h) + sign * root for sign in (1, -1))
    expected = n * math.log(large) + math.log1p((small / large) ** n)
    log_z = Ising((n,), j, h, periodic=True).log_partition()
    assert (log_z.dtype, log_z.shape) == (torch.float64, ())
    assert float(log_z) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [2, 30, 500])
def test_the_open_chain_has_its_closed_form(n: int) -> None:
    # Z = 2 (2 cosh J)ⁿ⁻¹ without a field, and q (e^J + q − 1)ⁿ⁻¹ for q categories.
    expected = math.log(2) + (n - 1) * math.log(2 * math.cosh(0.7))
    assert float(Ising((n,), 0.7).log_partition()) == pytest.approx(expected, rel=1e-12)
    expected = math.log(5) + (n - 1) * math.log(math.exp(0.7) + 4)
    assert float(Potts((n, 5), 0.7).log_partition()) == pytest.approx(expected, rel=1e-12)


def test_potts_of_two_categories_is_ising() -> None:
    # δ = (1 + s s') / 2: J of Potts is twice that of Ising, and every bond adds J / 2 of Potts.
    for periodic in (False, True):
        n_bonds = len(list(bonds((4, 8), periodic)))
        ising = Ising((4, 8), 0.35, 0.2, periodic).log_partition()
        potts = Potts((4, 8, 2), 0.7, [-0.2, 0.2], periodic).log_partition()
        assert float(potts - ising) == pytest.approx(0.35 * n_bonds, rel=1e-11)


def test_a_wide_open_lattice_and_a_long_one_agree_with_their_transposes() -> None:
    for sides, periodic in (((14, 5), False), ((8, 6), True), ((3, 4, 3), False)):
        one = Ising(sides, 0.4, 0.1, periodic).log_partition()
        other = Ising(sides[::-1], 0.4, 0.1, periodic).log_partition()
        assert float(one) == pytest.approx(float(other), rel=1e-13)


def test_periodic_sums_do_not_depend_on_their_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ising((5, 6), 0.4, 0.1, periodic=True).log_partition()
    monkeypatch.setattr("ebmkit_energies._lattice._NUMBERS_AT_ONCE", 100)
    monkeypatch.setattr("ebmkit_energies._lattice._JOINED", 4)
    torch.testing.assert_close(
        Ising((5, 6), 0.4, 0.1, periodic=True).log_partition(), whole, rtol=1e-13, atol=0
    )


def test_lattices_too_wide_and_couplings_too_strong_are_refused() -> None:
    with pytest.raises(ebmkit.EvaluationError, match=r"2\^21 on a lattice of sides \(21, 21\)"):
        Ising((21, 21)).log_partition()
    with pytest.raises(ebmkit.EvaluationError, match=r"3\^8"):
        Potts((8, 9, 3), periodic=True).log_partition()
    with pytest.raises(ebmkit.EvaluationError, match="couplings are so strong"):
        Ising((3, 3), -400.0, periodic=True).log_partition()
    # An open chain that strong is no trouble: two states, alternating.
    assert float(Ising((9,), -400.0).log_partition()) == pytest.approx(math.log(2) + 3200)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_gradients_by_formula(periodic: bool, batch: int) -> None:
    g = torch.Generator().manual_seed(1)
    potts = Potts((3, 4, 3), 0.9, [0.2, -0.4, 0.1], periodic)
    for model in (Ising((3, 1, 4), 0.7, 0.3, periodic), potts):
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(batch, *model.event_shape, generator=g, dtype=dtype)
            energies, gradient = model.energy_and_gradient(x)
            expected = ebmkit.energy_and_gradient(model.forward, x)
            torch.testing.assert_close((energies, gradient), expected)
            assert energies.dtype == gradient.dtype == dtype


def test_parameters_are_trained_only_where_asked() -> None:
    for model in (Ising((5,), 0.1, 0.0, True, trainable=True), Potts((5, 3), trainable=True)):
        assert {name for name, _ in model.named_parameters()} == {"strength", "bias"}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        x = torch.zeros(2, *model.event_shape)
        x[..., 0] = 1
        model(x).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not list(Ising((5,)).parameters())
    assert set(Ising((5,)).state_dict()) == {"strength", "bias"}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Ising((4,), math.nan), "coupling"),
        (lambda: Ising((4,), field=math.inf), "field"),
        (lambda: Ising(()), "event_shape"),
        (lambda: Ising((0,)), "event_shape"),
        (lambda: Ising((4, 2), periodic=True), "at least 3 sites"),
        (lambda: Ising((4,))(torch.zeros(2, 5)), r"\(batch, 4\), got \(2, 5\)"),
        (lambda: Ising((4,)).sweep(torch.zeros(2, 5), torch.zeros(2, 5)), "got"),
        (lambda: Potts((3,)), "event_shape"),
        (lambda: Potts((3, 1)), "at least 2 categories"),
        (lambda: Potts((3, 2), field=[1.0]), "field: expected 2 numbers"),
        (lambda: Potts((3, 2), field=[1.0, math.nan]), "field"),
        (lambda: Potts((2, 3), periodic=True), "at least 3 sites"),
        (lambda: Potts((3, 2))(torch.zeros(2, 3)), r"\(batch, 3, 2\), got \(2, 3\)"),
    ],
)
def test_what_is_out_of_range_is_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_a_lattice_shows_its_fields() -> None:
    assert "coupling=0.4" in repr(Ising((3,))) and "periodic=False" in repr(Ising((3,)))
    assert "event_shape=(3, 2)" in repr(Potts((3, 2)))
