"""Why the candidates of a run are slow: taken apart by one command, kept beside the run, read without torch."""

from __future__ import annotations

import json
from contextlib import closing, redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest

from nas import explanations
from nas.cli import main
from nas.efficiency import gap, timed
from nas.export.onnx_graph import onnx_of
from nas.hardware import device
from nas.hardware.peaks import Peaks, measured, peaks_of, place_of
from nas.hardware.torch_network import without_compiler
from nas.pareto import front
from nas.storage.records import Candidate
from nas.storage.store import Store
from supernets.cost import macs
from tests.test_explain import SHAPE, as_if, inverted_bottleneck, record
from tests.test_resume import copy_of


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    return copy_of(tiny_run, tmp_path_factory.mktemp("explained_run") / "copy")


@pytest.fixture(scope="module")
def explained(run):
    """The run after `nas explain RUN`: as it is in the store, its candidates, and what the command told."""
    out = StringIO()
    with redirect_stdout(out):
        assert main(["explain", "tiny", "--store", run.store_url, "--json"]) == 0
    with closing(Store(run.store_url)) as store:
        yield store.run("tiny"), store.candidates("tiny", with_latency=True), json.loads(out.getvalue())


# -- the candidates of the front ---------------------------------------------------------------


def test_every_candidate_of_the_front_is_taken_apart_and_kept(explained):
    found, candidates, [told] = explained

    best = front(candidates, found.objectives, found.constraints)
    assert [one["network"] for one in told["explained"]] == [one.key for one in best]
    for candidate, one in zip(best, told["explained"], strict=True):
        kept = explanations.kept(found, candidate.key)
        assert (kept.name, kept.measured_ms) == (candidate.key, one["measured_ms"])
        assert [asdict(step) for step in kept.steps] == [
            {**step, "nodes": tuple(step["nodes"])} for step in map(_stored, one["steps"])
        ]
        assert kept.latency.form == "plain" and kept.macs >= candidate.values["macs"]


def _stored(step: dict) -> dict:
    derived = ("intensity", "model_ms", "kernel_ms", "wasted_ms", "blame")
    return {name: value for name, value in step.items() if name not in derived}


def test_the_efficiency_of_every_candidate_is_told_by_its_own_latency(explained):
    found, candidates, [told] = explained

    [peaks] = explanations.kept_peaks(found)
    by_key = {one["key"]: one for one in told["efficiency"]}
    assert by_key.keys() == {one.key for one in candidates}
    for one in candidates:
        operations = 2 * one.values["macs"]
        expected = operations / (one.values["latency_ms"] * peaks.operations_per_ms)
        assert by_key[one.key]["efficiency"] == pytest.approx(expected)
        assert by_key[one.key]["source"] == "measured"


def test_the_table_has_a_row_for_each_and_says_where_it_is_kept(explained, run, capsys):
    found, candidates, [told] = explained
    capsys.readouterr()
    assert main(["explain", "tiny", "--store", run.store_url]) == 0
    out, err = capsys.readouterr()

    rows = [line.split()[0] for line in out.splitlines()]
    assert [key for key in rows if explanations.kept(found, key)] == [
        one["network"] for one in told["explained"]
    ]
    assert f"efficiency of {len(candidates)} of {len(candidates)} candidates on onnxruntime-cpu" in out
    assert str(explanations.folder_of(found)) in err and f"nas dashboard --store {run.store_url}" in err


def test_one_candidate_that_is_not_on_the_front_can_be_asked_for(explained, run, capsys):
    found, candidates, _ = explained
    best = {one.key for one in front(candidates, found.objectives, found.constraints)}
    other = next(one for one in candidates if one.key not in best)
    assert explanations.kept(found, other.key) is None

    assert main(["explain", "tiny", "--candidate", other.key[:8], "--store", run.store_url]) == 0

    assert capsys.readouterr().out.startswith(
        f"{other.key} on onnxruntime-cpu (1 thread, batch 1, float32): "
    )
    assert explanations.kept(found, other.key).name == other.key


