"""What an architecture learns from: the labels, or the predictions of another architecture.

Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.
Bias Loss: Abrahamyan et al., "Bias Loss for Mobile Neural Networks", ICCV 2021. In-place distillation: Yu et al.,
"BigNAS", ECCV 2020, section 3.1. Adaptive α-divergence: Wang et al., "AlphaNet: Improved Training of Supernets
with Alpha-Divergence", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BIAS_ALPHA, BIAS_BETA = 0.3, 0.3  # Abrahamyan et al.
ALPHA_LOW, ALPHA_HIGH = -1.0, 1.0  # Wang et al.: one punishes too much mass, the other too little
RATIO_CLAMP = 5.0  # Wang et al.: the most that (p/q)^α may weigh


# -- from the labels ---------------------------------------------------------------------------


def label_loss(
    name: str, logits: Tensor, labels: Tensor, features: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """A loss of a batch by its name, `cross_entropy` or `bias`, and the smoothed cross entropy, detached.

    The latter is what curves show and what divergence is judged by: it is ln(classes) at chance under any loss.

    Args:
        logits: (N, classes)
        labels: (N,) classes, or (N, classes) shares of a mixed image.
        features: (N, C, ...), what the classifier pools.
    """
    if name == "cross_entropy":
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return loss, loss.detach()
    each = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return (bias_weights(features) * each).mean(), each.detach().mean()


@torch.no_grad()
def bias_weights(features: Tensor) -> Tensor:
    """How much each image counts in Bias Loss: z = exp(α·v) - β, (N,), with v its variance scaled to 0..1.

    The variance is that of an image's (C, ...) features before the pooling; little of it stands for an image
    that offers little to go by. It is scaled by the least and the largest of the batch. (The authors' published
    code subtracts the least that was ever seen, which a resumed training would have to remember, and computes
    exp(β·v) - 1 + α; this is the formula of the paper.)
    """
    variances = features.float().flatten(1).var(1)
    least, most = variances.aminmax()
    scaled = (variances - least) / (most - least).clamp_min(torch.finfo(variances.dtype).tiny)
    return (BIAS_ALPHA * scaled).exp() - BIAS_BETA


# -- from a teacher ----------------------------------------------------------------------------


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy against the teacher's predictions: KL(teacher ‖ student) and a constant.

    Both are logits, (N, classes). The teacher learns nothing from it.
    """
    return F.cross_entropy(logits, teacher.detach().softmax(1))


def adaptive_alpha_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """AlphaNet's loss: of each image the larger of the two α-divergences, and the mean of these.

    Both are logits, (N, classes). The teacher learns nothing from it.
    """
    low, high = (alpha_divergence(logits, teacher, alpha) for alpha in (ALPHA_LOW, ALPHA_HIGH))
    return torch.maximum(low, high).mean()


def alpha_divergence(logits: Tensor, teacher: Tensor, alpha: float, clamp: float = RATIO_CLAMP) -> Tensor:
    """D_α(p ‖ q) of each image, (N,), of the teacher's predictions p and the student's q, from logits (N, classes).

        D_α = Σ q·((p/q)^α - 1) / (α(α - 1));  D_1 = KL(p ‖ q);  D_0 = KL(q ‖ p)

    Its gradient is AlphaNet's: that of -Σ w·log q with constant weights w = q·(p/q)^α/α, which without the
    clamp is exactly D_α's. So (p/q)^α ≤ `clamp` bounds what one class can pull, by clamp/|α|, without cutting
    off the gradient there. At α = 1 nothing is clamped, w is p; at α = 0 p/q is, and w = q·log(p/q).
    """
    log_q = logits.log_softmax(1)
    q, log_p = log_q.detach().exp(), teacher.detach().log_softmax(1)
    log_ratio = log_p - log_q.detach()
    if alpha == 1:
        weights = log_p.exp()
        value = weights * log_ratio
    elif alpha == 0:
        weights = q * log_ratio.exp().clamp(max=clamp).log()
        value = -weights
    else:
        power = (alpha * log_ratio).exp().clamp(max=clamp)
        weights = q * power / alpha
        value = q * (power - 1) / (alpha * (alpha - 1))
    surrogate = -(weights * log_q).sum(1)
    return value.sum(1) + surrogate - surrogate.detach()  # the value of the first, the gradient of the second


DISTILLATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": soft_cross_entropy,
    "alpha": adaptive_alpha_divergence,
}
