"""Which single change of an exported architecture its run's latency model predicts to save time, and how much."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas import config
from nas.hardware import Device
from nas.hardware import device as latency_device
from nas.predictors.latency import FILE, LatencyPredictor
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
        FileNotFoundError: nobody has fitted a latency model to the run yet.
        ValueError: the model is damaged, or of other settings than the device's.
    """
    space = space_from_json(run.space)
    path, section = Path(run.folder) / FILE, config.from_json(run.experiment).device
    if not path.is_file():
        raise FileNotFoundError(
            f"{run.name} has no latency model yet; `nas pick {run.name} --latency-ms` with any limit makes one"
        )
    there = latency_device(section)
    for name in ("name", "threads", "batch", "precision"):
        was, now = getattr(there, name), getattr(device, name)
        if was != now:
            raise ValueError(f"the latency model of {run.name} is of a device with {name} {was}, not {now}")
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
