"""What tests share: small real data, and one tiny run carried out by the command itself."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests are many small pieces of work
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets: tables would be as narrow as somebody's terminal

import pytest

TINY = """
name: tiny
data: {name: digits}
space: tiny
training: {epochs: 6, batch_size: 64, sampler: {name: shift, every: 10, warmup: 0.3}, checkpoint_every: 40}
search: {searcher: {name: nsga2, population: 8}, budget: 20}
objectives: [accuracy, latency]
constraints: {bytes: {max: 15k}}
device: {name: onnxruntime-cpu, min_runs: 20, max_runs: 40, seconds: 0.02}
"""


def pytest_collection_modifyitems(items):
    """Files with slow tests first: the others fill the processes up evenly."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Where several processes test, one that is marked `alone` is."""
    suite = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if suite is None:
        return (yield)
    with open(Path(tempfile.gettempdir()) / f"paretoshift-tests-{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@dataclass(frozen=True)
class TinyRun:
    """A finished run in a folder of its own."""

    folder: Path
    file: Path
    store_url: str
    name: str = "tiny"

    @property
    def arguments(self) -> list[str]:
        """What `nas run` needs to find it."""
        return [str(self.file), "--store", self.store_url, "--runs", str(self.folder / "runs")]


def write_experiment(folder: Path, text: str = TINY) -> TinyRun:
    """An experiment file in a folder, not yet carried out."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.yaml"
    file.write_text(text, encoding="utf-8")
    return TinyRun(folder, file, f"sqlite:///{folder / 'nas.db'}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What is kept for later, such as the peaks of this machine, is not that of whoever tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETOSHIFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    """Digits, the tiny space, the shift sampler: trained, searched, in a store. Read only."""
    from nas.cli import main

    run = write_experiment(tmp_path_factory.mktemp("tiny"))
    assert main(["run", *run.arguments]) == 0
    return run
