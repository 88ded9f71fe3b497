"""The images or signals of an experiment: read, checked, and cut into splits that never mix.

A reader is one file here and one line in DATASETS. It has one function, `read(directory, settings)`,
and returns `Images`: everything its source holds, nothing decided. What is train, validation,
calibration and test is decided once, in `splits`, for all readers alike.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from nas.data import cifar10, cifar100, digits, fashion_mnist, image_folder, npz, wav_folder
from nas.data.images import Images, Split, check, noun
from nas.data.splits import Splits, split

__all__ = ["DATASETS", "Data", "Images", "Split", "Splits", "load"]

log = logging.getLogger(__name__)

DATASETS: dict[str, ModuleType] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "npz": npz,
    "image_folder": image_folder,
    "wav_folder": wav_folder,
}


@dataclass(frozen=True)
class Data:
    """The `data:` section of an experiment file.

    Counts are images or signals, `crop` and `cutout` are pixels or samples.
    """

    name: str  # a key of DATASETS
    directory: str | None = None  # where its files are; for npz the file itself
    image_size: int | None = None  # image_folder only: the side of the square it makes; None means 64
    length: int | None = None  # wav_folder only: samples of every signal; None means the median
    validation: int | float | None = None  # taken out of train for the search; None: 5000 or 20 %, the lesser
    calibration: int = 2048  # taken out of train for batch-norm statistics; never more than 10 % of it
    test: float = 0.2  # share taken for test where the source has no test set of its own
    crop: int = 0  # training images are padded by so much, then cut back at a random place
    flip: bool = False  # half of the training images are mirrored; signals are not
    cutout: int = 0  # side of a square that is blanked in each training image, length of a span in a signal
    seed: int = 0  # of the splits

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            near = get_close_matches(str(self.name), DATASETS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"data.name is {self.name!r}; it must be one of {', '.join(DATASETS)}{hint}")
        if self.directory is not None and not isinstance(self.directory, str):
            raise ValueError(
                f"data.directory is {self.directory!r}; it must be a path in quotes, or left out"
            )
        for key, reader, verb in (
            ("image_size", "image_folder", "resizes"),
            ("length", "wav_folder", "cuts and pads"),
        ):
            value = getattr(self, key)
            if value is None:
                continue
            self._require(key, _whole(value, 1), "a whole number of at least 1")
            if self.name != reader:
                raise ValueError(
                    f"data.{key} is {value}, but only {reader} {verb}; leave it out for {self.name}"
                )
        self._require(
            "validation",
            self.validation is None or _whole(self.validation, 1) or _share(self.validation),
            "a whole number of at least 1, a share between 0 and 1, or left out",
        )
        self._require("calibration", _whole(self.calibration, 2), "a whole number of at least 2")
        self._require("test", _share(self.test), "a share between 0 and 1, like 0.2")
        self._require("flip", isinstance(self.flip, bool), "true or false")
        for key in ("crop", "cutout", "seed"):
            self._require(key, _whole(getattr(self, key), 0), "a whole number of at least 0")

    def _require(self, key: str, right: bool, allowed: str) -> None:
        if not right:
            raise ValueError(f"data.{key} is {getattr(self, key)!r}; it must be {allowed}")


def load(settings: Data) -> Splits:
    """Read a data set and cut it into its splits; the same settings give the same splits."""
    directory = None if settings.directory is None else Path(settings.directory).expanduser()
    images = DATASETS[settings.name].read(directory, settings)
    check(images, settings.name if directory is None else str(directory))
    _check_augmentation(settings, images)
    splits = split(images, settings)
    log.info("%s: %s", settings.name, splits)
    return splits


def _check_augmentation(settings: Data, images: Images) -> None:
    sides = images.train.shape[2:]
    size = " x ".join(map(str, sides)) if len(sides) > 1 else f"{sides[0]} samples long"
    for key in ("crop", "cutout"):
        if (value := getattr(settings, key)) >= min(sides):
            raise ValueError(
                f"data.{key} is {value}, but the {noun(images.train)}s are {size}; it must be below {min(sides)}"
            )
    if settings.flip and len(sides) == 1:
        raise ValueError(
            "data.flip is True, but signals are not mirrored: time has a direction; leave it out"
        )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _share(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1
