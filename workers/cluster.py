"""The Ray cluster: started on this machine or joined, and checked before any work is sent to it."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import TextIOBase
from math import floor
from pathlib import Path
from typing import Any

from nas.config import Experiment

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 * 2**20  # what is sent is text, paths and records
JOINING = 45  # seconds to join; a cluster that wants another token takes 20 to say so
JOIN = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
except Exception as error:
    sys.exit(print(error) or 1)
"""
PATIENCE = 120  # seconds for a worker to find room, and for a node to answer


class WorkersFailed(RuntimeError):
    """Workers die or cannot start, and trying again does not help."""


@dataclass(frozen=True)
class Cluster:
    """Room for workers, each with one CPU and so many GPUs. To be closed."""

    workers: int
    gpus_per_worker: float
    joined: bool  # or started by us, and ended when it is closed

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of its workers: who is given no GPU sees none."""
        return {} if self.gpus_per_worker else {"CUDA_VISIBLE_DEVICES": ""}

    @property
    def room(self) -> int:
        """How many workers there would be room for now, were it all ours; less when a node is lost."""
        return room_on([node["Resources"] for node in living_nodes()], self.gpus_per_worker)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here. What runs on it for us ends too."""
        import ray

        ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *reason) -> None:
        self.close()


class RayTalk(TextIOBase):
    """A stream for what Ray prints about its processes: into the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info("ray: %s", text.strip())
        return len(text)


def connect(address: str | None, workers: int, gpus_per_worker: float = 0.0) -> Cluster:
    """A cluster with room for the workers.

    Args:
        address: of a cluster to join, `HOST:PORT`; None starts one on this machine that ends with us.

    Raises:
        ValueError: it cannot be joined, has not that much room, or a node has other versions than this
            process.
    """
    _check_asked(address, workers, gpus_per_worker)
    _authenticate(address)
    if address is not None:
        _check_joinable(address)
    import ray  # not earlier: it reads its environment when it is imported

    # a training that ends, or loses a worker, is noticed sooner than in Ray's 2 s
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # we say the first, the others are like it
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address is None else {}
    try:
        with _undisturbed():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises plain ones too, such as that a node timed out
        raise WorkersFailed(f"Ray does not start: {' '.join(str(error).split())}") from error
    cluster = Cluster(workers, gpus_per_worker, joined=address is not None)
    try:
        check_room([node["Resources"] for node in living_nodes()], workers, gpus_per_worker)
        if cluster.joined:
            _check_versions(living_nodes())
    except BaseException:
        cluster.close()
        raise
    return cluster


def living_nodes() -> list[dict]:
    """The nodes of the cluster as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def check_room(nodes: Sequence[Mapping[str, float]], workers: int, gpus_per_worker: float) -> None:
    """Refuse what would wait for ever.

    Args:
        nodes: the resources of each, `{"CPU": 8.0, "GPU": 1.0}`.

    Raises:
        ValueError: the workers do not fit.
    """
    room = room_on(nodes, gpus_per_worker)
    if workers <= room:
        return
    asked, needed = f"--workers {workers}", _count(workers, "CPU")
    if gpus_per_worker:
        asked += f" --gpus-per-worker {gpus_per_worker:g}"
        needed += f" and {_count(workers * gpus_per_worker, 'GPU')}"
    cpus, gpus = (sum(node.get(what, 0) for node in nodes) for what in ("CPU", "GPU"))
    fewer = f"give --workers {room} or fewer" if room else "leave it out to work in this process"
    raise ValueError(
        f"{asked} needs {needed}, but the cluster has {_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}, room for {room} "
        f"such workers; {fewer}, or join a larger cluster with --ray HOST:PORT"
    )


def room_on(nodes: Iterable[Mapping[str, float]], gpus_per_worker: float) -> int:
    """How many workers fit on the nodes, each with a CPU and its GPUs on one of them."""
    room = 0
    for node in nodes:
        places = floor(node.get("CPU", 0))
        if gpus_per_worker >= 1:
            places = min(places, floor(node.get("GPU", 0) / gpus_per_worker))
        elif gpus_per_worker > 0:  # a share is of one GPU
            places = min(places, floor(node.get("GPU", 0)) * floor(1 / gpus_per_worker + 1e-9))
        room += places
    return room


