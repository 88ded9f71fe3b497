"""The Ray cluster: started on this machine or joined, and checked before any work is sent to it."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import floor
from pathlib import Path

from nas.config import Experiment

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 * 2**20  # what is sent is text, paths and records
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

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here. What runs on it for us ends too."""
        import ray

        ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *reason) -> None:
        self.close()


def connect(address: str | None, workers: int, gpus_per_worker: float = 0.0) -> Cluster:
    """A cluster with room for the workers.

    Args:
        address: of a cluster to join, `HOST:PORT`, or `auto` for one that runs on this machine; None starts
            one here that ends with us.

    Raises:
        ValueError: it cannot be joined, has not that much room, or a node has other versions than this
            process.
    """
    _check_asked(address, workers, gpus_per_worker)
    _authenticate(address)
    import ray  # not earlier: it reads its environment when it is imported

    # the end of a training, or of one of its workers, is noticed sooner than in Ray's 2 s
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address is None else {}
    try:
        with _undisturbed():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, SystemExit, ray.exceptions.RayError) as error:
        reason = "it does not answer" if isinstance(error, SystemExit) else " ".join(str(error).split())[:400]
        if address is None:
            raise WorkersFailed(f"Ray does not start on this machine: {reason}") from error
        raise ValueError(
            f"cannot join the Ray cluster at {address}: {reason}; it must have the same versions of Ray and Python, "
            "and RAY_AUTH_MODE and the token must be here as they are there"
        ) from error
    cluster = Cluster(workers, gpus_per_worker, joined=address is not None)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_room([node["Resources"] for node in nodes], workers, gpus_per_worker)
        if cluster.joined:
            _check_versions(nodes)
    except BaseException:
        cluster.close()
        raise
    return cluster


def check_room(nodes: Iterable[Mapping[str, float]], workers: int, gpus_per_worker: float) -> None:
    """Refuse what would wait for ever.

    Args:
        nodes: the resources of each, `{"CPU": 8.0, "GPU": 1.0}`.

    Raises:
        ValueError: the workers do not fit.
    """
    cpus, gpus, room = 0.0, 0.0, 0
    for node in nodes:
        cpus, gpus = cpus + node.get("CPU", 0), gpus + node.get("GPU", 0)
        places = floor(node.get("CPU", 0))
        if gpus_per_worker >= 1:
            places = min(places, floor(node.get("GPU", 0) / gpus_per_worker))
        elif gpus_per_worker > 0:  # a share is of one GPU
            places = min(places, floor(node.get("GPU", 0)) * floor(1 / gpus_per_worker + 1e-9))
        room += places
    if workers > room:
        needed = _count(workers, "CPU") + (
            f" and {_count(workers * gpus_per_worker, 'GPU')}" if gpus_per_worker else ""
        )
        fewer = f"give --workers {room} or fewer" if room else "leave it out to work in this process"
        raise ValueError(
            f"--workers {workers}{f' --gpus-per-worker {gpus_per_worker:g}' if gpus_per_worker else ''} needs "
            f"{needed}, but the cluster has {_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}, room for {room} such "
            f"workers; {fewer}, or join a larger cluster with --ray HOST:PORT"
        )


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def sendable(experiment: Experiment) -> str:
    """The experiment as text that means the same in any folder."""
    data = experiment.data
    if data.directory is not None:
        data = replace(data, directory=str(Path(data.directory).expanduser().absolute()))
    return replace(experiment, data=data).to_json()


def versions() -> dict[str, str]:
    """What must be the same on every node; without builds, as a node with GPUs has another torch."""
    python = ".".join(platform.python_version_tuple()[:2])
    packages = {name: version(name).partition("+")[0] for name in ("paretoshift", "torch")}
    return {"Python": python, **packages}


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
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdecimal():
        raise ValueError(
            f"--ray is {address!r}; it must be HOST:PORT as `ray start --head` says it, or auto, and the command "
            "must run on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:  # Ray itself would try for more than a minute
        raise ValueError(
            f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`, or leave --ray out"
        ) from None


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
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"] = ask.options(
            scheduling_strategy=there
        ).remote()
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
        f"{what} {theirs[what]} (here {mine})" for what, mine in ours.items() if theirs[what] != mine
    )
