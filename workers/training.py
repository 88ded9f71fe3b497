"""Training on workers: Ray Train starts the ranks and replaces them when one dies; the loop is the same.

Every rank builds the same parts from text and paths, and rank 0 keeps the checkpoint where a training in
one process keeps it. What the ranks see goes to the driver through a mailbox, since the driver alone
writes to the store; what the driver wants, to stop, goes back the same way.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas import config
from nas.data import load
from nas.evaluation import space_of
from nas.experiment import Opened, note_training, training_parts
from nas.progress import track
from supernets import checkpoint
from supernets.training import Diverged, Watcher, check_ranks, progress
from workers.cluster import Cluster, WorkersFailed, node_name, reason_of, sendable
from workers.mailbox import Mailbox

log = logging.getLogger(__name__)

MOST_FAILURES = 3  # of the group of ranks, each followed by a start from the last checkpoint
MOST_STARTS = 2  # more tries to find room for all ranks, a minute each
EVERY = 0.5  # seconds between two questions of rank 0 whether to stop
POLL = 0.1  # seconds between two looks of the driver into the mailbox
TIMEOUT = 1800  # seconds after which a rank that waits for another gives up

FINAL = (Diverged, ValueError)  # trying again would end the same way


@dataclass(frozen=True)
class Job:
    """What a rank is told: text, paths and whom to write to."""

    experiment: str  # JSON
    fingerprint: str  # of the images
    supernet_file: str
    witness: str  # a file that whoever shares the driver's disk sees
    mailbox: ray.actor.ActorHandle


# -- the driver --------------------------------------------------------------------------------


def trainer_on_workers(cluster: Cluster) -> Callable[[Opened, Callable[[], bool]], bool]:
    """What `nas.experiment.train_run` trains with: as `train_here`, on as many ranks as there are workers."""

    def train(opened: Opened, stop: Callable[[], bool]) -> bool:
        _check_gpus(opened.experiment, cluster)
        if opened.supernet_file.is_file():
            check_ranks(opened.supernet_file, checkpoint.load(opened.supernet_file)[1], cluster.workers)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        with _witness(opened.supernet_file.parent) as witness, tempfile.TemporaryDirectory() as scratch:
            job = Job(
                sendable(opened.experiment),
                opened.splits.fingerprint,
                str(opened.supernet_file),
                str(witness),
                mailbox,
            )
            fit = _Fit(_torch_trainer(cluster, job, scratch))
            try:
                return _followed(fit, mailbox, opened, stop)
            except BaseException:
                mailbox.stop.remote()
                raise

    return train


def _torch_trainer(cluster: Cluster, job: Job, scratch: str) -> TorchTrainer:
    gpus = cluster.gpus_per_worker
    resources = {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}
    return TorchTrainer(
        train_rank,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="training",
            storage_path=scratch,  # stays empty: the loop keeps its own checkpoint
            failure_config=FailureConfig(max_failures=MOST_FAILURES, controller_failure_limit=MOST_STARTS),
            worker_runtime_env={"env_vars": cluster.environment},
        ),
        # NCCL refuses two ranks on one GPU, gloo does not
        torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo", timeout_s=TIMEOUT),
    )


class _Fit(Thread):
    """A trainer that fits, in a thread: Ray Train leaves our signal handlers alone there.

    Nobody waits for its end: when the ranks are done, Ray Train spends ten seconds more on its own processes.
    """

    def __init__(self, trainer: TorchTrainer):
        super().__init__(daemon=True)
        self.trainer = trainer
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:  # for `failure`, which is asked for it
            self.error = error

    def failure(self) -> BaseException:
        """Why it ended without a word of rank 0."""
        if not isinstance(self.error, TrainingFailedError | RayError):
            return self.error or WorkersFailed("training on workers ended without a result")
        failures: Mapping[int, BaseException] = getattr(self.error, "worker_failures", {})
        died = [rank for rank, one in failures.items() if isinstance(one, RayActorError)]
        rank = next(iter(died or failures), None)
        if rank is None:
            return WorkersFailed(f"training on workers failed: {reason_of(self.error)}")
        return WorkersFailed(
            f"training workers failed {MOST_FAILURES + 1} times, the last time on rank {rank}: "
            f"{reason_of(failures[rank])}; the last checkpoint is kept, and the same command goes on from it"
        )


def _followed(fit: _Fit, mailbox: ray.actor.ActorHandle, opened: Opened, stop: Callable[[], bool]) -> bool:
    """Record and show what the ranks report until they are done, and ask them to stop when we are.

    Returns:
        Whether training came to its end.

    Raises:
        Diverged, ValueError: as on a rank.
        WorkersFailed: ranks died too often.
    """
    store, name, shown = opened.store, opened.run.name, None
    with ExitStack() as stack:
        while True:
            over = not fit.is_alive()
            if stop():
                mailbox.stop.remote()
            for kind, *content in ray.get(mailbox.take.remote()):
                if kind == "begun":
                    done, steps = content
                    store.forget_training_after(name, done)
                    if shown is not None:
                        shown.say(f"a training worker died; all go on from step {done}, the last checkpoint")
                    shown = shown or stack.enter_context(track("training", steps, done))
                elif kind == "point":
                    note_training(store, name, shown, *content)
                elif kind == "preparing":
                    shown.prepare(*content)
                elif kind == "warning":
                    shown.say(*content)
                elif kind == "failed":
                    raise _raised(*content)
                elif kind == "ended":
                    return content[0]
            if over:
                raise fit.failure() from fit.error
            fit.join(POLL)


@contextmanager
def _witness(folder: Path) -> Iterator[Path]:
    """A file whose name nobody has seen before, so that no node has an old answer to whether it exists."""
    with tempfile.NamedTemporaryFile(prefix=".shared-", dir=folder) as file:
        yield Path(file.name)


def _check_gpus(experiment: config.Experiment, cluster: Cluster) -> None:
    if experiment.training.device == "cuda" and not cluster.gpus_per_worker:
        raise ValueError("training.device is cuda, but the workers have no GPU; give --gpus-per-worker 1")


def _raised(kind: str, message: str) -> BaseException:
    """An error of FINAL as it was raised on a rank."""
    return next(one for one in FINAL if one.__name__ == kind)(message)


# -- a rank ------------------------------------------------------------------------------------


def train_rank(told: dict[str, Job]) -> None:
    """The work of one rank."""
    job, context = told["job"], get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    if ray.get(job.mailbox.has_failed.remote()):
        return  # Ray Train started all ranks again, but it would end as before
    try:
        ended = _train(job, rank, ranks)
    except FINAL as error:
        kind = next(one.__name__ for one in FINAL if isinstance(error, one))
        ray.get(job.mailbox.fail.remote(kind, str(error)))
        raise  # so that Ray Train ends the ranks that wait for this one
    if rank == 0:
        ray.get(job.mailbox.post.remote("ended", ended))


def _train(job: Job, rank: int, ranks: int) -> bool:
    torch.set_num_threads(1)  # a rank has one CPU, whatever the environment says
    path = Path(job.supernet_file)
    _check_shared(Path(job.witness))
    experiment = config.from_json(job.experiment)
    splits = _load(experiment, job.fingerprint)
    space = space_of(experiment, splits)
    parts = training_parts(experiment, splits, space, rank, ranks, folder=path.parent)
    done = _same_on_all_ranks(progress(path)[0], ranks)
    if rank > 0:
        return parts.train(path, Watcher(warn=log.info))
    job.mailbox.post.remote("begun", done, parts.steps)
    watcher = Watcher(
        point=lambda step, values: job.mailbox.post.remote("point", step, dict(values)),
        preparing=lambda *where: job.mailbox.post.remote("preparing", *where),
        warn=lambda text: job.mailbox.post.remote("warning", text),
        stop=_now_and_then(lambda: ray.get(job.mailbox.is_stopping.remote())),
    )
    return parts.train(path, watcher)


def _check_shared(witness: Path) -> None:
    """
    Raises:
        ValueError: this machine does not see what the driver's has just written.
    """
    if not witness.exists():
        raise ValueError(
            f"the training worker on {node_name()} does not see the folder {witness.parent} of this run; it must be "
            "on a disk that all nodes share: give such a folder with --runs"
        )


def _load(experiment: config.Experiment, fingerprint: str):
    try:
        splits = load(experiment.data)
    except (ValueError, LookupError, OSError) as error:
        raise ValueError(f"on {node_name()}: {error}") from error
    if splits.fingerprint != fingerprint:
        raise ValueError(f"the images on {node_name()} are not those of this run; put the same files there")
    return splits


def _same_on_all_ranks(step: int, ranks: int) -> int:
    """The step of the checkpoint that all ranks see.

    Raises:
        RuntimeError: a shared disk shows some of them an older one. Ray Train tries again, later.
    """
    steps: list[int] = [0] * ranks
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"the ranks see checkpoints of different steps, {steps}; the shared disk lags behind"
        )
    return step


def _now_and_then(question: Callable[[], bool]) -> Callable[[], bool]:
    """The question, put at most every so many seconds and taken as answered by no in between."""
    last = -math.inf

    def ask() -> bool:
        nonlocal last
        if time.monotonic() - last < EVERY:
            return False
        last = time.monotonic()
        return question()

    return ask
