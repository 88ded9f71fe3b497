"""Measurements that are used again, where the user asks for it: of the same graph on the same device.

What counts as the same is written beside each: the graph with its shapes, but not the values of its weights, on
which no time depends; the device with all its settings, the versions and the processor. A measurement that was
disturbed is not kept. One that was kept is used only while the reference network takes as long as it did then, so not
on a machine that has become slower; it says when it was measured, and when it was used again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data.files import cache
from nas.hardware.loaded import Loaded
from nas.hardware.runs import DRIFT
from nas.hardware.timing import reference_alone
from nas.json_file import read_json, write_json
from nas.storage.records import Latency, now

if TYPE_CHECKING:
    from nas.hardware.runtime import OnnxRuntime

HOW_LONG = "reuse_days"  # the setting that makes no difference to a measurement


def described(device: OnnxRuntime, model: bytes, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """What a measurement is of: when any of it changes, it is another."""
    return {
        "device": device.name,
        "settings": {name: value for name, value in asdict(device).items() if name != HOW_LONG},
        "versions": dict(device.versions()),
        "processor": device.processor(),
        "input_shape": list(input_shape),
        "graph": structure(model),
    }


def structure(model: bytes) -> str:
    """A hash of an ONNX model without the values of its float weights; those of a single number count."""
    import onnx

    parsed = onnx.load_from_string(model)
    for weight in parsed.graph.initializer:
        if weight.dims and weight.data_type == onnx.TensorProto.FLOAT:
            weight.ClearField("raw_data")
            weight.ClearField("float_data")
    return hashlib.sha256(parsed.SerializeToString(deterministic=True)).hexdigest()


def kept(of: Mapping[str, Any], days: float, reference: Loaded) -> Latency | None:
    """The measurement of exactly that, at most so many days old; None without one, or if the machine has changed.

    Args:
        reference: the reference network on the device, which is timed unless nothing is kept.

    Raises:
        ValueError: the file is damaged.
    """
    path = file_of(of)
    if not path.is_file():
        return None
    way_out = "remove it"
    stored = read_json(path, way_out)
    try:
        record = Latency.from_json(json.dumps(stored["record"]))
        age = datetime.fromisoformat(now()) - datetime.fromisoformat(record.measured_at)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {way_out}") from None
    if stored.get("of") != of or age > timedelta(days=days):
        return None
    then, today = float(np.mean(record.reference_ms)), reference_alone(reference)
    if max(then, today) > (1 + DRIFT) * min(then, today):
        return None
    return replace(record, reused_at=now())


def keep(of: Mapping[str, Any], record: Latency) -> None:
    """Keep a measurement for later, in place of an older one, unless it was disturbed."""
    if not record.contended:
        write_json(file_of(of), {"of": dict(of), "record": asdict(record)})


def file_of(of: Mapping[str, Any]) -> Path:
    """Where the measurement of something is kept, in the user's cache folder."""
    name = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return cache("measurements") / f"{name}.json"
