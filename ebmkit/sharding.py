"""A model whose weights, gradients and optimizer are shared out among the processes of a run.

Chains and losses look at all weights, in ways that torch's own gathering, layer by layer, does not see;
so the weights are gathered before a step and are whole for as long as it draws and computes. What is
shared out is what the optimizer holds: its weights, the gradients that it is given, its own state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ebmkit.errors import UserError
from ebmkit.ranks import Around

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Sharded:
    """The weights of a model, shared out. The model itself looks as ever, with whole parameters,
    between ``gather`` and the next backward pass; ``parameters`` are the shares."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        if single := [name for name, tensor in model.named_parameters() if not tensor.ndim]:
            raise UserError(
                f"training.sharding: a parameter without dimensions ({', '.join(single)}) has no "
                'shares; make it one of shape (1,), or state "none"'
            )
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, src=0)
        device = next(model.parameters()).device
        hooks = {id(table): set(table) for table in _state_hooks(model)}
        self.around: Any = Around(model)
        fully_shard(self.around, mesh=init_device_mesh(device.type, (dist.get_world_size(),)))
        assert isinstance(self.around, FSDPModule)
        self.parameters = list(model.parameters())
        self.gather()
        # Those of torch would take the shares for the model where it is read or written.
        for table in _state_hooks(model):
            for key in set(table) - hooks[id(table)]:
                del table[key]

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        """The loss that work finds; its backward pass leaves each share its mean gradient."""
        for buffer in self.model.buffers():
            dist.broadcast(buffer, src=0)
        failures: list[BaseException] = []

        def tried() -> Tensor:
            try:
                return work()
            except BaseException as error:
                # Out of torch's sight, which would take the model to be in use from then on.
                failures.append(error)
                return torch.zeros(())

        loss: Tensor = self.around(tried)
        if failures:
            raise failures[0]
        return loss

    def gather(self) -> None:
        """Make the model whole after its shares have changed."""
        self.around.reshard()
        self.around.unshard()

    def joined(self, norm: Any) -> Tensor:
        """A norm of all shares, of which each process has computed its part."""
        whole: Tensor = norm.full_tensor()
        return whole

    @torch.no_grad()
    def load(self, weights: Mapping[str, Any]) -> None:
        """What ``load_state_dict`` does."""
        self.model.load_state_dict(weights)
        for share, tensor in zip(self.parameters, self.model.parameters(), strict=True):
            share.copy_(_share(tensor, share))

    def state_of(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What its ``state_dict`` would be with one process."""
        state = optimizer.state_dict()
        joined = {number: _joined(one) for number, one in state["state"].items()}
        return {**state, "state": joined}

    def load_state_of(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """What its ``load_state_dict`` does."""
        optimizer.load_state_dict(dict(state))
        for share, own in optimizer.state.items():
            for name, value in own.items():
                if isinstance(value, Tensor) and value.shape == share.shape:
                    own[name] = _share(value, share)


def _joined(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}


def _share(tensor: Tensor, like: Any) -> Tensor:
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _state_hooks(model: nn.Module) -> list[MutableMapping[Any, Any]]:
    return [
        table
        for inner in model.modules()
        for table in (
            inner._state_dict_pre_hooks,
            inner._load_state_dict_pre_hooks,
            inner._load_state_dict_post_hooks,
        )
    ]
