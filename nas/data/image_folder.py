"""A folder of image files, one folder per class: DIR/CLASS/*.jpg, or DIR/train/CLASS and DIR/test/CLASS.

Each image is turned upright, its largest centred square is resized to image_size x image_size. All
are decoded once into memory, in the order of their names. JPEG goes through simplejpeg where it is installed:
the same pixels as Pillow, sooner.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nas.data.files import existing
from nas.data.folders import find, in_threads
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


def read(directory: Path | None, settings: Data) -> Images:
    """All images of the folder; RGB, or grey where every single one is grey."""
    root = existing(directory, "image_folder", HOLDS)
    found = find(root, "image", ENDINGS)
    size = settings.image_size or IMAGE_SIZE
    paths = [path for path, _ in found.train + found.test]
    channels = 1 if all(in_threads(_is_grey, paths, DAMAGE)) else 3
    _require_memory(len(paths), channels, size)
    library = "Pillow" if simplejpeg is None else "simplejpeg and Pillow"
    log.info("decoding %d images to %d x %d x %d with %s", len(paths), channels, size, size, library)
    images, labels = _decode_all(found.train, channels, size)
    test = _decode_all(found.test, channels, size) if found.test else (None, None)
    return Images(images, labels, *test, found.classes)


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
    for row, pixels in enumerate(in_threads(partial(_decode, channels=channels, size=size), paths, DAMAGE)):
        images[row] = pixels
    return images, np.array([label for _, label in files], np.int64)


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
