"""Operations of graphs: what torch's do, and our own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PRODUCTS = {"addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "mm", "product"}
"""Operations that are products of matrices."""
VIEWS = {
    *("alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "squeeze"),
    *("t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
}
"""Operations that compute nothing."""


@functools.cache
def operation(
    signature: str,
    run: Callable[..., Tensor],
    shaped: Callable[..., Tensor],
    lowered: Callable[..., Any],
) -> Any:
    """An operation of our own on CPUs, made when it is first asked for: ``run`` computes it, ``shaped``
    gives an empty tensor like its result, ``lowered`` is the operation in the compiler's own terms."""
    from torch._inductor.lowering import register_lowering

    name = signature.partition("(")[0]
    libraries: Any = torch.library
    library = libraries.Library("ebmkit", "FRAGMENT")
    library.define(signature)
    library.impl(name, run, "CPU")
    library.impl(name, shaped, "Meta")
    made = getattr(torch.ops.ebmkit, name).default
    register_lowering(made, type_promotion_kind=None)(lowered)
    _libraries.append(library)
    return made


_libraries: list[Any] = []
"""An operation is gone with its library."""
