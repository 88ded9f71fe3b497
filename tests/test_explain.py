"""Why is it slow: every operation and every millisecond is in exactly one part, and who wastes the time is named."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from nas import config
from nas.advice import advise
from nas.cli import main
from nas.explain import PROFILING_MS, explain, explained, profiling_ms
from nas.explain_view import explained_as_json, notes, verdict
from nas.export.onnx_graph import onnx_of
from nas.fusion import ENDS, carried_out
from nas.hardware import DEVICES, device, peaks
from nas.hardware.peaks import Peaks
from nas.measure import Network
from nas.onnx_costs import graph_of, named
from nas.predictors.latency import FILE, Measurement, fit
from nas.storage.records import Kernel, Latency
from nas.storage.store import Store
from search_spaces import architecture_from_json, space_from_json
from supernets.cost import cost_table, macs
from supernets.supernet import Residual
from tests.test_resume import copy_of

QUICK = {"warmup": 2, "min_runs": 20, "max_runs": 40, "seconds": 0.02}
FUSING = [kind.name for kind in ENDS if kind.available() is None]
PROFILED = [name for name, kind in DEVICES.items() if kind.available() is None and not kind().unprofiled()]
SHAPE = (16, 24, 24)
PEAKS = Peaks({}, operations_per_ms=1e8, stream=((2**19, 4e7), (2**28, 1e7)), measured_at="2026-11-21")


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    return copy_of(tiny_run, tmp_path_factory.mktemp("explained") / "copy")


@pytest.fixture(scope="module")
def export(run):
    folder = run.folder / "knee"
    assert main(["export", "tiny", "--store", run.store_url, "--output", str(folder)]) == 0
    return folder


def inverted_bottleneck(channels: int = 16, hidden: int = 48) -> nn.Module:
    """Pointwise, depthwise, pointwise around a residual; pooling and a classifier."""
    torch.manual_seed(0)
    block = Residual(
        nn.Conv2d(channels, hidden, 1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, channels, 1),
    )
    ends = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), block, *ends).eval()


def network_of(subnet: nn.Module, shape: tuple[int, ...] = SHAPE) -> Network:
    return Network(Path("some.onnx"), onnx_of(subnet, shape), shape, lambda: subnet)


def graph_of_network(network: Network, batch: int = 1):
    return graph_of(named(onnx.load_model_from_string(network.model)), batch, network.input_shape)


def record(kernels: list[Kernel], milliseconds: float) -> Latency:
    """As if a network had taken so long on a quiet machine."""
    return Latency(
        device="onnxruntime-cpu",
        settings={"threads": 1, "batch": 1, "precision": "float32"},
        input_shape=SHAPE,
        clock="thread-cpu",
        samples_ms=(milliseconds,) * 3,
        wall_ms=(milliseconds,) * 3,
        versions={},
        processor="a processor",
        load=0.0,
        involuntary_switches=0,
        contended=False,
        kernels=tuple(kernels),
    )


def as_if(subnet: nn.Module, took_ms: dict[str, float], shape: tuple[int, ...] = SHAPE):
    """A network taken apart whose nodes ran one by one; a node takes 0.001 ms if nothing is said of its kind."""
    network = network_of(subnet, shape)
    graph = graph_of_network(network)
    kernels = [Kernel(node.name, node.kind, "", took_ms.get(node.kind, 0.001)) for node in graph.nodes]
    ends = [node.outputs for node in graph.nodes]
    latency = record(kernels, 0.01 + sum(one.milliseconds for one in kernels))
    return explained(network, graph, latency, ends, PEAKS)


def one_convolution(channels: int, size: int, groups: int = 1, batch: int = 1):
    layer = nn.Conv2d(channels, channels, size, padding=size // 2, groups=groups, bias=False)
    return graph_of_network(network_of(nn.Sequential(layer).eval(), (channels, 40, 40)), batch)


def whole(graph) -> set[str]:
    return {node.name for node in graph.nodes}


# -- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_the_operations_of_the_graph_are_those_of_the_flop_counter(batch):
    subnet = inverted_bottleneck()

    assert graph_of_network(network_of(subnet), batch).macs == batch * macs(subnet, SHAPE)


@pytest.mark.parametrize(
    "channels,size,groups", [(16, 1, 1), (16, 3, 1), (16, 3, 16), (16, 7, 16), (16, 5, 4)]
)
def test_a_convolution_moves_its_images_its_maps_and_its_weights(channels, size, groups):
    graph = one_convolution(channels, size, groups, batch=2)

    assert graph.moved(whole(graph)) == 4 * (
        2 * 2 * channels * 40 * 40 + channels * channels // groups * size**2
    )


@pytest.mark.parametrize("size", [3, 7])
def test_a_depthwise_convolution_does_a_quarter_of_its_taps_per_byte(size):
    """methods 5.2: 2 k² operations for 8 bytes, where maps are large beside the kernel."""
    graph = one_convolution(32, size, groups=32)

    assert 2 * graph.macs / graph.moved(whole(graph)) == pytest.approx(size**2 / 4, rel=0.03)


def test_what_is_fused_moves_only_what_goes_in_and_out():
    graph = graph_of_network(network_of(inverted_bottleneck()))
    first, activation = graph.nodes[:2]
    maps = 4 * 16 * 24 * 24

    assert activation.kind == "Relu" and graph.moved({activation.name}) == 2 * maps
    assert graph.moved({first.name, activation.name}) == graph.moved({first.name})
    assert graph.moved(whole(graph)) == maps + 4 * 5 + sum(
        graph.bytes[one] for one in graph.weights if one in weights(graph)
    )


def weights(graph) -> set[str]:
    """Those that are not the sizes of a reshape."""
    return {
        tensor for node in graph.nodes if node.kind != "Reshape" for tensor in node.inputs
    } & graph.weights


def test_a_view_moves_nothing_and_what_reads_it_reads_what_it_is_of():
    subnet = nn.Sequential(nn.Flatten(), nn.Linear(48, 5, bias=False)).eval()
    graph = graph_of_network(network_of(subnet, (3, 4, 4)))
    view, product = graph.nodes

    assert graph.moved({view.name}) == 0
    assert graph.moved({product.name}) == graph.moved(whole(graph)) == 4 * (48 + 48 * 5 + 5)


# -- the parts and the whole -------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILED)
@pytest.mark.parametrize("batch", [1, 4])
def test_every_operation_and_every_millisecond_is_in_exactly_one_part(name, batch):
    subnet = inverted_bottleneck()
    found = explain(network_of(subnet), device({"name": name, "batch": batch, **QUICK}))

    nodes = [node for step in found.steps for node in step.nodes]
    assert sorted(nodes) == sorted(whole(graph_of_network(network_of(subnet))))
    assert found.macs == batch * macs(subnet, SHAPE)
    inside = sum(step.ideal_ms + step.model_ms + step.kernel_ms for step in found.steps)
    assert inside + found.outside_ms == pytest.approx(found.measured_ms)
    assert found.max_efficiency * found.kernel_quality == pytest.approx(found.efficiency)
    operations = 2 * found.macs
    assert found.efficiency == pytest.approx(operations / (found.measured_ms * found.peaks.operations_per_ms))
    assert all(step.attainable_ms >= step.ideal_ms >= 0 for step in found.steps)


@pytest.mark.parametrize("name", FUSING)
def test_each_convolution_is_in_the_step_that_ran_it_with_its_sum_and_activation(name):
    found = explain(network_of(inverted_bottleneck(), (16, 40, 40)), device({"name": name, **QUICK}))

    kinds = {node.name: node.kind for node in graph_of_network(network_of(inverted_bottleneck())).nodes}
    ran = [sorted(kinds[node] for node in step.nodes) for step in found.steps if "Conv" in step.kind]
    assert ran == [["Conv", "Relu"], ["Conv", "Relu"], ["Conv", "Relu"], ["Add", "Conv", "Relu"]]


def test_in_pytorch_each_layer_and_function_is_a_step_by_the_operator_that_did_its_work():
    found = explain(network_of(inverted_bottleneck()), device({"name": "torch-cpu", **QUICK}))

    convolution, activation = ("Conv2d", ["Conv"]), ("ReLU", ["Relu"])
    nodes = {node.name: node.kind for node in graph_of_network(network_of(inverted_bottleneck())).nodes}
    ran = [(step.kind, [nodes[name] for name in step.nodes]) for step in found.steps]
    assert ran[:2] == [convolution, activation]
    assert ran[2:6] == [
        convolution,
        ("BatchNorm2d", []),
        activation,
        convolution,
    ]  # the norm is folded elsewhere
    assert ran[6:10] == [activation, convolution, ("add", ["Add"]), activation]
    assert [kind for kind, _ in ran[10:]] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert found.steps[3].blame == "runtime"
    kernels = {kernel.kind: kernel.kernel for kernel in found.latency.kernels}
    assert "conv" in kernels["Conv2d"] and kernels["Linear"] == "aten::addmm"


def test_a_layer_that_is_slow_in_pytorch_takes_the_most_time():
    layers = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 11, padding=5), nn.Conv2d(16, 16, 1)
    found = explain(network_of(nn.Sequential(*layers).eval()), device({"name": "torch-cpu", **QUICK}))

    first, slow, last = (step.milliseconds for step in found.steps)
    assert slow > 3 * max(first, last)


def test_what_no_profile_tells_apart_is_refused_and_not_measured():
    with pytest.raises(
        ValueError, match=r"take on this torch-cpu: its compiler fuses .*; give --device onnxrunt"
    ):
        explain(network_of(inverted_bottleneck()), DEVICES["torch-cpu"](execution="compiled"))


class Undecided(nn.Module):
    def forward(self, images):
        return images.flatten(1) if images.sum() > 0 else images.flatten(1).neg()


def test_a_network_whose_steps_have_no_names_is_refused_by_a_profile_in_pytorch():
    there = device({"name": "torch-cpu", **QUICK})

    assert there.measure(Undecided().eval(), SHAPE).kernels == ()
    with pytest.raises(
        ValueError, match=r"the steps of this network cannot be told apart in PyTorch \(.+\); profile"
    ):
        there.measure(Undecided().eval(), SHAPE, kernels=True)


def test_a_step_that_no_node_asked_for_is_the_runtimes_own():
    network = network_of(inverted_bottleneck())
    graph = graph_of_network(network)
    first, *_, last = graph.nodes
    kernels = [
        Kernel("first", "Conv", "", 1.0),
        Kernel("order", "Reorder", "", 1.0),
        Kernel("rest", "Gemm", "", 1.0),
    ]
    ends = [first.outputs, (), last.outputs]

    found = explained(network, graph, record(kernels, 3.0), ends, PEAKS)

    assert [len(step.nodes) for step in found.steps] == [1, 0, len(graph.nodes) - 1]
    order = found.steps[1]
    assert (order.macs, order.bytes, order.attainable_ms, order.wasted_ms) == (0, 0, 0, 1.0)
    assert "runtime" in next(line for line in verdict(found) if "order" in line)


def test_steps_that_nothing_is_known_of_leave_their_nodes_to_the_next():
    graph = graph_of_network(network_of(inverted_bottleneck()))
    kernels = [Kernel("unknown", "?", "", 1.0), Kernel("last", "?", "", 1.0)]

    assert carried_out(graph, [(), ()], kernels) == [set(), whole(graph)]


def test_the_blocks_of_an_export_are_the_sum_of_its_steps(export):
    from nas.measure import read_network

    found = explain(read_network(export), device({"name": "onnxruntime-cpu", **QUICK}))

    first, *_, last = found.blocks
    assert (first, last) == ("stem", "classifier")
    for what in ("macs", "bytes", "milliseconds", "ideal_ms", "attainable_ms"):
        parts = sum(getattr(block, what) for block in found.blocks.values())
        assert parts == pytest.approx(sum(getattr(step, what) for step in found.steps))
    card = json.loads((export / "card.json").read_text())
    assert found.macs == card["exported_form"]["macs"]


# -- who is to blame ---------------------------------------------------------------------------


def test_a_planted_slow_kernel_is_named_and_to_blame():
    found = as_if(inverted_bottleneck(), {"Gemm": 5.0})

    worst = verdict(found)[1]
    assert worst.startswith(found.steps[-1].name) and "the kernel, " in worst


def test_a_planted_layer_of_many_bytes_and_no_operations_is_named_and_the_model_is_to_blame():
    subnet = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Sigmoid(), nn.Conv2d(16, 16, 1)).eval()
    (sigmoid,) = (one for one in as_if(subnet, {}).steps if one.kind == "Sigmoid")
    found = as_if(subnet, {"Sigmoid": 1.2 * sigmoid.attainable_ms})

    worst = verdict(found)[1]
    assert (
        worst.startswith(sigmoid.name) and "the model, which moves bytes here and computes nothing" in worst
    )


def test_a_depthwise_convolution_at_the_speed_of_memory_is_the_models_fault():
    subnet = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16)).eval()
    (step,) = as_if(subnet, {}).steps
    found = as_if(subnet, {"Conv": 1.1 * step.attainable_ms})

    assert found.steps[0].blame == "model"
    assert "operations per byte; below" in verdict(found)[1]


@pytest.mark.alone
def test_a_really_slow_node_is_named_by_what_really_ran():
    """Powers of a fractional exponent are slow, and move no more bytes than a ReLU."""

    def model(*kinds: str) -> Network:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", *SHAPE)) for name in ("x0", "y")]
        weights = [helper.make_tensor("exponent", TensorProto.FLOAT, (), [1.7])]
        nodes = [
            helper.make_node(
                kind, [f"x{i}", *(["exponent"] if kind == "Pow" else [])], [f"x{i + 1}"], name=f"n{i}"
            )
            for i, kind in enumerate(kinds)
        ]
        weights.append(helper.make_tensor("w", TensorProto.FLOAT, (16, 16, 1, 1), [0.1] * 256))
        nodes.append(helper.make_node("Conv", [f"x{len(kinds)}", "w"], ["y"], name="convolution"))
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        opsets = [helper.make_opsetid("", 20)]
        return Network(
            Path("planted"),
            helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(),
            SHAPE,
        )

    found = explain(model("Abs", "Pow", "Neg"), device({"name": "onnxruntime-cpu", "batch": 8, **QUICK}))

    worst = verdict(found)[1]
    assert worst.startswith("n1 wastes the most") and "the kernel, " in worst


def test_it_is_said_where_much_passes_outside_of_the_steps():
    found = as_if(inverted_bottleneck(), {})
    slowed = replace(found, latency=replace(found.latency, samples_ms=(2 * found.measured_ms,) * 3))

    assert any(line.endswith("a larger --batch shows more") for line in verdict(slowed))


def test_nobody_is_blamed_by_a_profile_that_does_not_fit_the_time():
    found = as_if(inverted_bottleneck(), {})
    slowed = replace(found, latency=replace(found.latency, samples_ms=(found.measured_ms / 3,) * 3))

    assert verdict(slowed)[1].startswith("which steps waste the time cannot be told")
    assert any("% of the measured time: other work" in line for line in notes(slowed))


# -- what profiling adds -----------------------------------------------------------------------


@pytest.mark.parametrize("profiled", [[5, 6, 7], [1, 9, 9, 9], [0, 0, 12], [4], [3, 3, 3, 3]])
@pytest.mark.parametrize("measured", [0.001, 3, 11])
def test_what_steps_take_longer_than_their_network_is_taken_off_each_alike(profiled, measured):
    times, measured = np.array(profiled) / 1e3, measured / 1e3
    amount = profiling_ms(times, measured)
    left = np.maximum(times - amount, 0)

    assert 0 <= amount <= PROFILING_MS
    if times.sum() <= measured:
        assert amount == 0
    elif amount < PROFILING_MS:
        assert left.sum() == pytest.approx(measured)


def test_more_than_profiling_can_take_is_not_taken_off():
    """Then other work was in the way, and the notes say that the profile does not fit."""
    found = as_if(inverted_bottleneck(), {"Conv": 1.0})
    [*kernels] = found.latency.kernels
    latency = replace(found.latency, samples_ms=(0.5,) * 3)
    network = network_of(inverted_bottleneck())
    graph = graph_of_network(network)

    again = explained(network, graph, latency, [node.outputs for node in graph.nodes], PEAKS)

    assert again.profiling_ms == PROFILING_MS and again.outside_ms < 0
    assert again.steps[0].milliseconds == pytest.approx(kernels[0].milliseconds - PROFILING_MS)
    assert any("% of the measured time: other work" in line for line in notes(again))


@pytest.mark.alone
def test_a_short_layer_takes_about_what_it_adds_to_a_network():
    """Profiled, it takes some times that; `benchmarks/waterline_*.md` has both for layers of many sizes."""

    def chain(layers: int) -> Network:
        convolutions = [nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(layers)]
        sigmoids = [nn.Sigmoid() for _ in range(layers)]
        pairs = [layer for pair in zip(convolutions, sigmoids, strict=True) for layer in pair]
        return network_of(nn.Sequential(*pairs).eval(), (16, 8, 8))

    there = device({"name": "onnxruntime-cpu", "min_runs": 200, "max_runs": 400, "seconds": 0.1})
    few, many = explain(chain(4), there), explain(chain(24), there)

    truly = (many.measured_ms - few.measured_ms) / 20
    told = np.median([step.milliseconds for step in many.steps])
    profiled = np.median([kernel.milliseconds for kernel in many.latency.kernels])
    assert abs(told - truly) < 0.4 * (profiled - truly)


def test_steps_faster_than_held_attainable_are_flagged():
    assert any(
        "faster than held attainable" in line for line in notes(as_if(inverted_bottleneck(), {"Conv": 1e-6}))
    )


# -- peaks -------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_matrix_product_is_nearly_as_efficient_as_it_gets_and_a_bottleneck_is_not():
    """methods 5.4, 4: above 70 %, and in that order."""
    there = device({"name": "onnxruntime-cpu", **QUICK})
    product = explain(network_of(nn.Sequential(nn.Linear(1024, 1024, bias=False)).eval(), (512, 1024)), there)
    bottleneck = explain(network_of(inverted_bottleneck()), there)

    assert product.efficiency > 0.7
    assert product.efficiency > bottleneck.efficiency


@pytest.mark.alone
def test_beyond_the_caches_depthwise_convolutions_are_below_the_waterline_and_wide_pointwise_ones_above():
    """methods 5.4, 3."""
    waterline = peaks.peaks_of(device({"name": "onnxruntime-cpu"})).ridge(2**28)
    depthwise, pointwise = one_convolution(32, 3, groups=32), one_convolution(256, 1)

    assert _intensity(depthwise) < waterline < _intensity(pointwise)


def _intensity(graph) -> float:
    return 2 * graph.macs / graph.moved(whole(graph))


def test_peaks_are_measured_once_for_a_processor_runtime_threads_and_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path))
    there = device({"name": "onnxruntime-cpu", **QUICK})
    found = peaks.peaks_of(there)
    measured = []
    monkeypatch.setattr(
        peaks, "measured", lambda one: measured.append(one) or replace(found, of=peaks.described(one))
    )

    assert peaks.peaks_of(there) == found == peaks.peaks_of(replace(there, batch=7)) and not measured
    assert found.of["processor"] and found.of["versions"]["onnxruntime"] and found.of["threads"] == 1

    assert peaks.peaks_of(there, fresh=True) == found and len(measured) == 1
    assert peaks.peaks_of(replace(there, threads=2)).of["threads"] == 2 and len(measured) == 2
    monkeypatch.setattr(type(there), "versions", classmethod(lambda kind: {"onnxruntime": "99"}))
    assert peaks.peaks_of(there).of["versions"] == {"onnxruntime": "99"} and len(measured) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"of": {}}', '{"stream": 3}'])
def test_a_damaged_file_of_peaks_is_refused_with_the_way_out(content, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path))
    there = device({"name": "onnxruntime-cpu"})
    peaks.file_of(there).parent.mkdir()
    peaks.file_of(there).write_text(content, encoding="utf-8")

    with pytest.raises(ValueError, match=r"is damaged .+; remove it, or measure anew with --fresh"):
        peaks.peaks_of(there)


def test_rates_of_moving_bytes_lie_between_those_measured():
    assert PEAKS.bytes_per_ms(1) == 4e7 and PEAKS.bytes_per_ms(2**40) == 1e7
    assert 1e7 < PEAKS.bytes_per_ms(2**24) < 4e7
    assert PEAKS.ridge(1) == 2.5


# -- what would help ---------------------------------------------------------------------------


@pytest.fixture
def predicting(run):
    """A run with a latency model: of a device that takes a millisecond for 100 k MACs."""
    with closing(Store(run.store_url)) as store:
        stored = store.run("tiny")
    space, section = space_from_json(stored.space), config.from_json(stored.experiment).device
    random, table = Random(0), cost_table(space)
    measurements = []
    for architecture in (space.sample(random) for _ in range(60)):
        macs_of_one = table.of([architecture])[0, 0]
        vector = space.encode(architecture)
        measurements.append(Measurement(vector, record([], float(macs_of_one / 1e5))))
    path = Path(stored.folder) / FILE
    predictor = fit(space, section, measurements)
    predictor.save(path)
    yield stored, predictor
    path.unlink()


def test_the_best_choices_are_those_that_the_runs_latency_model_predicts(predicting, export):
    stored, predictor = predicting
    found = advise(export, stored, device(predictor.device))

    space = predictor.space
    kept = json.loads((export / "architecture.json").read_text())["architecture"]
    own = space.encode(architecture_from_json(json.dumps(kept)))
    saved = [one.saved_ms for one in found.changes]
    assert found.milliseconds == pytest.approx(predictor(np.array([own]))[0])
    assert saved == sorted(saved, reverse=True) and saved[-1] > 0
    for one in found.changes:
        place = [decision.name for decision in space.decisions].index(one.decision)
        decision, vector = space.decisions[place], list(own)
        assert str(decision.options[own[place] - 1]) == one.was
        vector[place] = [str(option) for option in decision.options].index(one.becomes) + 1
        changed = np.array([space.encode(space.decode(vector))])
        assert one.milliseconds == pytest.approx(predictor(changed)[0])
        assert one.saved_ms == pytest.approx(found.milliseconds - one.milliseconds)


def test_the_command_shows_the_prediction_with_how_good_it_is(predicting, run, export, capsys):
    _, predictor = predicting
    capsys.readouterr()
    assert main(["explain", str(export), "--store", run.store_url]) == 0
    out = capsys.readouterr().out

    assert "what another choice in the space is predicted to save, of predicted " in out
    assert str(predictor) in out and "is within the error of the prediction" in out


def test_where_nothing_can_be_predicted_it_says_why(predicting, run, export, capsys, tmp_path):
    stored, predictor = predicting
    with pytest.raises(ValueError, match="the latency model of tiny is of a device with batch 1, not 4"):
        advise(export, stored, replace(device(predictor.device), batch=4))

    for path, store, said in (
        (export, f"sqlite:///{tmp_path}/none.db", "none.db"),
        (export / "model.onnx", run.store_url, "an ONNX file belongs to no run"),
    ):
        capsys.readouterr()
        assert main(["explain", str(path), "--store", store]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("what another choice would save is not predicted: ") and said in line


def test_a_run_without_a_latency_model_says_how_to_get_one(run, export):
    with (
        closing(Store(run.store_url)) as store,
        pytest.raises(FileNotFoundError, match="nas pick tiny --latency-ms"),
    ):
        advise(export, store.run("tiny"), device({"name": "onnxruntime-cpu"}))


# -- the command -------------------------------------------------------------------------------


def test_the_command_says_in_words_and_tables_what_its_json_holds(export, capsys):
    capsys.readouterr()
    assert main(["explain", str(export), "--batch", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["explain", str(export), "--batch", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert lines[0].startswith(f"{export} on onnxruntime-cpu (1 thread, batch 8, float32): ")
    assert any(line.startswith("efficiency ") for line in lines)
    rows = [line.split()[0] for line in lines if line.strip()]
    assert [block["name"] for block in told["blocks"]] == [
        row for row in rows if row in {one["name"] for one in told["blocks"]}
    ][-len(told["blocks"]) :]
    assert told["source"] == "measured" and told["record"]["settings"]["batch"] == 8
    parts = sum(step["milliseconds"] for step in told["steps"]) + told["outside_ms"]
    assert parts == pytest.approx(told["measured_ms"])


def test_each_of_several_devices_explains_an_export(export, capsys):
    several = ["--device", "onnxruntime-cpu", "--device", "torch-cpu"]
    capsys.readouterr()

    assert main(["explain", str(export), *several]) == 0
    out = capsys.readouterr().out
    assert main(["explain", str(export), *several, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    heads = [line.partition(" (")[0] for line in out.splitlines() if line.startswith(f"{export} on ")]
    assert heads == [f"{export} on onnxruntime-cpu", f"{export} on torch-cpu"]
    assert [one["device"] for one in told] == ["onnxruntime-cpu", "torch-cpu"]


def test_what_cannot_be_explained_is_refused_in_one_line(export, tmp_path, capsys):
    for kind in ("QLinearConv", "LSTM"):
        changed = onnx.load(export / "model.onnx")
        changed.graph.node[0].op_type = kind
        onnx.save(changed, tmp_path / f"{kind}.onnx")
    (tmp_path / "relu.onnx").write_bytes(onnx_of(nn.Sequential(nn.ReLU()).eval(), SHAPE))
    for name, path in (("alone", tmp_path / "relu.onnx"), ("among others", export / "model.onnx")):
        changed = onnx.load(path)
        next(one for one in changed.graph.node if one.op_type == "Relu").op_type = "Reluu"
        onnx.save(changed, tmp_path / f"{name}.onnx")
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([tmp_path / "none"], "there is no "),
        ([tmp_path / "empty"], "is no export: give a folder of `nas export`, or an ONNX file"),
        (
            [export / "model.onnx", "--device", "torch-cpu"],
            "torch-cpu cannot run the ONNX file",
        ),
        ([export, "--device", "onnx"], "device.name 'onnx' is not known"),
        ([export, "--threads", "0"], "device.threads is 0"),
        ([tmp_path / "QLinearConv.onnx"], "the model has QLinearConv ("),
        ([tmp_path / "LSTM.onnx"], "what LSTM ("),
        (
            [tmp_path / "relu.onnx"],
            "relu.onnx cannot be explained: it has no convolution and no matrix product",
        ),
        ([tmp_path / "alone.onnx"], "it is no valid ONNX model: No Op registered for Reluu"),
        ([tmp_path / "among others.onnx"], "it is no valid ONNX model: No Op registered for Reluu"),
        ([export, "--device", "onnxruntime-cpu", "--device", "onnx"], "device.name 'onnx' is not known"),
    ):
        capsys.readouterr()
        assert main(["explain", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert out == "" and said in line


def test_every_device_with_a_profile_can_be_explained():
    """What has kernels in its records says so, and what does not says why."""
    here = [kind for kind in DEVICES.values() if kind.available() is None]

    assert [_has_profile(kind) for kind in here] == [kind().unprofiled() is None for kind in here]


def _has_profile(kind: type) -> bool:
    record = kind(**QUICK).measure(inverted_bottleneck(), SHAPE, kernels=True)
    return bool(record.kernels)


def test_json_is_json(export):
    assert json.loads(json.dumps(explained_as_json(as_if(inverted_bottleneck(), {}), "no run")))["verdict"]