def test_a_candidate_is_taken_apart_in_pytorch_by_the_module_that_it_is(explained, run, capsys):
    found, candidates, _ = explained
    best = front(candidates, found.objectives, found.constraints)[0]
    before, where = explanations.kept(found, best.key), ["--device", "torch-cpu", "--store", run.store_url]

    assert main(["explain", "tiny", "--candidate", best.key, *where]) == 0

    assert capsys.readouterr().out.startswith(
        f"{best.key} on torch-cpu (1 thread, batch 1, float32, eager): "
    )
    apart = explanations.kept(found, best.key, "torch-cpu")
    assert (apart.latency.device, apart.macs) == ("torch-cpu", before.macs)
    assert explanations.kept(found, best.key) == before  # that of the run's own device is still there


def test_what_each_device_and_setting_found_is_kept_beside_the_others(explained, run, capsys):
    found, candidates, _ = explained
    best = front(candidates, found.objectives, found.constraints)[0]
    before, other = explanations.kept(found, best.key), "onnxruntime-cpu,batch=2"

    for device_too in (["--device", other], []):
        asked = ["explain", "tiny", "--candidate", best.key, *device_too, "--store", run.store_url]
        assert main(asked) == 0
        everywhere = explanations.kept_everywhere(found, best.key)
        assert next(iter(everywhere)) == "" and everywhere[other].latency.settings["batch"] == 2
        assert (everywhere[""] == before) == bool(device_too)  # explained again, its own is replaced

    assert everywhere[""].latency.settings["batch"] == 1
    assert explanations.kept_everywhere(found, "another") == {}


def test_each_of_several_devices_explains_a_candidate(explained, run, capsys):
    found, candidates, _ = explained
    best = front(candidates, found.objectives, found.constraints)[0]
    several = ["--device", "onnxruntime-cpu,batch=3", "--device", "torch-cpu,batch=3"]
    capsys.readouterr()

    asked = ["explain", "tiny", "--candidate", best.key, *several, "--store", run.store_url, "--json"]
    assert main(asked) == 0

    told = json.loads(capsys.readouterr().out)
    assert [one["device"] for one in told] == ["onnxruntime-cpu", "torch-cpu"]
    assert {
        one.partition(",")[0] for one in explanations.kept_everywhere(found, best.key) if "batch=3" in one
    } == {
        "onnxruntime-cpu",
        "torch-cpu",
    }


def test_of_a_device_without_a_profile_whole_networks_are_told_of(explained, run, capsys):
    found, *_ = explained
    if reason := without_compiler():
        pytest.skip(reason)
    compiled = "torch-cpu,execution=compiled"
    assert main(["explain", "tiny", "--device", compiled, "--store", run.store_url]) == 0
    out = capsys.readouterr().out

    assert "only whole networks can be told of on this torch-cpu: its compiler fuses layers" in out
    assert "no latency of the run was measured on this torch-cpu" in out
    assert {peaks.of["device"] for peaks in explanations.kept_peaks(found)} == {
        "onnxruntime-cpu",
        "torch-cpu",
    }


