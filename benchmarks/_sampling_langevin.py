"""Langevin chains on a SiLU network, by ebmkit, its peers, loops by hand and JAX.

Each arm takes x ← x − ε ∇E(x) + √(2ε) z so many times on the same weights from the same points, in
float32. What ε and the noise are is the same in all of them, torchebm's convention included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from _sampling_harness import Numbers, Spec
from _sampling_network import (
    Images,
    Work,
    image_module,
    is_image,
    jax_energy,
    module,
    sequential,
)
from _sampling_worker import Arm

EPSILON = 1e-2
SPREAD = 4.0
"""Standard deviation of the energies at the start, so that a wrong force would be noticed."""
CHUNK = 10
"""Steps that the hand-compiled arm takes at once."""


WORKS = [Work(2, 64, 2, 256, 500), Work(2, 128, 2, 1024, 300), Work(64, 256, 3, 512, 200)]

IMAGES = Images(32, (144, 288, 592), 64, 100)
"""A convolutional network of ten million weights."""

OURS = "ebmkit"
REFERENCE = "eager by hand"
GRADIENT = "gradient alone"
RECORDED = "gradient alone, as a CUDA graph"


def specs(work: Work) -> dict[str, Spec]:
    """The arms of a work, ours first."""
    here, steps = "_sampling_langevin", {"steps": work.steps}
    ours = {"steps": work.steps, "width": work.width, "depth": work.depth}
    return {
        OURS: Spec(f"{here}:ours", {**ours, "mode": "chunk"}),
        "ebmkit, own module": Spec(f"{here}:ours", {**ours, "mode": "chunk", "own": True}),
        "ebmkit, auto": Spec(f"{here}:ours", {**ours, "mode": "auto"}),
        "ebmkit, eager": Spec(f"{here}:ours", {**ours, "mode": "off"}),
        "torchebm": Spec(f"{here}:torchebm", steps),
        "ebm": Spec(f"{here}:ebm", steps),
        REFERENCE: Spec(f"{here}:by_hand", steps),
        GRADIENT: Spec(f"{here}:gradient_alone", steps),
        "compiled by hand": Spec(f"{here}:compiled_by_hand", steps),
        "JAX scan": Spec(f"{here}:jax_scan", steps, torch=False),
        "blackjax": Spec(f"{here}:blackjax", steps, torch=False),
    }


def cuda_specs(work: Work | Images) -> dict[str, Spec]:
    """The arms of a work on a CUDA device."""
    here, steps = "_sampling_langevin", {"steps": work.steps, "device": "cuda"}
    ours = {**steps, "width": 0, "depth": 0, "own": True}
    own = {}
    if isinstance(work, Work):
        own["ebmkit, own module"] = Spec(f"{here}:ours", {**ours, "mode": "chunk"})
        ours |= {"width": work.width, "depth": work.depth, "own": False}
    return {
        OURS: Spec(f"{here}:ours", {**ours, "mode": "chunk"}),
        **own,
        "ebmkit, eager": Spec(f"{here}:ours", {**ours, "mode": "off"}),
        "torchebm": Spec(f"{here}:torchebm", steps),
        REFERENCE: Spec(f"{here}:by_hand", steps),
        GRADIENT: Spec(f"{here}:gradient_alone", steps),
        RECORDED: Spec(f"{here}:gradient_recorded", steps),
    }


def _torch_arm(run: Callable[[int], Any], device: str = "cpu") -> Arm:
    if device == "cpu":
        return Arm(run, lambda x: x.detach().numpy())
    import torch

    def done(seed: int) -> Any:
        x = run(seed)
        torch.cuda.synchronize()
        return x

    return Arm(done, lambda x: x.detach().cpu().numpy())


def _seeded(seed: int, device: str) -> Any:
    import torch

    return torch.Generator(device).manual_seed(seed)


def _placed(stored: dict[str, Numbers], device: str, base: Any = None) -> tuple[Any, Any]:
    """Starting points and the network, a user's own module, where they are to be."""
    import torch

    model = image_module(stored, base) if is_image(stored) else module(stored, base)
    return torch.from_numpy(stored["x"]).to(device), model.to(device)


def ours(
    stored: dict[str, Numbers],
    *,
    steps: int,
    width: int,
    depth: int,
    mode: Any,
    own: bool = False,
    device: str = "cpu",
) -> Arm:
    import ebmkit

    x, model = _placed(stored, device)
    if not own:
        model = ebmkit.create("model", "mlp", event_shape=(x.shape[1],), hidden=[width] * depth)
        model.layers.load_state_dict(sequential(stored).state_dict())
        model = model.to(device)
    sampler = ebmkit.create("sampler", "langevin", step_size=EPSILON)

    def run(seed: int) -> Any:
        g = _seeded(seed, device)
        return ebmkit.sample(sampler, model, x, steps=steps, generator=g, compile=mode)

    return _torch_arm(run, device)


