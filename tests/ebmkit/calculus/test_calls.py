"""Ways of calling a function, shapes that broadcast, and what an energy may be wrapped in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ebmkit
from ebmkit import EnergyError

D = 6


def rows_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An energy that calls the function on each row by itself."""
    return lambda x: torch.stack([function(row) for row in x])


class Energy(nn.Module):
    """Σ sin of a function, of rows that a layer with weights has mixed."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(D, D).double()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.mix(x))
        return y.reshape(len(x), -1).sin().sum(1)


generator = torch.Generator().manual_seed(5)
SQUARE, WIDE = (torch.randn(D, n, generator=generator, dtype=torch.float64) for n in (D, 4))
CUBE = torch.randn(3, D, 2, generator=generator, dtype=torch.float64)
ROW = torch.randn(D, generator=generator, dtype=torch.float64)

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "matrix @ vector": rows_of(lambda r: SQUARE @ r),
    "vector @ matrix": rows_of(lambda r: r @ WIDE),
    "vector @ vector": rows_of(lambda r: r @ ROW),
    "vector @ the same vector": rows_of(lambda r: r @ r),
    "constant vector @ vector": rows_of(lambda r: ROW @ r),
    "vector @ stack of matrices": rows_of(lambda r: r @ CUBE),
    "stack of matrices @ vector": rows_of(lambda r: CUBE.mT @ r),
    "where, narrow": lambda x: torch.where(
        x[:, :1].detach() > -9, x.square().sum(1, keepdim=True), torch.zeros(4).double()
    ),
    "where, narrow, twice": lambda x: torch.where(
        x[:, :1] > 0, x[:, :1].exp(), torch.ones(1, 3).double()
    ).exp(),
    "where as a method": lambda x: x.exp().where(x > 0, x.square()),
    "T of three axes": lambda x: (x.reshape(-1, 2, 3).T * torch.arange(6.0).view(3, 2, 1)).T,
    "mT": lambda x: x.reshape(-1, 2, 3).mT @ torch.ones(2, 2).double(),
    "T of one axis": rows_of(lambda r: r.T),
    "view of what was broadcast": lambda x: (x[:, :, None] + torch.ones(D, 3).double()).view(
        -1, 18
    ),
    "view as": lambda x: (x[:, :, None] + torch.ones(D, 1).double()).view_as(x),
    "view to one axis": lambda x: x.view(-1).view(-1, D),
    "normalize": lambda x: functional.normalize(x, dim=1),
    "cosine similarity": lambda x: functional.cosine_similarity(x, x.flip(1).exp()),
    "pairwise distance": lambda x: functional.pairwise_distance(x, x.flip(1).exp()),
    "linalg.norm": lambda x: torch.linalg.norm(x, dim=1),
    "linalg.vector_norm": lambda x: torch.linalg.vector_norm(x, 2, dim=1, keepdim=True),
    "logaddexp of a number's tensor": lambda x: torch.logaddexp(x, torch.tensor(0.3).double()),
    "logaddexp that broadcasts": lambda x: torch.logaddexp(x[:, :1], x.square()),
    "std": lambda x: x.std(1, keepdim=True),
    "unfold of an image": lambda x: functional.unfold(x.reshape(-1, 1, 2, 3), (2, 2)),
    "Tensor.unfold": lambda x: x.unfold(1, 3, 1),
    "batch_norm beneath": lambda x: torch.batch_norm(
        x, ROW.exp(), ROW, ROW.cos(), ROW.exp(), False, 0.1, 1e-5, False
    ),
    "instance_norm beneath": lambda x: torch.instance_norm(
        x.reshape(-1, 2, 3), None, None, None, None, True, 0.1, 1e-1, False
    ),
    "unbatched convolution": rows_of(
        lambda r: functional.conv1d(r.view(2, 3), torch.ones(2, 2, 2).double())
    ),
    "linear of a vector": rows_of(lambda r: functional.linear(r * 2, SQUARE)),
    "group_norm": lambda x: functional.group_norm(x, 2),
}


def length(x: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True).sqrt()


def in_channels(x: Tensor) -> Tensor:
    y = x.reshape(-1, 2, 3)
    away = y - y.mean(2, keepdim=True)
    return away / (away.square().mean(2, keepdim=True) + 0.1).sqrt()


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda x: x / length(x),
    "cosine similarity": lambda x: (
        (x * x.flip(1).exp()).sum(1) / (length(x) * length(x.exp())).squeeze(1)
    ),
    "pairwise distance": lambda x: length(x - x.flip(1).exp() + 1e-6),
    "linalg.norm": length,
    "linalg.vector_norm": length,
    "std": lambda x: length(x - x.mean(1, keepdim=True)) / (D - 1) ** 0.5,
    "instance_norm beneath": in_channels,
}
"""The same functions in plain operations, where torch cannot differentiate its own three times."""


@pytest.mark.filterwarnings("ignore:The use of `x.T`", "ignore:There is a performance drop")
@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, agree: Any, draw: Any) -> None:
    model, plain = Energy(FORMS[name]), Energy(PLAIN.get(name, FORMS[name]))
    x = draw(4, D)  # as many rows as WIDE has columns, and fewer than directions
    agree(model, x, reference=plain)
    agree(model, draw(D, D), draw(3, D, D), reference=plain)


@pytest.mark.parametrize("name", PLAIN)
def test_forms_beside_a_function_without_a_rule(name: str, agree: Any, draw: Any) -> None:
    threshold = nn.Threshold(-0.3, 0.2)
    functions = (FORMS[name], PLAIN[name])
    model, plain = (
        Energy(lambda x, f=f: threshold(x) + f(x).reshape(len(x), -1)[:, :1]) for f in functions
    )  # type: ignore[misc]
    agree(model, draw(3, D), quiet=False, reference=plain)


SLOW: dict[str, Callable[[Tensor], Tensor]] = {
    "max along an axis": lambda x: x.exp().max(dim=1).values,
    "min along an axis": lambda x: x.exp().min(1, keepdim=True).values,
    "another name for dim": lambda x: x.exp().logsumexp(axis=1),
    "a bound that depends on x": lambda x: torch.clamp(x, max=x.flip(1).exp()),
    "a bound that broadcasts": lambda x: x[:, :1].clamp(torch.arange(-2.0, 1.0).double()),
    "keywords alone": lambda x: torch.mm(x, mat2=SQUARE),
    "a complex number": lambda x: (x * (1 + 2j)).abs(),
}


@pytest.mark.parametrize("name", SLOW)
def test_forms_without_a_rule_are_taken_the_slow_way(name: str, agree: Any, draw: Any) -> None:
    agree(Energy(SLOW[name]), draw(3, D), quiet=False)


def test_where_is_as_wide_as_its_widest_part(draw: Any) -> None:
    """Σ over four copies of ‖x‖²; nothing after ``where`` broadcasts what it left narrow."""
    x = draw(3, D)
    squares = lambda x: x.square().sum(1, keepdim=True)  # noqa: E731
    energy = lambda x: torch.where(squares(x) >= 0, squares(x), torch.zeros(4).double()).sum(1)  # noqa: E731
    taken = ebmkit.directional_derivatives(energy, x)
    torch.testing.assert_close(taken.second, torch.full((3,), 8.0 * D).double())
    torch.testing.assert_close(taken.first, 8 * x.T)


def test_isin_is_no_sine_in_place(draw: Any) -> None:
    x = draw(3, D)
    energy = lambda x: (x * (1.0 + torch.isin(x.detach(), x.detach()[:, :1]))).square().sum(1)  # noqa: E731
    second = ebmkit.directional_derivatives(energy, x).second
    torch.testing.assert_close(second, torch.full((3,), 2.0 * (D - 1) + 8.0).double())


class Mixed(nn.Module):
    """Layer or instance normalisation beside a function without a rule, after weights."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = nn.Linear(D, 8), nn.Linear(8, 1)
        self.norm = {"layer": nn.LayerNorm(8), "instance": nn.InstanceNorm1d(2, eps=0.1)}[norm]
        self.slope = nn.PReLU()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).tanh()
        y = self.norm(y) if isinstance(self.norm, nn.LayerNorm) else self._in_channels(y)
        return self.b(self.slope(y).sin()).squeeze(1)

    def _in_channels(self, y: Tensor) -> Tensor:
        return self.norm(y.reshape(-1, 2, 4)).flatten(1)


