"""What directional_derivatives promises beside its numbers: chunks, warnings, errors, rules."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import CalculusWarning, directional_derivatives
from ebmkit.calculus import taylor
from ebmkit.errors import EnergyError


def network(activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)]
    return nn.Sequential(*layers, nn.Flatten(0)).double()


@pytest.mark.parametrize("dimension", [1, 2, 10, 50])
def test_the_laplacian_is_a_sum_over_coordinates_not_their_mean(dimension: int) -> None:
    x = torch.randn(5, dimension, dtype=torch.float64)
    laplacian = directional_derivatives(lambda x: 0.5 * x.square().sum(1), x).second
    torch.testing.assert_close(laplacian, torch.full((5,), float(dimension)).double())


def test_the_gradient_beside_a_few_directions(draw: Any) -> None:
    model, x, v = network(), draw(4, 3), draw(2, 4, 3)
    taken = directional_derivatives(model, x, v, gradient=True)
    energies, gradient = ebmkit.energy_and_gradient(model, x, create_graph=True)
    assert taken.gradient is not None
    torch.testing.assert_close(taken.energies, energies)
    torch.testing.assert_close(taken.gradient, gradient)
    torch.testing.assert_close(taken.first, torch.einsum("nbi,bi->nb", v, gradient))
    parameters = list(model.parameters())[:-1]  # the last bias moves no gradient
    ours = torch.autograd.grad(taken.gradient.square().sum(), parameters)
    theirs = torch.autograd.grad(gradient.square().sum(), parameters)
    torch.testing.assert_close(ours, theirs)
    assert directional_derivatives(model, x, v).gradient is None
    assert not x.requires_grad


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("scarce", ["memory", "cache"])
def test_chunks_give_the_same_numbers(
    scarce: str, alike: bool, gradient: bool, draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network(), draw(4, 3)
    v = draw(7, 3) if alike else draw(7, 4, 3)
    passes = []
    carry = taylor._carry

    def counted(energy: Any, x: Tensor, directions: Tensor) -> Any:
        passes.append(len(directions))
        return carry(energy, x, directions)

    monkeypatch.setattr(taylor, "_carry", counted)
    whole = directional_derivatives(model, x, v, gradient=gradient)
    assert passes == [7]
    passes.clear()
    options = {"memory": 2_000} if scarce == "memory" else {}
    if scarce == "cache":
        monkeypatch.setattr(taylor, "_CACHE", 2_000)
        monkeypatch.setattr(taylor, "_LITTLE", 0)
    chunked = directional_derivatives(model, x, v, gradient=gradient, **options)
    assert len(passes) > 3 and max(passes) < 7
    forward = len(passes)
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    def parameter_gradients(taken: Any) -> Any:
        loss = (0.5 * taken.first.square().sum(0) - taken.second + taken.energies).mean()
        return torch.autograd.grad(loss, list(model.parameters()))

    torch.testing.assert_close(
        parameter_gradients(whole), parameter_gradients(chunked), rtol=1e-12, atol=1e-12
    )
    # Only memory is worth a second pass.
    assert (len(passes) > forward) == (scarce == "memory")


def test_what_was_measured_of_an_energy_dies_with_it(draw: Any) -> None:
    model = network()
    gc.collect()
    directional_derivatives(model, draw(4, 3), memory=10_000)
    known = len(taylor._bytes_a_row)
    assert known >= 1
    del model
    gc.collect()
    assert len(taylor._bytes_a_row) == known - 1


def test_no_points_and_no_directions(draw: Any) -> None:
    model = network()
    taken = directional_derivatives(model, draw(0, 3))
    assert (taken.energies.shape, taken.first.shape, taken.second.shape) == ((0,), (3, 0), (0,))
    none = directional_derivatives(model, draw(4, 3), draw(0, 3))
    assert none.first.shape == (0, 4)
    torch.testing.assert_close(none.second, torch.zeros(4).double())


def test_single_precision(draw: Any) -> None:
    model, x = network(), draw(4, 3)
    exact = directional_derivatives(model, x)
    single = directional_derivatives(model.float(), x.float())
    assert {t.dtype for t in single[:3] if t is not None} == {torch.float32}
    for one, other in zip(single[:3], exact[:3], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_a_function_that_works_in_place_changes_no_other_name(draw: Any) -> None:
    def energy(x: Tensor) -> Tensor:
        y = x.sin()
        kept = y
        y += 1  # kept is the same tensor, and changes too
        return (kept * x).sum(1)

    def plain(x: Tensor) -> Tensor:
        return ((x.sin() + 1) * x).sum(1)

    x = draw(4, 3)
    torch.testing.assert_close(
        directional_derivatives(energy, x)[:3], directional_derivatives(plain, x)[:3]
    )
    before = x.clone()
    directional_derivatives(lambda x: (x * 2).add_(1).square().sum(1), x)
    assert torch.equal(x, before)


def test_in_place_on_a_view_takes_the_other_way(draw: Any) -> None:
    def energy(x: Tensor) -> Tensor:
        y = x.sin()
        y.view(-1, 3).mul_(2)
        return (y * x).sum(1)

    x = draw(4, 3)
    with pytest.warns(CalculusWarning, match="mul_ of a view, or of what has views"):
        taken = directional_derivatives(energy, x)
    expected = directional_derivatives(lambda x: (2 * x.sin() * x).sum(1), x)
    torch.testing.assert_close(taken[:3], expected[:3])


class Unknown(nn.Module):
    """Has a function that no rule is known for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.erfcx(x) + x


