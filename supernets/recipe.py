"""What a training is told. Without torch, so that an experiment file can be read anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """The `training` section of an experiment file."""

    epochs: float = 30  # passes over the training images, by all ranks together
    sampler: str | Mapping[str, Any] = "shift"  # a name, or {name: shift, bins: 8}
    batch_size: int = 128  # images per batch and rank
    accumulate: int = 1  # batches per step, one after the other, gradients averaged
    learning_rate: float = 0.3  # of SGD with Nesterov momentum, at its peak
    momentum: float = 0.9
    weight_decay: float = 5e-4  # not on norms and biases
    warmup: float = 0.05  # share of the steps with linearly rising rate, before the cosine
    loss: str = "cross_entropy"  # or bias: Bias Loss, which counts images of more varied features for more
    label_smoothing: float = 0.1
    mixup: float = 0.0  # β of mixup's Beta(β, β), 0 for none; of mixup and cutmix, one is drawn per step
    cutmix: float = 0.0  # β of CutMix
    drop_path: float = 0.0  # chance of leaving out the last residual block, on the largest architecture only
    distillation: str = "kl"  # where a sampler distils: kl, or alpha, AlphaNet's adaptive α-divergence
    clip: float = 2.0  # largest norm of the gradient
    average: float = 0.0  # decay of a moving average of the weights, which is then what is used; 0 for none
    checkpoint_every: int = 200  # steps
    device: str = "auto"  # cpu, cuda, or auto: cuda where there is one
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 on cuda
    seed: int = 0

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, what: str) -> None:
            if not ok:
                raise ValueError(f"training.{name} is {getattr(self, name)!r}; it must be {what}")

        need(0 < self.epochs <= 1e6, "epochs", "above 0 and at most a million")
        need(self.batch_size >= 2, "batch_size", "at least 2: batch norm needs more than one image")
        need(1 <= self.accumulate <= 10_000, "accumulate", "a whole number from 1 to 10000")
        need(self.learning_rate > 0, "learning_rate", "above 0")
        need(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        need(self.weight_decay >= 0, "weight_decay", "0 or more")
        need(0 <= self.warmup < 1, "warmup", "a share, at least 0 and below 1")
        need(self.loss in ("cross_entropy", "bias"), "loss", "cross_entropy or bias")
        need(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        need(0 <= self.mixup <= 100, "mixup", "at least 0 and at most 100; 0 for none, 0.2 to 1 are usual")
        need(0 <= self.cutmix <= 100, "cutmix", "at least 0 and at most 100; 0 for none, 1 is usual")
        need(0 <= self.drop_path < 1, "drop_path", "a chance, at least 0 and below 1")
        need(self.distillation in ("kl", "alpha"), "distillation", "kl or alpha")
        need(self.clip > 0, "clip", "above 0")
        need(0 <= self.average < 1, "average", "at least 0 and below 1; 0 for none, 0.999 is usual")
        need(self.checkpoint_every >= 1, "checkpoint_every", "at least 1")
        need(0 <= self.seed < 2**63, "seed", "0 or more, and below 2^63")
        need(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")
        need(self.precision in ("auto", "float32", "bfloat16"), "precision", "auto, float32 or bfloat16")

    def steps(self, steps_per_epoch: int) -> int:
        """Of the optimiser in all; `steps_per_epoch` is how many batches a rank takes."""
        return max(1, round(self.epochs * steps_per_epoch / self.accumulate))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * min(1.0, (step + 1) / rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
