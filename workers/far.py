"""Devices on other nodes of the cluster: networks go there as ONNX, latency records come back.

A device's node is one that has its `resources`, `{jetson: 1}`. One actor there measures, a few networks in turns, and
only while no worker of ours evaluates, since the node may be one of theirs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from nas import far
from nas.config import Experiment
from nas.devices import device_of
from nas.hardware.timing import TURNS
from nas.storage.records import Candidate
from search_spaces import Architecture
from workers.cluster import PATIENCE, Cluster, has, living_nodes, reason_of, taken
from workers.pool import ROUND, Actor, WorkerPool

Sections = Mapping[str, Mapping[str, Any]]  # of devices, by the key of the value that each measures
_OWN = {"CPU", "GPU", "memory", "object_store_memory"}  # that every node has


class FarPool:
    """See nas.pool.Pool: evaluates with the workers of a pool, then measures what devices elsewhere measure.

    Raises:
        WorkersFailed: the node of a device is gone, or its device cannot be used any more.
    """

    def __init__(self, cluster: Cluster, near: WorkerPool, sections: Sections):
        self.near, self.far = near, []
        try:
            reference = far.reference_model()
            for resources, some in by_resources(sections):
                prepare = partial(far.prepare, some, reference)
                self.far.append(
                    WorkerPool(
                        cluster,
                        prepare,
                        far.measure,
                        failed=_failed,
                        in_order=False,
                        kind=Actor,
                        resources=resources,
                        turns=True,
                    )
                )
        except BaseException:
            self.close()
            raise

    def map(self, items: Iterable[Architecture]) -> Iterator[Candidate]:
        waiting = list(items)
        while waiting:
            size = ROUND * len(self.near.workers)
            together, waiting = waiting[:size], waiting[size:]
            found = {one.key: one for one in self.near.map(together)}
            if len(found) < len(together):
                return  # it was stopped
            self._measure([one for one in together if found[one.key].error is None], found)
            yield from (found[one.key] for one in together)

    def close(self) -> None:
        for pool in (*self.far, self.near):
            pool.close()

    def _measure(self, architectures: Sequence[Architecture], found: dict[str, Candidate]) -> None:
        """Add to the candidates found what is measured elsewhere."""
        from nas.evaluation import merge

        for start in range(0, len(architectures), TURNS):  # networks may be large
            some = architectures[start : start + TURNS]
            packed = list(self.near.each(some, far.pack))
            sent = [one for one in packed if one.error is None]
            measured = [_failed(one, one.error) for one in packed if one.error is not None]
            for pool in self.far:
                measured += pool.map(sent)
            for candidate in measured:
                found[candidate.key] = merge(found[candidate.key], candidate)


def check_far(experiment: Experiment) -> None:
    """Refuse an experiment whose devices cannot be reached, before anything is trained in vain.

    Raises:
        ValueError: no node has the resources, or the device cannot be used there; names the way out.
    """
    left = [dict(node["Resources"]) for node in living_nodes()]
    for resources, sections in by_resources(experiment.far):
        where, needs = _names(sections), ", ".join(f"{name}: {n:g}" for name, n in resources.items())
        node = next((one for one in left if has(one, resources)), None)
        if node is None:
            known = sorted({name for one in left for name in one if ":" not in name} - _OWN)
            asked = ", ".join(f'"{name}": {n:g}' for name, n in resources.items())
            raise ValueError(
                f"{where}: no node of the cluster has {{{needs}}} left (they have {', '.join(known) or 'no more'}); "
                f"start one with `ray start --address=HOST:PORT --num-cpus=0 --resources='{{{asked}}}'` and name "
                "that cluster with --ray HOST:PORT, or correct its resources"
            )
        for name, number in resources.items():
            node[name] -= number
        for section in sections.values():
            if reason := _asked(section, resources, where):
                raise ValueError(f"{where}: {section['name']} cannot be used on its node: {reason}")


def by_resources(sections: Sections) -> list[tuple[dict[str, float], dict[str, Mapping[str, Any]]]]:
    """Those with the same resources together: one actor measures on all of them."""
    groups: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for key, section in sections.items():
        groups.setdefault(tuple(sorted(section["resources"].items())), {})[key] = section
    return [(dict(resources), some) for resources, some in groups.items()]


def _asked(section: Mapping[str, Any], resources: Mapping[str, float], where: str) -> str | None:
    """Why a node with the resources cannot use the device; None if it can."""
    ask = ray.remote(far.unusable).options(**taken(resources))
    try:
        return ray.get(ask.remote(dict(section)), timeout=PATIENCE)
    except RayError as error:
        raise ValueError(
            f"{where}: its node cannot work for us: {reason_of(error)}; install the same paretoshift there, in the "
            "environment that `ray start` runs in"
        ) from error


def _names(sections: Sections) -> str:
    names = [device_of(key) for key in sections]
    return " and ".join(f"devices.{name}" if name else "device" for name in names)


def _failed(packed: far.Packed, why: str) -> Candidate:
    return Candidate(packed.key, packed.architecture, error=why)