def with_unknown() -> nn.Sequential:
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Linear(4, 4), Unknown())
    return nn.Sequential(nn.Linear(3, 4), inner, nn.Linear(4, 1), nn.Flatten(0)).double()


def test_a_layer_without_a_rule_is_named_once_and_right(agree: Any, draw: Any) -> None:
    model, x = with_unknown(), draw(3, 3)
    with pytest.warns(CalculusWarning) as caught:
        directional_derivatives(model, x), directional_derivatives(model, x)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("layer '1.1' (Unknown): special_erfcx has no rule")
    assert "ebmkit.register_rule" in message
    agree(model, x, quiet=False)
    agree(model, x, draw(2, 3, 3), quiet=False)
    agree(model, x, draw(5, 3), quiet=False, memory=200)


def test_a_registered_rule_takes_the_fast_way(
    agree: Any, draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebmkit.calculus import jet

    monkeypatch.setattr(jet, "_RULES", dict(jet._RULES))

    def slopes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # f' = 2x f − 2/√π, and so on
        f = torch.special.erfcx(x)
        f1 = 2 * x * f - 2 / torch.pi**0.5
        f2 = 2 * f + 2 * x * f1
        return f1, f2, 4 * f1 + 2 * x * f2

    ebmkit.elementwise(torch.special.erfcx, slopes)
    model, x = with_unknown(), draw(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalculusWarning)
        agree(model, x)


def test_a_rule_in_place_of_a_function_that_cannot_be_followed(draw: Any) -> None:
    @ebmkit.with_rule(lambda x: x.sin())
    def opaque(x: Tensor) -> Tensor:
        """Its numbers come from elsewhere."""
        return torch.from_numpy(x.detach().numpy()).sin()

    x = draw(4, 3)
    assert opaque.__doc__ == "Its numbers come from elsewhere."
    torch.testing.assert_close(opaque(x), x.sin())
    taken = directional_derivatives(lambda x: opaque(x).sum(1), x)
    torch.testing.assert_close(taken.second, -x.sin().sum(1))


def test_kinks_are_reported_once(draw: Any) -> None:
    model, x = network(nn.ReLU), draw(4, 3)
    with pytest.warns(CalculusWarning, match="model Sequential uses relu, whose slope") as caught:
        taken, _ = directional_derivatives(model, x), directional_derivatives(model, x)
    assert len(caught) == 1
    assert "missing from the Laplacian" in str(caught[0].message)
    assert torch.equal(taken.second, torch.zeros(4).double())


@pytest.mark.parametrize("activation", [nn.ELU, nn.CELU, nn.SiLU, nn.Softplus, nn.Tanh])
def test_smooth_activations_are_silent(activation: type[nn.Module], draw: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalculusWarning)
        directional_derivatives(network(activation), draw(4, 3))


BAD: dict[str, tuple[Any, str]] = {
    "a column": (
        nn.Linear(3, 1).double(),
        r"model Linear .* shape \(4, 1\); squeeze its last axis",
    ),
    "one number": (
        lambda x: x.sum(),
        r"energy <lambda> must return one energy a row, .*shape \(\)",
    ),
    "no tensor": (lambda x: 3.0, r"one energy a row, shape \(4,\), got float"),
    "a constant": (lambda x: torch.zeros(4).double(), "does not depend on x"),
}


@pytest.mark.parametrize("what", BAD)
def test_energies_that_are_none(what: str, draw: Any) -> None:
    energy, message = BAD[what]
    with pytest.raises(EnergyError, match=message):
        directional_derivatives(energy, draw(4, 3))


def test_an_energy_that_cannot_be_differentiated_twice(draw: Any) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.exp()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, outer: Tensor) -> Tensor:
            return outer

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(x)

    model = nn.Sequential(nn.Linear(3, 3), Layer(), nn.Linear(3, 1), nn.Flatten(0)).double()
    with (
        pytest.warns(CalculusWarning, match=r"layer '1' \(Layer\)"),
        pytest.raises(EnergyError, match=r"layer '1' \(Layer\) cannot be differentiated twice"),
    ):
        directional_derivatives(model, draw(4, 3))


