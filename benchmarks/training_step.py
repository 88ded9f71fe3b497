"""What does a step of the supernet cost, beside the same network exported and trained alone?

    python benchmarks/training_step.py [--preset mobile] [--size 28] [--batch 128] [--rounds 30] [--threads 2]
    python benchmarks/training_step.py --device cuda

Both take steps on the same images with the same optimiser, in turns, so that what else the machine does hits them
alike: the supernet by the training loop itself, through one architecture; that architecture, exported, by the plainest
loop there is. Three architectures: the smallest, the largest, and of 200 random ones the one of median MACs. Printed
are the medians of the milliseconds and of the ratios of neighbouring steps, with their quartiles; a ratio of 1.05
means that the supernet takes 5 % longer. With one thread the time is processor time, which other work on the machine
disturbs less; with more it is wall time. Memory that is freed is kept, for both, as in every training of a run
(nas.memory; `--map-anew` leaves it to glibc). `alone` has the depthwise convolutions of the supernet, whose gradients
are faster (supernets/depthwise_gradient.py); `alone, torch` has those of torch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.hardware.timing import processor_name
from nas.memory import keep_freed_memory
from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, CostTable
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers.plan import Plan, Stateless
from supernets.spatial import channels_last, conv
from supernets.supernet import Supernet, resize
from supernets.training import _Loop, autocast, make_optimizer

CLASSES = 10
STEPS = 10**9  # of a training that is only begun
Batch = tuple[Tensor, Tensor]


class Depthwise(nn.Conv2d):
    """A convolution by square kernels that computes its gradients as the supernet does."""

    def forward(self, x: Tensor) -> Tensor:
        return conv(x, self.weight, self.stride[0], self.padding[0], self.dilation[0], self.groups)


@dataclass
class One(Stateless):
    """A sampler of one architecture."""

    architecture: Architecture

    def plan(self, step: int, random: Random, look) -> Plan:
        return Plan((self.architecture,))


@dataclass
class Same:
    """One batch at every step."""

    batch: Batch

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        return self.batch

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return STEPS


def supernet_step(
    space: SearchSpace, one: Architecture, batch: Batch, settings: Training, costs: Costs
) -> Callable[[], None]:
    supernet = channels_last(Supernet(space).to(batch[0].device))
    path = Path(tempfile.gettempdir()) / "unused"
    return _Loop(supernet, Same(batch), One(one), settings, path, 0, 1, costs).train_step


def step_alone(
    space: SearchSpace, one: Architecture, batch: Batch, settings: Training, ours: bool
) -> Callable[[], None]:
    network = channels_last(Supernet(space).to(batch[0].device).export(one)).train()
    for module in network.modules():
        if ours and type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = Depthwise
    (images, labels), optimizer = batch, make_optimizer(network, settings)
    shape = space.input_shape(one.resolution)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(images.device, settings):
            logits = network(resize(images, shape))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()

    return step


def milliseconds(steps: list[Callable[[], None]], rounds: int, device: str) -> np.ndarray:
    """(rounds, steps), taken in turns after three rounds that do not count."""
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times = np.empty((rounds + 3, len(steps)))
    for row in times:
        for number, step in enumerate(steps):
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            row[number] = clock() - start
    return times[3:] * 1e3


def quartiles(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main(preset: str, size: int, batch_size: int, rounds: int, device: str) -> None:
    space = unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, (1, size, size), CLASSES)
    table, random = CostTable(space), Random(0)
    drawn = sorted((space.sample(random) for _ in range(200)), key=lambda one: table.of([one])[0, 0])
    chosen = {"smallest": table.smallest, "middle": drawn[100], "largest": table.largest}
    settings = Training(device=device, batch_size=batch_size, learning_rate=1e-4)
    images = torch.randn(batch_size, 1, size, size).to(device, memory_format=torch.channels_last)
    batch = images, torch.randint(CLASSES, (batch_size,)).to(device)
    name = torch.cuda.get_device_name() if device == "cuda" else processor_name()
    print(
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, precision {settings.precision}"
    )
    print(f"{preset}, {size}×{size}, batch {batch_size}, {rounds} rounds; ms per step\n")
    print(
        "| architecture | MMACs | supernet | alone | alone, torch | supernet / alone | supernet / alone, torch |"
    )
    print("|---|---|---|---|---|---|---|")
    for label, one in chosen.items():
        steps = [
            supernet_step(space, one, batch, settings, Costs(table)),
            step_alone(space, one, batch, settings, ours=True),
            step_alone(space, one, batch, settings, ours=False),
        ]
        times = milliseconds(steps, rounds, device)
        cells = [label, f"{table.of([one])[0, 0] / 1e6:.2f}", *(f"{one:.2f}" for one in np.median(times, 0))]
        cells += [quartiles(times[:, 0] / times[:, other]) for other in (1, 2)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mobile")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--map-anew", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.map_anew:
        keep_freed_memory()
    main(args.preset, args.size, args.batch, args.rounds, args.device)
