"""A latency measured where there is no supernet: networks go there as ONNX, records come back.

What is sent is made beside the supernet, by `pack`. What measures it, `prepare` and `measure`, needs neither torch nor
images there, only ParetoShift and the device's runtime.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nas.hardware import declared, device
from nas.hardware.runtime import REFERENCE_SHAPE, OnnxRuntime
from nas.objectives.latency import fastest_form
from nas.storage.records import Candidate, Latency
from search_spaces import Architecture

if TYPE_CHECKING:
    from nas.evaluation import Bench
    from nas.hardware.loaded import Loaded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Packed:
    """A network as it is sent: in each form that it can be deployed in, an ONNX model."""

    key: str  # of its architecture
    architecture: str  # JSON
    input_shape: tuple[int, ...] = ()  # C, H, W or C, L
    forms: Mapping[str, bytes] = field(default_factory=dict)
    error: str | None = None  # why it could not be made


@dataclass(frozen=True)
class Place:
    """A device where it is, with the network that shows drift."""

    device: OnnxRuntime
    reference: Loaded


def pack(bench: Bench, architecture: Architecture) -> Packed:
    """An architecture as it is deployed; if that fails, the reason."""
    from nas.export.onnx_graph import onnx_of
    from supernets.merging import forms

    blank = Packed(architecture.key, architecture.to_json())
    try:
        shape = bench.space.input_shape(architecture.resolution)
        subnet = bench.subnet(architecture, statistics=False)  # which change no time
        models = {form: onnx_of(network.cpu(), shape) for form, network in forms(subnet).items()}
    except Exception as error:  # a candidate that fails must not end the search
        log.info("candidate %s cannot be sent", architecture.key, exc_info=True)
        return replace(blank, error=_reason(error))
    return replace(blank, input_shape=tuple(shape), forms=models)


def reference_model() -> bytes:
    """The reference network of all devices, as ONNX."""
    from nas.export.onnx_graph import onnx_of
    from nas.hardware.runtime import reference_network

    return onnx_of(reference_network(), REFERENCE_SHAPE)


def unusable(section: Mapping[str, Any]) -> str | None:
    """Why the device of a section cannot be used on this machine, in one line; None if it can."""
    there = declared(_without_resources(section))
    return there.available() or there.unusable()


def prepare(sections: Mapping[str, Mapping[str, Any]], reference: bytes) -> dict[str, Place]:
    """The devices of one machine, on that machine, by the key of the value that each measures.

    Args:
        reference: what `reference_model` made.

    Raises:
        ValueError: one cannot be used there.
    """
    return {key: _place(device(_without_resources(one)), reference) for key, one in sections.items()}


def _place(there: OnnxRuntime, reference: bytes) -> Place:
    plain = type(there)(threads=there.threads, precision=there.precision)
    with there.conditions():
        return Place(there, plain.load_onnx(reference, REFERENCE_SHAPE))


def measure(places: Mapping[str, Place], packed: Sequence[Packed]) -> list[Candidate]:
    """The latency of each on each device, of the form that it runs fastest, measured in turns. If one fails, they are
    measured one by one, and that is a candidate with the reason."""
    begun = time.perf_counter()
    try:
        latencies = {key: _fastest(place, packed) for key, place in places.items()}
    except Exception as error:  # a candidate that fails must not end the search
        if len(packed) > 1:
            return [candidate for one in packed for candidate in measure(places, [one])]
        log.info("candidate %s failed", packed[0].key, exc_info=True)
        return [Candidate(packed[0].key, packed[0].architecture, error=_reason(error))]
    seconds = (time.perf_counter() - begun) / len(packed)
    return [
        Candidate(
            one.key,
            one.architecture,
            values={key: several[number].median_ms for key, several in latencies.items()},
            intervals={key: several[number].interval_ms for key, several in latencies.items()},
            latencies={key: several[number] for key, several in latencies.items()},
            seconds=seconds,
        )
        for number, one in enumerate(packed)
    ]


def _fastest(place: Place, packed: Sequence[Packed]) -> list[Latency]:
    models = [(model, one.input_shape) for one in packed for model in one.forms.values()]
    records = place.device.measure_onnx(models, reference=place.reference)
    return [fastest_form(records, one.forms) for one in packed]


def _without_resources(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name != "resources"}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
