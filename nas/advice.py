"""Which single change of an exported architecture its run's latency model predicts to save time, and how much."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas import config
from nas.devices import TIMED, on
from nas.hardware import Device, declared
from nas.predictors.latency import LatencyPredictor, model_file
from nas.storage.records import Run
from search_spaces import architecture_from_json, space_from_json


@dataclass(frozen=True)
class Change:
    """One decision taken otherwise, all others as they are; those that only then arise take their first option."""

    decision: str
    was: str
    becomes: str
    milliseconds: float  # predicted of the whole network
    saved_ms: float  # predicted


@dataclass(frozen=True)
class Advice:
    """What is predicted for the architecture itself, and for the best option of each decision that saves time."""

    milliseconds: float
    changes: tuple[Change, ...]  # the best first
    error: float | None  # the median relative one of the prediction; None where it is not known
    prediction: str  # of what, and how well


def run_of(folder: Path) -> str:
    """The name of the run that an export is of.

    Raises:
        ValueError: the folder's card is damaged.
    """
    try:
        return json.loads((folder / "card.json").read_text(encoding="utf-8"))["run"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{folder / 'card.json'} is damaged ({error}); export again") from None


def advise(folder: Path, run: Run, device: Device) -> Advice:
    """
    Args:
        folder: of an export of the run.

    Raises: as `advise_on`.
    """
    stored = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    return advise_on(json.dumps(stored["architecture"]), run, device)


def advise_on(architecture: str, run: Run, device: Device) -> Advice:
    """
    Args:
        architecture: of the run's space, as JSON.

    Raises:
        FileNotFoundError: nobody has fitted a model of the latency on that device yet.
        ValueError: the model is damaged, or the run has none of a device with these settings.
    """
    space = space_from_json(run.space)
    name, section = _section_of(run, device)
    path = model_file(Path(run.folder), on(TIMED, name))
    if not path.is_file():
        more = f" --device {name}" if name else ""
        raise FileNotFoundError(
            f"{run.name} has no such latency model yet; `nas pick {run.name} --latency-ms` with any limit{more} makes "
            "one"
        )
    predictor = LatencyPredictor.load(path, space, section)
    own = space.encode(architecture_from_json(architecture))
    places = [
        (place, option)
        for place, decision in enumerate(space.decisions)
        for option in range(1, len(decision.options) + 1)
        if own[place] and option != own[place]
    ]
    vectors = np.array([own] * (1 + len(places)))
    for row, (place, option) in zip(vectors[1:], places, strict=True):
        row[place] = option
    present, *predicted = predictor(space.canonical(vectors)).tolist()
    best: dict[int, Change] = {}
    for (place, option), milliseconds in zip(places, predicted, strict=True):
        decision, saved = space.decisions[place], present - milliseconds
        if saved > (best[place].saved_ms if place in best else 0):
            was, becomes = (str(decision.options[one - 1]) for one in (own[place], option))
            best[place] = Change(decision.name, was, becomes, milliseconds, saved)
    changes = sorted(best.values(), key=lambda one: -one.saved_ms)
    error = predictor.quality and predictor.quality.relative_error
    return Advice(present, tuple(changes), error, str(predictor))


def _section_of(run: Run, device: Device) -> tuple[str, Mapping[str, Any]]:
    """Which of the run's devices is like this one: its name, empty where it has none, and its section."""
    experiment, unlike = config.from_json(run.experiment), []
    for name, section in experiment.near.items():
        there = declared(section)
        differences = [
            f"{what} {getattr(there, what)}, not {getattr(device, what)}"
            for what in ("name", "threads", "batch", "precision")
            if getattr(there, what) != getattr(device, what)
        ]
        if not differences:
            return name, section
        unlike.append(f"of a device with {differences[0]}" + (f" ({name})" if name else ""))
    if not unlike:
        raise ValueError(f"the devices of {run.name} are on other nodes, and their latency is not predicted")
    raise ValueError(f"the latency model of {run.name} is {'; '.join(unlike)}")