def test_several_networks_are_compared_in_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["narrow.onnx", "wide.onnx"]
    for name, hidden in zip(names, (16, 64), strict=True):
        Path(name).write_bytes(onnx_of(inverted_bottleneck(hidden=hidden), SHAPE))
    capsys.readouterr()
    assert main(["explain", *names, "--batch", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["explain", *names, "--batch", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert lines[0].startswith("on onnxruntime-cpu (1 thread, batch 4, float32)")
    assert [line.split()[0] for line in lines[2:4]] == [one["network"] for one in told] == names


def test_what_cannot_be_explained_of_a_run_is_refused_in_one_line(run, capsys, tmp_path):
    store = ["--store", run.store_url]
    for arguments, said in (
        (["tiny", "--candidate", "zz"], "--candidate zz: 0 candidates of tiny begin so"),
        (["tinny"], "did you mean tiny?"),
        (["tiny", "--device", "nowhere"], "device.name 'nowhere' is not known"),
        ([str(run.folder / "none.onnx")], "there is no "),
        ([str(run.file), "--candidate", "a"], "--candidate is of a run"),
    ):
        capsys.readouterr()
        assert main(["explain", *arguments, *store]) == 2, arguments
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert out == "" and said in line


# -- what is kept ------------------------------------------------------------------------------


def test_what_is_kept_comes_back_whole_and_each_device_has_its_own(explained, tmp_path):
    found, *_ = explained
    elsewhere = replace(found, folder=str(tmp_path))
    one = replace(as_if(inverted_bottleneck(), {"Conv": 0.1}), name="abc")
    before = explanations.signs(elsewhere)

    explanations.keep(elsewhere, one)
    explanations.keep(elsewhere, replace(one, profiling_ms=0.5), "tablet")

    assert explanations.kept(elsewhere, "abc") == one
    assert explanations.kept(elsewhere, "abc", "tablet").profiling_ms == 0.5
    assert explanations.kept(elsewhere, "abc", "phone") is None
    assert before == "" and explanations.signs(elsewhere)


@pytest.mark.parametrize("content", ["{", "[]", '{"latency": {}}', '{"steps": []}'])
def test_a_damaged_explanation_is_refused_with_the_way_out(content, explained, tmp_path):
    elsewhere = replace(explained[0], folder=str(tmp_path))
    path = explanations.folder_of(elsewhere) / "abc.json"
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ValueError, match=r"abc\.json is damaged .+; remove it, and explain again"):
        explanations.kept(elsewhere, "abc")


# -- the efficiency of whole networks ----------------------------------------------------------


def test_a_latency_is_held_only_against_the_peaks_of_where_it_was_measured():
    latency = record([], 2.0)
    here = Peaks(
        {**place_of(latency), "sizes": [1]}, operations_per_ms=1e6, stream=((1, 1.0),), measured_at=""
    )
    candidate = Candidate("a", "{}", values={"macs": 250_000, "latency_ms": 2.0})
    several = replace(latency, settings={**latency.settings, "batch": 8})

    assert gap(timed(candidate, latency), [here]).efficiency == pytest.approx(0.25)
    assert gap(timed(candidate, several), [here]).efficiency == pytest.approx(2.0)  # 8 times the operations
    for name, other in (("processor", "another"), ("threads", 2), ("versions", {"onnxruntime": "99"})):
        assert gap(timed(candidate, latency), [replace(here, of={**here.of, name: other})]) is None
    assert timed(replace(candidate, values={"latency_ms": 2.0}), latency) is None


def test_a_taken_apart_network_is_as_efficient_as_the_whole_one():
    found = as_if(inverted_bottleneck(), {"Conv": 0.1})
    candidate = Candidate("a", "{}", values={"macs": macs(inverted_bottleneck(), SHAPE)})
    peaks = replace(found.peaks, of=place_of(found.latency))

    assert gap(timed(candidate, found.latency), [peaks]).efficiency == pytest.approx(found.efficiency)


@pytest.mark.alone
def test_the_peaks_of_torch_are_about_those_of_the_other_runtime_of_this_processor():
    there = device({"name": "torch-cpu"})
    torch, onnx = measured(there), peaks_of(device({"name": "onnxruntime-cpu"}))

    assert torch.of["device"] == "torch-cpu" and torch.of["processor"] == onnx.of["processor"]
    assert 0.5 < torch.operations_per_ms / onnx.operations_per_ms < 2
    sizes = [size for size, _ in torch.stream]
    assert sizes == [size for size, _ in onnx.stream]
    assert 0.4 < torch.bytes_per_ms(sizes[-1]) / onnx.bytes_per_ms(sizes[-1]) < 2.5
