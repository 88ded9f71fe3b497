"""The whole job against what a person would do without it: Optuna proposes architectures of the same space, and each
is trained from the start. Hypervolume over time, on one core.

    python benchmarks/from_scratch.py ours --experiment examples/digits.yaml --folder OUT --seeds 3
    python benchmarks/from_scratch.py optuna --experiment examples/digits.yaml --folder OUT --seeds 3 --epochs 10 30 90
    python benchmarks/from_scratch.py table --folder OUT

`ours` is what `nas run` does: a supernet, then a search. `optuna` has the same processor time, the same training
settings, images and latency device, and Optuna's multi-objective TPE. How long each architecture is trained is the
choice of the person, so several lengths are tried; nobody would know the best one beforehand. Accuracies are
those of the search-validation images, by which both choose; at the end what lies on the front is scored on
test images too. The hypervolume is a share of that of the front of everything that any of them found, its reference a
tenth beyond the ends of that. Results are files of JSON: what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from nas import config
from nas.data import Splits
from nas.data.batches import normalize
from nas.evaluation import Bench, accuracy_of, evaluate
from nas.experiment import Opened, open_run, search_run, train_run, training_parts
from nas.hardware.timing import processor_name
from nas.pareto import hypervolume, nondominated, reference_point
from nas.storage.store import Store
from search_spaces import Architecture, SearchSpace, architecture_from_json, only
from supernets.training import Watcher

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the time, at which hypervolumes are compared


@dataclass
class Found:
    """What a method has found, in order: (processor seconds, error in %, latency in ms), and its own cost."""

    method: str
    seconds: float = 0.0  # in all
    training: float = 0.0  # before the first candidate
    points: list[tuple[float, float, float]] = field(default_factory=list)
    test: list[tuple[float, float]] = field(
        default_factory=list
    )  # of the front: error on test images, latency


def ours(experiment: config.Experiment) -> Found:
    found = Found(f"paretoshift ({experiment.search.budget} candidates)")
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(f"sqlite:///{scratch}/nas.db")
        with open_run(experiment, store, Path(scratch) / "runs") as opened:
            begun = time.process_time()
            train_run(opened, never)
            found.training = time.process_time() - begun
            candidates = []

            def note(candidate) -> None:
                candidates.append(candidate)
                found.points.append((time.process_time() - begun, *losses(candidate)))

            search_run(opened, never, on_candidate=note)
            found.seconds = time.process_time() - begun
            found.test = of_front(opened, candidates, found.points)
        store.close()
    return found


def of_front(opened: Opened, candidates: list, points: list) -> list[tuple[float, float]]:
    bench = Bench(opened.experiment, opened.splits, opened.space, opened.supernet_file)
    scored = []
    for at in front_of(points):
        architecture = architecture_from_json(candidates[at].architecture)
        scored.append((test_error(bench.subnet(architecture), opened.splits), points[at][2]))
    return scored


def optuna_alone(
    experiment: config.Experiment, splits: Splits, space: SearchSpace, epochs: float, seconds: float
) -> Found:
    """Optuna's TPE with default settings, told of each architecture when it is trained."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=optuna.samplers.TPESampler(seed=experiment.search.seed)
    )
    found, subnets = Found(f"Optuna, {epochs:g} epochs each"), []
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        trial = study.ask()
        subnet, error, latency = train_alone(experiment, splits, space, proposed(trial, space), epochs)
        study.tell(trial, [error, latency])
        if (now := time.process_time() - begun) <= seconds:  # what ends later was not found in time
            found.points.append((now, error, latency))
            subnets.append(subnet)
    found.seconds = seconds
    found.training = found.points[0][0] if found.points else seconds
    found.test = [(test_error(subnets[at], splits), found.points[at][2]) for at in front_of(found.points)]
    return found


def proposed(trial, space: SearchSpace) -> Architecture:
    chosen = [
        trial.suggest_categorical(str(place), list(range(1, len(decision.options) + 1)))
        for place, decision in enumerate(space.decisions)
    ]
    [row] = space.canonical(np.array([chosen], np.int64))
    return space.decode(row)


def train_alone(
    experiment: config.Experiment,
    splits: Splits,
    space: SearchSpace,
    architecture: Architecture,
    epochs: float,
) -> tuple[torch.nn.Module, float, float]:
    """An architecture trained from the start, and what it comes to by the same evaluation."""
    settings = replace(experiment.training, epochs=epochs, sampler="uniform", checkpoint_every=10**9)
    one, single = replace(experiment, training=settings), only(space, architecture)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "subnet.safetensors"
        training_parts(one, splits, single).train(file, Watcher())
        bench = Bench(one, splits, single, file)
        candidate = evaluate(bench, architecture)
    if candidate.error:
        raise RuntimeError(candidate.error)
    return bench.subnet(architecture), *losses(candidate)


