"""Workers change where the work is done and nothing else: not what comes out of it, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from nas import config
from nas.cli import main
from nas.data import load
from nas.evaluation import space_of
from nas.experiment import Opened, open_run, search_run, train_run, training_parts
from nas.hardware.timing import TURNS
from nas.pool import shared_out
from nas.racing import unsettled
from nas.storage.records import Candidate
from nas.storage.store import Store
from nas.together import beginning
from search_spaces import Architecture, read_skeleton
from supernets import checkpoint
from supernets.training import Diverged, average_gradients
from tests.conftest import TINY, write_experiment
from tests.test_experiment_extended import trained_run
from workers.cluster import (
    Cluster,
    WorkersFailed,
    check_room,
    connect,
    differences,
    has,
    sendable,
    taken,
    versions,
)

pytestmark = [
    pytest.mark.ray,
    # Ray Train makes a context of ray.data, which sets options of its own that it has deprecated
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated:DeprecationWarning:ray.data.context"),
]

STEPS = 210
CERTAIN = """
name: certain
data: {name: digits}
space: tiny
training: {epochs: 30, batch_size: 64, sampler: {name: shift, every: 10, warmup: 0.1}, checkpoint_every: 50}
search: {searcher: {name: nsga2, population: 8}, budget: 24}
objectives: [accuracy, macs]
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two workers on this machine."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less to start
    with connect(None, 2) as cluster:
        import ray

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
        yield cluster


@contextmanager
def new_run(folder: Path, *overrides: str) -> Iterator[Opened]:
    run = write_experiment(folder, CERTAIN)
    experiment = config.read_experiment(run.file, overrides)
    with Store(run.store_url) as store, open_run(experiment, store, folder / "runs") as opened:
        yield opened


def never() -> bool:
    return False


# -- training ----------------------------------------------------------------------------------


def test_a_gradient_is_the_mean_over_the_ranks_and_none_where_no_rank_used_the_weight(tmp_path):
    on_two_ranks(tmp_path, average, str(tmp_path))

    for rank in range(2):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert seen == [[2.0, 5.0], [2.0, 3.0], None]


def average(rank: int, folder: str) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.tensor([[1.0, 2.0], [3.0, 8.0]][rank])
    if rank == 1:
        weights[1].grad = torch.tensor([4.0, 6.0])
    average_gradients(weights)
    seen = [None if one.grad is None else one.grad.tolist() for one in weights]
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
def test_a_training_that_is_stopped_continued_and_loses_a_worker_is_an_undisturbed_one(
    cluster, tmp_path, capsys
):
    """Stopped at once, then killed beyond a checkpoint; the reference is two processes without Ray."""
    from workers.training import trainer_on_workers

    train = trainer_on_workers(cluster)
    with new_run(tmp_path) as opened:
        steps = partial(seen_steps, opened)
        assert not train_run(opened, lambda: True, train)
        assert steps() == [20]

        assert train_run(opened, kill_a_rank_once(lambda: steps()[-1] > 50), train)

        assert "a training worker died; all go on from step" in capsys.readouterr().err
        assert steps() == [
            step for step in range(1, STEPS + 1) if step % 20 == 0 or step % 50 == 0 or step == STEPS
        ]
        assert opened.store.run("certain").status == "trained"
        on_two_ranks(tmp_path, train_plainly, sendable(opened.experiment), str(tmp_path / "plain"))
        tensors, facts = checkpoint.load(opened.supernet_file)
        plain_tensors, plain_facts = checkpoint.load(tmp_path / "plain")

    assert facts == plain_facts
    assert tensors.keys() == plain_tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, plain_tensors[name]), name


@pytest.mark.slow
def test_a_training_on_workers_that_diverges_says_so(cluster, tmp_path):
    from workers.training import trainer_on_workers

    wild = ("learning_rate=1e30", "clip=1e30", "epochs=10", "sampler=uniform")
    with (
        pytest.raises(Diverged, match=r"not a number, after 3 rollbacks.*--fresh"),
        new_run(tmp_path, *(f"training.{setting}" for setting in wild)) as opened,
    ):
        train_run(opened, never, trainer_on_workers(cluster))


def train_plainly(rank: int, experiment: str, file: str) -> None:
    settings = config.from_json(experiment)
    splits = load(settings.data)
    assert training_parts(settings, splits, space_of(settings, splits), rank, 2).train(Path(file))


