"""Does annealed importance sampling bracket the exact log Z of an RBM trained on binarised 8×8 digits?

The RBM has so few hidden units that all their states can be gone through. Chains move along its own
bridge by block Gibbs sweeps. Those that go back start once at exact draws of the model and once at
the ends of Gibbs chains, as `ebmkit evaluate` does, which makes the upper bracket approximate.
"""

from __future__ import annotations

import argparse
import time

import attrs
import torch
from torch import Tensor

import ebmkit
from ebmkit.evaluation.annealing import Side, forward, lower_side, mover, reverse, upper_side
from ebmkit.evaluation.bases import BernoulliBase
from ebmkit.evaluation.path import Path, ladder


def exact(sampler: object) -> object:
    """The sampler, which says that it leaves its target exactly as it is."""
    if getattr(sampler, "exact", False) is True:
        return sampler
    kind = type(sampler)
    fields = {a.name: getattr(sampler, a.name) for a in attrs.fields(kind)}
    return type(kind.__name__, (kind,), {"exact": True})(**fields)


def draws(model: ebmkit.Model, n: int, generator: torch.Generator) -> Tensor:
    """Independent draws (n, 1, 8, 8): hidden units of exactly their distribution, pixels given them."""
    b, w, c = (
        tensor.detach().double() for tensor in (model.visible_bias, model.weight, model.hidden_bias)
    )
    bits = torch.arange(len(c))
    log_p = torch.cat(
        [
            torch.nn.functional.softplus(b + h @ w).sum(1) + h @ c
            for numbers in torch.arange(2 ** len(c)).split(2**14)
            for h in [((numbers[:, None] >> bits) & 1).double()]
        ]
    )
    cumulative = (log_p - log_p.logsumexp(0)).exp().cumsum(0)
    rows = torch.searchsorted(cumulative, torch.rand(n, generator=generator, dtype=torch.float64))
    h = ((rows.clamp(max=len(log_p) - 1)[:, None] >> bits) & 1).double()
    p = (b + h @ w).sigmoid()
    return (
        (torch.rand(p.shape, generator=generator, dtype=torch.float64) < p)
        .float()
        .view(-1, 1, 8, 8)
    )


def line(name: str, side: Side, log_z: float, seconds: float) -> str:
    return (
        f"{name:34s}{side.mean - log_z:+9.4f} ± {side.error:.4f}{side.pooled - log_z:+10.4f} ± "
        f"{side.pooled_error:.4f}{side.effective:9.1f}{seconds:9.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=20)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--chains", type=int, default=200)
    parser.add_argument("--chain-steps", type=int, default=1000)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    digits = ebmkit.create("dataset", "digits", binarise=True, held_out=0.2)
    generator = torch.Generator().manual_seed(options.seed)
    model = ebmkit.create(
        "model", "rbm", event_shape=(1, 8, 8), n_hidden=options.hidden, generator=generator
    )
    loss = ebmkit.create("loss", "pcd", sampler={"use": "gibbs"}, k_steps=1, buffer_size=100)
    objective = ebmkit.objective(loss, model, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate)
    data, held_out = digits[:].x, digits.held_out_batch.x
    start = time.perf_counter()
    for update in range(options.updates):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * (1 - update / options.updates)
        rows = torch.randint(len(data), (100,), generator=generator)
        optimizer.zero_grad()
        objective(data[rows]).loss.backward()
        optimizer.step()
    trained = time.perf_counter() - start
    start = time.perf_counter()
    log_z = float(model.log_partition())
    with torch.no_grad():
        held_out_nats = -float(model(held_out).double().mean()) - log_z
    print(
        f"{options.hidden} hidden units, {options.updates} updates in {trained:.0f} s; exact log Z "
        f"{log_z:.4f} in {time.perf_counter() - start:.1f} s; held-out digits "
        f"{held_out_nats:.2f} nats each\n"
    )
    sampler = exact(ebmkit.create("sampler", "gibbs"))
    base = BernoulliBase.of(data)
    starts = {
        "exact draws": draws(model, options.chains, generator),
        f"{options.chain_steps} Gibbs sweeps": ebmkit.sample(
            sampler,
            model,
            base.draw(options.chains, generator=generator, dtype=data.dtype),
            steps=options.chain_steps,
            generator=generator,
        ),
    }
    print(f"estimates less the exact log Z, in nats; {options.chains} chains")
    print(f"{'':34s}{'mean log w':>18s}{'log mean w':>19s}{'effective':>9s}{'seconds':>9s}")
    for temperatures in options.temperatures:
        path, betas = Path(model, base), ladder(temperatures)
        start = time.perf_counter()
        move = mover(sampler, path, betas, generator=generator, dtype=data.dtype)
        up = forward(path, betas, move, options.chains, generator=generator, dtype=data.dtype)
        seconds = time.perf_counter() - start
        print(line(f"{temperatures} temperatures, forward", lower_side(up), log_z, seconds))
        for name, x in starts.items():
            start = time.perf_counter()
            side = upper_side(reverse(path, betas, move, x))
            seconds = time.perf_counter() - start
            print(line(f"  back from {name}", side, log_z, seconds))


if __name__ == "__main__":
    main()
