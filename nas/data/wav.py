"""Samples from a WAV file: PCM of 8, 16, 24 and 32 bits, and floats of 32 and 64.

RIFF/WAVE, "Multimedia Programming Interface and Data Specifications 1.0", IBM and Microsoft 1991: a row
of chunks, each a name, a length and so many bytes, padded to an even number. `fmt ` says how the samples
of `data` are written, the channels of one moment side by side, little end first; WAVE_FORMAT_EXTENSIBLE
(Microsoft 2001) holds the format proper at its end. PCM of 8 bits is unsigned, all other is signed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
BYTES = {PCM: (1, 2, 3, 4), FLOAT: (4, 8)}


@dataclass(frozen=True)
class Header:
    """How the samples of a file are written, and where."""

    rate: int  # per second
    channels: int
    length: int  # samples per channel
    format: int  # PCM or FLOAT
    width: int  # bytes of a sample
    start: int  # of the first


def read_header(file: BinaryIO) -> Header:
    """Everything but the samples.

    Raises:
        ValueError: it is no WAV file, is cut short, or is of a format that is not read here.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if end == 0:
        raise ValueError("it is empty")
    if not (start := file.read(12)).startswith(b"RIFF") or start[8:] != b"WAVE":
        raise ValueError("it does not begin as a RIFF/WAVE file does")
    written = None
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        start = file.tell()
        if name == b"data":
            if written is None:
                raise ValueError("its samples come before their format")
            return _header(*written, start, size, end)
        if name == b"fmt ":
            written = _format(file.read(min(size, 40)))
        file.seek(start + size + size % 2)
    raise ValueError("it ends before its samples")


def read_samples(file: BinaryIO, header: Header, first: int, count: int) -> np.ndarray:
    """`count` samples from the `first` on, (channels, count) float32; PCM is brought to -1..1."""
    frame = header.channels * header.width
    file.seek(header.start + first * frame)
    raw = np.frombuffer(file.read(count * frame), np.uint8).reshape(-1, header.width)
    samples = _numbers(raw, header.format)
    if header.format == FLOAT and not np.isfinite(samples).all():
        raise ValueError("it has a sample that is NaN or infinite")
    return samples.reshape(count, header.channels).T


def _format(content: bytes) -> tuple[int, int, int, int]:
    """Rate, channels, format and bytes of a sample, from a `fmt ` chunk."""
    if len(content) < 16:
        raise ValueError("its format is cut short")
    format, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", content[:16])
    if format == EXTENSIBLE and len(content) >= 26:
        (format,) = struct.unpack("<H", content[24:26])
    width = bits // 8
    if bits % 8 or width not in BYTES.get(format, ()):
        raise ValueError(
            f"its samples are of format {format} with {bits} bits; "
            "read are PCM (1) of 8, 16, 24, 32 and float (3) of 32, 64 bits"
        )
    if channels < 1 or rate < 1 or frame != channels * width:
        raise ValueError(f"its format has {channels} channels, {rate} Hz and frames of {frame} bytes")
    return rate, channels, format, width


def _header(rate: int, channels: int, format: int, width: int, start: int, size: int, end: int) -> Header:
    if start + size > end:
        raise ValueError(f"it is cut short: {end - start} of {size} bytes of samples")
    length, rest = divmod(size, channels * width)
    if rest or not length:
        raise ValueError("it ends within a sample" if rest else "it has no sample")
    return Header(rate, channels, length, format, width, start)


def _numbers(raw: np.ndarray, format: int) -> np.ndarray:
    """(n, width) bytes as n float32 numbers; 24 bits are the upper ones of 32."""
    if raw.shape[1] == 3:
        raw = np.concatenate([np.zeros((len(raw), 1), np.uint8), raw], axis=1)
    width = raw.shape[1]
    kind = "f" if format == FLOAT else "u" if width == 1 else "i"
    samples = np.ascontiguousarray(raw).view(f"<{kind}{width}")[:, 0]
    with np.errstate(over="ignore"):  # a float64 may become infinite, and is refused as such
        samples = samples.astype(np.float32)
    if format == FLOAT:
        return samples
    return samples / 128 - 1 if width == 1 else samples / 2 ** (8 * width - 1)
