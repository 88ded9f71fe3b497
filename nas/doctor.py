"""Is everything here that the platform needs? What is missing comes with how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = ("torch", "numpy", "onnx", "onnxruntime", "pymoo", "moocore", "sqlalchemy", "alembic", "safetensors")
FOR_SOME = {"ray": "--workers", "dash": "nas dashboard", "simplejpeg": "fast JPEG folders"}


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    said: str
    needed: bool = True


def examine(store_url: str, runs: Path) -> list[Finding]:
    """Look at Python, packages, processor, GPU, latency devices, store and folders."""
    findings = [
        Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} (3.11 or newer)"),
        Finding("processor", True, f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"),
    ]
    findings += [_package(name, None) for name in NEEDED]
    findings += [_package(name, use) for name, use in FOR_SOME.items()]
    return [*findings, _gpu(), *_devices(), _store(store_url), _folder(runs)]


def _package(name: str, used_for: str | None) -> Finding:
    try:
        return Finding(name, True, version(name), used_for is None)
    except PackageNotFoundError:
        said = f"not installed{f'; needed for {used_for}' if used_for else ''}: pip install {name}"
        return Finding(name, False, said, used_for is None)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", False, "torch sees none; training runs on the processor", needed=False)
    return Finding("gpu", True, torch.cuda.get_device_name(), needed=False)


def _devices() -> list[Finding]:
    from nas.hardware import DEVICES

    reasons = {name: device.available() for name, device in DEVICES.items()}
    return [
        Finding(f"device {name}", reason is None, reason or "can be measured", needed=False)
        for name, reason in reasons.items()
    ]


def _store(url: str) -> Finding:
    from nas.storage.store import Store

    try:
        with Store(url, create=False) as store:
            count = len(store.runs())
            return Finding("store", True, f"{url}: {count} run{'' if count == 1 else 's'}")
    except FileNotFoundError:
        return Finding("store", True, f"{url}: not there yet, `nas run` makes it")
    except (ValueError, OSError) as error:
        return Finding("store", False, str(error))


def _folder(runs: Path) -> Finding:
    if runs.exists() and not runs.is_dir():
        return Finding("runs", False, f"{runs} is a file; give --runs a folder")
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    writable = os.access(place, os.W_OK)
    said = (
        f"{runs}: {free:.1f} GB free" + ("" if free > 0.5 else "; give --runs a folder with more room")
        if writable
        else f"{place} is not writable; give --runs a folder that is"
    )
    return Finding("runs", writable and free > 0.5, said)
