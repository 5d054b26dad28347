"""Every function that has a rule, against the second route."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ebmkit

D = 4


class Between(nn.Module):
    """E(x) = v · f(W x + b), so that f meets carried derivatives and weights on both sides."""

    def __init__(self, function: Callable[[Tensor], Tensor], positive: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D)
        self.function = function
        self.positive = positive
        self.outer = nn.Parameter(torch.linspace(-1.0, 1.5, 97))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y = self.function(y * y + 0.3 if self.positive else y).flatten(1)
        return (y * self.outer[: y.shape[1]]).sum(1)


def check(
    agree: Any,
    draw: Any,
    model: Between,
    instead: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> None:
    """``instead`` is the same function in words that torch can differentiate three times."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(draw(*parameter.shape) * 0.7)
    if instead is not None:
        options["reference"] = copy.deepcopy(model)
        options["reference"].function = instead
    x = draw(3, D)
    agree(model, x, **options)
    agree(model, x, draw(2, D), **options)
    agree(model, x[:1], draw(5, 1, D), **options)


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "SiLU inplace": nn.SiLU(inplace=True),
    "tanh": torch.tanh,
    "method tanh": lambda x: x.tanh(),
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softplus sharp": lambda x: functional.softplus(x, beta=3.0, threshold=2.0),
    "logsigmoid": functional.logsigmoid,
    "gelu": functional.gelu,
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "elu": functional.elu,
    "celu": lambda x: functional.celu(x, alpha=0.5),
    "mish": functional.mish,
    "softsign": functional.softsign,
    "by keyword": lambda x: torch.exp(input=x) + functional.silu(input=x),
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "erf": torch.erf,
    "square": torch.square,
    "cube": lambda x: x**3,
    "first power": lambda x: x**1,
    "zeroth power": lambda x: x**0 + x,
    "negative": lambda x: -x,
}
POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "power": lambda x: torch.pow(x, 1.7),
    "negative power": lambda x: x**-2,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, agree: Any, draw: Any) -> None:
    check(agree, draw, Between(ELEMENTWISE[name]))


@pytest.mark.parametrize("name", POSITIVE)
def test_elementwise_of_positive_numbers(name: str, agree: Any, draw: Any) -> None:
    check(agree, draw, Between(POSITIVE[name], positive=True))


KINKED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "ReLU inplace": nn.ReLU(inplace=True),
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "selu": functional.selu,
    "elu of another slope": lambda x: functional.elu(x, alpha=1.5),
    "abs": torch.abs,
    "hardtanh": functional.hardtanh,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp below": lambda x: torch.clamp(x, min=0.1),
    "maximum": lambda x: torch.maximum(x, x.flip(1) * 0.5),
    "minimum": lambda x: torch.minimum(x, x * x),
}


SLOWER: dict[str, Callable[[Tensor], Tensor]] = {
    "var, positional": lambda x: x.sin().var(1, False, True),
    "softmax to a dtype": lambda x: torch.softmax(x, 1, torch.float64),
    "product of three": lambda x: torch.einsum("bi,bi,bi->bi", x, x.sin(), x),
    "amax": lambda x: x.sin().amax(1, keepdim=True),
    "item assignment": lambda x: assigned(x),
}


def assigned(x: Tensor) -> Tensor:
    y = x.sin()
    y[:, 0] = x[:, 1] ** 2
    return y


@pytest.mark.parametrize("name", SLOWER)
def test_what_has_no_rule_is_right_all_the_same(name: str, agree: Any, draw: Any) -> None:
    model = Between(SLOWER[name])
    with pytest.warns(ebmkit.CalculusWarning, match="has no rule"):
        ebmkit.directional_derivatives(model, draw(2, D))
    check(agree, draw, model, quiet=False)


INSTEAD: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": lambda x: functional.relu6(x + 3) / 6,
    "hardswish": lambda x: x * functional.relu6(x + 3) / 6,
    "norm": lambda x: x.square().sum(1, keepdim=True).sqrt(),
    "vector_norm": lambda x: (x.sin() + 1).square().sum(1, keepdim=True).sqrt(),
    "std": lambda x: x.sin().var(1, keepdim=True).sqrt(),
    "glu": lambda x: x[:, :2] * x[:, 2:].sigmoid(),
}


@pytest.mark.parametrize("name", KINKED)
def test_almost_everywhere(name: str, agree: Any, draw: Any) -> None:
    check(agree, draw, Between(KINKED[name]), INSTEAD.get(name), quiet=False)


A = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4)
ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + x.sin(),
    "add number": lambda x: 2 + x,
    "add scaled": lambda x: torch.add(x, x.sin(), alpha=-0.3),
    "add broadcast": lambda x: x[:, :, None] + x.sin()[:, None, :],
    "add constant": lambda x: x + A[0],
    "sub": lambda x: x - x.sin(),
    "sub from number": lambda x: 1 - x.sin(),
    "sub from constant": lambda x: A[1] - x.sin(),
    "sub widened": lambda x: A - x.sin()[:, None, :],
    "rsub": lambda x: torch.rsub(x.sin(), 1.5),
    "mul": lambda x: x * x.sin(),
    "mul itself": lambda x: x.sin() * x.sin(),
    "mul the same": lambda x: x * x,
    "mul number": lambda x: 3 * x.sin(),
    "mul constant": lambda x: x.sin() * A[2],
    "mul by constant": lambda x: A[2] * x.sin(),
    "mul broadcast": lambda x: x[:, :, None] * x.sin()[:, None, :],
    "div": lambda x: x / (2 + x.sin()),
    "div number": lambda x: x.sin() / 3,
    "number over": lambda x: 1 / (2 + x.sin()),
    "constant over": lambda x: A[3] / (2 + x.sin()),
    "addcmul": lambda x: torch.addcmul(x, x, x.sin(), value=0.5),
    "matmul": lambda x: (x.reshape(-1, 2, 2) @ x.sin().reshape(-1, 2, 2)).flatten(1),
    "matmul weights": lambda x: x.sin() @ A,
    "weights matmul": lambda x: (A @ x.sin()[:, :, None]).squeeze(2),
    "bmm": lambda x: torch.bmm(x.reshape(-1, 2, 2), x.cos().reshape(-1, 2, 2)),
    "einsum": lambda x: torch.einsum("bi,bj->bij", x.sin(), x),
    "einsum weights": lambda x: torch.einsum("bi,ij->bj", x.sin(), A),
    "einsum alone": lambda x: torch.einsum("bi->b", x.sin())[:, None],
    "in place": lambda x: x.sin().add_(1).mul_(x),
    "augmented": lambda x: augmented(x),
}


def augmented(x: Tensor) -> Tensor:
    y = x.sin()
    y += x
    y *= 2
    y -= x * x
    y /= 3
    return y


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name: str, agree: Any, draw: Any) -> None:
    check(agree, draw, Between(ARITHMETIC[name]))