def has(node: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    """Whether a node has, or has left, what is asked for."""
    return all(node.get(name, 0) >= number for name, number in resources.items())


def taken(resources: Mapping[str, float]) -> dict[str, Any]:
    """What Ray is told that an actor takes; a CPU only if that is named."""
    own = {name: number for name, number in resources.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "resources": own}


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def sendable(experiment: Experiment) -> str:
    """The experiment as text that means the same in any folder."""
    data = experiment.data
    if data.directory is not None:
        data = replace(data, directory=str(Path(data.directory).expanduser().absolute()))
    return replace(experiment, data=data).to_json()


def versions(packages: Sequence[str] = ("paretoshift", "torch")) -> dict[str, str]:
    """What must be the same on every node; without builds, as a node with GPUs has another torch."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **{name: version(name).partition("+")[0] for name in packages}}


def node_name() -> str:
    """This machine, as a person knows it."""
    import ray

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def reason_of(error: BaseException) -> str:
    """What went wrong on a worker in one line, without Ray's wrapping and traceback."""
    cause = getattr(error, "cause", None) or getattr(error, "_base_exc", None) or error
    return " ".join(str(cause).split())[:500] or type(cause).__name__


def _check_asked(address: str | None, workers: int, gpus_per_worker: float) -> None:
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be at least 1")
    if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker != floor(gpus_per_worker)):
        raise ValueError(
            f"--gpus-per-worker is {gpus_per_worker:g}; it must be a share of one GPU, like 0.5, or a whole number"
        )
    host, _, port = (address or "").rpartition(":")
    if address is not None and ("//" in host or not host or not port.isdecimal()):
        raise ValueError(
            f"--ray is {address!r}; it must be HOST:PORT as `ray start --head` says it, and the command must run on "
            "a machine of the cluster"
        )


def _check_joinable(address: str) -> None:
    """Join and leave in a process that can be ended: Ray tries for minutes, and prints as long.

    Raises:
        ValueError: it cannot be joined; the message says why.
    """
    way_out = "`ray start --head` starts a cluster and says its address; without --ray one is started here"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster answers at {address}: {error}; {way_out}") from None
    try:
        asked = subprocess.run(
            [sys.executable, "-c", JOIN, address], capture_output=True, text=True, timeout=JOINING
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"what answers at {address} is no Ray cluster; {way_out}") from None
    if asked.returncode:
        reason = " ".join(asked.stdout.split())[:400] or "it does not let us in"
        raise ValueError(
            f"cannot join the Ray cluster at {address}: {reason}; Ray and Python must be of the same versions there, "
            "and RAY_AUTH_MODE and the token the same"
        )


def _authenticate(address: str | None) -> None:
    """Ask for a token where nobody said otherwise: without one, whoever reaches a port can run code here."""
    mode, given = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    has_token = any(name in os.environ for name in given)
    if address is None:
        if os.environ.get(mode, "token").lower() == "token":
            os.environ[mode] = "token"
            if not has_token:  # in memory only: nobody else joins this cluster, and it ends with us
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif mode not in os.environ and (has_token or (Path.home() / ".ray" / "auth_token").is_file()):
        os.environ[mode] = "token"  # which Ray itself does for clusters that it finds, not for an address


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ray ends us at a SIGTERM, without a checkpoint, and takes us out of the group that a Ctrl-C goes to."""
    handler, group = signal.getsignal(signal.SIGTERM), os.getpgrp()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        if os.getpgrp() != group:
            os.setpgid(0, group)


def _check_versions(nodes: Iterable[Mapping]) -> None:
    """
    Raises:
        ValueError: names the node and what differs there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0)(versions)
    asked = {}
    for node in nodes:
        works = node["Resources"].get("CPU", 0) >= 1  # else it is there for a device, which needs no torch
        needed = ("paretoshift", "torch") if works else ("paretoshift",)
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"] = ask.options(
            scheduling_strategy=there
        ).remote(needed)
    ours = versions()
    for name, answer in asked.items():
        try:
            theirs = ray.get(answer, timeout=PATIENCE)
        except ray.exceptions.RayError as error:
            raise ValueError(
                f"the node {name} cannot work for us: {reason_of(error)}; install the same paretoshift there, in "
                "the environment that `ray start` runs in"
            ) from error
        if differ := differences(ours, theirs):
            raise ValueError(f"the node {name} has {differ}; install the same there")


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Which versions differ, in words; nothing if none does."""
    return ", ".join(
        f"{what} {other} (here {ours[what]})" for what, other in theirs.items() if ours[what] != other
    )
