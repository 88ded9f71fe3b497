"""A loop of one's own that asks and tells comes to what a search comes to, in memory and in a store."""

from __future__ import annotations

import inspect
import json
import math
import signal
from random import Random

import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard.app import page
from dashboard.reader import Reader
from nas.experiment import Busy
from nas.library import CategoricalSpace, ask_tell, search
from nas.storage.store import Store
from tests.own_search import GOALS, SIX, evaluate, found_by, keys, run_script


@pytest.mark.parametrize("name", ["nsga2", "random", "regularised_evolution"])
def test_a_loop_of_ones_own_comes_to_what_search_comes_to(name):
    loop, random = ask_tell(SIX, GOALS, searcher=name), Random(0)
    while len(loop.found.candidates) < 48:
        asked = loop.ask(48 - len(loop.found.candidates))
        random.shuffle(asked)  # told in any order
        for one in asked:
            loop.tell(one, evaluate(one))

    undisturbed = found_by(name, 48)
    assert sorted(keys(loop.found)) == sorted(keys(undisturbed))
    assert {one.key for one in loop.front()} == {one.key for one in undisturbed.front}
    assert len(loop.found.to_frame()) == 48


def test_a_small_space_is_asked_to_its_end():
    loop = ask_tell(CategoricalSpace({"a": [1, 2, 3], "b": [1, 2]}), GOALS)
    asked = []
    while some := loop.ask(2):
        for one in some:
            asked.append(one.key)
            loop.tell(one, {"accuracy": one["a"], "latency_ms": one["b"]})

    assert len(asked) == len(set(asked)) <= 6


def test_a_loop_for_each_device_comes_to_what_search_comes_to_stopped_or_not(tmp_path):
    goals = {"accuracy": "maximize", "latency_ms@server": "minimize", "latency_ms@phone": "minimize"}

    def both(one) -> dict[str, float]:
        known = evaluate(one)
        return {
            "accuracy": known["accuracy"],
            "latency_ms@server": known["latency_ms"],
            "latency_ms@phone": known["latency_ms"] + one["a"],
        }

    def told(loop, count: int) -> list[str]:
        while (left := count - len(loop.found.candidates)) > 0:
            for one in loop.ask(left):
                loop.tell(one, both(one))
        return keys(loop.found)

    more = {"searcher": "nsga2", "per_device": True}
    undisturbed = search(SIX, both, goals, budget=40, quiet=True, **more)
    with ask_tell(SIX, goals, store=tmp_path / "nas.db", **more) as loop:
        told(loop, 23)
    with ask_tell(SIX, goals, store=tmp_path / "nas.db", **more) as again:
        stopped = told(again, 40)

    assert told(ask_tell(SIX, goals, **more), 40) == stopped == keys(undisturbed)
    assert again.found.fronts.keys() == {"server", "phone"}
    assert told(ask_tell(SIX, goals, "nsga2"), 40) != keys(undisturbed)
    with pytest.raises(ValueError, match="per_device is True, but fewer than two devices are named"):
        ask_tell(SIX, GOALS, per_device=True)
    with pytest.raises(ValueError, match="per_device is 'yes'; it must be True or False"):
        ask_tell(SIX, goals, per_device="yes")


def test_what_failed_is_told_as_none():
    loop = ask_tell(SIX, GOALS)
    one, other = loop.ask(2)

    assert loop.tell(one, None).error == "told as failed"
    loop.tell(other, evaluate(other))
    assert [one.key for one in loop.front()] == [other.key]


def test_a_loop_that_does_not_keep_the_rules_hears_of_it():
    with pytest.raises(ValueError, match="make one with CategoricalSpace"):
        ask_tell({"a": [1, 2]}, GOALS)
    loop = ask_tell(SIX, GOALS)
    [one] = loop.ask()

    with pytest.raises(
        ValueError, match="1 of the last architectures are not told yet, the first is a 1, b 1"
    ):
        loop.ask()
    with pytest.raises(ValueError, match="was not asked for; tell what `ask` returned, once"):
        loop.tell(SIX.ends[1], evaluate(one))
    with pytest.raises(ValueError, match="tell got no latency_ms, only accuracy"):
        loop.tell(one, {"accuracy": 1})
    with pytest.raises(ValueError, match=r"tell got nan \(float\) for accuracy"):
        loop.tell(one, evaluate(one) | {"accuracy": math.nan})
    for seconds in ("3", math.nan, -1):
        with pytest.raises(ValueError, match=r"seconds is .*; it must be a finite number of at least 0"):
            loop.tell(one, evaluate(one), seconds)
    with pytest.raises(ValueError, match="the architecture decides a; the space six decides a, b"):
        loop.tell({"a": 1}, evaluate(one))
    loop.tell(dict(one), evaluate(one))
    with pytest.raises(ValueError, match="was told before"):
        loop.tell(one, evaluate(one))
    with pytest.raises(ValueError, match="asked for 0 architectures"):
        loop.ask(0)


