"""Coordinate attention: each channel scaled, by rows and by columns, by what all channels hold there.

Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, equations 4 to 9: the means
of the rows and those of the columns, one after the other, go through one 1×1 convolution into max(8, C / 32)
channels, batch norm and hard swish; then the rows through a 1×1 convolution and a sigmoid, and the columns
through others. Widths share the low channels, in the middle too. Merged, the norm is in its convolution, and
rows and columns go through it each on their own: what is common to them is pointwise.
Shapes: (N, C, H, W) to the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.elastic import Norm
from supernets.merging import fold
from supernets.slicing import leading
from supernets.spatial import conv, convolution


class Attention(nn.Module):
    paper = 'Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021'
    exactness = "exact slice; the norm merges exactly into its convolution"

    def __init__(self, channels: int):
        super().__init__()
        middle = squeezed(channels)
        self.squeeze = nn.Parameter(torch.empty(middle, channels, 1, 1))
        self.norm = Norm(middle)
        self.rows = nn.Parameter(torch.empty(channels, middle, 1, 1))
        self.rows_bias = nn.Parameter(torch.zeros(channels))
        self.columns = nn.Parameter(torch.empty(channels, middle, 1, 1))
        self.columns_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.squeeze, nonlinearity="relu")
        for weight in (self.rows, self.columns):
            nn.init.kaiming_normal_(weight, nonlinearity="linear")

    def weights(self, channels: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Squeeze weight (M, C, 1, 1); weight (C, M, 1, 1) and bias (C,) of the rows and of the columns."""
        middle = squeezed(channels)
        lines = [(self.rows, self.rows_bias), (self.columns, self.columns_bias)]
        return leading(self.squeeze, middle, channels), [
            (leading(weight, channels, middle), bias[:channels]) for weight, bias in lines
        ]

    def forward(self, x: Tensor) -> Tensor:
        squeeze, [(rows, rows_bias), (columns, columns_bias)] = self.weights(x.shape[1])
        middle = F.hardswish(self.norm(conv(torch.cat(lines(x), dim=2), squeeze)))
        of_rows, of_columns = middle.split(x.shape[2:], dim=2)
        return scaled(x, conv(of_rows, rows, bias=rows_bias), conv(of_columns, columns, bias=columns_bias))

    def export(self, channels: int) -> nn.Module:
        squeeze, [(rows, rows_bias), (columns, columns_bias)] = self.weights(channels)
        return Coordinate(
            convolution(squeeze),
            self.norm.export(squeezed(channels)),
            convolution(rows, bias=rows_bias),
            convolution(columns, bias=columns_bias),
        )


class Coordinate(nn.Module):
    """As it is trained: the norm sees rows and columns together."""

    def __init__(self, squeeze: nn.Module, norm: nn.Module, rows: nn.Module, columns: nn.Module):
        super().__init__()
        self.squeeze, self.norm, self.rows, self.columns = squeeze, norm, rows, columns

    def forward(self, x: Tensor) -> Tensor:
        middle = F.hardswish(self.norm(self.squeeze(torch.cat(lines(x), dim=2))))
        of_rows, of_columns = middle.split(x.shape[2:], dim=2)
        return scaled(x, self.rows(of_rows), self.columns(of_columns))

    def merge(self) -> nn.Module:
        weight, bias = fold(self.squeeze.weight, None, self.norm)
        return MergedCoordinate(convolution(weight, bias=bias), self.rows, self.columns)


class MergedCoordinate(nn.Module):
    def __init__(self, squeeze: nn.Module, rows: nn.Module, columns: nn.Module):
        super().__init__()
        self.squeeze, self.rows, self.columns = squeeze, rows, columns

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (F.hardswish(self.squeeze(line)) for line in lines(x))
        return scaled(x, self.rows(rows), self.columns(columns))


def lines(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows (N, C, H, 1) and of the columns (N, C, W, 1)."""
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)


def scaled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, C, H, W) by gates of (N, C, H, 1) and (N, C, W, 1), before their sigmoids."""
    return x * rows.sigmoid() * columns.transpose(2, 3).sigmoid()


def squeezed(channels: int) -> int:
    """How many channels are in the middle."""
    return max(8, channels // 32)
