"""Training batches on the device that trains: shuffled, shifted, mirrored and normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.data.images import Split

ORDER, AUGMENTATION = 0, 1  # tell the random streams of one seed apart


def normalize(
    images: np.ndarray | Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
) -> Tensor:
    """(N, C, H, W) in channels_last, or (N, C, L), as float32 on the device, (x - mean) / std per channel.

    uint8 is brought to the scale 0..1 first, on which `mean` and `std` are.
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))  # a copy: torch wants to write where NumPy may not
    images = images.to(device)
    unit = 255 if images.dtype == torch.uint8 else 1
    mean64, std64 = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    scale, shift = _per_pixel(1 / (unit * std64), images), _per_pixel(-mean64 / std64, images)
    return laid_out(torch.addcmul(shift, images.float(), scale))


def laid_out(images: Tensor) -> Tensor:
    """Images in channels_last; signals, which know no such layout, one value after the other."""
    layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
    return images.contiguous(memory_format=layout)


def _per_pixel(values: Tensor, images: Tensor) -> Tensor:
    """One value per channel, repeated over a whole image: adding rows of 3 is slow, adding images is not."""
    values = values.to(images.device, torch.float32)
    values = values.view(1, -1, *[1] * (images.ndim - 2))
    return values.expand(1, *images.shape[1:]).contiguous()


class Batches:
    """The batch of any step, as a pure function of the seed, the step and the rank.

    So a training that goes on after a stop sees what it would have seen. An epoch is one permutation
    of the split that all ranks share; each takes its own part of it, and what does not fill a step is
    left out until the next epoch. A batch larger than a rank's part is clipped to it.

    Args:
        mean, std: per channel, as in `Splits`.
        crop: images are padded by so many pixels of 0 and cut back at a random place; signals by so many
            samples of the mean.
        flip: half of the images are mirrored, left to right; signals are not.
        cutout: side of a square that is set to the mean, in pixels, or length of such a span, in samples; it
            may reach over the edge.
    """

    def __init__(
        self,
        split: Split,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        seed: int,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        device: torch.device | str = "cpu",
    ):
        assert not (flip and split.images.ndim == 3), "signals are not mirrored"
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.images = torch.from_numpy(np.require(split.images, requirements=["C", "W"])).to(device)
        self.labels = torch.from_numpy(np.require(split.labels, requirements=["C", "W"])).to(device)
        self.mean, self.std = tuple(mean), tuple(std)
        self.batch_size = batch_size
        self.seed = seed
        self.crop, self.flip, self.cutout = crop, flip, cutout
        self._permutation = (-1, np.empty(0, np.int64))  # the latest epoch and its order

    def __len__(self) -> int:
        """Steps per epoch of one rank."""
        return self.steps_per_epoch()

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return len(self.labels) // (ranks * self._size(ranks))

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in channels_last or signals (N, C, L), float32, normalised, and labels (N,), int64,
        on the device."""
        assert step >= 0 and 0 <= rank < ranks, (step, rank, ranks)
        rows = torch.from_numpy(self._rows(step, rank, ranks)).to(self.images.device)
        random = np.random.default_rng([self.seed, AUGMENTATION, step, rank])
        images = self.images[rows]
        signals = images.ndim == 3
        if (self.crop or self.flip) and not signals:
            images = self._shift(images, random)
        images = normalize(images, self.mean, self.std, images.device)
        if self.crop and signals:  # normalised first: 0 may be far from any sample
            images = self._slide(images, random)
        if self.cutout:
            images.masked_fill_(self._holes(images, random), 0)
        return images, self.labels[rows]

    def _size(self, ranks: int) -> int:
        """Images of one batch of one rank."""
        size = min(self.batch_size, len(self.labels) // ranks)
        if size < 1:
            raise ValueError(
                f"{ranks} ranks cannot share {len(self.labels)} training images; use fewer ranks"
            )
        return size

    def _rows(self, step: int, rank: int, ranks: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch(ranks))
        latest, order = self._permutation
        if latest != epoch:
            order = np.random.default_rng([self.seed, ORDER, epoch]).permutation(len(self.labels))
            self._permutation = (epoch, order)
        size = self._size(ranks)
        start = (place * ranks + rank) * size
        return order[start : start + size]

    def _shift(self, images: Tensor, random: np.random.Generator) -> Tensor:
        """Crop and flip, as one gather of each output pixel from the padded image."""
        count, channels, height, width = images.shape
        top, left = (
            self._draw(random, 2 * self.crop + 1, images),
            self._draw(random, 2 * self.crop + 1, images),
        )
        rows = top + torch.arange(height, device=images.device)  # (N, H)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.flip:
            columns = torch.where(self._draw(random, 2, images) == 1, columns.flip(1), columns)
        columns = left + columns  # (N, W)
        padded = F.pad(images, [self.crop] * 4)
        source = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(count, 1, -1)
        return padded.flatten(2).gather(2, source.expand(-1, channels, -1)).view(images.shape)

    def _slide(self, signals: Tensor, random: np.random.Generator) -> Tensor:
        """Crop of (N, C, L): each signal earlier or later by up to `crop` samples."""
        count, channels, length = signals.shape
        first = self._draw(random, 2 * self.crop + 1, signals)
        source = first + torch.arange(length, device=signals.device)  # (N, L)
        padded = F.pad(signals, [self.crop] * 2)
        return padded.gather(2, source[:, None].expand(count, channels, length))

    def _holes(self, images: Tensor, random: np.random.Generator) -> Tensor:
        """Where cutout blanks: (N, 1, H, W) or (N, 1, L)."""
        if images.ndim == 3:
            return self._inside(images.shape[2], images, random)[:, None]
        rows, columns = (self._inside(size, images, random) for size in images.shape[2:])
        return rows[:, None, :, None] & columns[:, None, None, :]

    def _inside(self, size: int, images: Tensor, random: np.random.Generator) -> Tensor:
        start = self._draw(random, size, images) - self.cutout // 2  # the centre is anywhere in the image
        place = torch.arange(size, device=images.device)
        return (place >= start) & (place < start + self.cutout)  # (N, size)

    def _draw(self, random: np.random.Generator, below: int, images: Tensor) -> Tensor:
        """One whole number from 0 per image, (N, 1); drawn on the CPU, so that every device sees the same."""
        return torch.from_numpy(random.integers(below, size=(len(images), 1))).to(images.device)