def torchebm(stored: dict[str, Numbers], *, steps: int, device: str = "cpu") -> Arm | None:
    if find_spec("torchebm") is None:
        return None
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    x, model = _placed(stored, device, BaseModel)
    sampler = LangevinDynamics(model, step_size=EPSILON, device=device)

    def run(seed: int) -> Any:
        return sampler.sample(x=x, n_steps=steps, generator=_seeded(seed, device))

    return _torch_arm(run, device)


def ebm(stored: dict[str, Numbers], *, steps: int) -> Arm | None:
    if find_spec("ebm") is None:
        return None
    import torch
    from ebm.samplers import LangevinDynamics

    x, model = torch.from_numpy(stored["x"]), module(stored)
    sampler = LangevinDynamics(step_size=EPSILON, steps=steps)

    def run(seed: int) -> Any:
        torch.manual_seed(seed)  # it takes no generator
        return sampler.sample(model, x)

    return _torch_arm(run)


def by_hand(stored: dict[str, Numbers], *, steps: int, device: str = "cpu") -> Arm:
    import torch

    start, model = _placed(stored, device)
    model.requires_grad_(False)

    def run(seed: int) -> Any:
        g = _seeded(seed, device)
        x = start
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(model(x).sum(), x)
            z = torch.randn(x.shape, generator=g, device=device)
            x = x.detach() - EPSILON * gradient + math.sqrt(2 * EPSILON) * z
        return x

    return _torch_arm(run, device)


def gradient_alone(stored: dict[str, Numbers], *, steps: int, device: str = "cpu") -> Arm:
    """The same number of gradients at one point: no noise, no move."""
    import torch

    x, model = _placed(stored, device)
    x.requires_grad_(True)
    model.requires_grad_(False)

    def run(seed: int) -> Any:  # noqa: ARG001
        for _ in range(steps):
            torch.autograd.grad(model(x).sum(), x)
        return x

    return _torch_arm(run, device)


def gradient_recorded(stored: dict[str, Numbers], *, steps: int, device: str) -> Arm:
    """One gradient as a CUDA graph, replayed so many times: what its kernels take without Python."""
    import torch

    x, model = _placed(stored, device)
    x.requires_grad_(True)
    model.requires_grad_(False)
    beside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(beside):
        for _ in range(3):
            torch.autograd.grad(model(x).sum(), x)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        torch.autograd.grad(model(x).sum(), x)

    def run(seed: int) -> Any:  # noqa: ARG001
        for _ in range(steps):
            graph.replay()
        return x

    return _torch_arm(run, device)


def compiled_by_hand(stored: dict[str, Numbers], *, steps: int) -> Arm:
    """The step unrolled, compiled without guards, its noise drawn a chunk at once."""
    import torch

    start, model = torch.from_numpy(stored["x"]), module(stored).requires_grad_(False)
    gradient = torch.func.grad(lambda x: model(x).sum())

    def unrolled(x: Any, noise: Any) -> Any:
        for z in noise.unbind():
            x = x - EPSILON * gradient(x) + math.sqrt(2 * EPSILON) * z
        return x

    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    chunk = torch.compile(unrolled, fullgraph=True, dynamic=False, options=options)

    def run(seed: int) -> Any:
        g = torch.Generator().manual_seed(seed)
        x = start
        with torch.no_grad():
            for _ in range(steps // CHUNK):
                x = chunk(x, torch.randn(CHUNK, *start.shape, generator=g))
        return x

    return _torch_arm(run)


def jax_scan(stored: dict[str, Numbers], *, steps: int) -> Arm | None:
    if find_spec("jax") is None:
        return None
    import jax

    energy, start = jax_energy(stored), stored["x"]
    gradient = jax.grad(lambda x: energy(x).sum())

    def step(x: Any, key: Any) -> Any:
        z = jax.random.normal(key, x.shape)
        return x - EPSILON * gradient(x) + math.sqrt(2 * EPSILON) * z, None

    @jax.jit
    def chains(key: Any) -> Any:
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0]

    return Arm(lambda seed: chains(jax.random.key(seed)).block_until_ready(), np.asarray)


def blackjax(stored: dict[str, Numbers], *, steps: int) -> Arm | None:
    """blackjax's SGLD with the exact gradient, which is Langevin dynamics, vmapped over the chains."""
    if find_spec("blackjax") is None:
        return None
    import blackjax as library
    import jax

    energy, start = jax_energy(stored), stored["x"]
    force = jax.grad(lambda x: -energy(x))
    kernel = library.sgld(lambda x, minibatch: force(x))  # noqa: ARG005

    def step(x: Any, key: Any) -> Any:
        keys = jax.random.split(key, len(start))
        return jax.vmap(lambda k, one: kernel.step(k, one, 0, EPSILON))(keys, x), None

    @jax.jit
    def chains(key: Any) -> Any:
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0]

    return Arm(lambda seed: chains(jax.random.key(seed)).block_until_ready(), np.asarray)
