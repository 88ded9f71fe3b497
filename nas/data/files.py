"""Where the files of a data set are: in a folder the user names, or in a cache filled from mirrors."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

log = logging.getLogger(__name__)

TIMEOUT_S = 30  # without a byte


def cache(name: str) -> Path:
    """The folder that downloads of one data set go to."""
    root = os.environ.get("PARETOSHIFT_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "paretoshift") / name


def existing(directory: Path | None, name: str, holds: str) -> Path:
    """The folder that data.directory names, or an error that says what it should hold."""
    if directory is None:
        raise ValueError(f"data.directory is missing; {name} needs it, {holds}")
    if not directory.exists():
        raise FileNotFoundError(
            f"data.directory is {directory}, which does not exist; {name} needs it, {holds}"
        )
    if not directory.is_dir():
        raise NotADirectoryError(
            f"data.directory is {directory}, which is a file; {name} needs a folder, {holds}"
        )
    return directory


def fetch(name: str, md5: str, mirrors: Sequence[str], folder: Path) -> Path:
    """The file `name` in `folder`, downloaded there if need be from the first mirror that has it right.

    Only whole files with the right checksum ever get that name, so a download may be cut off at any time.
    """
    path = folder / name
    if path.exists():
        if (found := checksum(path)) != md5:
            raise ValueError(
                f"{path} is damaged: its MD5 is {found}, expected {md5}; delete it and run again to download it"
            )
        return path
    failures = []
    for mirror in mirrors:
        log.warning("downloading %s%s to %s", mirror, name, path)
        try:
            _download(mirror + name, md5, path)
        except (OSError, HTTPException) as error:
            log.warning("that failed: %s", error)
            failures.append(f"{mirror}{name} ({error})")
        else:
            return path
    raise OSError(
        f"cannot download {name} to {folder}: tried {', '.join(failures)}; "
        "put the file there yourself, or set data.directory to a folder that has it"
    )


def checksum(path: Path) -> str:
    """The MD5 of a file, in hex; the sum that these data sets are published with."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(url: str, md5: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response, part.open("wb") as file:
            _copy(response, file, path.name)
            file.flush()
            os.fsync(file.fileno())
        if (found := checksum(part)) != md5:
            raise OSError(f"its MD5 is {found}, expected {md5}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _copy(response, file, name: str) -> None:
    """Copy what is downloaded, and show how far it is."""
    from nas.progress import track

    size = int(response.headers.get("Content-Length") or 0)
    with track(f"downloading {name}, MB", max(size >> 20, 1), brief=True) as shown:
        while block := response.read(1 << 20):
            file.write(block)
            shown.to(file.tell() >> 20)
