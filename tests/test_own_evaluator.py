"""Whatever a person's own function does, there is a candidate: in this process and on workers."""

from __future__ import annotations

import json
import math
import os
import sys
from asyncio import CancelledError

import numpy as np
import pytest

from nas.library import CategoricalSpace, SearchFailed
from nas.storage.store import Store
from tests.own_search import evaluate, found_by, keys, raising, run_script


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raises(error: BaseException):
    def function(architecture):
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises(SystemExit(3)), "SystemExit: 3"),
        (raises(Hostile()), "Hostile: its message cannot be shown"),
        (raises(ValueError("caf\udce9\0\n" + "e" * 1000)), "ValueError: caf?� eee"),
        (raising, "KeyError: 'kernel'"),
        (lambda a: 1 / 0, "ZeroDivisionError: division by zero"),
        (
            lambda a: evaluate(a) | {"accuracy": math.nan},
            "ValueError: evaluate returned nan (float) for accuracy",
        ),
        (lambda a: evaluate(a) | {"latency_ms": -math.inf}, "evaluate returned -inf (float) for latency_ms"),
        (lambda a: {"accuracy": 1}, "evaluate returned no latency_ms, only accuracy"),
        (lambda a: {}, "evaluate returned no accuracy, only nothing"),
        (lambda a: evaluate(a) | {"acuracy": 1}, "'acuracy', which is not known; did you mean accuracy?"),
        (lambda a: evaluate(a) | {"accuracy": "0.9"}, "evaluate returned '0.9' (str) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": True}, "evaluate returned True (bool) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": None}, "evaluate returned None (NoneType) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": np.ones(3)}, "for accuracy; it must be a finite number"),
        (lambda a: evaluate(a) | {"accuracy": 1j}, "for accuracy; it must be a finite number"),
        (
            lambda a: evaluate(a) | {"accuracy": np.complex128(1)},
            "(complex128) for accuracy; it must be a finite",
        ),
        (
            lambda a: evaluate(a) | {"accuracy": np.timedelta64(3)},
            "(timedelta64) for accuracy; it must be a finite",
        ),
        (lambda a: evaluate(a) | {"accuracy": 10**400}, "(int) for accuracy; it must be a finite number"),
        (raises(CancelledError()), "CancelledError: no message"),
        (
            lambda a: evaluate(a) | {"accuracy": (0.9, 0.8, 1.0)},
            "evaluate returned (0.9, 0.8, 1.0) (tuple) for accuracy; an uncertain value is (low, value, high), in",
        ),
        (lambda a: evaluate(a) | {"latency_ms": [1, 2]}, "an uncertain value is (low, value, high)"),
        (
            lambda a: evaluate(a) | {"latency_ms": (1, 2, math.inf)},
            "for latency_ms, with inf (float); it must be a finite number",
        ),
        (lambda a: 0.93, 'evaluate returned 0.93 (float); it must be {"accuracy": ..., "latency_ms": ...}'),
        (lambda a: None, "evaluate returned None (NoneType); it must be"),
        (lambda: None, "TypeError: "),
    ],
)
def test_what_an_evaluator_does_wrong_is_the_error_of_a_candidate(function, said):
    def now_and_then(architecture):
        return function(architecture) if architecture["a"] == 2 else evaluate(architecture)

    if function.__code__.co_argcount == 0:
        now_and_then = lambda a: function(a) if a["a"] == 2 else evaluate(a)  # noqa: E731

    found = found_by("random", function=now_and_then)

    wrong = [one for one in found.candidates if one.error is not None]
    assert len(found.candidates) == 24 and wrong
    for one in found.candidates:
        assert (one.error is not None) == (found.architecture(one)["a"] == 2)
        assert one.error is None or (said in one.error and "\n" not in one.error and not one.values)
        assert one.error is None or (len(one.error) <= 500 and one.error.encode())  # as a store holds it


def test_what_an_evaluator_does_to_its_architecture_changes_no_candidate():
    def hostile(architecture):
        values = evaluate(architecture)
        architecture.__dict__.clear()
        return values

    assert [(one.key, one.architecture, one.values) for one in found_by(function=hostile).candidates] == [
        (one.key, one.architecture, one.values) for one in found_by().candidates
    ]