# -- in a store --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from nas.library import CategoricalSpace, ask_tell
lives, space = int(sys.argv[3]), CategoricalSpace({name: [1, 2, 3, 4, 5] for name in "abcdef"}, name="six")
loop = ask_tell(space, {"accuracy": "maximize", "latency_ms": "minimize"}, sys.argv[2], store=sys.argv[1])
while asked := loop.ask(5):
    for one in reversed(asked):
        if not lives:
            os.kill(os.getpid(), signal.SIGKILL)
        loop.tell(one, evaluate(one))
        lives -= 1

"""
KILLED = "import math\n" + inspect.getsource(evaluate) + KILLED


@pytest.mark.parametrize("searcher", ["nsga2", "linas"])
def test_a_loop_that_is_killed_and_made_again_is_an_undisturbed_one(searcher, tmp_path):
    store = str(tmp_path / "nas.db")
    for lives in (8, 9):
        done = run_script(KILLED, store, searcher, str(lives))
        assert done.returncode == -signal.SIGKILL, done.stderr

    with ask_tell(SIX, GOALS, searcher, store=store) as loop:
        assert len(loop.found.candidates) == 17
        while len(loop.found.candidates) < 40:
            for one in loop.ask(40 - len(loop.found.candidates)):
                loop.tell(one, evaluate(one))

    assert sorted(keys(loop.found)) == sorted(keys(found_by(searcher, 40)))
    with Store(f"sqlite:///{store}", create=False) as kept:
        assert kept.candidates("six") == loop.found.candidates
        assert (kept.run("six").status, kept.run("six").message) == ("finished", "its loop was closed")


def test_a_search_goes_on_with_what_a_loop_was_told_and_a_loop_with_what_a_search_found(tmp_path):
    store = tmp_path / "nas.db"
    found_by("nsga2", 10, store=store)
    with ask_tell(SIX, GOALS, "nsga2", store=store) as loop:
        for one in loop.ask(7):
            loop.tell(one, evaluate(one))

    assert keys(found_by("nsga2", 30, store=store)) == keys(found_by("nsga2", 30))


def test_what_is_told_is_in_the_store_and_on_the_dashboard_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/nas.db"
    with ask_tell(SIX, GOALS, store=url, name="mine") as loop, Store(url) as store:
        one, other = loop.ask(2)
        loop.tell(one, {"accuracy": (0.4, 0.5, 0.6), "latency_ms": 1})

        [kept] = store.candidates("mine")
        shown = json.dumps(page(Reader(store), "/run/mine")[0], cls=PlotlyJSONEncoder, ensure_ascii=False)
        assert kept.interval("accuracy") == (0.4, 0.6) and kept.number == 1
        assert store.run("mine").status == "searching"
        assert "1 candidate" in shown and "a: 1" in shown
        with pytest.raises(Busy, match="mine"):
            ask_tell(SIX, GOALS, store=url, name="mine")
        loop.tell(other, None)

    with pytest.raises(ValueError, match="this loop is closed; make it again"):
        loop.ask()
    with ask_tell(SIX, GOALS, store=url, name="mine") as again:
        assert [one.error for one in again.found.candidates] == [None, "told as failed"]
        assert {one.key for one in again.ask(4)}.isdisjoint({one.key, other.key})


def test_a_loop_ends_as_its_store_says(tmp_path):
    store = tmp_path / "nas.db"
    with pytest.raises(ZeroDivisionError), ask_tell(SIX, GOALS, store=store) as loop:
        loop.tell(loop.ask()[0], {"accuracy": 1 / 0})
    with Store(f"sqlite:///{store}", create=False) as kept:
        assert (kept.run("six").status, kept.run("six").message) == ("failed", "division by zero")

    script = "import sys; from nas.library import *; "
    script += (
        "loop = ask_tell(CategoricalSpace({'a': [1, 2]}), {'x': 'minimize'}, store=sys.argv[1], name='open')"
    )
    done = run_script(script, str(store))

    assert (done.returncode, done.stderr) == (0, "")
    with Store(f"sqlite:///{store}", create=False) as kept:
        assert kept.run("open").status == "interrupted"


def test_a_name_belongs_to_one_loop_unless_it_is_extended_by_what_need_not_be_measured(tmp_path):
    store = {"store": tmp_path / "nas.db"}
    with ask_tell(SIX, GOALS, "random", **store) as loop:
        for one in loop.ask(6):
            loop.tell(one, evaluate(one))

    with pytest.raises(ValueError, match="has another searcher or seed; give this one another name"):
        ask_tell(SIX, GOALS, "random", seed=1, **store)
    with pytest.raises(ValueError, match="does not measure what is known; let search"):
        ask_tell(SIX, GOALS | {"bytes": "minimize"}, "random", extend=True, **store)
    with ask_tell(SIX, GOALS, "nsga2", seed=1, extend=True, **store) as loop:
        asked = loop.ask(8)
        assert {one.key for one in asked}.isdisjoint(keys(loop.found)) and len(keys(loop.found)) == 6
