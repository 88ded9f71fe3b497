"""Depthwise convolutions of images on a CPU, with gradients that are faster than the library's.

oneDNN has fast kernels for depthwise convolutions forward, and backward for small kernels without dilation; other
gradients take up to fifty times as long as the forward pass. Both gradients are convolutions themselves, so where it
is faster they are computed by the fast kernels (textbook identities, the arrangement is ours):

- where stride and dilation are equal, every s-th pixel goes through a convolution without either;
- of the input, at stride 1: the output's gradient convolved with the mirrored kernel;
- of the weight: the input convolved with the output's gradient, every image and channel a group of its own, and
  the images then added. A large map is no good kernel, so this is for small ones.

They differ from the library's in rounding. benchmarks/depthwise_gradient.py measures all cases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from supernets.slicing import same_padding

SMALL = 2**15  # numbers of an input for which nothing is gained


def is_worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether a depthwise convolution of this (N, C, H, W) by this (C, 1, k, k) may have slow gradients."""
    return (
        torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > SMALL
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] % 2 == 1
        and not torch.is_autocast_enabled("cpu")
    )


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """(N, C, H, W) and (C, 1, k, k) with odd k, padded for the same size, to (N, C, ⌈H/s⌉, ⌈W/s⌉)."""
    if stride == dilation > 1:
        x, stride, dilation = x[..., ::stride, ::stride], 1, 1
    side = -(-max(x.shape[2:]) // stride)
    if _mirrors(stride, dilation) or _is_kernel(side, weight.shape[2], dilation):
        return _Depthwise.apply(x, weight, stride, dilation)
    return _convolve(x, weight, stride, dilation)


def _mirrors(stride: int, dilation: int) -> bool:
    """Whether the input's gradient is better a convolution with the mirrored kernel."""
    return stride == 1 and dilation > 1


def _is_kernel(side: int, size: int, dilation: int) -> bool:
    """Whether an output of this side is small enough to serve as the kernel of its weight's gradient."""
    return size > 3 and side <= 7 * dilation


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, dilation = ctx.stride, ctx.dilation
        of_input, of_weight, *_ = ctx.needs_input_grad
        grad_x = grad_weight = None
        if of_input and _mirrors(stride, dilation):
            grad_x, of_input = _convolve(gradient, weight.flip(2, 3), 1, dilation), False
        if of_weight and _is_kernel(max(gradient.shape[2:]), weight.shape[2], dilation):
            grad_weight, of_weight = _of_weight(x, gradient, weight.shape[2], stride, dilation), False
        if of_input or of_weight:
            padding = same_padding(weight.shape[2], dilation)
            places = [stride] * 2, [padding] * 2, [dilation] * 2
            first, second, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *places, False, [0, 0], len(weight), [of_input, of_weight, False]
            )
            grad_x = first if of_input else grad_x
            grad_weight = second if of_weight else grad_weight
        return grad_x, grad_weight, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = same_padding(weight.shape[2], dilation)
    return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))


def _of_weight(x: Tensor, gradient: Tensor, size: int, stride: int, dilation: int) -> Tensor:
    """The (C, 1, k, k) gradient. What was the convolution's dilation is its stride here, and the reverse."""
    count, channels, *_ = x.shape
    kernels, padding = _one_image(gradient).permute(1, 0, 2, 3), same_padding(size, dilation)
    taps = F.conv2d(_one_image(x), kernels, None, dilation, padding, stride, count * channels)
    return taps[..., :size, :size].reshape(count, channels, size, size).sum(0).unsqueeze(1)


def _one_image(x: Tensor) -> Tensor:
    """(N, C, H, W) to (1, N·C, H, W), in the layout of channels_last."""
    _, _, height, width = x.shape
    return x.permute(2, 3, 0, 1).reshape(1, height, width, -1).permute(0, 3, 1, 2)
