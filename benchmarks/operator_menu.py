"""What a menu of operators is worth: `mobile` with all non-experimental operators against depthwise alone.

    python benchmarks/operator_menu.py run depthwise --data-dir DIR --folder OUT [--epochs 4] [--budget 100]
    python benchmarks/operator_menu.py run all --data-dir DIR --folder OUT ...
    python benchmarks/operator_menu.py table --folder OUT

On Fashion-MNIST, at equal training steps and equal numbers of candidates. The stem has a stride of 2, so that
large kernels can be trained on a CPU. A run that was stopped goes on. `run` may be started twice side by side
with OMP_NUM_THREADS=1: nothing is compared by wall time, and latency is processor time.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml

from nas.cli import main as nas
from nas.pareto import front, hypervolume, losses, reference_point
from nas.storage.records import Candidate, Run
from nas.storage.store import Store
from search_spaces import Architecture, read_skeleton
from supernets.operators import OPERATORS

# one setting that is large where the default would offer several: a step of 31×31 takes seconds on a CPU
NARROWED = {
    "depthwise": {"kernel_size": [3, 5, 7], "dilation": [1]},
    "large_kernel": {"kernel_size": [13], "small_kernel": [5]},
    "dilated_reparam": {"kernel_size": [7]},
}


def menu(which: str) -> list:
    if which == "depthwise":
        return [{"depthwise": NARROWED["depthwise"]}]
    names = sorted(name for name, one in OPERATORS.items() if not getattr(one, "experimental", False))
    return [{name: NARROWED[name]} if name in NARROWED else name for name in names]


def run(which: str, data: str, folder: Path, epochs: float, budget: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    space = read_skeleton("mobile")
    space |= {
        "name": f"mobile_{which}",
        "stem": {**space["stem"], "stride": 2},
        "operators": menu(which),
        "attention": ["none", "se"],
    }
    experiment = {
        "name": which,
        "data": {"name": "fashion_mnist", "directory": data, "flip": True},
        "space": space,
        "training": {"epochs": epochs, "batch_size": 128, "sampler": "shift", "label_smoothing": 0.0},
        "search": {"searcher": "nsga2", "budget": budget},
        "objectives": ["accuracy", "latency"],
        "device": {"name": "onnxruntime-cpu", "threads": 1, "batch": 1},
    }
    file = folder / f"{which}.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False), encoding="utf-8")
    # a store each, so that two may run side by side
    return nas(["run", str(file), "--store", _store(folder, which), "--runs", str(folder / "runs")])


def table(folder: Path) -> None:
    found: dict[str, tuple[Run, list[Candidate]]] = {}
    for which in ("depthwise", "all"):
        with Store(_store(folder, which), create=False) as store:
            run = store.run(which)
            found[which] = run, store.candidates(which, with_latency=True)
    runs = [run for run, _ in found.values()]
    fronts = {which: front(found[which][1], run.objectives, run.constraints) for which, run in _named(found)}
    points = {which: losses(fronts[which], run.objectives) for which, run in _named(found)}
    worst = reference_point(np.concatenate(list(points.values())))
    first = next(one for one in fronts["all"] if one.latency)
    print(
        f"{first.latency.processor}, torch {version('torch')}, onnxruntime {version('onnxruntime')}; "
        f"{runs[0].facts['images']}\n"
    )
    limits = _limits(fronts)
    print("| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for which, run in _named(found):
        assert run.objectives == runs[0].objectives, which
    print("| candidates | " + " | ".join(str(len(known)) for _, known in found.values()) + " |")
    print("| on the front | " + " | ".join(str(len(one)) for one in fronts.values()) + " |")
    for limit in limits:
        best = [_best_within(one, limit) for one in fronts.values()]
        print(f"| best validation accuracy within {limit:.3f} ms | " + " | ".join(best) + " |")
    volumes = [f"{hypervolume(one, worst):.3f}" for one in points.values()]
    print(f"| hypervolume (%·ms, to {-worst[0]:.1f} % and {worst[1]:.3f} ms) | " + " | ".join(volumes) + " |")
    print("\nOperators of the blocks on the front of `all`:\n")
    counts: dict[str, int] = {}
    for candidate in fronts["all"]:
        for stage in Architecture.from_json(candidate.architecture).stages:
            for choice in stage.blocks:
                counts[choice.operator] = counts.get(choice.operator, 0) + 1
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        print(f"- {name}: {count}")


def _named(found: dict[str, tuple[Run, list[Candidate]]]) -> list[tuple[str, Run]]:
    return [(which, run) for which, (run, _) in found.items()]


def _limits(fronts: dict[str, list[Candidate]]) -> np.ndarray:
    """Five latencies that both fronts reach, evenly spaced in their logarithm."""
    low = max(min(one.values["latency_ms"] for one in known) for known in fronts.values())
    high = max(max(one.values["latency_ms"] for one in known) for known in fronts.values())
    return np.geomspace(low, high, 5)


def _best_within(candidates: list[Candidate], limit: float) -> str:
    within = [one.values["accuracy"] for one in candidates if one.values["latency_ms"] <= limit * 1.0001]
    return f"{max(within):.2f} %" if within else "–"


def _store(folder: Path, which: str) -> str:
    return f"sqlite:///{(folder / which).absolute()}.db"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("which", choices=("depthwise", "all"))
    one.add_argument("--data-dir", required=True)
    one.add_argument("--epochs", type=float, default=4)
    one.add_argument("--budget", type=int, default=100)
    two = commands.add_parser("table")
    for command in (one, two):
        command.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "run":
        raise SystemExit(run(args.which, args.data_dir, args.folder, args.epochs, args.budget))
    table(args.folder)
