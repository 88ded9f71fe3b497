"""Which gradients of depthwise convolutions does `supernets.depthwise_gradient` compute faster than torch?

    OMP_NUM_THREADS=1 python benchmarks/depthwise_gradient.py [--rounds 5]

Forward and backward pass of single convolutions of the shapes of `mobile` and `digits`, in turns: the medians of the
processor times in milliseconds, their ratio, and the largest difference of a gradient over its largest entry.
"""

from __future__ import annotations

import argparse
import itertools
import time
from statistics import median

import torch
import torch.nn.functional as F

from nas.hardware.timing import processor_name
from supernets.slicing import same_padding
from supernets.spatial import conv

SHAPES = (
    (128, 24, 28),
    (128, 48, 28),
    (128, 96, 14),
    (128, 160, 14),
    (128, 240, 7),
    (64, 32, 8),
    (64, 64, 4),
)


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    print(f"{processor_name()}, 1 thread, torch {torch.__version__}\n")
    print(
        "| N, C, side | kernel | dilation | stride | torch | ours | torch / ours | difference |\n"
        + "|---" * 8
        + "|"
    )
    for (count, channels, side), size, dilation, stride in itertools.product(
        SHAPES, (3, 5, 7), (1, 2), (1, 2)
    ):
        x, weight = torch.randn(count, channels, side, side), torch.randn(channels, 1, size, size)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = weight.requires_grad_()
        places = stride, same_padding(size, dilation), dilation, channels
        times, gradients = {"torch": [], "ours": []}, {}
        for _ in range(rounds + 1):
            for name in times:
                x.grad = weight.grad = None
                start = time.thread_time()
                y = F.conv2d(x, weight, None, *places) if name == "torch" else conv(x, weight, *places)
                y.backward(torch.ones_like(y))
                times[name].append(1e3 * (time.thread_time() - start))
                gradients[name] = x.grad, weight.grad
        theirs, ours = (median(one[1:]) for one in times.values())
        difference = max(
            float((one - other).abs().max() / one.abs().max())
            for one, other in zip(*gradients.values(), strict=True)
        )
        cells = [f"{count}, {channels}, {side}", size, dilation, stride, f"{theirs:.2f}", f"{ours:.2f}"]
        print(
            "|", " | ".join(map(str, [*cells, f"{theirs / ours:.2f}", f"{difference:.0e}"])), "|", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