INDEX = torch.tensor([[0, 2, 3]])
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sin().sum(1, keepdim=True),
    "mean": lambda x: x.sin().mean(-1, keepdim=True),
    "cumsum": lambda x: x.sin().cumsum(1),
    "reshape": lambda x: x.sin().reshape(-1, 2, 2).transpose(1, 2),
    "view": lambda x: x.sin().view(len(x), 2, 2).permute(0, 2, 1),
    "flatten": lambda x: x.sin()[:, None].flatten(1),
    "unflatten": lambda x: x.sin().unflatten(1, (2, 2)),
    "squeeze": lambda x: x.sin().unsqueeze(1).squeeze(1),
    "expand": lambda x: x.sin()[:, :, None].expand(-1, -1, 3),
    "repeat": lambda x: x.sin().repeat(1, 2),
    "cat": lambda x: torch.cat([x, x.sin(), torch.ones_like(x)], 1),
    "cat with constant": lambda x: torch.cat([torch.ones(len(x), 1).double(), x.sin()], 1),
    "stack": lambda x: torch.stack([x, x.sin()], 1),
    "chunk": lambda x: x.chunk(2, 1)[0] * x.sin().chunk(2, 1)[1],
    "split": lambda x: torch.cat(x.sin().split([1, 3], 1)[::-1], 1),
    "unbind": lambda x: torch.stack([y * y for y in x.unbind(1)], 1),
    "index": lambda x: x.sin()[:, [2, 0, 2]],
    "slice": lambda x: x.sin()[:, 1:3],
    "ellipsis": lambda x: x.sin()[..., 0, None],
    "gather": lambda x: x.sin().gather(1, INDEX.expand(len(x), 3)),
    "index_select": lambda x: x.sin().index_select(1, torch.tensor([3, 0])),
    "roll": lambda x: x.sin().roll(1, 1),
    "flip": lambda x: x.sin().flip(1) * x,
    "diagonal": lambda x: x.sin().reshape(-1, 2, 2).diagonal(dim1=1, dim2=2),
    "triu": lambda x: x.sin().reshape(-1, 2, 2).triu(),
    "mT": lambda x: x.sin().reshape(-1, 2, 2).mT @ x.reshape(-1, 2, 2),
    "pad": lambda x: functional.pad(x.sin(), (1, 2), value=0.5),
    "where": lambda x: torch.where(x > 0, x.sin(), x * x),
    "where constant": lambda x: torch.where(x > 0, x.sin(), 0.5),
    "masked_fill": lambda x: x.sin().masked_fill(x < 0, 2.0),
    "contiguous clone": lambda x: x.sin().clone().contiguous(),
    "float": lambda x: x.sin().to(torch.float64),
    "shape": lambda x: x.sin() * x.shape[1] + x.ndim + len(x[0]) + x.size(1) + x.dim(),
    "like": lambda x: x.sin() + torch.zeros_like(x) + torch.full_like(x, 2.0) + x.new_ones(1),
    "sign": lambda x: x * x.sign(),
    "softmax": lambda x: x.softmax(1),
    "functional softmax": lambda x: functional.softmax(x, dim=-1),
    "log_softmax": lambda x: functional.log_softmax(x, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1, keepdim=True),
    "logsumexp of several": lambda x: x.reshape(-1, 2, 2).logsumexp((1, 2))[:, None],
    "logaddexp": lambda x: torch.logaddexp(x, x.sin()),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "vector_norm": lambda x: torch.linalg.vector_norm(x.sin() + 1, dim=1)[:, None],
    "var": lambda x: x.sin().var(1, keepdim=True),
    "var uncorrected": lambda x: x.sin().var(1, unbiased=False, keepdim=True),
    "std": lambda x: x.sin().std(1, keepdim=True),
    "glu": functional.glu,
    "softmax by keyword": lambda x: functional.softmax(input=x, dim=1),
    "dropout in evaluation": nn.Dropout().eval(),
    "dropout of nothing": nn.Dropout(0.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_reductions(name: str, agree: Any, draw: Any) -> None:
    check(agree, draw, Between(SHAPES[name]), INSTEAD.get(name))


class Image(nn.Module):
    """Energies of images through a layer under test."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Flatten(1))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).tanh().sum(1)


IMAGES: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "conv2d": ((1, 4, 4), lambda: [nn.Conv2d(1, 2, 3, padding=1), nn.SiLU(), nn.Conv2d(2, 2, 2)]),
    "conv2d strided": ((2, 4, 4), lambda: [nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)]),
    "conv2d reflecting": (
        (1, 4, 4),
        lambda: [nn.SiLU(), nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")],
    ),
    "conv1d": ((2, 5), lambda: [nn.Conv1d(2, 3, 3), nn.SiLU(), nn.Conv1d(3, 1, 2, bias=False)]),
    "conv3d": ((1, 3, 2, 2), lambda: [nn.Conv3d(1, 2, 2), nn.Softplus()]),
    "conv_transpose2d": ((1, 2, 2), lambda: [nn.SiLU(), nn.ConvTranspose2d(1, 2, 2)]),
    "conv_transpose1d": ((1, 4), lambda: [nn.SiLU(), nn.ConvTranspose1d(1, 2, 2)]),
    "avg_pool2d": ((1, 4, 4), lambda: [nn.Conv2d(1, 2, 1), nn.SiLU(), nn.AvgPool2d(2)]),
    "avg_pool1d": ((2, 4), lambda: [nn.SiLU(), nn.AvgPool1d(2)]),
    "adaptive": ((1, 4, 4), lambda: [nn.Conv2d(1, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1)]),
    "upsample": ((1, 2, 2), lambda: [nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 2)]),
    "shuffle": ((4, 2, 2), lambda: [nn.SiLU(), nn.PixelShuffle(2)]),
    "group_norm": ((4, 2, 2), lambda: [nn.GroupNorm(2, 4), nn.SiLU()]),
    "instance_norm": ((2, 3, 3), lambda: [nn.InstanceNorm2d(2, affine=True), nn.SiLU()]),
    "layer_norm": ((2, 3), lambda: [nn.LayerNorm([2, 3]), nn.SiLU()]),
    "layer_norm last": ((2, 4), lambda: [nn.LayerNorm(4, bias=False), nn.SiLU()]),
    "rms_norm": ((2, 4), lambda: [nn.RMSNorm(4), nn.SiLU()]),
    "batch_norm": ((2, 2, 2), lambda: [nn.BatchNorm2d(2).eval(), nn.SiLU()]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_layers(name: str, agree: Any, draw: Any) -> None:
    shape, layers = IMAGES[name]
    torch.manual_seed(1)
    model = Image(*layers())
    x = draw(2, *shape)
    agree(model, x)
    agree(model, x, draw(3, *shape))
    agree(model, x, draw(3, 2, *shape))


class Attending(nn.Module):
    """Self-attention over tokens, by the function or by a module of torch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed = nn.Linear(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=how != "length first")
        self.layer = nn.TransformerEncoderLayer(
            4, 2, 8, dropout=0.0, activation=functional.gelu, batch_first=True
        )
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        if self.how == "function":
            y = functional.scaled_dot_product_attention(y, y.sin(), y.tanh())
        elif self.how == "causal":
            y = functional.scaled_dot_product_attention(y, y.sin(), y.tanh(), is_causal=True)
        elif self.how == "masked":
            mask = torch.tensor([[True, False, True], [True, True, False], [True, True, True]])
            y = functional.scaled_dot_product_attention(y, y, y, attn_mask=mask)
        elif self.how == "encoder layer":
            y = self.layer(y)
        elif self.how == "length first":
            y = y.transpose(0, 1)
            y = self.attention(y, y, y, need_weights=False)[0].transpose(0, 1)
        else:
            y = self.attention(y, y, y, need_weights=False)[0]
        return y.tanh().flatten(1).sum(1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "how", ["function", "causal", "masked", "module", "length first", "encoder layer"]
)
def test_attention(how: str, training: bool, agree: Any, draw: Any) -> None:
    torch.manual_seed(2)
    model = Attending(how).train(training)
    x = draw(2, 3, 2)
    agree(model, x)
    agree(model, x, draw(2, 2, 3, 2))