def on_two_ranks(folder: Path, work, *args) -> None:
    """Carry out work(rank, *args) in two processes of plain torch."""
    torch.multiprocessing.spawn(as_rank, (str(folder / f"meet-{work.__name__}"), work, *args), nprocs=2)


def as_rank(rank: int, meeting: str, work, *args) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    work(rank, *args)
    dist.destroy_process_group()


def seen_steps(opened: Opened) -> list[int]:
    return [point.step for point in opened.store.training_points(opened.run.name)]


def kill_a_rank_once(due):
    """A question whether to stop that says no, but kills a training worker when it is due."""
    killed = []

    def stop() -> bool:
        if not killed and due():
            killed.append(ranks_here()[0])
            os.kill(killed[0], signal.SIGKILL)
        return False

    return stop


def ranks_here() -> list[int]:
    """The training workers among the processes that this one started."""
    parent, title = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            title[int(stat.parent.name)] = stat.with_name("cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        parent[int(stat.parent.name)] = int(fields[1])

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in parent and is_ours(parent[process]))

    return [one for one in title if title[one].startswith("ray::RayTrainWorker") and is_ours(one)]


# -- searching ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_on_workers_finds_what_one_process_finds_even_if_a_worker_is_killed(cluster, tmp_path):
    from workers.pool import pool_on_workers

    pools = []

    def make_pool(opened):
        pools.append(pool_on_workers(cluster)(opened))
        return pools[0]

    def kill_one(candidate: Candidate) -> None:
        if candidate.number == 10:
            os.kill(pools[0].workers[0].place.process, signal.SIGKILL)

    found = []
    for folder, make, note in (("here", None, lambda _: None), ("there", make_pool, kill_one)):
        with new_run(tmp_path / folder, "training.epochs=3") as opened:
            train_run(opened, never)
            assert search_run(opened, never, make, note)
            found.append([outcome(one) for one in opened.store.candidates("certain")])

    here, there = found
    assert there == here
    assert len(here) == 24


@pytest.mark.parametrize("cost", ["macs", pytest.param("latency", marks=pytest.mark.slow)])
def test_a_race_on_workers_is_that_of_one_process(cost, cluster, tmp_path):
    from workers.pool import pool_on_workers

    space = json.dumps({**read_skeleton("tiny"), "resolution": 16})
    race = [
        "search.first_images=150",
        "data.validation=800",
        f"space={space}",
        f"objectives=[accuracy, {cost}]",
    ]
    found = []
    for folder, make in (("here", None), ("there", pool_on_workers(cluster)))[cost == "latency" :]:
        with new_run(tmp_path / folder, "training.epochs=4", *race) as opened:
            train_run(opened, never)
            assert search_run(opened, never, make)
            candidates = opened.store.candidates("certain", with_latency=True)
            found.append([outcome(one) for one in candidates])

    assert found[-1] == found[0]
    assert sum(not one.whole for one in candidates) >= 3
    assert unsettled(candidates, opened.experiment.goals) == []
    assert all(("latency_ms" in one.latencies) == (cost == "latency") for one in candidates)


def test_landmarks_that_workers_train_predict_what_those_of_one_process_do(cluster, tmp_path):
    from workers.pool import pool_on_workers, trials_on_workers

    predicted = ["objectives=[predicted_accuracy, macs]", "landmarks={subnets: 8, epochs: 0.5}"]
    there = {"make_pool": pool_on_workers(cluster), "trials": (trials_on_workers(cluster), 2)}
    found = []
    for folder, where in (("here", {}), ("there", there)):
        with new_run(tmp_path / folder, "training.epochs=1", "search.budget=8", *predicted) as opened:
            train_run(opened, never)
            assert search_run(opened, never, **where)
            found.append([outcome(one) for one in opened.store.candidates("certain")])

    assert found[1] == found[0] and all("predicted_accuracy" in one.intervals for one in found[0])


def outcome(candidate: Candidate) -> Candidate:
    """What of a candidate must not depend on where and when it was evaluated."""
    return replace(candidate, seconds=0, created="")


@pytest.fixture(scope="module")
def architectures() -> list[Architecture]:
    experiment = config.experiment({"data": {"name": "digits"}, "space": "tiny", "name": "tiny"})
    space = space_of(experiment, load(experiment.data))
    return list({one.key: one for one in (space.sample(Random(seed)) for seed in range(12))}.values())


