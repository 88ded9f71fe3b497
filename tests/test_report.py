"""A run is told in plain text and as JSON, whatever state it is in: what it found, what failed, what is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nas.cli import main
from nas.report import (
    cell,
    front_as_json,
    heading,
    limit_in_words,
    outline,
    print_exports,
    print_front,
    print_runs,
    why_empty,
)
from nas.storage.records import Candidate, Constraint, Export, Objective, Run
from nas.storage.store import Store
from tests.synthetic import small_space

OBJECTIVES = (
    Objective("accuracy", "accuracy", "%", "maximize"),
    Objective("latency", "latency_ms", "ms", "minimize"),
)
RUN = Run("digits", "{}", "{}", OBJECTIVES, (), "runs/digits", status="finished")
LIMITED = replace(RUN, constraints=(Constraint("latency_ms", max=1.0),))


def architecture_json() -> str:
    space = small_space()
    return space.decode([1] * len(space.decisions)).to_json()


def candidate(key: str, accuracy: float, latency: float, number: int, error: str | None = None) -> Candidate:
    values = {"accuracy": accuracy, "latency_ms": latency, "macs": 12_345.0, "parameters": 900, "bytes": 3600}
    intervals = {"latency_ms": (0.9 * latency, 1.1 * latency)}
    if error:
        values = intervals = {}
    return Candidate(key, architecture_json(), values, intervals, error=error, number=number)


FOUND = [
    candidate("slow", 90, 3.0, 1),
    candidate("middle", 85, 1.2, 2),
    candidate("fast", 60, 0.8, 3),
    candidate("beaten", 59, 1.0, 4),
    candidate("broken", 0, 0, 5, error="ValueError: [ONNXRuntimeError] : 1 : FAIL"),
]


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


# -- the front ---------------------------------------------------------------------------------


def test_the_front_is_a_table_with_units_in_ascending_order_of_the_last_objective(capsys):
    print_front(RUN, FOUND)

    out = lines(capsys)
    assert out[0] == "digits: finished; 5 candidates, 3 on the Pareto front, 1 failed"
    header = next(line for line in out if "candidate " in line)
    for words in ("accuracy (%)", "latency (ms)", "macs", "parameters", "bytes", "architecture"):
        assert words in header
    keys = [line.split()[0] for line in out[2:5]]
    assert keys == ["fast", "middle", "slow"]
    assert "1.200 [1.080-1.320]" in "\n".join(out)
    assert "12.3 k" in "\n".join(out)


def test_the_knee_is_marked_and_explained(capsys):
    print_front(RUN, FOUND)

    out = lines(capsys)
    assert [line[:8] for line in out if " * " in line] == ["middle *"]
    assert "* knee point: the best compromise; latency: measured, median [95 % interval]" in out


def test_the_second_measurement_stands_beside_the_first_and_is_held_against_the_limits(capsys):
    lucky = replace(FOUND[2], again={"latency_ms": (0.95, 0.9, 1.05)})
    steady = replace(FOUND[2], key="steady", again={"latency_ms": (0.8, 0.7, 0.9)})

    print_front(LIMITED, [lucky, steady])

    out = capsys.readouterr().out
    assert " ".join(out.splitlines()[1].split()).startswith("candidate accuracy (%) latency (ms) again macs")
    assert "0.8000 [0.7200-0.8800] 0.9500 [0.9000-1.050]" in " ".join(out.split())
    assert (
        "measured again, 1 of 2 keep every constraint; not: fast (latency_ms 0.9500 [0.9000-1.050], "
        "limit latency_ms at most 1)"
    ) in out
    told = front_as_json(LIMITED, [lucky, steady, FOUND[1]])["front"]
    assert [one["again"]["keeps_constraints"] for one in told] == [False, True]
    assert front_as_json(RUN, FOUND)["front"][0]["again"] is None
    print_front(RUN, [lucky])
    assert "keep every constraint" not in capsys.readouterr().out


def test_latencies_that_differ_look_different(capsys):
    a, b = candidate("a", 96.86, 0.01412, 1), candidate("b", 97.56, 0.01437, 2)

    assert [cell(one, "latency_ms").split()[0] for one in (a, b)] == ["0.01412", "0.01437"]


def test_the_last_failure_is_told_with_its_brackets(capsys):
    print_front(RUN, FOUND)

    assert lines(capsys)[-1] == "last failure: broken: ValueError: [ONNXRuntimeError] : 1 : FAIL"


def test_why_a_run_ended_is_told(capsys):
    print_front(replace(RUN, status="failed", message="no space left on [device]"), [])

    assert lines(capsys) == [
        "digits: failed (no space left on [device]); 0 candidates, 0 on the Pareto front",
        "No candidates yet: `nas search` evaluates them.",
    ]


def test_an_empty_front_names_the_nearest_candidate_and_what_it_breaks():
    hard = replace(RUN, constraints=(Constraint("latency_ms", max=0.5), Constraint("accuracy", min=50)))

    said = why_empty(hard, FOUND)

    assert said == (
        "No candidate keeps the constraints; the nearest is fast: "
        "latency_ms 0.8000 [0.7200-0.8800] (limit latency_ms at most 0.5)"
    )


def test_an_empty_front_of_failures_gives_the_last_reason(capsys):
    print_front(RUN, FOUND[-1:])

    assert lines(capsys)[1:] == [
        "Every candidate failed; the last one with: ValueError: [ONNXRuntimeError] : 1 : FAIL"
    ]


def test_feasible_means_by_the_upper_end_of_the_interval(capsys):
    print_front(LIMITED, FOUND)

    out = lines(capsys)
    assert out[0].startswith("digits: finished; 5 candidates, 1 on the Pareto front, 3 infeasible, 1 failed")
    assert out[0].endswith("constraints: latency_ms at most 1")


def test_as_json_it_is_the_same_and_complete():
    told = json.loads(json.dumps(front_as_json(LIMITED, FOUND)))

    assert (told["run"], told["status"], told["candidates"], told["failed"]) == ("digits", "finished", 5, 1)
    assert told["knee"] == "fast"
    assert told["hypervolume"] > 0
    [fast] = told["front"]
    assert fast["values"]["latency_ms"] == 0.8
    assert fast["intervals"]["latency_ms"] == pytest.approx([0.72, 0.88])
    assert fast["architecture"]["stages"]
    assert [one["key"] for one in told["objectives"]] == ["accuracy", "latency_ms"]
    assert front_as_json(RUN, [])["knee"] is None


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "said"),
    [("latency_ms", "latency (ms)"), ("accuracy", "accuracy (%)"), ("bytes", "bytes (B)"), ("macs", "macs")],
)
def test_a_heading_is_a_name_with_its_unit(key, said):
    assert heading(key, OBJECTIVES) == said


def test_a_cell_shows_what_is_known():
    assert cell(FOUND[0], "accuracy") == "90.00"
    assert cell(FOUND[0], "latency_ms") == "3.000 [2.700-3.300]"
    assert cell(FOUND[0], "parameters") == "900"
    assert cell(FOUND[-1], "accuracy") == "-"


def test_limits_and_architectures_have_short_words():
    assert limit_in_words(Constraint("accuracy", min=50, max=90)) == "accuracy at least 50 and at most 90"
    assert outline(FOUND[0]) == "8 px, 8×1"


# -- runs and exports --------------------------------------------------------------------------


def test_runs_are_listed_with_how_far_they_are(capsys):
    print_runs([(RUN, 5), (replace(RUN, name="other", status="failed", message="[x] broke"), 0)])

    out = lines(capsys)
    assert [line.split()[0] for line in out] == ["run", "digits", "other"]
    assert "[x] broke" in out[-1]


def test_no_runs_say_how_to_make_one(capsys):
    print_runs([])

    assert lines(capsys) == ["no runs yet; `nas run examples/digits.yaml` makes one"]


def test_exports_are_one_line_each_however_long(capsys):
    print_exports([Export("k1", "/" + 40 * "folder/", True, 1e-7, 1.0, 91.5, "{}")])

    assert lines(capsys) == [f"exported k1: /{40 * 'folder/'}, test accuracy 91.50 %"]


# -- the command -------------------------------------------------------------------------------


def test_the_report_of_a_real_run_says_the_same_in_words_and_in_json(tiny_run, capsys):
    assert main(["report", "tiny", "--store", tiny_run.store_url]) == 0
    words = capsys.readouterr()
    assert main(["report", "tiny", "--store", tiny_run.store_url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert words.err == ""
    assert told["candidates"] == 20
    assert f"{told['knee']} *" in words.out
    for one in told["front"]:
        assert one["candidate"] in words.out


def test_without_a_name_it_lists_the_runs(tiny_run, capsys):
    assert main(["report", "--store", tiny_run.store_url]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["report", "--store", tiny_run.store_url, "--json"]) == 0

    with Store(tiny_run.store_url, create=False) as store:
        created = store.run("tiny").created
    assert json.loads(capsys.readouterr().out) == [
        {
            "run": "tiny",
            "status": "finished",
            "message": "its budget is spent",
            "candidates": 20,
            "created": created,
            "objectives": ["accuracy", "latency_ms"],
        }
    ]
