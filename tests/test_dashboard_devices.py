"""A run with several devices shows a front, latencies and an explanation for each."""

from __future__ import annotations

from dataclasses import replace

from dashboard.app import create_app, page
from dashboard.pages import front
from dashboard.reader import Reader
from dashboard.standing import on_device, standing
from dashboard.words import quantity
from nas import explanations
from nas.devices import fronts
from nas.storage.records import Constraint
from nas.storage.store import Store
from tests.test_dashboard import ACCURACY, LATENCY, RUN, callback, candidate, texts
from tests.test_explain import as_if, inverted_bottleneck, record

FOUND = as_if(inverted_bottleneck(), {"Conv": 0.05})
SERVER, TABLET = (
    replace(LATENCY, name=f"latency@{name}", key=f"latency_ms@{name}") for name in ("server", "tablet")
)
BOTH = replace(
    RUN, objectives=(ACCURACY, SERVER, TABLET), constraints=(Constraint("latency_ms@tablet", max=2.5),)
)


def on_both(key, accuracy, server, tablet):
    values = {"accuracy": accuracy, "latency_ms@server": server, "latency_ms@tablet": tablet}
    return replace(candidate(key, 0, 0), values=values)


SEVERAL = [on_both("a", 80, 1.0, 3.0), on_both("b", 70, 2.0, 1.0), on_both("c", 75, 3.0, 2.0)]


def test_the_axes_choose_whose_front_is_shown():
    def keys(*axes):
        return [one.key for one in standing(on_device(BOTH, *axes), SEVERAL).front]

    assert sorted(keys("latency_ms@server", "accuracy")) == ["a"]  # whose limit is the tablet's
    assert sorted(keys("latency_ms@tablet", "accuracy")) == ["b", "c"]
    assert (
        on_device(BOTH, "macs", "accuracy")
        == on_device(BOTH, "latency_ms@server", "latency_ms@tablet")
        == BOTH
    )


def test_the_latency_on_a_device_is_called_so_and_the_summary_says_whose_front_it_is():
    assert quantity(BOTH, "latency_ms@tablet").label == "latency on tablet (ms)"
    tablet = on_device(BOTH, "latency_ms@tablet")
    said = front.summary(tablet, standing(tablet, SEVERAL), "latency_ms@tablet", "accuracy")

    assert said.startswith("The front on the device tablet. 3 candidates: 2 on the front, 1 infeasible.")
    assert "latency on tablet ≤ 2.5 ms" in said


def test_each_device_has_its_own_latencies_and_its_own_explanation(tmp_path):
    run = replace(BOTH, folder=str(tmp_path / "both"))
    both = {f"latency_ms@{name}": record([], ms) for name, ms in (("server", 1.0), ("tablet", 3.0))}
    both["latency_ms@tablet"] = replace(both["latency_ms@tablet"], device="openvino-cpu")
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        store.add_run(run)
        store.add_candidate(run.name, replace(SEVERAL[0], latencies=both))
        explanations.keep(run, replace(FOUND, name="a"), "tablet")
        shown = texts(page(Reader(store), f"/run/{run.name}/candidate/a")[0])
        hardware = texts(page(Reader(store), f"/run/{run.name}/hardware")[0])

    assert "Latency on server" in shown and "Latency on tablet" in shown
    assert "taken apart on tablet: onnxruntime-cpu" in shown
    assert (
        "Latencies on server: onnxruntime-cpu" in hardware and "Latencies on tablet: openvino-cpu" in hardware
    )
    assert "different conditions" not in hardware


def test_a_devices_front_is_the_one_that_the_command_line_reports():
    for one in fronts(BOTH, SEVERAL):
        shown = standing(on_device(BOTH, f"latency_ms@{one.device}", "accuracy"), SEVERAL).front
        assert [each.key for each in shown] == [each.key for each in one.candidates]


def test_another_devices_latency_as_an_axis_brings_another_front(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        store.add_run(BOTH)
        for one in SEVERAL:
            store.add_candidate(BOTH.name, one)
        refresh = callback(create_app(store), "front-summary")
        seen = [Reader(store).signs(store.run(BOTH.name)), "latency_ms@server", "accuracy", 0]

        other = refresh(1, "latency_ms@tablet", "accuracy", BOTH.name, seen)
        turned = refresh(1, "accuracy", "latency_ms@server", BOTH.name, seen)

    assert sorted(row["key"] for row in other[3]) == ["b", "c"]
    assert other[1].startswith("The front on the device tablet.")
    assert len({id(one) for one in turned[2:-1]}) == 1  # the same front, drawn otherwise
