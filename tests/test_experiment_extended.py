"""A finished run goes on with other objectives, another searcher, or what another run found; what makes its
candidates what they are does not change.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nas.cli import main
from nas.config import read_experiment
from nas.experiment import SUPERNET, open_run, search_run
from nas.storage.records import Candidate, Run
from nas.storage.store import Store
from tests.conftest import TINY, TinyRun, write_experiment

BY_COST = TINY.replace("[accuracy, latency]", "[accuracy, macs]").replace("budget: 20", "budget: 10")


def never() -> bool:
    return False


def trained_run(tiny_run: TinyRun, folder: Path, text: str) -> TinyRun:
    """A run that is trained and not searched: with the supernet of another, which does not depend on the search."""
    run = write_experiment(folder, text)
    with Store(run.store_url) as store:
        open_with(run, store, lambda opened: None)
    shutil.copy(tiny_run.folder / "runs" / "tiny" / SUPERNET, folder / "runs" / "tiny")
    return run


def open_with(run: TinyRun, store: Store, carry_out, *overrides: str):
    experiment = read_experiment(run.file, overrides)
    with open_run(experiment, store, run.folder / "runs") as opened:
        return carry_out(opened)


def kept(run: TinyRun, name: str = "tiny") -> tuple[Run, list[Candidate]]:
    with Store(run.store_url, create=False) as store:
        return store.run(name), store.candidates(name, with_latency=True)


def keys(candidates: list[Candidate]) -> list[str]:
    return [one.key for one in candidates]


@pytest.fixture(scope="module")
def searched(tiny_run, tmp_path_factory) -> TinyRun:
    """Ten candidates with accuracies and costs, and without latencies. Copied before it is written to."""
    run = trained_run(tiny_run, tmp_path_factory.mktemp("searched"), BY_COST)
    assert main(["run", *run.arguments]) == 0
    return run


@pytest.fixture
def copied(searched, tmp_path) -> TinyRun:
    return copy_of(searched, tmp_path)


def copy_of(original: TinyRun, folder: Path) -> TinyRun:
    shutil.copytree(original.folder, folder / "copy")
    run = TinyRun(folder / "copy", folder / "copy/tiny.yaml", f"sqlite:///{folder / 'copy/nas.db'}")
    with Store(run.store_url) as store:
        store.rename_run("tiny", "tiny", str(run.folder / "runs/tiny"))
    return run


def test_latency_is_measured_afterwards_of_what_is_there_however_often_that_is_stopped(copied):
    _, before = kept(copied)
    other, answers = "objectives=[accuracy, latency]", iter([False] * 3 + [True])
    with Store(copied.store_url) as store:
        assert (
            open_with(copied, store, lambda opened: search_run(opened, lambda: next(answers)), other) is False
        )
        stopped = store.run("tiny")
        halfway = store.candidates("tiny", with_latency=True)
        assert open_with(copied, store, lambda opened: search_run(opened, never), other) is True
    run, after = kept(copied)

    assert stopped.status == "interrupted" and [one.key for one in stopped.objectives] == ["accuracy", "macs"]
    assert ["latency_ms" in one.values for one in halfway] == [True] * 4 + [False] * 6
    assert [one.key for one in run.objectives] == ["accuracy", "latency_ms"]
    assert (run.status, run.message) == ("finished", "its budget is spent")
    assert [one.latency for one in after[:4]] == [one.latency for one in halfway[:4]]
    for one, was in zip(after, before, strict=True):
        assert (one.key, one.number) == (was.key, was.number)
        assert {key: one.values[key] for key in was.values} == was.values
        assert one.latency.median_ms == one.values["latency_ms"] and "latency_ms" in one.intervals


def test_another_searcher_goes_on_from_what_is_there_and_the_report_says_so(copied, capsys, caplog):
    _, before = kept(copied)
    other = ["-o", "search.searcher=random", "-o", "search.seed=1", "-o", "search.budget=14"]

    assert main(["run", *copied.arguments, *other]) == 0
    run, after = kept(copied)
    assert main(["run", *copied.arguments, *other]) == 0

    assert after[:10] == before and len(set(keys(after))) == 14
    assert kept(copied)[1] == after and run.facts["search seed"] == "1"
    assert json.loads(run.experiment)["search"]["searcher"] == "random"
    [said] = [message for message in caplog.messages if "goes on from" in message]
    assert said.startswith(
        "the run tiny goes on from its 10 candidates with other settings: search.budget was 10"
    )
    capsys.readouterr()
    assert main(["report", "tiny", "--store", copied.store_url]) == 0
    said = capsys.readouterr().out
    assert "tiny: finished (its budget is spent); 14 candidates" in said
    assert (
        "candidates 1-10 by nsga2 (seed 0; accuracy, macs), 11-14 by random (seed 1; accuracy, macs)" in said
    )
    assert main(["report", "tiny", "--store", copied.store_url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [leg["known"] for leg in told["legs"]] == [0, 10] and told["message"] == "its budget is spent"


def test_a_leg_of_before_there_were_several_devices_and_races_goes_on_as_it_is(copied):
    with Store(copied.store_url) as store:
        run, [leg] = store.run("tiny"), store.legs("tiny")
        settings = json.loads(leg.settings)
        assert settings.pop("per_device") is False and settings.pop("first_images") is None
        store.extend_run(run, replace(leg, settings=json.dumps(settings, sort_keys=True)))

    assert main(["run", *copied.arguments, "-o", "search.budget=11"]) == 0

    with Store(copied.store_url, create=False) as store:
        assert [one.known for one in store.legs("tiny")] == [0] and store.count_candidates("tiny") == 11


def test_a_run_timed_before_runs_could_end_early_goes_on(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path)
    with Store(run.store_url) as store:
        [old] = store.runs()
        experiment = json.loads(old.experiment)
        for setting in ("interval", "reuse_days"):
            del experiment["device"][setting]
        store.extend_run(replace(old, experiment=json.dumps(experiment)), store.legs("tiny")[0])

    assert main(["run", *run.arguments]) == 0
    assert main(["run", *run.arguments, "-o", "device.interval=0.03"]) == 0


def test_a_device_may_change_until_something_was_measured_on_it(copied, capsys):
    threads = ["-o", "device.threads=2"]

    assert main(["run", *copied.arguments, *threads, "-o", "objectives=[accuracy, latency]"]) == 0
    assert {one.latency.settings["threads"] for one in kept(copied)[1]} == {2}
    assert main(["run", *copied.arguments]) == 2
    assert "device.threads was 2, is 1" in capsys.readouterr().err


def test_other_limits_and_a_focus_apply_to_what_is_there(copied, capsys):
    other = ["-o", "constraints={macs: {max: 1G}}", "-o", "focus={macs: [10k, 100k]}"]

    assert main(["run", *copied.arguments, *other]) == 0

    run, candidates = kept(copied)
    assert len(candidates) == 10 and [one.key for one in run.constraints] == ["macs"]
    assert "focus: macs at least 10000 and at most 100000" in capsys.readouterr().out


def test_a_run_starts_from_the_best_of_another(copied, capsys):
    front = [one["candidate"] for one in report(copied, capsys)["front"]]
    other = [
        "--name",
        "other",
        "-o",
        "search.start_from={run: tiny, architectures: 3}",
        "-o",
        "search.budget=5",
    ]
    with Store(copied.store_url) as store:
        experiment = read_experiment(copied.file, other[3::2], "other")
        with open_run(experiment, store, copied.folder / "runs"):
            pass
    shutil.copy(copied.folder / "runs/tiny" / SUPERNET, copied.folder / "runs/other")

    assert main(["run", *copied.arguments, *other]) == 0

    run, candidates = kept(copied, "other")
    assert len(candidates) == 5 and run.status == "finished"
    assert len(front) < 3 or set(keys(candidates)[:3]) <= set(front)
    assert len(front) > 3 or set(front) <= set(keys(candidates)[:3])
    with Store(copied.store_url, create=False) as store:
        [leg] = store.legs("other")
    assert len(leg.start) == 3


def report(run: TinyRun, capsys) -> dict:
    capsys.readouterr()
    assert main(["report", "tiny", "--store", run.store_url, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["-o", "search.start_from=tinny"], "no run named 'tinny' in this store; did you mean tiny?"),
        (["-o", "search.start_from=other"], "search.start_from is other, this run itself; name another run"),
        (
            ["-o", "search.start_from=tiny", "-o", "space=digits"],
            "search.start_from is tiny, a run of another",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_the_training(copied, changed, said, capsys):
    assert main(["run", *copied.arguments, "--name", "other", *changed]) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    with Store(copied.store_url, create=False) as store:
        assert [run.name for run in store.runs()] == ["tiny"]