def test_directions_of_another_shape(draw: Any) -> None:
    with pytest.raises(ValueError, match=r"directions: expected shape \(n, 3\)"):
        directional_derivatives(network(), draw(4, 3), draw(2, 5))


def test_a_rule_does_not_lose_the_gradient_of_a_trained_argument(
    draw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebmkit.calculus import jet

    monkeypatch.setattr(jet, "_RULES", dict(jet._RULES))

    def bump(x: Tensor, a: Tensor) -> Tensor:
        if torch.overrides.has_torch_function((x, a)):
            return torch.overrides.handle_torch_function(bump, (x, a), x, a)
        return a * x**2

    ebmkit.elementwise(bump, lambda x, a: (2 * a * x, 2 * a + 0 * x, 0 * x))
    x, a = draw(4, 3), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    with pytest.warns(CalculusWarning, match="bump with an argument that is trained"):
        taken = directional_derivatives(lambda x: bump(x, a).sum(1), x)
    (slope,) = torch.autograd.grad(taken.second.sum(), a)
    torch.testing.assert_close(slope, torch.tensor(2.0 * 12).double())


def test_what_was_detached_shows_a_change_in_place(draw: Any) -> None:
    def energy(x: Tensor) -> Tensor:
        z = x.sin()
        kept = z.detach()
        z.mul_(3)
        return (z * kept).sum(1)

    x = draw(4, 3)
    with pytest.warns(CalculusWarning, match="mul_ of a view"):
        taken = directional_derivatives(energy, x)
    torch.testing.assert_close(taken.energies, 9 * x.sin().square().sum(1))


def test_the_norm_at_the_origin_is_finite() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    taken = directional_derivatives(lambda x: x.norm(dim=1) + x.square().sum(1), x)
    torch.testing.assert_close(taken.first, torch.zeros(3, 2).double())
    torch.testing.assert_close(taken.second, torch.full((2,), 6.0).double())


def test_dropout_in_training_says_what_to_do(draw: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 1), nn.Flatten(0)).double()
    with pytest.raises(EnergyError, match=r"layer '1' \(Dropout\).*eval\(\)"):
        directional_derivatives(model, draw(4, 3))
