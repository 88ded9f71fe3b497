"""The candidates of a run, taken apart on its devices and kept for whoever looks at the run.

They have the weights that they have of the supernet, and its own batch-norm statistics: those are folded into
convolutions, and change no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nas import config, explanations
from nas.devices import TIMED, goals_of, goals_on, on
from nas.efficiency import Gap, gap, timed
from nas.experiment import SUPERNET
from nas.explain import Explained, explain
from nas.export.onnx_graph import onnx_of
from nas.hardware import Device, declared, device
from nas.hardware.peaks import peaks_of
from nas.measure import Network, read_devices
from nas.pareto import front
from nas.progress import Track
from nas.storage.records import Candidate, Run
from search_spaces import architecture_from_json, space_from_json
from supernets import checkpoint
from supernets.merging import deployed, forms
from supernets.supernet import make_supernet
from supernets.training import load_weights


def chosen(run: Run, candidates: Sequence[Candidate], key: str | None, name: str) -> list[Candidate]:
    """The candidates of the front, or the one whose key begins so.

    Args:
        name: of the device in the run: the front is its own.

    Raises:
        ValueError: there is none.
    """
    if key is None:
        goals = goals_on(name, goals_of(run)) if name else goals_of(run)
        several = front(candidates, goals.objectives, goals.constraints)
        if not several:
            raise ValueError(
                f"{run.name} has no front to explain; `nas report {run.name}` shows what there is, and --candidate KEY "
                "explains one of it"
            )
        return several
    several = [one for one in candidates if one.key.startswith(key)]
    if len(several) != 1:
        raise ValueError(f"--candidate {key}: {len(several)} candidates of {run.name} begin so; one must")
    if several[0].error:
        raise ValueError(f"the candidate {several[0].key} failed and cannot be explained: {several[0].error}")
    return several


def devices_of(run: Run, names: Sequence[str] | None, common: Mapping[str, Any]) -> list[tuple[str, Device]]:
    """The devices of the run that are here with their names in it, "" where it has one; or those asked for.

    Args:
        names: as of the command line; "openvino-cpu,threads=2" is any other, called "".
        common: settings in place of the run's.

    Raises:
        ValueError: as `nas.hardware.device`.
    """
    experiment = config.from_json(run.experiment)
    own = experiment.devices or {"": experiment.device}
    if names is None:
        names = [each for each, section in own.items() if "resources" not in section] or list(own)
    return [
        (name, device({**own[name], **common})) if name in own else ("", *read_devices([name], common))
        for name in names
    ]


def explained_on(
    run: Run, candidates: Sequence[Candidate], name: str, there: Device, fresh: bool, shown: Track
) -> list[Explained]:
    """Each candidate taken apart on a device, and kept; none where the device has no profile: its peaks are kept.

    Args:
        name: of the device in the run; what another device finds is kept beside what the run's own found.
        fresh: measure the peaks anew.

    Raises:
        ValueError: the run has no networks, or as `nas.explain.explain`.
    """
    networks = networks_of(run, candidates, on(TIMED, name) if name else TIMED)
    explanations.keep_peaks(run, peaks_of(there, fresh))
    if there.unprofiled():
        return []
    found, kept_as = [], _kept_as(run, name, there)
    for network in networks:
        found.append(explain(network, there))
        explanations.keep(run, found[-1], kept_as)
        shown.to(len(found), found[-1].name)
    return found


def efficiency_on(candidates: Sequence[Candidate], name: str, there: Device) -> list[Gap]:
    """Of the candidates whose latency was measured on that very device, called `name` in the run."""
    peaks, key = [peaks_of(there)], on(TIMED, name) if name else TIMED
    every = [timed(one, one.latencies[key]) for one in candidates if key in one.latencies]
    return [found for one in every if one is not None and (found := gap(one, peaks)) is not None]


def networks_of(run: Run, candidates: Sequence[Candidate], key: str) -> Iterator[Network]:
    """Each candidate as it was timed, its key as its path.

    Args:
        key: of the latency by whose record its form is known.

    Raises:
        ValueError: the run has no supernet.
    """
    if run.evaluator is not None:
        raise ValueError(
            f"the candidates of {run.name} were measured by {run.evaluator}: there are no networks to explain"
        )
    path = Path(run.folder) / SUPERNET
    if not path.is_file():
        raise ValueError(
            f"the run {run.name} has no supernet at {path}; train it with `nas train`, or put it back there"
        )
    space = space_from_json(run.space)
    supernet = make_supernet(space).eval()
    tensors, _ = checkpoint.load(path)
    load_weights(supernet, tensors, path)
    return (_network(one, supernet, space, key) for one in candidates)


def _kept_as(run: Run, name: str, there: Device) -> str:
    """The name of a device in the run, if it is that one with all its settings; else what it is."""
    experiment = config.from_json(run.experiment)
    own = experiment.devices.get(name) if experiment.devices else experiment.device
    if own is not None and "resources" not in own and declared(own) == there:
        return name
    settings = {one.name: (getattr(there, one.name), one.default) for one in fields(there)}
    return ",".join(
        [there.name, *(f"{key}={value}" for key, (value, usual) in settings.items() if value != usual)]
    )


def _network(candidate: Candidate, supernet, space, key: str) -> Network:
    architecture = architecture_from_json(candidate.architecture)
    shape = space.input_shape(architecture.resolution)
    record = candidate.latencies.get(key)
    subnet = forms(deployed(supernet.export(architecture).eval()))[record.form if record else "plain"]
    return Network(Path(candidate.key), onnx_of(subnet.eval(), shape), shape, lambda: subnet)
