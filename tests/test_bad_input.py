"""Whatever is wrong with what a person gives: one line that says what and how to go on, a documented exit code,
and nothing lost or overwritten.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.cli import main
from supernets import checkpoint
from tests.conftest import TinyRun, write_experiment
from tests.test_resume import candidates, copy_of, record


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def refused(capfd):
    """What a command says that ends with an exit code: one line on stderr, none on stdout."""

    def carry_out(*arguments: str, code: int = 2) -> str:
        capfd.readouterr()
        assert main(arguments) == code
        out, err = capfd.readouterr()
        (line,) = err.splitlines()
        assert line.startswith("nas: ")
        assert out == ""
        return line

    return carry_out


@pytest.fixture
def new(tmp_path) -> TinyRun:
    return write_experiment(tmp_path)


# -- data --------------------------------------------------------------------------------------


def arrays(**changed) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    whole = {"images": random.random((60, 8, 8), np.float32), "labels": np.arange(60) % 3}
    return whole | changed


def with_nan() -> np.ndarray:
    images = arrays()["images"]
    images[7, 3, 3] = np.nan
    return images


ARCHIVES = {
    "NaN": (arrays(images=with_nan()), "image 7 has a pixel that is NaN or infinite; repair or remove it"),
    "one class": (arrays(labels=np.zeros(60, int)), "holds the one class 0; needs at least two classes"),
    "too few labels": (arrays(labels=np.arange(50) % 3), "60 images but 50 labels; each image needs one"),
    "flat images": (
        arrays(images=np.zeros((60, 64), np.uint8)),
        "have the shape (60, 64); must be (N, H, W)",
    ),
    "words for labels": (arrays(labels=np.array(["a", "b", "c"] * 20)), "must be whole numbers of the shape"),
    "no labels": ({"images": arrays()["images"]}, "has no labels; it has images"),
    "other test images": (
        arrays(test_images=np.zeros((9, 9, 9), np.float32), test_labels=np.arange(9) % 3),
        "test images are 1 x 9 x 9 float32, training images are 1 x 8 x 8 float32; they must be alike",
    ),
    "an object": (arrays(labels=np.array([{}] * 60)), "is not a whole .npz file of plain arrays"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_with_wrong_content_is_refused(refused, new, tmp_path, case):
    content, said = ARCHIVES[case]
    np.savez(tmp_path / "images.npz", **content)
    before = files(tmp_path)

    line = refused("run", *new.arguments, "-o", "data=npz", "--data-dir", str(tmp_path / "images.npz"))

    assert said in line
    assert str(tmp_path / "images.npz") in line
    assert files(tmp_path).items() >= before.items()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "one byte"])
def test_a_damaged_archive_is_refused(refused, new, tmp_path, damage):
    file = tmp_path / "images.npz"
    np.savez_compressed(file, **arrays())
    whole = file.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    file.write_bytes(
        {"cut": whole[:middle], "noise": os.urandom(999), "empty": b"", "one byte": changed}[damage]
    )

    line = refused("run", *new.arguments, "-o", "data=npz", "--data-dir", str(file))

    assert f"{file} is not a whole .npz file of plain arrays" in line
    assert "write it again with numpy.savez" in line


@pytest.mark.parametrize("name", ["npz", "image_folder", "fashion_mnist", "cifar10", "cifar100"])
def test_data_that_is_not_there_is_named(refused, new, tmp_path, name):
    line = refused("run", *new.arguments, "-o", f"data={name}", "--data-dir", str(tmp_path / "nowhere"))

    assert str(tmp_path / "nowhere") in line


def test_a_file_in_place_of_an_image_folder_is_refused(refused, new, tmp_path):
    line = refused("run", *new.arguments, "-o", "data=image_folder", "--data-dir", str(new.file))

    assert str(new.file) in line


# -- folders and stores ------------------------------------------------------------------------


def test_a_runs_folder_that_cannot_be_is_named(refused, new, tmp_path):
    for runs in (str(new.file), "/proc/nowhere/runs"):
        line = refused("run", str(new.file), "--store", new.store_url, "--runs", runs)

        assert f"cannot write to the folder {runs}" in line
        assert line.endswith("make it writable, or give another (--runs)")


def test_a_store_that_cannot_be_is_named(refused, new, tmp_path):
    other = tmp_path / "other.db"
    other.write_bytes(b"no database at all" * 99)
    before = files(tmp_path)

    for url, said in {
        "sqlite:////proc/nowhere/nas.db": "/proc/nowhere",
        f"sqlite:///{tmp_path}": str(tmp_path),
        f"sqlite:///{other}": str(other),
        "nas.db": "nas.db",
        "nodatabase://here": "nodatabase",
    }.items():
        line = refused("run", str(new.file), "--store", url, "--runs", str(tmp_path / "runs"))

        assert said in line
    assert files(tmp_path) == before


def test_a_store_of_another_schema_version_is_refused_and_left_alone(refused, tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "copy")
    with sqlite3.connect(run.folder / "nas.db") as connection:
        connection.execute("UPDATE paretoshift_schema SET version = 99")
    connection.close()
    before = files(run.folder)

    for arguments in (["run", *run.arguments], ["report", "--store", run.store_url]):
        assert "99" in refused(*arguments)

    assert files(run.folder) == before


def test_an_output_folder_that_cannot_be_is_named(refused, tiny_run, tmp_path):
    for output in ("/proc/nowhere/export", str(tiny_run.file / "export")):
        line = refused("export", "tiny", "--store", tiny_run.store_url, "--output", output)

        assert f"cannot write to {output}" in line


# -- runs --------------------------------------------------------------------------------------


def test_a_checkpoint_cut_in_half_is_refused_and_kept(refused, tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path / "copy")
    supernet = run.folder / "runs/tiny/supernet.safetensors"
    half = supernet.read_bytes()[: supernet.stat().st_size // 2]
    supernet.write_bytes(half)

    for arguments in (
        ["run", *run.arguments, "-o", "search.budget=40"],
        ["search", *run.arguments, "-o", "search.budget=40"],
        ["export", "tiny", "--store", run.store_url],
    ):
        line = refused(*arguments)
        assert f"the checkpoint {supernet} is damaged" in line
        assert "nothing was overwritten" in line

    assert supernet.read_bytes() == half
    assert candidates(run) == candidates(tiny_run)


def test_candidates_of_a_supernet_that_is_gone_are_not_mixed_with_those_of_another(
    refused, tiny_run, tmp_path
):
    run = copy_of(tiny_run, tmp_path / "copy")
    supernet = run.folder / "runs/tiny/supernet.safetensors"
    supernet.unlink()

    line = refused("run", *run.arguments, "-o", "search.budget=40")

    assert f"20 candidates, but the supernet that they are of is not in {supernet}; put it back" in line
    assert not supernet.exists()
    assert (candidates(run), record(run).status) == (candidates(tiny_run), "finished")


@pytest.mark.parametrize("options", [["--workers", "0"], ["--ray", "a:1"]])
def test_an_option_that_is_refused_leaves_a_finished_run_finished(refused, tiny_run, tmp_path, options):
    run = copy_of(tiny_run, tmp_path / "copy")

    refused("run", *run.arguments, *options)

    assert record(run).status == "finished"


def test_the_database_of_another_program_is_left_as_it_is(refused, new, tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()
    before = other.read_bytes()

    line = refused("run", str(new.file), "--store", f"sqlite:///{other}", "--runs", str(tmp_path / "runs"))

    assert "is a database of something else" in line
    assert other.read_bytes() == before


def test_a_search_before_its_training_is_sent_there(refused, new):
    line = refused("search", *new.arguments)

    assert (
        "the supernet of tiny is not trained yet; train it with `nas train`, or `nas run` to do both" in line
    )


def test_what_this_machine_lacks_is_said_before_anything_is_made(refused, new, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    before = files(tmp_path)

    training = refused("run", *new.arguments, "-o", "training.device=cuda")
    device = refused("run", *new.arguments, "-o", "device=torch-cuda")

    assert "training.device is cuda, but torch sees no GPU here; allowed here: cpu, auto" in training
    assert "device.name 'torch-cuda' cannot be used here: " in device
    assert not (tmp_path / "runs").exists()
    assert files(tmp_path).items() >= before.items()


@pytest.mark.parametrize(
    "changed",
    [
        "search.searcher=nsga22",
        "search.searcher={name: nsga2, population: 2}",
        "training.sampler={name: shift, bin: 8}",
        "training.sampler=sandwhich",
        "data.crop=9",
        "data.validation=5000",
        "space={stages: [{width: 8, detph: 2}], operators: [max_pool]}",
        "space={stages: [{width: 8}], operators: [depthwise: {kernel_size: 4}]}",
        "constraints={latency: {max: 2}}",
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_made(refused, new, tmp_path, changed):
    refused("run", *new.arguments, "-o", changed)

    assert not (tmp_path / "runs").exists()


def test_constraints_that_no_architecture_keeps_are_infeasible(refused, new, tmp_path):
    line = refused("run", *new.arguments, "-o", "constraints={macs: {max: 1k}}", code=3)

    assert "constraints.macs.max is 1000, but the smallest architecture of the space tiny has" in line
    assert not (tmp_path / "runs").exists()


def test_constraints_that_no_candidate_keeps_end_with_the_nearest_one(new, capsys):
    short = ["-o", "training={epochs: 1, batch_size: 64}", "-o", "search.budget=3"]

    assert main(["run", *new.arguments, *short, "-o", "constraints={latency_ms: {max: 1e-6}}"]) == 3

    assert "No candidate keeps the constraints; the nearest is " in capsys.readouterr().out
    assert main(["export", "tiny", "--store", new.store_url]) == 3


def test_a_training_that_diverges_gives_up_after_three_rollbacks(new, capsys):
    wild = ["-o", "training={epochs: 1, batch_size: 64, learning_rate: 1e+30}"]

    assert main(["run", *new.arguments, *wild]) == 4

    *told, last = capsys.readouterr().err.splitlines()
    assert sum("back to step 0 at half the learning rate" in line for line in told) == 3
    assert last.startswith("nas: training diverged: ")
    assert "Lower training.learning_rate" in last
    assert record(new).status == "failed"
    assert record(new).message.startswith("training diverged")


def test_a_search_in_which_everything_fails_gives_up_and_keeps_the_reasons(tiny_run, tmp_path, capsys):
    run = copy_of(tiny_run, tmp_path / "copy")
    path = run.folder / "runs/tiny/supernet.safetensors"
    tensors, facts = checkpoint.load(path)
    checkpoint.save(path, {name: one * torch.nan for name, one in tensors.items()}, facts)

    assert main(["run", *run.arguments, "-o", "search.budget=40"]) == 4

    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("nas: 10 evaluations in a row failed, the last one with: FloatingPointError: ")
    assert candidates(run)[:20] == candidates(tiny_run)
    assert [one.error is not None for one in candidates(run)[20:]] == [True] * 10


# -- names -------------------------------------------------------------------------------------


def test_an_unknown_run_is_answered_with_the_likely_one(refused, tiny_run):
    for verb in ("report", "export"):
        line = refused(verb, "tinny", "--store", tiny_run.store_url)

        assert "no run named 'tinny' in this store; did you mean tiny?" in line


def test_a_store_that_is_not_there_is_named(refused, tmp_path):
    for arguments in (["report"], ["report", "tiny"], ["export", "tiny"], ["dashboard"]):
        line = refused(*arguments, "--store", f"sqlite:///{tmp_path / 'nas.db'}")

        assert str(tmp_path / "nas.db") in line
    assert files(tmp_path) == {}


def test_a_candidate_is_named_by_a_key_that_is_there_and_one_only(refused, tiny_run):
    store = ["--store", tiny_run.store_url]
    first = [one.key[0] for one in candidates(tiny_run)]
    twice = next(digit for digit in first if first.count(digit) > 1)

    unknown = refused("export", "tiny", *store, "--candidate", "xyz")
    several = refused("export", "tiny", *store, "--candidate", twice)

    assert "run 'tiny' has no candidate xyz; `nas report tiny` lists their keys" in unknown
    assert f"{first.count(twice)} candidates of run 'tiny' begin with '{twice}': {twice}" in several
    assert several.endswith("give more of it")


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (
            ["--best", "acuracy"],
            2,
            "--best 'acuracy' is not known; did you mean accuracy? Allowed: accuracy, l",
        ),
        (
            ["--max", "latency=2"],
            2,
            "--max 'latency' is not known; did you mean latency_ms? Allowed: accuracy",
        ),
        (["--max", "latency_ms"], 2, "--max latency_ms: write it with a limit, such as latency_ms=2.5"),
        (["--max", "bytes=3kB"], 2, "--max bytes is '3kB'; it must be a number above 0, such as 2.5, 300k"),
        (
            ["--max", "latency_ms=1e-9"],
            3,
            "no candidate of tiny keeps its constraints and --max latency_ms=1e-9",
        ),
        (
            ["--candidate", "0", "--max", "bytes=1"],
            2,
            "--candidate names one candidate, so --max can choose non",
        ),
        (["--data-dir", "/nowhere"], 2, "data.directory is /nowhere, but digits come with scikit-learn"),
    ],
)
def test_an_export_that_cannot_be_chosen_is_refused(refused, tiny_run, asked, code, said):
    assert said in refused("export", "tiny", "--store", tiny_run.store_url, *asked, code=code)


def test_images_of_another_data_set_are_not_exported(refused, tmp_path):
    file = tmp_path / "images.npz"
    np.savez(file, **arrays(images=np.zeros((60, 8, 8), np.uint8)))
    text = "data: npz\nspace: tiny\ntraining: {epochs: 1, batch_size: 16}\nsearch: {budget: 1}\n"
    run = write_experiment(tmp_path, text)
    assert main(["run", *run.arguments, "--data-dir", str(file)]) == 0
    np.savez(file, **arrays(images=np.ones((60, 8, 8), np.uint8)))

    again = refused("run", *run.arguments, "--data-dir", str(file))
    export = refused("export", "tiny", "--store", run.store_url)

    assert "the run tiny was made with other images" in again
    assert "these are not the images that tiny was made with; give --data-dir their folder" in export


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # waitress leaves its sockets
def test_a_busy_port_and_one_that_is_none_are_named(refused, tiny_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("dashboard", "--store", tiny_run.store_url, "--port", str(port))

    assert f"port {port} is in use; give another with --port" in line
    assert "99999" in refused("dashboard", "--store", tiny_run.store_url, "--port", "99999")


def test_a_folder_that_is_no_export_is_named(refused, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        line = refused("verify", str(folder))

        assert f"{folder} is no export: it has no card.json; `nas export` makes one" in line
