"""The processes of a run, as one of them sees the others.

torchrun starts as many processes as it is told, each with its rank; a pipeline that is composed in one
of them takes its part of the run. With one process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ebmkit.checkpoint import packed, unpacked
from ebmkit.errors import DivergenceError, EbmkitError, ProcessError, UserError
from ebmkit.protocols import Metrics

Raised = TypeVar("Raised", bound=BaseException)

LONGEST_WAIT = datetime.timedelta(days=7)
"""For other processes, as for the first one while it evaluates; one that dies is noticed at once."""
SUMMED = ("chains_restarted", "chains_frozen")
"""Metrics that count; of all others the mean over the processes is told."""


class Around(nn.Module):
    """A module around a model whose call does some work with it and gives that work's loss.

    It is the work that is made parallel, so all that a loss does with its model, a chain, a gradient
    in x, or several calls, is done as by one process.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


@attrs.define(eq=False)
class Ranks:
    """Which process of a run this one is, and what it has to say to the others.

    Every method but ``lead`` is called by all processes, in the same order.
    """

    rank: int = 0
    size: int = 1
    lost: bool = False
    """Whether the processes cannot speak to each other any more, for one of them is gone."""
    _shared: BaseException | None = None

    @property
    def lead(self) -> bool:
        """Whether this is the process that runs hooks, evaluates and writes."""
        return self.rank == 0

    @classmethod
    def present(cls) -> Ranks:
        """Those of torch's process group, or one alone where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @contextlib.contextmanager
    def together(self, flags: Callable[[], Sequence[bool]] = tuple) -> Iterator[list[bool]]:
        """What fails in one process fails in all, so that none waits for one that has given up. The
        list that is given holds afterwards each of the ``flags`` as it is where any process raises it.

        Raises:
            DivergenceError, UserError, EbmkitError: as another process raised it, with its rank.
        """
        raised: list[bool] = []
        error: Exception | None = None
        try:
            yield raised
        except Exception as failure:
            if self.size == 1 or self.lost:
                raise
            error = failure
        mine = list(flags())
        if self.size == 1:
            raised += mine
            return
        # The first process that failed is the one of the largest number.
        told = torch.tensor([self.size - self.rank if error else 0, *mine], dtype=torch.int32)
        with self._speaking():
            dist.all_reduce(told, dist.ReduceOp.MAX, group=_control())
        first, *others = told.tolist()
        raised += map(bool, others)
        if first:
            self._fail(self.size - first, error)

    def _fail(self, first: int, error: Exception | None) -> None:
        said = self._said_by(first, _told(error) if self.rank == first else None)
        if error is None or isinstance(error, DivergenceError | UserError):
            raise self.everywhere(_raised(said, first)) from error
        raise self.everywhere(error)  # with its own traceback

    def everywhere(self, error: Raised) -> Raised:
        """An error that all processes raise at once; they are still in step with each other."""
        self._shared = error
        return error

    def in_step(self, error: BaseException) -> bool:
        """Whether the processes can still do something together where this error has ended a run."""
        return self.size == 1 or (error is self._shared and not self.lost)

    def from_lead(self, value: Any) -> Any:
        """What the first process gave: a tree of tensors and plain values."""
        return value if self.size == 1 else self._said_by(0, value)

    def gathered(self, value: Any) -> list[Any]:
        """What each process gave, in their order: trees of tensors and plain values."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._speaking():
            dist.all_gather_object(found, packed(value), group=_control())
        return [unpacked(*one) for one in found]

    def reduced(self, metrics: Metrics) -> Metrics:
        """Metrics over all processes: sums of counts, means of all others."""
        if self.size == 1:
            return metrics
        told = self.gathered({name: float(value) for name, value in metrics.items()})
        means = {}
        for name, mine in metrics.items():
            values = [others[name] for others in told if name in others]
            total = sum(values) if name in SUMMED else sum(values) / len(values)
            means[name] = torch.tensor(total, dtype=mine.dtype, device=mine.device)
        return means

    @contextlib.contextmanager
    def averaging(self) -> Iterator[None]:
        """Around a backward pass in which gradients are exchanged.

        Raises:
            ProcessError: another process is gone.
        """
        if self.size == 1:
            yield
        else:
            with self._speaking(), warnings.catch_warnings():
                # Gradients of a loss's own making may lie otherwise in memory than the parameters.
                warnings.filterwarnings("ignore", "Grad strides do not match")
                yield

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model's ``Around``, whose backward passes leave each process the mean gradient. All
        start with the first one's weights."""
        around = Around(model)
        # Most losses leave the energy's own constant without a gradient, so parameters may be unused;
        # torch warns where none is, and so one always is.
        like = next(model.parameters())
        around.unused = nn.Parameter(torch.zeros((), dtype=like.dtype, device=like.device))
        return nn.parallel.DistributedDataParallel(around, find_unused_parameters=True)

    def _said_by(self, rank: int, value: Any) -> Any:
        held = [packed(value)]
        with self._speaking():
            dist.broadcast_object_list(held, src=rank, group=_control())
        return unpacked(*held[0])

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # Where one gives up in the middle of an exchange the others wait for it, or have gone on.
            self.lost = True
            if isinstance(error, RuntimeError) and _of_the_line(error):
                raise ProcessError(
                    "another process of the run is gone, or cannot be reached; torchrun "
                    "--max-restarts goes on from the last checkpoint, and so does `ebmkit resume`"
                ) from error
            raise


@functools.cache
def _group(world: Any) -> Any:  # noqa: ARG001
    return dist.new_group(backend="gloo", timeout=LONGEST_WAIT)


def _control() -> Any:
    """The group for words and flags, which never waits for a device, whatever the gradients' is."""
    return _group(dist.group.WORLD)


def _of_the_line(error: RuntimeError) -> bool:
    words = ("gloo", "peer", "connection", "nccl", "socket")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _told(error: Exception | None) -> dict[str, Any]:
    """What other processes are told of an error."""
    kind = "divergence" if isinstance(error, DivergenceError) else ""
    if isinstance(error, UserError):
        kind = "user"
    said = str(error) if isinstance(error, EbmkitError) else f"{type(error).__name__}: {error}"
    more = {name: getattr(error, name, None) for name in ("step", "chains")}
    return {"kind": kind, "said": said, **(more if kind == "divergence" else {})}


def _raised(said: dict[str, Any], rank: int) -> EbmkitError:
    message = f"rank {rank}: {said['said']}"
    if said["kind"] == "divergence":
        return DivergenceError(message, step=said["step"], chains=said["chains"])
    return UserError(message) if said["kind"] == "user" else EbmkitError(message)
