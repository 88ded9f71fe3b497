"""`nas devices` and `nas measure`: what is here to measure on, and finished networks measured on several devices."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from nas.cli import main
from nas.export.onnx_graph import onnx_of
from nas.hardware import DEVICES
from nas.hardware.offers import offers
from nas.measure import Measured, read_devices, read_network, read_shape
from nas.measure_view import print_measured
from nas.storage.records import Latency
from tests.test_resume import copy_of

QUICK = "warmup=2,min_runs=20,max_runs=40,seconds=0.02"
ORT, TORCH = f"onnxruntime-cpu,{QUICK}", f"torch-cpu,{QUICK}"

HEADINGS = "network input device settings clock median (ms) 95 % interval p90 CPU/wall contended"


@pytest.fixture(scope="module")
def export(tiny_run, tmp_path_factory):
    """The knee of a copy of the tiny run, exported by the command itself."""
    run = copy_of(tiny_run, tmp_path_factory.mktemp("measured") / "copy")
    folder = run.folder / "knee"
    assert main(["export", "tiny", "--store", run.store_url, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def onnx_file(tmp_path):
    torch.manual_seed(0)
    subnet = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)).eval()
    path = tmp_path / "some.onnx"
    path.write_bytes(onnx_of(subnet, (3, 8, 8)))
    return path


def measured(capsys, *arguments):
    capsys.readouterr()
    assert main(["measure", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """The one line in which `nas measure` says what was wrong."""
    capsys.readouterr()
    assert main(["measure", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


# -- measure -----------------------------------------------------------------------------------


def test_exports_and_files_are_compared_on_several_devices_in_one_table(export, capsys):
    model = export / "model.onnx"
    assert main(["measure", str(export), str(export), "--device", ORT, "--device", TORCH]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert " ".join(lines[0].split()) == HEADINGS
    assert [line.split()[2] for line in lines[1:5]] == ["onnxruntime-cpu", "torch-cpu"] * 2
    assert lines[5].startswith("measured on ")

    by_file, by_folder = (measured(capsys, path, "--device", ORT) for path in (model, export))
    assert by_file[0]["record"]["input_shape"] == by_folder[0]["record"]["input_shape"]


def test_json_holds_what_the_table_says_and_the_whole_record(export, capsys):
    (found,) = measured(capsys, export, "--device", ORT, "--threads", "2", "--batch", "3")

    record = Latency.from_json(json.dumps(found["record"]))
    assert found["source"] == "measured"
    assert found["median_ms"] == record.median_ms and found["interval_ms"] == list(record.interval_ms)
    assert found["p10_ms"] <= found["median_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert (record.settings["threads"], record.settings["batch"]) == (2, 3)
    assert found["cpu_per_wall"] == record.cpu_per_wall > 0
    assert record.clock == "wall" and len(record.cpu_ms) == len(record.samples_ms)


def test_a_device_may_have_settings_of_its_own(onnx_file, capsys):
    found = measured(capsys, onnx_file, "--device", f"{ORT},batch=2", "--device", ORT, "--batch", "4")

    assert [one["record"]["settings"]["batch"] for one in found] == [2, 4]
    assert found[0]["record"]["settings"]["max_runs"] == 40


def test_without_a_device_it_is_the_default(onnx_file, capsys):
    (found,) = measured(capsys, onnx_file)

    assert found["device"] == "onnxruntime-cpu"


def test_what_ran_is_shown_if_asked_for_and_profiled_times_are_not_called_latencies(onnx_file, capsys):
    capsys.readouterr()
    assert main(["measure", str(onnx_file), "--device", ORT, "--kernels"]) == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    rows = [line.split() for line in lines]
    by_kind = next(place for place, row in enumerate(rows) if row[:3] == ["kind", "of", "step"])
    by_step = next(place for place, row in enumerate(rows) if row[:3] == ["step,", "in", "the"])
    assert lines[by_kind].split()[-3:] == lines[by_step].split()[-3:] == ["profiled", "(ms)", "share"]
    *kinds, of_all = rows[by_kind + 1 : by_step]
    steps = rows[by_step + 1 : -1]
    assert any("Conv" in row and "CPUExecutionProvider" in row for row in steps)
    assert of_all[:3] == ["all", "steps", str(len(steps))]
    for kind, count, together, *_ in kinds:
        times = [float(row[-3]) for row in steps if row[1] == kind]
        assert len(times) == int(count)
        assert float(together) == pytest.approx(sum(times), abs=1e-4 * len(times))
    assert lines[-1].startswith("profiled: all steps together ")
    assert " measured without a profile; " in lines[-1]


def test_what_ran_in_pytorch_is_told_and_where_nothing_tells_it_that_is_said(export, capsys):
    (found,) = measured(capsys, export, "--device", TORCH, "--kernels")

    ran = found["record"]["kernels"]
    assert ran[0]["node"] == "stem_0" and ran[0]["kind"] == "Conv2d" and "conv" in ran[0]["kernel"]
    assert found["profiled_ms"] == pytest.approx(sum(one["milliseconds"] for one in ran))
    record = Latency.from_json(json.dumps(found["record"] | {"kernels": []}))
    print_measured([Measured(read_network(export), record)], kernels=True)
    said = capsys.readouterr().out
    assert "on torch-cpu (1 thread, batch 1, float32, eager): nothing tells what its steps" in said


def test_a_file_whose_input_is_open_needs_a_shape(tmp_path, capsys):
    model = onnx.load_from_string(onnx_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (3, 8, 8)))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "HW", strict=True):
        dim.dim_param = name
    path = tmp_path / "open.onnx"
    onnx.save(model, path)

    assert "is 3×?×?; say its size, such as --shape 3,32,32" in refused(capsys, path)
    assert "--shape is 1,8,8; the input of" in refused(capsys, path, "--shape", "1,8,8")
    (found,) = measured(capsys, path, "--device", ORT, "--shape", "3,12,10")
    assert found["record"]["input_shape"] == [3, 12, 10]


def test_what_cannot_be_measured_is_refused_in_one_line_before_anything_is(onnx_file, tmp_path, capsys):
    text = tmp_path / "text.onnx"
    text.write_text("no model", encoding="utf-8")
    for arguments, said in (
        ([tmp_path / "none"], "there is no "),
        ([tmp_path], f"{tmp_path} is no export: give a folder of `nas export`, or an ONNX file"),
        ([text], f"{text} is no ONNX model ("),
        (
            [onnx_file, "--device", "torch-cpu"],
            f"torch-cpu cannot run the ONNX file {onnx_file}; give a folder of",
        ),
        ([onnx_file, "--device", "torch"], "device.name 'torch' is not known; did you mean torch-"),
        (
            [onnx_file, "--device", "onnxruntime-cpu,thread=2"],
            "device.thread is not known; did you mean threads?",
        ),
        ([onnx_file, "--device", "onnxruntime-cpu,2"], "write NAME,SETTING=VALUE"),
        ([onnx_file, "--threads", "0"], "device.threads is 0; it must be a whole number, at least 1"),
        ([onnx_file, "--shape", "3x8"], "--shape is '3x8'; write the size of one input, such as 3,32,32"),
        ([onnx_file, "--shape", "3,8,9"], "--shape is 3,8,9; the input of"),
    ):
        assert said in refused(capsys, *arguments)


def test_a_model_of_two_inputs_or_of_integers_is_refused(tmp_path, capsys):
    from onnx import TensorProto, helper

    def saved(name, *kinds):
        inputs = [helper.make_tensor_value_info(f"x{i}", kind, ("N", 4)) for i, kind in enumerate(kinds)]
        output = helper.make_tensor_value_info("y", kinds[0], ("N", 4))
        graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "g", inputs, [output])
        onnx.save(helper.make_model(graph), tmp_path / name)
        return tmp_path / name

    assert "takes 2 inputs (x0, x1)" in refused(
        capsys, saved("two.onnx", TensorProto.FLOAT, TensorProto.FLOAT)
    )
    assert "takes INT64; only networks that take FLOAT" in refused(
        capsys, saved("int.onnx", TensorProto.INT64)
    )


def test_a_model_of_a_fixed_batch_runs_with_that_batch_alone(onnx_file, capsys):
    model = onnx.load(onnx_file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, onnx_file)

    assert measured(capsys, onnx_file, "--device", ORT, "--batch", "2")
    assert "onnxruntime-cpu does not run this network with batch 1: " in refused(
        capsys, onnx_file, "--device", ORT
    )


def test_a_model_with_its_weights_in_a_file_beside_it_is_read_whole(onnx_file, capsys):
    beside = onnx_file.with_name("beside.onnx")
    onnx.save(onnx.load(onnx_file), beside, save_as_external_data=True, location="weights", size_threshold=0)

    assert (beside.parent / "weights").is_file()
    assert measured(capsys, beside, "--device", ORT)


def test_a_contended_measurement_says_why(export, capsys):
    from nas.measure import Measured
    from nas.measure_view import print_measured

    (told,) = measured(capsys, export, "--device", ORT)
    stored = told["record"] | {"contended": True, "disturbed_by": ["interrupted 9 times in 20 runs"]}
    one = Measured(read_network(export), Latency.from_json(json.dumps(stored)))

    print_measured([one])

    out = capsys.readouterr().out
    assert (
        f"contended: {export} on onnxruntime-cpu (1 thread, batch 1, float32): interrupted 9 times in 20 runs"
        in out
    )


def test_reading_devices_and_shapes():
    common, own = read_devices(["onnxruntime-cpu", "onnxruntime-cpu,threads=1,seconds=0.5"], {"threads": 2})

    assert (common.threads, own.threads, own.seconds) == (2, 1, 0.5)
    assert read_shape("3,32,32") == (3, 32, 32)


# -- devices -----------------------------------------------------------------------------------


def test_every_device_is_listed_with_what_it_offers_or_why_it_does_not():
    found = {one.name: one for one in offers()}

    assert list(found) == list(DEVICES)
    for name, one in found.items():
        assert one.settings["precision"] == one.choices["precision"][0] == "float32"
        assert ("execution" in one.choices) == ("torch" in name)
        if one.reason is None:
            assert one.versions and all(one.versions.values())
        else:
            assert "\n" not in one.reason and not one.versions
    assert found["onnxruntime-cpu"].reason is None and found["torch-cpu"].reason is None


def test_the_table_of_devices_and_its_json_agree(capsys):
    assert main(["devices"]) == 0
    text = capsys.readouterr().out
    assert main(["devices", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert text.startswith(told["processor"])
    common = next(line for line in text.splitlines() if line.startswith("settings of all of them"))
    assert "interval: 0.0" in common and "reuse_days" not in common and "precision" not in common
    assert "of onnxruntime-cpu, onnxruntime-cuda, openvino-cpu: reuse_days: 0" in text
    for one in told["devices"]:
        assert one["available"] == (one["reason"] is None)
        assert (f"{one['name']}: not here, {one['reason']}" in text) == (not one["available"])
        for name, version in one["versions"].items():
            assert f"{name} {version}" in text


def test_the_export_answers_on_every_device_as_its_proof_says(export):
    """What is timed is the exported network: the runtimes agree on the images of the timing."""
    from nas.export.checkpoint import load_subnet

    network = read_network(export)
    answers = [
        one.logits(load_subnet(export), network.input_shape)
        for one in read_devices(["onnxruntime-cpu", "torch-cpu"], {})
    ]
    np.testing.assert_allclose(*answers, rtol=1e-3, atol=1e-4)