def losses(candidate) -> tuple[float, float]:
    return 100 - candidate.values["accuracy"], candidate.values["latency_ms"]


def front_of(points: list) -> list[int]:
    if not points:
        return []
    return np.flatnonzero(nondominated(np.array(points)[:, 1:])).tolist()


def test_error(subnet: torch.nn.Module, splits: Splits) -> float:
    test = splits.read_test("benchmarks/from_scratch.py scores the fronts that were found")
    images = normalize(test.images, splits.mean, splits.std)
    return 100 - accuracy_of(subnet, images, torch.from_numpy(test.labels))


def never() -> bool:
    return False


# -- the table ---------------------------------------------------------------------------------


def table(folder: Path) -> None:
    results: dict[str, list[dict]] = {}
    for file in sorted(folder.glob("*.json")):
        one = json.loads(file.read_text())
        results.setdefault(one["method"], []).append(one)
    everything = [one for several in results.values() for one in several]
    whole = [np.array([point[1:] for one in everything for point in one["points"]])]
    whole.append(np.array([point for one in everything for point in one["test"]]))
    references = [reference_point(points[nondominated(points)]) for points in whole]
    volumes = [hypervolume(points, reference) for points, reference in zip(whole, references, strict=True)]
    seeds = max(len(several) for several in results.values())
    ends = [f"{reference[0]:.2f} % and {reference[1]:.3f} ms" for reference in references]
    print(f"{everything[0]['machine']}; {seeds} seeds, medians (smallest to largest)\n")
    print(f"References: {ends[0]}; on test images {ends[1]}.\n")
    at = [f"at {share:.0%}" for share in SHARES]
    print(f"| method | s | trained | best error | {' | '.join(at)} | on test images | best there |")
    print("|---" * (7 + len(at)) + "|")
    for method in sorted(results, key=lambda name: ("Optuna" in name, len(name), name)):
        several = results[method]
        rows = [row(one, references, volumes) for one in several]
        cells = [spread([each[place] for each in rows], form) for place, form in enumerate(FORMS)]
        print(f"| {method} | {' | '.join(cells)} |")


FORMS = (".0f", ".0f", ".2f", *[".2f"] * len(SHARES), ".2f", ".2f")


def row(one: dict, references: list[np.ndarray], volumes: list[float]) -> list[float]:
    points, test = np.array(one["points"]).reshape(-1, 3), np.array(one["test"]).reshape(-1, 2)
    shares = [
        hypervolume(points[points[:, 0] <= share * one["seconds"], 1:], references[0]) / volumes[0]
        for share in SHARES
    ]
    best = [points[:, 1].min(initial=100), test[:, 0].min(initial=100)]
    reached = hypervolume(test, references[1]) / volumes[1]
    return [one["seconds"], len(points), best[0], *shares, reached, best[1]]


def spread(values: list[float], form: str) -> str:
    middle = f"{np.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


# -- the command -------------------------------------------------------------------------------


def once(file: Path, work: Callable[[], Found]) -> None:
    if file.is_file():
        return
    found = work()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine(), **vars(found)}), encoding="utf-8")
    best = min((point[1] for point in found.points), default=100)
    print(
        f"{file.name}: {found.seconds:.0f} s, {len(found.points)} candidates, best error {best:.2f} %",
        flush=True,
    )


def machine() -> str:
    packages = " ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "optuna"))
    return f"{processor_name()}, one thread, {packages}"


def compare(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        experiment = read(args.experiment, args.data_dir, seed)
        own = args.folder / f"ours-{seed}.json"
        if args.command == "ours":
            once(own, lambda experiment=experiment: ours(experiment))
            continue
        if not own.is_file():
            raise SystemExit(f"there is no {own}, whose time Optuna shall have; run `ours` first")
        seconds = json.loads(own.read_text())["seconds"]
        with tempfile.TemporaryDirectory() as scratch:
            store = Store(f"sqlite:///{scratch}/nas.db")
            with open_run(experiment, store, Path(scratch)) as opened:
                splits, space = opened.splits, opened.space
            store.close()
        for epochs in args.epochs:
            once(
                args.folder / f"optuna-{epochs:g}-{seed}.json",
                lambda given=(experiment, splits, space, epochs, seconds): optuna_alone(*given),
            )


def read(file: Path, data: str | None, seed: int) -> config.Experiment:
    overrides = [f"training.seed={seed}", f"search.seed={seed}", "training.device=cpu"]
    overrides += [f"data.directory={data}"] if data else []
    return config.read_experiment(file, overrides)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("ours", "optuna", "table"))
    parser.add_argument("--experiment", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, nargs="+", default=[30])
    args = parser.parse_args()
    if args.command == "table":
        table(args.folder)
    else:
        compare(args)
