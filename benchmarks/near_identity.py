"""Do operators that take turns train better from kernels near the identity than from independent ones?

    python benchmarks/near_identity.py --data-dir DIR [--steps 500]

`mobile` with all non-experimental operators on Fashion-MNIST, one architecture per step, uniform per decision, the same
batches, architectures and first draws for both. Printed are the mean loss of each hundred steps and the accuracy of
twelve random architectures on 1,000 validation images.
"""

from __future__ import annotations

import argparse
import math
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from operator_menu import menu

import supernets.supernet
from nas.data import Data, load
from nas.data.batches import Batches, normalize
from nas.evaluation import accuracy_of
from search_spaces import read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.elastic import start_near_identity
from supernets.operators import OPERATORS
from supernets.spatial import channels_last

STARTS = {"independent": lambda operator, channels: None, "near the identity": start_near_identity}


def main(data: str, steps: int) -> None:
    splits = load(Data(name="fashion_mnist", directory=data))
    skeleton = read_skeleton("mobile")
    skeleton |= {
        "stem": {**skeleton["stem"], "stride": 2},
        "operators": menu("all"),
        "attention": ["none", "se"],
    }
    space = unroll(skeleton, OPERATORS, ATTENTIONS, splits.shape, len(splits.classes))
    validation, calibration = splits.validation, splits.calibration
    images = normalize(validation.images[:1000], splits.mean, splits.std)
    labels = torch.from_numpy(validation.labels[:1000])
    for_norms = normalize(calibration.images[:512], splits.mean, splits.std)
    for name, start in STARTS.items():
        supernets.supernet.start_near_identity = start
        supernet = channels_last(supernets.supernet.Supernet(space)).train()
        losses = trained(supernet, Batches(splits.train, splits.mean, splits.std, 64, 0), steps)
        random = Random(5)
        right = [
            accuracy_of(recalibrate(supernet.export(space.sample(random)), for_norms), images, labels)
            for _ in range(12)
        ]
        hundreds = [f"{np.mean(losses[first : first + 100]):.3f}" for first in range(0, steps, 100)]
        print(f"{name}: loss {', '.join(hundreds)}; accuracy {np.mean(right):.1f} % ", end="")
        print(f"({min(right):.1f} to {max(right):.1f})", flush=True)


def trained(supernet, batches: Batches, steps: int, rate: float = 0.1) -> list[float]:
    random, losses = Random(0), []
    optimizer = torch.optim.SGD(
        supernet.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        images, labels = batches(step)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(supernet(images, supernet.space.sample(random)), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(supernet.parameters(), 2.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    main(args.data_dir, args.steps)