def test_what_a_dying_worker_did_is_done_again_and_what_kills_every_worker_is_a_failed_candidate(
    cluster, architectures, tmp_path
):
    unlucky, deadly = architectures[1].key, architectures[4].key
    prepare = partial(Trouble, tmp_path, {unlucky: 1, deadly: 100})

    found = evaluated(cluster, prepare, architectures)

    assert [one.key for one in found] == [one.key for one in architectures]
    assert [one.key for one in found if one.error] == [deadly]
    assert "3 workers died" in next(one.error for one in found if one.error)


def test_a_worker_that_dies_with_several_in_hand_costs_these_alone_and_one_of_them_the_others_nothing(
    cluster, architectures, tmp_path
):
    portions = shared_out(sorted(architectures, key=beginning), 2)
    deadly = portions[0][1].key
    prepare = partial(Trouble, tmp_path, {deadly: 100})

    found = evaluated(cluster, prepare, architectures, quietly, loudly_together, beginning)

    assert [one.key for one in found] == [one.key for one in architectures]
    assert [one.key for one in found if one.error] == [deadly]
    work = [json.loads(line) for file in tmp_path.glob("*.log") for line in file.read_text().splitlines()]
    done = Counter(one["key"] for one in work if one["what"] == "accuracy")
    again = {key for key, times in done.items() if times > 1}
    assert again == {portions[0][0].key}  # handed out with it, and done before
    assert set(done) == {one.key for one in architectures} - {deadly}


def test_latency_is_measured_by_one_worker_while_no_other_works_and_not_of_what_failed(
    cluster, architectures, tmp_path
):
    failing = architectures[2].key

    found = evaluated(cluster, partial(Trouble, tmp_path, {}, failing), architectures, quietly)

    for one in found:
        assert one.values.keys() == (set() if one.key == failing else {"accuracy", "latency_ms"})
    work = [json.loads(line) for file in tmp_path.glob("*.log") for line in file.read_text().splitlines()]
    quiet = [one for one in work if one["what"] == "latency_ms"]
    assert len(quiet) == len(architectures) - 1 == len(work) / 2
    assert len({one["process"] for one in quiet}) == 1
    assert [int(one) for one in (tmp_path / "turns.txt").read_text().split()] == [TURNS, 11 - TURNS]
    assert len({one["process"] for one in work}) == 2
    for one in quiet:
        others = [other for other in work if other is not one]
        assert not any(other["begun"] < one["ended"] and one["begun"] < other["ended"] for other in others)


def test_a_worker_that_cannot_start_ends_the_search_with_the_reason(cluster, tmp_path):
    with (
        pytest.raises(WorkersFailed, match=r"the worker on .* cannot start: no checkpoint at .*gone"),
        new_run(tmp_path) as opened,
    ):
        from workers.pool import WorkerPool, prepare_bench

        prepare = partial(prepare_bench, sendable(opened.experiment), str(tmp_path / "gone"), "")
        WorkerPool(cluster, prepare, loudly)


def test_outcomes_may_come_as_they_are_ready_and_until_somebody_says_stop(cluster, architectures, tmp_path):
    from workers.pool import WorkerPool

    slow, *quick = architectures[:4]
    deadly = architectures[4]
    prepare, said = partial(Trouble, tmp_path, {deadly.key: 100}, slow.key), []
    pool = WorkerPool(cluster, prepare, patiently, failed=in_words, in_order=False, stop=lambda: bool(said))
    try:
        outcomes = pool.map([slow, deadly, *quick])
        seen = [next(outcomes) for _ in range(4)]
        said.append("stop")
        begun = time.monotonic()
        assert list(outcomes) == []
        assert time.monotonic() < begun + 30
    finally:
        pool.close()

    assert {one if isinstance(one, str) else one.key for one in seen} == {
        f"{deadly.key}: WorkerDied",
        *(one.key for one in quick),
    }


def patiently(trouble: Trouble, architecture: Architecture) -> Candidate:
    """Longer than any restart of a worker for the one that fails elsewhere, next to nothing for the others."""
    trouble.die_if_due(architecture.key)
    if architecture.key == trouble.failing:
        time.sleep(600)  # it is killed before
    return trouble.measure(architecture, "accuracy")


def in_words(architecture: Architecture, why: str) -> str:
    return f"{architecture.key}: {why.partition(':')[0]}"


