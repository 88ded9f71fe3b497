"""What `nas explain` found of a run's candidates, kept in the run's folder for who looks at it later, without torch.

RUN/explained/CANDIDATE.json             a candidate taken apart, on the device of the run
RUN/explained/CANDIDATE@DEVICE.json      on one of several devices, by its name in the experiment; or on any other
                                         device, by what it is, onnxruntime-cpu,threads=2
RUN/explained/peaks/*.json               the peaks of the devices, against which all latencies of the run are held
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from nas.explain import Explained, Step
from nas.hardware.peaks import Peaks
from nas.json_file import read_json, write_json
from nas.storage.records import Latency, Run

FOLDER = "explained"
WAY_OUT = "remove it, and explain again"


def keep(run: Run, found: Explained, device: str = "") -> None:
    """
    Args:
        found: of a candidate of the run, whose key is its name.
        device: the name that the device has in the experiment, if it has several; what it is, if it has none there.
    """
    write_json(folder_of(run) / f"{_stem(found.name, device)}.json", asdict(found))


def keep_peaks(run: Run, peaks: Peaks) -> None:
    name = "-".join(str(peaks.of[word]) for word in ("device", "precision", "threads"))
    write_json(folder_of(run) / "peaks" / f"{name}.json", asdict(peaks))


def kept(run: Run, key: str, device: str = "") -> Explained | None:
    """
    Raises:
        ValueError: the file is damaged.
    """
    path = folder_of(run) / f"{_stem(key, device)}.json"
    return _explained(path) if path.is_file() else None


def kept_everywhere(run: Run, key: str) -> dict[str, Explained]:
    """A candidate on all devices on which it was explained, by the device as in `keep`; that of the run comes first.

    Raises:
        ValueError: a file is damaged.
    """
    found = {"": kept(run, key)}
    for path in sorted(folder_of(run).glob(f"{key}@*.json")):
        found[unquote(path.stem.partition("@")[2])] = _explained(path)
    return {device: one for device, one in found.items() if one is not None}


def kept_peaks(run: Run) -> list[Peaks]:
    """Of all devices on which candidates of the run were explained.

    Raises:
        ValueError: a file is damaged.
    """
    return [_peaks(path) for path in sorted((folder_of(run) / "peaks").glob("*.json"))]


def signs(run: Run) -> str:
    """A text that changes whenever something is explained; empty where nothing is."""
    files = sorted(folder_of(run).rglob("*.json"))
    return " ".join(f"{path.name}:{path.stat().st_mtime_ns}" for path in files)


def folder_of(run: Run) -> Path:
    """Where the explanations of a run are."""
    return Path(run.folder) / FOLDER


def _stem(key: str, device: str) -> str:
    return f"{key}@{quote(device, safe=' ,=')}" if device else key


def _explained(path: Path) -> Explained:
    stored = read_json(path, WAY_OUT)
    try:
        latency = Latency.from_json(json.dumps(stored["latency"]))
        steps = tuple(_step(one) for one in stored["steps"])
        read = {"latency": latency, "peaks": Peaks.from_dict(stored["peaks"]), "steps": steps}
        return Explained(**{**stored, **read})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {WAY_OUT}") from None


def _step(stored: dict[str, Any]) -> Step:
    return Step(**{**stored, "nodes": tuple(stored["nodes"])})


def _peaks(path: Path) -> Peaks:
    try:
        return Peaks.from_dict(read_json(path, WAY_OUT))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); {WAY_OUT}") from None