@pytest.mark.parametrize("ends", [lambda: sys.exit(3), lambda: 1 / 0, lambda: None])
def test_a_process_that_an_evaluator_forks_ends_with_it_and_does_not_go_on_with_the_search(ends):
    here, ended = os.getpid(), []

    def forking(architecture):
        if not (child := os.fork()):
            return ends()
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return evaluate(architecture)

    try:
        found = found_by(function=forking, budget=3)
    finally:
        if os.getpid() != here:
            os._exit(9)

    assert len(found.candidates) == 3 and all(one.error is None for one in found.candidates)
    assert len(set(ended)) == 1 and ended[0] in (1, 3)


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(3), np.array(0.5), 2**60])
def test_whatever_is_a_number_counts(number):
    found = found_by(function=lambda a: {"accuracy": number, "latency_ms": 1}, budget=3)

    assert [one.values["accuracy"] for one in found.candidates] == [float(number)] * 3


def test_numbers_of_numpy_say_the_same_as_pythons(tmp_path):
    def with_numbers(whole, real):
        more = {"plateau": whole(20), "seconds": real(500), "focus": {"latency_ms": [real(1), whole(4)]}}
        limits = {"latency_ms": {"min": whole(1), "max": real(5)}}
        return found_by(budget=whole(24), constraints=limits, store=tmp_path / "nas.db", **more)

    assert keys(with_numbers(np.int64, np.float32)) == keys(with_numbers(int, float))


def test_an_uncertain_value_keeps_its_interval_and_constraints_take_its_worse_end(tmp_path):
    def uncertain(architecture):
        latency = evaluate(architecture)["latency_ms"]
        return evaluate(architecture) | {"latency_ms": (latency - 0.5, latency, np.float32(latency + 1))}

    limits = {"constraints": {"latency_ms": {"max": 5.0}}}
    found = found_by(function=uncertain, store=tmp_path / "nas.db", budget=48, **limits)

    for one in found.candidates:
        latency = one.values["latency_ms"]
        assert one.interval("latency_ms") == pytest.approx((latency - 0.5, latency + 1))
        assert one.feasible(found.constraints) == (one.interval("latency_ms")[1] <= 5)
    assert any(4 < one.values["latency_ms"] <= 5 for one in found.candidates)  # not by their value alone
    assert found.front and all(one.values["latency_ms"] <= 4 for one in found.front)
    frame = found.to_frame()
    assert (frame["latency_ms high"] - frame["latency_ms"]).tolist() == pytest.approx([1.0] * 48)
    assert "accuracy low" not in frame
    undecided = found_by(function=lambda a: evaluate(a), budget=48, **limits)
    assert keys(undecided) != keys(found)  # the searcher hears of it too