@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_the_slow_way_has_right_gradients_after_normalisation(norm: str, draw: Any) -> None:
    """Against central differences: torch's own third derivatives are wrong here."""
    model, x = Mixed(norm), draw(3, D)

    def second() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            return ebmkit.directional_derivatives(model, x).second.sum()

    (gradient,) = torch.autograd.grad(second(), model.a.weight)
    for i in range(2):
        found = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                model.a.weight[i, 0] += step
            found.append(second().item())
        with torch.no_grad():
            model.a.weight[i, 0] += 1e-5
        assert gradient[i, 0].item() == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-5)


class TestWrapped:
    def model(self) -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()

    @pytest.mark.parametrize("how", ["torch.compile", "Module.compile", "a submodule"])
    def test_compiled_by_torch(self, how: str, draw: Any) -> None:
        model, x = self.model(), draw(4, D)
        plain = ebmkit.directional_derivatives(model, x)
        denoising = ebmkit.create("loss", "dsm", sigma=0.3)
        losses = []
        for compiled in (False, True):
            energy: Any = model
            if compiled and how == "torch.compile":
                energy = torch.compile(model, backend="eager")
            elif compiled and how == "Module.compile":
                model.compile(backend="eager")
            elif compiled:
                energy = nn.Sequential(torch.compile(model[:2], backend="eager"), *model[2:])
            energy(x)
            again = ebmkit.directional_derivatives(energy, x, gradient=True)
            for one, other in zip(plain[:3], again[:3], strict=True):
                assert isinstance(one, Tensor) and isinstance(other, Tensor)
                torch.testing.assert_close(one, other)
            seed = torch.Generator().manual_seed(0)
            output = ebmkit.objective(denoising, energy, generator=seed, compile="off")(x)
            model.zero_grad()
            output.loss.backward()
            losses.append(
                [output.loss, *(p.grad for p in model.parameters() if p.grad is not None)]
            )
        for one, other in zip(*losses, strict=True):
            torch.testing.assert_close(one, other)

    @pytest.mark.parametrize("inside", [False, True])
    def test_scripts_are_refused(self, inside: bool, draw: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted: Any = torch.jit.script(self.model())
            energy = nn.Sequential(nn.Identity(), scripted) if inside else scripted
            with pytest.raises(EnergyError, match=r"holds TorchScript.*before torch\.jit"):
                ebmkit.directional_derivatives(energy, draw(3, D))

    def test_ensembles_and_gradients_by_torch_func(self, draw: Any) -> None:
        model, x = self.model(), draw(3, D)
        weights = {n: p.detach() for n, p in model.named_parameters()}
        stacked = {n: torch.stack([p, 2 * p]) for n, p in weights.items()}

        def laplacian(values: dict[str, Tensor]) -> Tensor:
            energy = lambda y: torch.func.functional_call(model, values, (y,))  # noqa: E731
            return ebmkit.directional_derivatives(energy, x).second

        def mean(y: Tensor) -> Tensor:
            call = lambda v: torch.func.functional_call(model, v, (y,))  # noqa: E731
            return torch.vmap(call)(stacked).sum(0)

        each = [laplacian({n: p[i] for n, p in stacked.items()}) for i in (0, 1)]
        with pytest.warns(ebmkit.CalculusWarning, match="no rule"):
            of_both = ebmkit.directional_derivatives(mean, x).second
        torch.testing.assert_close(of_both, sum(each))
        by_func = torch.func.grad(lambda values: laplacian(values).sum())(weights)
        summed = ebmkit.directional_derivatives(model, x).second.sum()
        expected = torch.autograd.grad(summed, list(model.parameters()), allow_unused=True)
        for name, grad in zip(weights, expected, strict=True):
            theirs = torch.zeros_like(weights[name]) if grad is None else grad
            torch.testing.assert_close(by_func[name], theirs)


class TestRefused:
    @pytest.mark.parametrize(
        ("energy", "words"),
        [
            (lambda x: x.detach().sum(1), "does not depend on x"),
            (lambda x: torch.zeros(len(x)).double(), "does not depend on x"),
            (lambda x: (x.sum(1), x), "got tuple"),
            (lambda x: x, "one energy a row"),
            (lambda x: (x * 1j).sum(1), "real numbers"),
        ],
    )
    @pytest.mark.parametrize("loss", ["sm", "ssm", "dsm"])
    def test_what_is_no_energy(self, energy: Any, words: str, loss: str, draw: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            with pytest.raises(EnergyError, match=words):
                ebmkit.objective(ebmkit.create("loss", loss), energy)(draw(3, D))

    @pytest.mark.parametrize("loss", ["sm", "ssm", "dsm"])
    def test_an_energy_without_gradients(self, loss: str, draw: Any) -> None:
        class Frozen(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                with torch.no_grad():
                    return x.square().sum(1)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            with pytest.raises(EnergyError, match=r"model Frozen.*look for no_grad"):
                ebmkit.objective(ebmkit.create("loss", loss), Frozen())(draw(3, D))

    @pytest.mark.parametrize(
        "noise", [torch.randn_like, lambda x: torch.rand_like(x), lambda x: x.sigmoid().bernoulli()]
    )
    def test_a_random_function(self, noise: Any, draw: Any) -> None:
        with pytest.raises(EnergyError, match="makes the energy a random one"):
            ebmkit.directional_derivatives(lambda x: (x * noise(x)).sum(1), draw(3, D))

    def test_random_numbers_that_chunks_would_draw_anew(self, draw: Any) -> None:
        energy = lambda x: (x.square() * torch.randn(D)).sum(1)  # noqa: E731
        x = draw(3, D)
        before = torch.get_rng_state()
        try:
            torch.manual_seed(3)
            state = torch.get_rng_state()
            with pytest.raises(EnergyError, match="6 directions go in chunks"):
                ebmkit.directional_derivatives(energy, x, memory=2000)
            assert torch.equal(state, torch.get_rng_state())
            # In one pass the numbers are the same for all directions.
            torch.manual_seed(3)
            expected = 2 * torch.randn(D).double().sum().expand(3)
            torch.manual_seed(3)
            second = ebmkit.directional_derivatives(energy, x).second
            torch.testing.assert_close(second, expected)
        finally:
            torch.set_rng_state(before)

    def test_dropout_inside_of_attention(self, draw: Any) -> None:
        layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.1, batch_first=True).double().train()
        energy = lambda x: layer(x.reshape(-1, 3, 2)).flatten(1).sum(1)  # noqa: E731
        with pytest.raises(EnergyError, match=r"dropout.*makes the energy a random one"):
            ebmkit.directional_derivatives(energy, draw(3, D))


class TestEdges:
    def test_no_directions_the_slow_way(self, draw: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            taken = ebmkit.directional_derivatives(
                lambda x: functional.hardshrink(x).square().sum(1), draw(3, D), torch.zeros(0, D)
            )
        assert taken.first.shape == (0, 3)
        assert torch.equal(taken.second, torch.zeros(3).double())

    @pytest.mark.parametrize("slow", [False, True])
    def test_events_that_are_single_numbers(self, slow: bool, draw: Any) -> None:
        x = draw(5)
        energy = (lambda x: functional.hardshrink(x) ** 3) if slow else (lambda x: x**3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            second = ebmkit.directional_derivatives(energy, x).second
            inside = (x.abs() > 0.5) if slow else torch.ones(5, dtype=torch.bool)
            torch.testing.assert_close(second, 6 * x * inside)
            cube = lambda x: x**3  # noqa: E731
            exact = ebmkit.objective(ebmkit.create("loss", "sm"), cube)(x).loss
            for projections in ("rademacher", "sphere"):
                sliced = ebmkit.create("loss", "ssm", projections=projections)
                torch.testing.assert_close(ebmkit.objective(sliced, cube)(x).loss, exact)
            ebmkit.objective(ebmkit.create("loss", "dsm"), cube)(x)

    def test_an_empty_batch(self) -> None:
        model = nn.Sequential(nn.GroupNorm(2, D), nn.Linear(D, 1), nn.Flatten(0)).double()
        taken = ebmkit.directional_derivatives(model, torch.zeros(0, D).double())
        assert taken.first.shape == (D, 0) and taken.second.shape == (0,)

    def test_numbers_of_two_precisions(self, draw: Any) -> None:
        x = draw(3, D).float()
        wide = torch.randn(D, generator=generator, dtype=torch.float64)
        layer = nn.Linear(D, 1).double()
        energy = lambda x: layer((x - wide).sin()).squeeze(1)  # noqa: E731
        ours = ebmkit.directional_derivatives(energy, x).second
        theirs = ebmkit.directional_derivatives(energy, x.double()).second
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        single = torch.eye(D)
        again = ebmkit.directional_derivatives(energy, x.double(), single).second
        torch.testing.assert_close(again, theirs)

        def in_place(x: Tensor) -> Tensor:
            y = x * 1
            y += wide
            return y.sin().sum(1)

        taken = ebmkit.directional_derivatives(in_place, x)
        assert taken.energies.dtype == taken.second.dtype == torch.float32
        torch.testing.assert_close(taken.second, -in_place(x))

    def test_conditional_models_in_chunks(self) -> None:
        model = ebmkit.create(
            "model", "mlp", event_shape=(50,), hidden=[16], conditional=True, n_classes=3
        )
        x, labels = torch.randn(40, 50), torch.arange(40) % 3
        whole, chunks = (
            ebmkit.directional_derivatives(ebmkit.bind(model, labels), x, memory=memory)
            for memory in (2**30, 2**16)
        )
        for one, other in zip(whole[:3], chunks[:3], strict=True):
            assert isinstance(one, Tensor) and isinstance(other, Tensor)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
