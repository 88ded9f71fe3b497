"""Images or signals in one NumPy archive: `images` or `signals`, `labels`, and perhaps `test_images` or
`test_signals`, `test_labels`, `classes`.

Images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float; with four axes the channels are
the smaller of the second and the last. Signals are (N, L) or (N, C, L), floats or whole numbers, which are
taken as they are and not scaled: normalisation by mean and deviation makes all scales one. Labels are whole
numbers from 0.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.data.images import Images

if TYPE_CHECKING:
    from nas.data import Data

KEYS = ("images", "signals", "labels", "test_images", "test_signals", "test_labels", "classes")

log = logging.getLogger(__name__)


def read(directory: Path | None, settings: Data) -> Images:
    """The arrays of the file that data.directory names; class names are the labels where it brings none."""
    if directory is None:
        raise ValueError("data.directory is missing; npz needs it, the path of a .npz file")
    if not directory.is_file():
        state = "is a folder" if directory.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"data.directory is {directory}, which {state}; npz needs the path of a .npz file"
        )
    arrays = _arrays(directory)
    what, convert = ("signals", _signals) if "signals" in arrays else ("images", _images)
    if both := sorted(
        {"images", "test_images", "signals", "test_signals"} & arrays.keys() - {what, f"test_{what}"}
    ):
        raise ValueError(
            f"{directory} has {what} and {', '.join(both)}; a network learns from one or the other: leave one out"
        )
    for present, absent in ((what, "labels"), ("labels", what)):
        if absent not in arrays:
            raise ValueError(f"{directory} has no {absent}; it has {', '.join(arrays) or 'nothing'}")
        if f"test_{present}" in arrays and f"test_{absent}" not in arrays:
            raise ValueError(f"{directory} has test_{present} but no test_{absent}; it needs both or neither")
    labels = _labels(arrays["labels"], f"labels in {directory}")
    train = convert(arrays[what], f"{what} in {directory}")
    test, test_labels = None, None
    if f"test_{what}" in arrays:
        test = convert(arrays[f"test_{what}"], f"test_{what} in {directory}")
        test_labels = _labels(arrays["test_labels"], f"test_labels in {directory}")
    return Images(train, labels, test, test_labels, _classes(arrays, labels, directory))


# what numpy and zipfile raise for an archive that is damaged, encrypted, or says it is enormous
DAMAGE = (
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    RuntimeError,
    NotImplementedError,
)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array, as numpy.save writes it")
            arrays = {key: archive[key] for key in archive.files if key in KEYS}
            for key, array in arrays.items():
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{key} is no array")
            return arrays
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(
            f"{path} is not a whole .npz file of plain arrays ({reason}); write it again with numpy.savez"
        ) from error


def _images(images: np.ndarray, what: str) -> np.ndarray:
    """Any of the allowed layouts as (N, C, H, W), uint8 or float32."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(f"{what} are {images.dtype}; must be uint8 or a float type")
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{what} have the shape {images.shape}; must be (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] == images.shape[3]:
        raise ValueError(
            f"{what} have the shape {images.shape}, which may be (N, C, H, W) or (N, H, W, C); "
            "the channels must be fewer than the pixels of a side"
        )
    elif images.shape[3] < images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            images = images.astype(np.float32)
    return np.ascontiguousarray(images)


def _signals(signals: np.ndarray, what: str) -> np.ndarray:
    """Either of the allowed layouts as (N, C, L) float32."""
    if signals.dtype.kind not in "iuf":
        raise ValueError(f"{what} are {signals.dtype}; must be whole numbers or a float type")
    if signals.ndim not in (2, 3):
        raise ValueError(f"{what} have the shape {signals.shape}; must be (N, L) or (N, C, L)")
    signals = signals[:, None] if signals.ndim == 2 else signals
    _, channels, length = signals.shape
    if channels > length:
        log.warning(
            "%s are read as %d channels of %d samples; if they are (N, L, C), transpose them to (N, C, L)",
            what, channels, length,
        )  # fmt: skip
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.ascontiguousarray(signals, np.float32)


def _labels(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"{what} are {labels.dtype} {labels.shape}; must be whole numbers of the shape (N,)")
    if labels.size and labels.min() < 0:
        raise ValueError(f"{what} go down to {labels.min()}; must count the classes from 0")
    return labels.astype(np.int64)


def _classes(arrays: Mapping[str, np.ndarray], labels: np.ndarray, path: Path) -> tuple[str, ...]:
    if "classes" not in arrays:
        return tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    classes = arrays["classes"]
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise ValueError(
            f"classes in {path} are {classes.dtype} {classes.shape}; must be strings, one per class"
        )
    return tuple(map(str, classes))
