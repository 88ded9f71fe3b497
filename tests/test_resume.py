"""Whatever ends a run, the same command goes on with it, and ends where it would have ended undisturbed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nas.cli import main
from nas.storage.records import Candidate, Run
from nas.storage.store import Store
from tests.conftest import TINY, TinyRun, write_experiment

DETERMINISTIC = TINY.replace("[accuracy, latency]", "[accuracy, macs]")
PATIENCE = 5_000  # looks at a process, some hundredths of a second apart


def start(run: TinyRun, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nas.cli", "run", *run.arguments, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen, by: signal.Signals) -> str:
    """Send the signal; what it said on stderr."""
    process.send_signal(by)
    return process.communicate(timeout=200)[1]


def wait_until(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    for _ in range(PATIENCE):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.03)
        if process.returncode is not None:
            raise AssertionError(f"it ended too early: {process.communicate()}")
        if reached():
            return
    raise AssertionError("it never came so far")


def trained(run: TinyRun, step: int) -> Callable[[], bool]:
    """Whether training has come to that step."""
    return lambda: look(run, lambda store: store.training_points(run.name, after=step - 1), [])


def searched(run: TinyRun, count: int) -> Callable[[], bool]:
    """Whether so many candidates are known."""
    return lambda: look(run, lambda store: store.count_candidates(run.name), 0) >= count


def look(run: TinyRun, at: Callable, otherwise):
    try:
        with closing(Store(run.store_url, create=False)) as store:
            return at(store)
    except (LookupError, FileNotFoundError):  # not made yet
        return otherwise


def candidates(run: TinyRun, name: str | None = None) -> list[Candidate]:
    with closing(Store(run.store_url, create=False)) as store:
        return store.candidates(name or run.name, with_latency=True)


def record(run: TinyRun, name: str | None = None) -> Run:
    with closing(Store(run.store_url, create=False)) as store:
        return store.run(name or run.name)


def outcome(run: TinyRun) -> list[tuple]:
    return [(one.number, one.key, dict(one.values), one.error) for one in candidates(run)]


def copy_of(run: TinyRun, folder: Path) -> TinyRun:
    """A finished run in a place of its own, to be written to."""
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "runs" / run.name / "exports", ignore_errors=True)
    copied = TinyRun(folder, folder / run.file.name, f"sqlite:///{folder / 'nas.db'}")
    with closing(Store(copied.store_url)) as store:
        store.rename_run(run.name, run.name, str(folder / "runs" / run.name))
    return copied


# -- killed and interrupted --------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_killed_at_every_stage_ends_as_if_nothing_had_happened(tmp_path, capfd):
    undisturbed = write_experiment(tmp_path / "undisturbed", DETERMINISTIC)
    disturbed = write_experiment(tmp_path / "disturbed", DETERMINISTIC)
    assert main(["run", *undisturbed.arguments]) == 0

    stops = [
        (trained(disturbed, 20), signal.SIGINT),
        (trained(disturbed, 60), signal.SIGKILL),  # between two checkpoints
        (searched(disturbed, 11), signal.SIGKILL),  # within a generation
    ]
    for reached, by in stops:
        process = start(disturbed)
        wait_until(process, reached)
        before = outcome(disturbed)

        said = end(process, by)

        assert process.returncode == (130 if by is signal.SIGINT else -signal.SIGKILL)
        assert "Traceback" not in said
        assert outcome(disturbed)[: len(before)] == before
        if by is signal.SIGINT:
            assert said.splitlines()[-1].startswith("nas: stopped; everything is saved")
            assert record(disturbed).status == "interrupted"
    assert len(before) < 20
    assert main(["run", *disturbed.arguments]) == 0

    assert outcome(disturbed) == outcome(undisturbed)
    assert record(disturbed).status == "finished"
    points = [
        [(one.step, one.values["loss"]) for one in points] for points in map(curve, (disturbed, undisturbed))
    ]
    assert points[0] == points[1]


def curve(run: TinyRun):
    with closing(Store(run.store_url)) as store:
        return store.training_points(run.name)


@pytest.mark.slow
def test_a_run_turns_others_away_and_killed_keeps_what_it_measured(tiny_run, tmp_path, capfd):
    run = copy_of(tiny_run, tmp_path / "copy")
    finished = candidates(run)
    process = start(run, "-o", "search.budget=400")
    wait_until(process, searched(run, 24))
    process.send_signal(signal.SIGSTOP)
    known = candidates(run)

    second = [main(["run", *run.arguments]), main(["run", *run.arguments, "--fresh"])]
    end(process, signal.SIGKILL)

    assert second == [2, 2]
    assert capfd.readouterr().err.splitlines() == 2 * [
        f"nas: the run tiny is being carried out by process {process.pid}; wait for it, or give this one "
        "another --name"
    ]
    assert known[:20] == finished
    assert candidates(run) == known
    assert main(["run", *run.arguments, "-o", f"search.budget={len(known) + 4}"]) == 0
    first = [replace(one, again={}) for one in candidates(run)[: len(known)]]
    assert first == [replace(one, again={}) for one in known]  # with every sample of every latency
    assert len(candidates(run)) == len(known) + 4


# -- the same name again -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("training.epochs=7", "training.epochs was 6, is 7"),
        ("space=digits", "space.name was 'tiny', is 'digits'"),
        ("device.threads=2", "device.threads was 1, is 2"),
        ("data.seed=1", "data.seed was 0, is 1"),
    ],
)
def test_other_settings_under_the_same_name_are_refused_and_named(tiny_run, capsys, changed, said):
    before = record(tiny_run), candidates(tiny_run)

    assert main(["run", *tiny_run.arguments, "-o", changed]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nas: the run tiny exists with other settings: ")
    assert said in line
    assert line.endswith("give this one another --name, or start over with --fresh (the old run is kept)")
    assert (record(tiny_run), candidates(tiny_run)) == before


def test_a_finished_run_does_nothing_more_and_a_larger_budget_goes_on(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "copy")
    finished = candidates(run)

    assert main(["run", *run.arguments]) == 0
    assert candidates(run) == finished
    assert main(["run", *run.arguments, "-o", "search.budget=22"]) == 0

    assert candidates(run)[:20] == finished
    assert len(candidates(run)) == 22


def test_starting_afresh_keeps_the_old_run_whole_under_another_name(tiny_run, tmp_path, caplog):
    run = copy_of(tiny_run, tmp_path / "copy")
    assert main(["export", "tiny", "--store", run.store_url]) == 0
    weights = (run.folder / "runs/tiny/supernet.safetensors").read_bytes()
    short = ["-o", "training={epochs: 1, batch_size: 64}", "-o", "search.budget=3"]

    assert main(["run", *run.arguments, "--fresh", *short]) == 0

    with closing(Store(run.store_url)) as store:
        [new, old] = store.runs()
        [export] = store.exports(old.name)
    assert f"the run tiny is kept as {old.name}" in caplog.messages
    assert (new.name, len(candidates(run))) == ("tiny", 3)
    assert candidates(run, old.name) == candidates(tiny_run)
    assert Path(old.folder, "supernet.safetensors").read_bytes() == weights
    assert main(["verify", export.folder]) == 0
    assert main(["export", old.name, "--store", run.store_url, "--best", "accuracy"]) == 0


def test_a_run_is_found_again_when_its_folder_was_moved_and_not_doubled_when_it_was_not(
    tiny_run, tmp_path, capsys
):
    run = copy_of(tiny_run, tmp_path / "copy")
    elsewhere = ["run", str(run.file), "--store", run.store_url, "--runs", str(tmp_path / "elsewhere")]

    assert main(elsewhere) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the run tiny lies in {run.folder / 'runs/tiny'}; go on with --runs {run.folder / 'runs'}" in line
    shutil.copytree(run.folder / "runs", tmp_path / "elsewhere", dirs_exist_ok=True)
    shutil.rmtree(run.folder / "runs")
    assert main(elsewhere) == 0

    assert record(run).folder == str(tmp_path / "elsewhere/tiny")
    assert candidates(run) == candidates(tiny_run)


def test_a_store_that_lost_the_run_does_not_overwrite_its_supernet(tiny_run, tmp_path, capsys):
    run = copy_of(tiny_run, tmp_path / "copy")
    (run.folder / "nas.db").unlink()
    weights = (run.folder / "runs/tiny/supernet.safetensors").read_bytes()

    assert main(["run", *run.arguments]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a supernet, but the store" in line
    assert (run.folder / "runs/tiny/supernet.safetensors").read_bytes() == weights
