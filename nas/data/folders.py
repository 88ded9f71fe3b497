"""Files in one folder per class: DIR/CLASS/*, or DIR/train/CLASS and DIR/test/CLASS (or val)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Labelled = list[tuple[Path, int]]


@dataclass(frozen=True)
class Found:
    """The files of a data set with their labels, in the order of classes and names; `test` may be empty."""

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def find(root: Path, noun: str, endings: Sequence[str]) -> Found:
    """Every file below the class folders of `root` that has one of the endings.

    Args:
        noun: what a file holds, for messages: "image".
    """
    parts = any(_folders(root / "train")) if (root / "train").is_dir() else False
    folder = root / "train" if parts else root
    classes = tuple(path.name for path in _folders(folder))
    if len(classes) < 2:
        found = f"the one class folder {classes[0]}" if classes else "no class folder"
        raise ValueError(
            f"{folder} holds {found}; needs at least two classes, as CLASS/{noun}{endings[0]} each"
        )
    train = _find(folder, classes, noun, endings)
    return Found(classes, train, _find_test(root, classes, noun, endings) if parts else [])


def in_threads(
    work: Callable[[Path], Result], paths: Sequence[Path], damage: tuple[type[Exception], ...]
) -> Iterator[Result]:
    """What `work` makes of each path, in order; a file that raises one of `damage` is named."""

    def named(path: Path) -> Result:
        try:
            return work(path)
        except damage as error:
            raise ValueError(f"{path} cannot be decoded ({error}); repair or remove it") from error

    from nas.progress import track

    workers = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers) as pool, track("reading files", len(paths), brief=True) as shown:
        for number, result in enumerate(pool.map(named, paths), start=1):
            yield result
            shown.to(number)


def _find(folder: Path, classes: Sequence[str], noun: str, endings: Sequence[str]) -> Labelled:
    found = []
    for label, name in enumerate(classes):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in endings)
        files = [path for path in files if path.is_file() and not path.name.startswith(".")]
        if not files:
            raise ValueError(
                f"{folder / name} holds no {noun}; add some ({', '.join(endings)}) or remove the folder"
            )
        found += [(path, label) for path in files]
    return found


def _find_test(root: Path, classes: Sequence[str], noun: str, endings: Sequence[str]) -> Labelled:
    """The files of root/test or, without that, of root/val; none if there is neither."""
    folders = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not folders:
        return []
    if len(folders) > 1:
        log.warning(
            "%s is not read: validation %ss are taken out of train (data.validation)", folders[1], noun
        )
    names = [path.name for path in _folders(folders[0])]
    if unknown := [name for name in names if name not in classes]:
        raise ValueError(
            f"{folders[0]} has the class {', '.join(unknown)}, which {root / 'train'} lacks; "
            f"it has {', '.join(classes)}"
        )
    labels = {name: label for label, name in enumerate(classes)}
    return [(path, labels[name]) for name in names for path, _ in _find(folders[0], [name], noun, endings)]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
