"""A folder of image files, one folder per class: DIR/CLASS/*.jpg, or DIR/train/CLASS and DIR/test/CLASS.

Each image is turned upright, its largest centred square is resized to image_size x image_size. All
are decoded once into memory, in the order of their names. JPEG goes through simplejpeg where it is installed:
the same pixels as Pillow, sooner.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from nas.data.files import existing
from nas.data.images import Images

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

if TYPE_CHECKING:
    from nas.data import Data

log = logging.getLogger(__name__)

IMAGE_SIZE = 64
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B")  # Pillow's modes without colour
MEMORY = 6 * 2**30  # bytes of decoded images
UPRIGHT = {  # what turns an image upright, by its Exif orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # the Exif tag
DAMAGE = (  # what Pillow raises for a file that is not what it says
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
HOLDS = "the folder that holds CLASS/image.jpg, or train/CLASS/image.jpg and test/CLASS/image.jpg"

Result = TypeVar("Result")


def read(directory: Path | None, settings: Data) -> Images:
    """All images of the folder; RGB, or grey where every single one is grey."""
    root = existing(directory, "image_folder", HOLDS)
    parts = any(_folders(root / "train")) if (root / "train").is_dir() else False
    folder = root / "train" if parts else root
    classes = tuple(path.name for path in _folders(folder))
    if len(classes) < 2:
        found = f"the one class folder {classes[0]}" if classes else "no class folder"
        raise ValueError(f"{folder} holds {found}; needs at least two classes, as CLASS/image.jpg each")
    train = _find(folder, classes)
    test = _find_test(root, classes) if parts else []
    size = settings.image_size or IMAGE_SIZE
    paths = [path for path, _ in train + test]
    channels = 1 if all(_in_threads(_is_grey, paths)) else 3
    _require_memory(len(paths), channels, size)
    library = "Pillow" if simplejpeg is None else "simplejpeg and Pillow"
    log.info("decoding %d images to %d x %d x %d with %s", len(paths), channels, size, size, library)
    images, labels = _decode_all(train, channels, size)
    return Images(images, labels, *(_decode_all(test, channels, size) if test else (None, None)), classes)


def _find(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every image of each class with its label, in the order of classes and names."""
    found = []
    for label, name in enumerate(classes):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS)
        files = [path for path in files if path.is_file() and not path.name.startswith(".")]
        if not files:
            raise ValueError(
                f"{folder / name} holds no image; add some ({', '.join(ENDINGS)}) or remove the folder"
            )
        found += [(path, label) for path in files]
    return found


def _find_test(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """The images of root/test or, without that, of root/val; none if there is neither."""
    folders = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not folders:
        return []
    if len(folders) > 1:
        log.warning("%s is not read: validation images are taken out of train (data.validation)", folders[1])
    names = [path.name for path in _folders(folders[0])]
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(
            f"{folders[0]} has the class {', '.join(unknown)}, which {root / 'train'} lacks; "
            f"it has {', '.join(classes)}"
        )
    labels = {name: label for label, name in enumerate(classes)}
    return [(path, labels[name]) for name in names for path, _ in _find(folders[0], [name])]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _require_memory(count: int, channels: int, size: int) -> None:
    needed = count * channels * size**2
    if needed > MEMORY:
        fitting = int((MEMORY / count / channels) ** 0.5)
        raise ValueError(
            f"{count} images of {channels} x {size} x {size} take {needed / 2**30:.1f} GiB of memory, "
            f"allowed are {MEMORY / 2**30:.0f}; lower data.image_size to {fitting} or less"
        )


def _decode_all(files: Sequence[tuple[Path, int]], channels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((len(files), channels, size, size), np.uint8)
    paths = [path for path, _ in files]
    for row, pixels in enumerate(_in_threads(partial(_decode, channels=channels, size=size), paths)):
        images[row] = pixels
    return images, np.array([label for _, label in files], np.int64)


def _in_threads(work: Callable[[Path], Result], paths: Sequence[Path]) -> Iterator[Result]:
    """What `work` makes of each path, in order; the decoders let go of Python's lock."""

    def named(path: Path) -> Result:
        try:
            return work(path)
        except DAMAGE as error:
            raise ValueError(f"{path} cannot be decoded ({error}); repair or remove it") from error

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        yield from pool.map(named, paths)


def _is_grey(path: Path) -> bool:
    with Image.open(path) as image:
        return image.mode in GREY


def _decode(path: Path, channels: int, size: int) -> np.ndarray:
    """One image file as (C, size, size)."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
        pixels = _eight_bits(_pixels(content, image, size), "L" if channels == 1 else "RGB")
    side = min(pixels.size)
    left, top = (pixels.width - side) / 2, (pixels.height - side) / 2
    square = pixels.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    upright = square if turn is None else square.transpose(turn)
    return np.asarray(upright).reshape(size, size, channels).transpose(2, 0, 1)


def _pixels(content: bytes, image: Image.Image, size: int) -> Image.Image:
    """The decoded image; a large JPEG at a half, quarter or eighth, at least twice the size it will have."""
    if image.format != "JPEG":
        return image
    scale = max((scale for scale in (2, 4, 8) if min(image.size) // scale >= 2 * size), default=1)
    width, height = -(-image.width // scale), -(-image.height // scale)
    if simplejpeg is not None and image.mode in ("RGB", "L"):
        colours = "RGB" if image.mode == "RGB" else "GRAY"
        try:
            pixels = simplejpeg.decode_jpeg(content, colours, min_height=height, min_width=width)
            return Image.fromarray(pixels.squeeze(2) if image.mode == "L" else pixels)
        except ValueError:
            pass  # Pillow has the last word: it reads a file that is only odd, and refuses one that is cut
    image.draft(image.mode, (image.width // scale, image.height // scale))
    return image


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """The image as L or RGB."""
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are of Pillow's mode {image.mode}; save it with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I;16"):  # Pillow would clip to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)