class Trouble:
    """What stands for a bench here: counts in files how often an architecture killed its worker."""

    def __init__(self, folder: Path, deaths: dict[str, int], failing: str = ""):
        self.folder, self.deaths, self.failing = folder, deaths, failing

    def die_if_due(self, key: str) -> None:
        died = self.folder / f"{key}.died"
        before = len(died.read_text()) if died.exists() else 0
        if before < self.deaths.get(key, 0):
            died.write_text("x" * (before + 1))
            os.kill(os.getpid(), signal.SIGKILL)

    def measure(self, architecture: Architecture, what: str) -> Candidate:
        """Take 20 ms, and note down when."""
        begun = time.monotonic()
        while time.monotonic() < begun + 0.02:
            pass
        note = {"what": what, "key": architecture.key, "process": os.getpid(), "begun": begun}
        note["ended"] = time.monotonic()
        with open(self.folder / f"{os.getpid()}.log", "a") as log:
            log.write(json.dumps(note) + "\n")
        return Candidate(architecture.key, architecture.to_json(), {what: 1.0})

    def note_turns(self, count: int) -> None:
        with open(self.folder / "turns.txt", "a") as turns:
            turns.write(f"{count}\n")


def loudly(trouble: Trouble, architecture: Architecture) -> Candidate:
    trouble.die_if_due(architecture.key)
    if architecture.key == trouble.failing:
        return Candidate(architecture.key, architecture.to_json(), error="it fails")
    return trouble.measure(architecture, "accuracy")


def quietly(trouble: Trouble, architectures: list[Architecture]) -> list[Candidate]:
    trouble.note_turns(len(architectures))
    return [trouble.measure(one, "latency_ms") for one in architectures]


def loudly_together(trouble: Trouble, architectures: list[Architecture]) -> list[Candidate]:
    return [loudly(trouble, one) for one in architectures]


def evaluated(
    cluster: Cluster, prepare, architectures: list[Architecture], quiet=None, loud=loudly, alike=None
) -> list[Candidate]:
    from workers.pool import WorkerPool

    pool = WorkerPool(cluster, prepare, loud, quiet, alike=alike)
    try:
        return list(pool.map(architectures))
    finally:
        pool.close()


# -- a device on another node ------------------------------------------------------------------

ELSEWHERE = f"""
{TINY[: TINY.index("device:")].replace("budget: 20", "budget: 6")}
devices:
  here: {{name: onnxruntime-cpu, min_runs: 5, max_runs: 10, seconds: 0.005}}
  board: {{name: openvino-cpu, min_runs: 7, max_runs: 9, seconds: 0.005, resources: {{jetson: 1}}}}
"""


@pytest.mark.slow
def test_networks_go_to_the_node_of_a_device_and_its_records_come_back(cluster, tiny_run, tmp_path):
    from workers.far import check_far
    from workers.pool import pool_on_workers

    run = trained_run(tiny_run, tmp_path, ELSEWHERE)
    experiment, places = config.read_experiment(run.file), []
    absent = {"name": "onnxruntime-cuda", "resources": {"jetson": 1.0}}

    def make_pool(opened):
        import ray

        pool = pool_on_workers(cluster)(opened)
        if not opened.experiment.far:  # what is measured again is not there
            return pool
        [far] = pool.far
        places.extend(ray.get(far.workers[0].evaluator.work.remote(node_of_each, [None])))
        return pool

    with pytest.raises(
        ValueError, match=r"\Adevices\.board: no node of the cluster has {jetson: 1} left .*; st"
    ):
        check_far(experiment)
    with another_node({"jetson": 1}) as node, Store(run.store_url) as store:
        check_far(experiment)
        with pytest.raises(
            ValueError, match=r"devices\.board: onnxruntime-cuda cannot be used on its node: onnx"
        ):
            check_far(replace(experiment, devices={**experiment.devices, "board": absent}))
        with open_run(experiment, store, run.folder / "runs") as opened:
            assert search_run(opened, never, make_pool)
        found = store.candidates("tiny", with_latency=True)

    assert places == [node] and {key for one in found for key in one.again} == {"latency_ms@here"}
    assert len(found) == 6 and not any(one.error for one in found)
    for one in found:
        record = one.latencies["latency_ms@board"]
        assert record.device == "openvino-cpu" and "openvino" in record.versions and record.processor
        assert record.settings["min_runs"] == 7 and 7 <= len(record.samples_ms) <= 9
        assert one.values["latency_ms@board"] == record.median_ms
        assert one.latencies["latency_ms@here"].device == "onnxruntime-cpu"


