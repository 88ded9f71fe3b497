"""The published forms of CIFAR-10 and CIFAR-100: python (pickles) and binary (records), packed or unpacked.

A pickle can run any code. These are read by an unpickler that builds byte arrays, lists, strings and
numbers and nothing else.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.images import Images

PIXELS = 3 * 32 * 32
REMEDY = "replace it by the original, or leave out data.directory to download it"


@dataclass(frozen=True)
class Form:
    """One published form: the names of its parts, and how to read them."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    read_batch: Callable[[bytes], tuple[np.ndarray, np.ndarray]]  # (N, 3072) uint8, (N,) int64
    read_names: Callable[[bytes], tuple[str, ...]]

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)


def read_folder(directory: Path, forms: Sequence[Form]) -> Images:
    """Whichever form lies in `directory`, is `directory`, or is the archive that `directory` names."""
    for form in forms:
        for path in (directory / form.folder, directory):
            if path.is_dir() and (
                path.name == form.folder or any((path / part).is_file() for part in form.train)
            ):
                return read_form(path, form)
        for path in (directory / form.archive, directory):
            if path.is_file() and path.name == form.archive:
                return read_form(path, form)
    state = "holds none of" if directory.is_dir() else "should be the folder of one of"
    expected = ", ".join(name for form in forms for name in (form.archive, form.folder))
    raise FileNotFoundError(
        f"data.directory is {directory}, which {'' if directory.exists() else 'does not exist and '}{state} "
        f"{expected}; leave it out to download the data"
    )


def read_form(path: Path, form: Form) -> Images:
    """The images in an archive or folder of one form."""
    contents = _read_parts(path, form.parts)
    if missing := [part for part in form.parts if part not in contents]:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}; {REMEDY}")

    def parsed(part: str, parse: Callable) -> tuple:
        try:
            return parse(contents[part])
        except ValueError as error:
            raise ValueError(f"{part} in {path} is cut short or damaged ({error}); {REMEDY}") from error

    batches = [parsed(part, form.read_batch) for part in (*form.train, form.test)]
    _require_equal({part: len(labels) for part, (_, labels) in zip(form.train, batches, strict=False)}, path)
    images = [pixels.reshape(-1, 3, 32, 32) for pixels, _ in batches]
    labels = [labels for _, labels in batches]
    names = parsed(form.names, form.read_names)
    return Images(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1], names)


def pickled_batch(content: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a pickled batch; `labels` is the key of the labels in it."""
    batch = _unpickle(content)
    pixels, numbers = _entry(batch, b"data"), _entry(batch, labels)
    if not isinstance(pixels, _ByteArray) or pixels.array.shape[1:] != (PIXELS,):
        raise ValueError(f"its data are not bytes of the shape (N, {PIXELS})")
    if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 <= n < 256 for n in numbers):
        raise ValueError(f"its {labels.decode()} are not a list of whole numbers from 0 to 255")
    if len(pixels.array) != len(numbers):
        raise ValueError(f"it has {len(pixels.array)} images and {len(numbers)} labels")
    return pixels.array, np.array(numbers, np.int64)


def pickled_names(content: bytes, key: bytes) -> tuple[str, ...]:
    """The class names in a pickled description."""
    names = _entry(_unpickle(content), key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"its {key.decode()} are not a list of names")
    return tuple(name.decode() for name in names)


def binary_batch(content: bytes, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of records of `labels` label bytes, the last of which counts, and 3072 pixels."""
    record = labels + PIXELS
    if len(content) % record or not content:
        raise ValueError(f"{len(content)} bytes, expected a multiple of {record}")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, labels:], records[:, labels - 1].astype(np.int64)


def text_names(content: bytes) -> tuple[str, ...]:
    """The class names in a description of one name per line."""
    return tuple(line.strip() for line in content.decode().splitlines() if line.strip())


def _unpickle(content: bytes) -> object:
    """Lists, dicts, strings, numbers and `_ByteArray` for arrays; a ValueError for anything else."""
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except (
        pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, MemoryError, OverflowError
    ) as error:  # fmt: skip  # what a damaged pickle can raise
        raise ValueError(str(error) or type(error).__name__) from error


class _ByteArray:
    """Stands in for a numpy array, whose own unpickling trusts what it is told of types and can crash."""

    def __init__(self, *_: object):
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it holds an array of something else than bytes")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _ByteType:
    """Stands in for numpy's dtype; there is only one."""

    def __init__(self, code: str | bytes, *_: object):
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, allowed are bytes (u1)")

    def __setstate__(self, state: tuple) -> None:
        """Byte order and alignment, which bytes do not have."""


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 spells bytes in the old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it holds bytes encoded as {encoding!r}, allowed is latin1")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    allowed: Mapping[tuple[str, str], Callable] = {
        ("numpy.core.multiarray", "_reconstruct"): _ByteArray,
        ("numpy._core.multiarray", "_reconstruct"): _ByteArray,
        ("numpy", "ndarray"): _ByteArray,
        ("numpy", "dtype"): _ByteType,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return self.allowed[module, name]


def _entry(batch: object, key: bytes) -> object:
    if not isinstance(batch, dict) or key not in batch:
        raise ValueError(f"it has no {key.decode()}")
    return batch[key]


def _require_equal(counts: Mapping[str, int], path: Path) -> None:
    """Raise unless all training batches hold as many images; a file of records may be cut between two."""
    short = min(counts, key=counts.__getitem__)
    if counts[short] < max(counts.values()):
        raise ValueError(
            f"{short} in {path} is cut short: {counts[short]} images, others have {max(counts.values())}; {REMEDY}"
        )


def _read_parts(path: Path, parts: Sequence[str]) -> dict[str, bytes]:
    if path.is_dir():
        return {part: (path / part).read_bytes() for part in parts if (path / part).is_file()}
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:  # read in place: nothing is unpacked to where its name may point
                if member.isfile() and (name := member.name.rpartition("/")[2]) in parts:
                    contents[name] = archive.extractfile(member).read()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); {REMEDY}") from error
    return contents