def test_ten_failures_in_a_row_end_the_search_with_the_last_reason_and_keep_the_candidates(tmp_path):
    store = tmp_path / "nas.db"

    with pytest.raises(SearchFailed, match=r"10 evaluations in a row failed, .* ZeroDivisionError"):
        found_by(function=lambda a: 1 / 0, store=store)

    with Store(f"sqlite:///{store}", create=False) as kept:
        assert kept.count_candidates("six") == 10
        assert kept.run("six").status == "failed" and "ZeroDivisionError" in kept.run("six").message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"timeout": 5},
            "timeout ends the process that evaluates, so it needs workers; give workers=1 or more",
        ),
        ({"timeout": 0, "workers": 1}, "timeout is 0; it must be above 0 seconds"),
        ({"gpus_per_worker": 1}, "give workers=N as well"),
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"workers": 1, "gpus_per_worker": 1.5}, "gpus_per_worker is 1.5; it must be a share of one GPU"),
        ({"workers": 1, "ray": "127.0.0.1:1"}, "its address; without ray one is started here"),
        ({"function": 3}, "evaluate is 3; it must be a function"),
        ({"on_candidate": 3}, "on_candidate is 3; it must be a function of a candidate, or left out"),
        ({"space": {"a": [1]}}, "make one with CategoricalSpace"),
        ({"goals": {"accuracy": "maximise"}}, "'maximise', which is not known; did you mean maximize?"),
        ({"goals": ["accuracy"]}, "objectives is ['accuracy']; write for example"),
        (
            {"goals": {"accuracy": "maximize"}, "constraints": {"accuracy": 3}},
            'write {"max": ...} or {"min": ...}',
        ),
        ({"constraints": {"latency_ms": {"mx": 3}}}, "did you mean max?"),
        ({"constraints": {"latency_ms": {"max": "3"}}}, "latency_ms.max is '3'; it must be a finite number"),
        ({"constraints": {"latency_ms": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"searcher": "nsga22"}, "search.searcher 'nsga22' is not known; did you mean nsga2?"),
        ({"budget": 0}, "search.budget is 0"),
        ({"budget": "50"}, "search.budget is '50'; it must be an integer"),
        ({"seed": 1.5}, "search.seed is 1.5; it must be an integer"),
        ({"searcher": None}, "search.searcher is None; write a name"),
        ({"workers": 2.5}, "workers is 2.5; it must be an integer"),
        ({"workers": 1, "timeout": "5"}, "timeout is '5'; it must be a number"),
        ({"store": 5}, "store is 5; give a file"),
        ({"seconds": 0}, "search.seconds is 0; it must be above 0"),
        ({"seconds": "60"}, "search.seconds is '60'; it must be above 0"),
        ({"plateau": 2.5}, "search.plateau is 2.5; it must be at least 1 candidate"),
        ({"seconds": True}, "search.seconds is True; it must be above 0"),
        ({"plateau": True}, "search.plateau is True; it must be at least 1 candidate"),
        ({"space": CategoricalSpace}, "make one with CategoricalSpace"),
        ({"constraints": {3: {"max": 3}}}, "a constraint is on 3; the name of what it limits must be text"),
        ({"plateau": 0}, "search.plateau is 0; it must be at least 1 candidate"),
        ({"focus": {"latency": [1, 3]}}, "focus.latency is not known; did you mean latency_ms?"),
        (
            {"focus": {"latency_ms": [3, 1]}},
            "focus: latency_ms is [3, 1]; write its two ends, such as [1, 3]",
        ),
        ({"focus": {"latency_ms": [None, None]}}, "focus: latency_ms is [None, None]; write its two ends"),
        ({"focus": [1, 3]}, "focus is [1, 3]; write for example"),
        ({"start_from": "other"}, "start_from is 'other'; give architectures, such as [found.architecture("),
        ({"start_from": [3]}, "start_from holds 3, which is no architecture of the space six"),
        ({"start_from": [{"a": 1}]}, "the architecture decides a; the space six decides a, b"),
        ({"name": "a/b", "store": "nas.db"}, "use letters, digits, dots"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_evaluated(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluated = []

    with pytest.raises(ValueError) as caught:
        found_by(**{"function": evaluated.append, **arguments})

    assert said in str(caught.value) and "\n" not in str(caught.value) and not evaluated
    assert "--workers" not in str(caught.value) and "--ray" not in str(caught.value)  # nobody typed a command


# -- on workers --------------------------------------------------------------------------------

ON_WORKERS = """
import json, os, sys, threading, time
from nas.library import CategoricalSpace, search
space = CategoricalSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
goals = {"x": "minimize", "y": "maximize"}

def evaluate(one):
    if (one["a"], one["b"]) == (2, 3):
        time.sleep(600)
    if (one["a"], one["b"]) == (3, 1):
        os._exit(1)
    if one["a"] == 4:
        raise ValueError("no")
    return {"x": one["a"], "y": one["b"]}

found = search(space, evaluate, goals, "random", 12, workers=2, timeout=4, store=sys.argv[1])
again = search(space, evaluate, goals, "random", 12, workers=2, timeout=4, store=sys.argv[1])
held = threading.Lock()
try:
    search(space, lambda one: held.locked(), goals, "random", 12, workers=1)
except ValueError as error:
    said = str(error)
rows = [[found.architecture(one)["a"], found.architecture(one)["b"], one.error, one.values] for one in found.candidates]
print(json.dumps({"rows": rows, "said": said, "same": again.candidates == found.candidates,
                  "torch": "torch" in sys.modules}))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_on_workers_what_hangs_dies_or_raises_is_a_candidate_and_the_rest_is_the_same(tmp_path):
    done = run_script(ON_WORKERS, str(tmp_path / "nas.db"), timeout=400)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    errors = {(a, b): error for a, b, error, _ in said["rows"]}
    assert len(errors) == 12 and said["same"] and not said["torch"]
    assert errors[2, 3] == "TimedOut: it took longer than 4 seconds"
    assert errors[3, 1].startswith("WorkerDied: 3 workers died")
    assert errors[4, 1] == errors[4, 2] == "ValueError: no"
    assert [values for a, b, _, values in said["rows"] if (a, b) == (1, 2)] == [{"x": 1.0, "y": 2.0}]
    assert said["said"].startswith("evaluate cannot be sent to workers: ") and "\n" not in said["said"]