def node_of_each(bench, items: list) -> list[str]:
    import ray

    return [ray.get_runtime_context().get_node_id() for _ in items]


@contextmanager
def another_node(resources: dict[str, float]) -> Iterator[str]:
    """A node that joins the cluster as people let theirs join; its identity."""
    import ray

    command = [str(Path(sys.executable).parent / "ray"), "start", f"--address={address()}", "--num-cpus=0"]
    command += [f"--resources={json.dumps(resources)}", "--block"]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (known := [one for one in ray.nodes() if resources.keys() <= one["Resources"].keys()]):
            assert time.monotonic() < end and node.poll() is None
            time.sleep(0.1)
        yield known[0]["NodeID"]
    finally:
        node.terminate()
        node.wait(60)


# -- the cluster -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_searches_on_a_cluster_that_it_joins_and_says_nothing_but_the_result(cluster, tmp_path):
    run = write_experiment(tmp_path, TINY)
    assert main(["train", *run.arguments]) == 0

    done = nas("search", *run.arguments, "--workers", "2", "--ray", address(), "--json")

    assert done.returncode == 0, done.stderr
    front = json.loads(done.stdout)
    assert front
    with Store(run.store_url) as store:
        found = store.candidates("tiny", with_latency=True)
    assert len(found) == 20
    assert all(one.latency is not None and len(one.latency.samples_ms) >= 20 for one in found)


def test_more_workers_than_the_cluster_has_room_for_is_one_line_and_exit_code_2(cluster, tmp_path):
    run = write_experiment(tmp_path, TINY)

    done = nas("run", *run.arguments, "--workers", "1000", "--ray", address())

    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "1000" in line]
    assert line.startswith("nas: --workers 1000 needs 1000 CPUs, but the cluster has ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("nodes", "gpus", "room"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}], 0, 6),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], 1, 2),
        ([{"CPU": 8.0, "GPU": 2.0}], 0.3, 6),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 3.0}], 2, 1),
        ([{"memory": 1e9}], 0, 0),
    ],
)
def test_workers_fit_where_each_finds_a_cpu_and_its_gpus_on_one_node(nodes, gpus, room):
    check_room(nodes, room, gpus)

    with pytest.raises(ValueError, match=f"room for {room} such workers"):
        check_room(nodes, room + 1, gpus)


def test_a_node_has_what_is_asked_for_and_an_actor_takes_no_cpu_unless_it_asks():
    assert has({"CPU": 4.0, "jetson": 1.0}, {"jetson": 0.5})
    assert not has({"CPU": 4.0}, {"jetson": 1.0}) and not has({"jetson": 1.0}, {"jetson": 2.0})
    assert taken({"jetson": 1.0}) == {"num_cpus": 0, "num_gpus": 0, "resources": {"jetson": 1.0}}
    assert taken({"GPU": 1.0, "CPU": 2.0}) == {"num_cpus": 2.0, "num_gpus": 1.0, "resources": {}}


def test_versions_differ_by_their_numbers_and_not_by_their_builds():
    ours = versions()

    assert ours["torch"] == torch.__version__.partition("+")[0]
    assert differences(ours, dict(ours)) == ""
    assert differences(ours, ours | {"torch": "1.0"}) == f"torch 1.0 (here {ours['torch']})"
    assert differences(ours, versions(["paretoshift"])) == ""  # of a node that is there for a device


def test_an_experiment_is_sent_with_a_path_that_means_the_same_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"name": "npz", "directory": "images.npz"}
    experiment = config.experiment({"name": "sent", "data": data, "space": "tiny"})

    sent = config.from_json(sendable(experiment))

    assert sent.data.directory == str(tmp_path / "images.npz")
    assert replace(sent, data=experiment.data) == experiment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers is 0; it must be at least 1"),
        (["--workers", "1", "--gpus-per-worker", "1.5"], "--gpus-per-worker is 1.5; it must be a share"),
        (["--workers", "1", "--ray", "127.0.0.1"], "--ray is '127.0.0.1'; it must be HOST:PORT"),
        (["--workers", "1", "--ray", "ray://127.0.0.1:10001"], "it must be HOST:PORT"),
        (["--workers", "1", "--ray", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--ray", "127.0.0.1:6379"], "give --workers N as well"),
    ],
)
def test_what_cannot_be_asked_of_workers_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    run = write_experiment(tmp_path, TINY)

    assert main(["run", *run.arguments, *arguments]) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def nas(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nas.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
