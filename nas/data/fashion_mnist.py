"""Fashion-MNIST (Xiao et al., 2017): 70,000 grey images of 1 x 28 x 28, from its four original IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.data.files import cache, existing, fetch
from nas.data.images import Images

if TYPE_CHECKING:
    from nas.data import Data

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CHECKSUMS = {  # MD5
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
REMEDY = "replace it by the original, or leave out data.directory to download it"


def read(directory: Path | None, settings: Data) -> Images:
    """The four files in `directory`, gzipped or not; without one they are downloaded to the cache."""
    if directory is None:
        paths = [fetch(name, md5, MIRRORS, cache("fashion_mnist")) for name, md5 in CHECKSUMS.items()]
    else:
        paths = _find(existing(directory, "fashion_mnist", f"the folder of {', '.join(CHECKSUMS)}"))
    images, labels, test, test_labels = map(_read_idx, paths)
    return Images(
        images[:, None], labels.astype(np.int64), test[:, None], test_labels.astype(np.int64), CLASSES
    )


def _find(folder: Path) -> list[Path]:
    paths, missing = [], []
    for name in CHECKSUMS:
        spellings = (folder / name, folder / name.removesuffix(".gz"))
        found = [path for path in spellings if path.is_file()]
        paths += found[:1]
        missing += [] if found else [name]
    if missing:
        raise FileNotFoundError(
            f"data.directory is {folder}, which lacks {', '.join(missing)}; "
            "add the original, or leave out data.directory to download them"
        )
    return paths


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file: (N, H, W) for images, (N,) for labels."""
    axes = 3 if "images" in path.name else 1
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); {REMEDY}") from error
    start = 4 * (1 + axes)
    magic = 0x0800 + axes  # 08 says bytes, then the number of axes
    if len(content) < start or struct.unpack_from(">I", content)[0] != magic:
        raise ValueError(
            f"{path} is not an IDX file: it starts with {content[:4].hex()}, not {magic:08x}; {REMEDY}"
        )
    shape = struct.unpack_from(f">{axes}I", content, 4)
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} is cut short or damaged: {len(content) - start} bytes of data, "
            f"expected {' x '.join(map(str, shape))} = {math.prod(shape)}; {REMEDY}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
