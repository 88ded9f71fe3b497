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
    batch_size: int = 128  # images per step and rank
    learning_rate: float = 0.3  # of SGD with Nesterov momentum, at its peak
    momentum: float = 0.9
    weight_decay: float = 5e-4  # not on norms and biases
    warmup: float = 0.05  # share of the steps with linearly rising rate, before the cosine
    label_smoothing: float = 0.1
    clip: float = 2.0  # largest norm of the gradient
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
        need(self.learning_rate > 0, "learning_rate", "above 0")
        need(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        need(self.weight_decay >= 0, "weight_decay", "0 or more")
        need(0 <= self.warmup < 1, "warmup", "a share, at least 0 and below 1")
        need(0 <= self.label_smoothing < 1, "label_smoothing", "at least 0 and below 1")
        need(self.clip > 0, "clip", "above 0")
        need(self.checkpoint_every >= 1, "checkpoint_every", "at least 1")
        need(0 <= self.seed < 2**63, "seed", "0 or more, and below 2^63")
        need(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda")
        need(self.precision in ("auto", "float32", "bfloat16"), "precision", "auto, float32 or bfloat16")

    def steps(self, steps_per_epoch: int) -> int:
        return max(1, round(self.epochs * steps_per_epoch))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * min(1.0, (step + 1) / rising)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
