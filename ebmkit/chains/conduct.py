"""How chains are run: whether compiled, and what becomes of those that diverge.

A loss asks for chains by ``run_chain`` and knows nothing of this: what holds around it, in a training
run or a call of ``sample``, is found here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

import attrs
import torch
from torch import Tensor

from ebmkit.fields import one_of
from ebmkit.lowering import CompileWarning

CompileChains: TypeAlias = Literal["auto", "off", "step", "chunk"]
COMPILE: tuple[CompileChains, ...] = ("auto", "off", "step", "chunk")
OnDivergence: TypeAlias = Literal["stop", "restart", "freeze"]
ON_DIVERGENCE: tuple[OnDivergence, ...] = ("stop", "restart", "freeze")
RestartFrom: TypeAlias = Literal["data", "base", "buffer"]
RESTART_FROM: tuple[RestartFrom, ...] = ("data", "base", "buffer")

Starts: TypeAlias = Callable[[int, torch.Generator, Tensor | None], Tensor]
"""(chains, generator, the chains' conditions) -> as many points (chains, *event) to start at anew."""


@attrs.define(eq=False)
class Conduct:
    """How the chains of a run are conducted, and what has become of them so far."""

    compile: CompileChains = attrs.field(default="off", validator=one_of(COMPILE))
    on_divergence: OnDivergence = attrs.field(default="stop", validator=one_of(ON_DIVERGENCE))
    restart_from: RestartFrom = attrs.field(default="data", validator=one_of(RESTART_FROM))
    starts: Starts | None = None
    """Gives what ``restart_from`` names, where the chains run now; chains restart where they are
    without it."""
    runs: int = 1
    """How many runs of chains there will be in all, for what pays."""
    decision: str = ""
    """How chains are computed, and why; empty before the first."""
    warned: bool = False
    restarted: Tensor | None = None
    """Restarts so far, without dimensions; None before the first run of chains."""
    frozen: Tensor | None = None
    """Chains that were held still so far, counted once a run of chains, without dimensions."""
    built: int = 0
    """Graphs made."""
    plans: dict[Any, Any] = attrs.field(factory=dict)
    """What was found of runs of chains like one before: how they are compiled, or None."""

    def __getstate__(self) -> dict[str, Any]:
        # Plans go by the identity of what they are for, and starts by the step that is under way.
        own = attrs.fields_dict(type(self))
        return {name: getattr(self, name) for name in own if name not in ("plans", "starts")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def count(self, restarted: Tensor, frozen: Tensor) -> None:
        """Add what became of the chains of a run."""
        self.restarted = restarted if self.restarted is None else restarted + self.restarted
        self.frozen = frozen if self.frozen is None else frozen + self.frozen

    def counts(self) -> dict[str, int]:
        """The chains that diverged so far, by what became of them; waits for the device."""
        named = {"chains_restarted": self.restarted, "chains_frozen": self.frozen}
        return {name: int(count) for name, count in named.items() if count is not None}

    def load_counts(self, counts: Mapping[str, int]) -> None:
        """Go on counting from what ``counts`` returned."""
        if counts:
            self.restarted = torch.tensor(counts["chains_restarted"])
            self.frozen = torch.tensor(counts["chains_frozen"])

    def refuse(self, what: str, why: str) -> None:
        """Chains run eagerly, and that is said once."""
        self.decision = f"eager: {why}"
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"chains of {what} run eagerly, for they cannot be compiled: {why}; "
                'compile = "off" says so at once',
                CompileWarning,
                stacklevel=2,
            )


_around: ContextVar[Conduct | None] = ContextVar("conduct", default=None)


def present() -> Conduct:
    """The conduct that holds here; one of plain eager chains that stop where none was set."""
    return _around.get() or Conduct()


@contextmanager
def conducted(conduct: Conduct) -> Iterator[Conduct]:
    """Chains are run by ``conduct`` for a while."""
    token = _around.set(conduct)
    try:
        yield conduct
    finally:
        _around.reset(token)
