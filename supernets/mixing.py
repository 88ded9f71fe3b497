"""Batches of mixed images: mixup and CutMix.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features", ICCV 2019. As in both, a batch has one share λ ~ Beta(β, β),
and an image's partner comes from its own batch: the one some places further, which in a shuffled batch is anyone.

All randomness is of Python's generator, so a batch on a GPU is mixed as on the CPU, and nobody waits for it.
"""

from __future__ import annotations

from random import Random

import torch.nn.functional as F
from torch import Tensor


def mix(
    images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, random: Random
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) or signals (N, C, L), mixed, and what share of them is of each class, (N, classes).

    Without either method images and labels (N,) are what they were. With both, one is drawn.

    Args:
        mixup, cutmix: β of the method, 0 for never; 1 makes all shares equally likely, less mixes less.
    """
    offered = [(method, beta) for method, beta in ((blend, mixup), (cut_and_paste, cutmix)) if beta > 0]
    if not offered:
        return images, labels
    method, beta = random.choice(offered)
    further = random.randrange(1, max(2, len(images)))
    share = random.betavariate(beta, beta)
    mixed, share = method(images, images.roll(further, 0), share, random)
    of_class, of_partner = (F.one_hot(one, classes).float() for one in (labels, labels.roll(further)))
    return mixed, share * of_class + (1 - share) * of_partner


def blend(images: Tensor, partners: Tensor, share: float, random: Random) -> tuple[Tensor, float]:
    """mixup: λ of each image and 1 - λ of its partner in every pixel."""
    return images.lerp(partners, 1 - share), share


def cut_and_paste(images: Tensor, partners: Tensor, share: float, random: Random) -> tuple[Tensor, float]:
    """CutMix: a box of about 1 - λ of the image, or such a span of a signal, is the partner's.

    Its centre is anywhere, so it may reach over the edge; the share that is left of the image is returned.
    """
    sides = images.shape[2:]
    ratio = (1 - share) ** (1 / len(sides))
    box, left = (), 1.0
    for side in sides:
        size = round(side * ratio)
        start = random.randrange(side) - size // 2
        start, stop = max(0, start), min(side, start + size)
        box, left = (*box, slice(start, stop)), left * (stop - start) / side
    mixed = images.clone()
    mixed[(..., *box)] = partners[(..., *box)]
    return mixed, 1 - left
