"""A folder of WAV files, one folder per class: DIR/CLASS/*.wav, or DIR/train/CLASS and DIR/test/CLASS.

All are of one sample rate and one number of channels: nothing is resampled or mixed. Each is brought to
`data.length` samples, by default the median length of the training files: of a longer one the middle is
taken, a shorter one gets zeros on both sides. PCM is scaled to -1..1, floats are taken as they are.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.data.files import existing
from nas.data.folders import Labelled, find, in_threads
from nas.data.images import Images
from nas.data.wav import Header, read_header, read_samples

if TYPE_CHECKING:
    from nas.data import Data

log = logging.getLogger(__name__)

ENDINGS = (".wav",)
MEMORY = 6 * 2**30  # bytes of samples
DAMAGE = (OSError, ValueError, struct.error)
HOLDS = "the folder that holds CLASS/signal.wav, or train/CLASS/signal.wav and test/CLASS/signal.wav"


def read(directory: Path | None, settings: Data) -> Images:
    """All signals of the folder, (N, C, L) float32."""
    root = existing(directory, "wav_folder", HOLDS)
    found = find(root, "signal", ENDINGS)
    paths = [path for path, _ in found.train + found.test]
    headers = dict(zip(paths, in_threads(_header, paths, DAMAGE), strict=True))
    rate = _shared(headers, "rate", "a sample rate of {} Hz", "resample")
    channels = _shared(headers, "channels", "{} channel(s)", "mix")
    lengths = [headers[path].length for path, _ in found.train]
    length = settings.length or int(np.median(lengths))
    _require_memory(len(paths), channels, length)
    log.info(
        "reading %d signals of %d x %d at %d Hz; they are %d to %d samples long",
        len(paths), channels, length, rate, min(lengths), max(lengths),
    )  # fmt: skip
    signals, labels = _read_all(found.train, channels, length)
    test = _read_all(found.test, channels, length) if found.test else (None, None)
    return Images(signals, labels, *test, found.classes, rate)


def _shared(headers: dict[Path, Header], key: str, words: str, remedy: str) -> int:
    """What all files have in common, or an error that names the first that is unlike most."""
    values = {path: getattr(header, key) for path, header in headers.items()}
    [(usual, _)] = Counter(values.values()).most_common(1)
    for path, value in values.items():
        if value != usual:
            raise ValueError(
                f"{path} has {words.format(value)}, most others have {words.format(usual)}; "
                f"{remedy} or remove it"
            )
    return usual


def _require_memory(count: int, channels: int, length: int) -> None:
    needed = 4 * count * channels * length
    if needed > MEMORY:
        raise ValueError(
            f"{count} signals of {channels} x {length} take {needed / 2**30:.1f} GiB of memory, allowed are "
            f"{MEMORY / 2**30:.0f}; set data.length to {MEMORY // (4 * count * channels)} or less"
        )


def _read_all(files: Labelled, channels: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    signals = np.empty((len(files), channels, length), np.float32)
    paths = [path for path, _ in files]
    for row, samples in enumerate(in_threads(partial(_decode, length=length), paths, DAMAGE)):
        signals[row] = samples
    return signals, np.array([label for _, label in files], np.int64)


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file)


def _decode(path: Path, length: int) -> np.ndarray:
    """The middle `length` samples of a file, (C, length), with zeros where it has none."""
    with path.open("rb") as file:
        header = read_header(file)
        count = min(length, header.length)
        samples = read_samples(file, header, (header.length - count) // 2, count)
    before = (length - count) // 2
    return np.pad(samples, ((0, 0), (before, length - count - before)))
