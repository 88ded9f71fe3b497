"""An export is the network that was searched, in files that need none of our code; whatever changes in them is
noticed.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from sklearn.datasets import load_digits

from nas.cli import main
from nas.data import Data, digits
from nas.data.batches import normalize
from nas.experiment import SUPERNET
from nas.export.checkpoint import load_subnet
from nas.export.pick import pick
from nas.export.verify import FILES, VerificationFailed, sealed, sha256, verify
from nas.pareto import front, knee_candidate
from nas.profile import Infeasible
from nas.storage.records import Candidate
from nas.storage.store import Store
from supernets import checkpoint
from tests.conftest import TinyRun, write_experiment
from tests.test_resume import candidates, copy_of, record

EVERY = sorted([*FILES, "card.json"])
OURS = {"nas", "supernets", "search_spaces", "workers", "dashboard"}


@dataclass(frozen=True)
class Exported:
    run: TinyRun
    folder: Path
    card: dict[str, Any]
    messages: tuple[str, ...]  # what was logged meanwhile

    @property
    def candidate(self) -> Candidate:
        return next(one for one in candidates(self.run) if one.key == self.card["candidate"])


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory) -> Exported:
    """The knee of a copy of the tiny run, exported by the command itself."""
    run = copy_of(tiny_run, tmp_path_factory.mktemp("exported") / "copy")
    folder = run.folder / "knee"
    listening = Listening()
    splits = logging.getLogger("nas.data.splits")
    splits.addHandler(listening)
    splits.setLevel(logging.INFO)
    assert main(["export", "tiny", "--store", run.store_url, "--output", str(folder)]) == 0
    splits.removeHandler(listening)
    splits.setLevel(logging.NOTSET)
    return Exported(run, folder, json.loads((folder / "card.json").read_text()), tuple(listening.heard))


class Listening(logging.Handler):
    def __init__(self):
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    """A copy of the export, to be damaged."""
    return Path(shutil.copytree(exported.folder, tmp_path / "export"))


def refused(capfd, folder: Path) -> str:
    """What `nas verify` says of a folder that is not, or no longer, the network that was searched."""
    capfd.readouterr()
    assert main(["verify", str(folder)]) == 5
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert (out, line[:5]) == ("", "nas: ")
    return line


# -- what is in it -----------------------------------------------------------------------------


def test_the_knee_is_exported_in_every_form_for_everyone_to_read(exported):
    run = record(exported.run)
    best = front(candidates(exported.run), run.objectives, run.constraints)

    assert exported.card["candidate"] == knee_candidate(best, run.objectives).key
    assert sorted(path.name for path in exported.folder.iterdir()) == EVERY
    for path in exported.folder.iterdir():
        assert path.stat().st_mode & stat.S_IRUSR
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(
            (exported.folder / "README.md").stat().st_mode
        )


def test_it_is_as_accurate_as_the_search_said(exported):
    accuracy = exported.card["metrics"]["search-validation"]

    assert accuracy == {"accuracy": exported.candidate.values["accuracy"], "unit": "%"}


def test_the_test_images_are_read_once_and_for_the_export_alone(exported):
    reading = [message for message in exported.messages if "test images" in message]

    assert reading == [f"reading the 359 test images of digits: export of tiny {exported.card['candidate']}"]
    assert 0 < exported.card["metrics"]["test"]["accuracy"] < 100


def test_training_and_searching_never_read_the_test_images(tmp_path, caplog):
    run = write_experiment(tmp_path)
    short = ["-o", "training={epochs: 1, batch_size: 64}", "-o", "search.budget=2"]

    with caplog.at_level(logging.INFO, "nas"):
        assert main(["run", *run.arguments, *short]) == 0

    assert not [message for message in caplog.messages if message.startswith("reading the")]


def test_the_card_says_what_a_stranger_must_know(exported):
    card, run = exported.card, record(exported.run)

    assert (card["run"], card["classes"]) == ("tiny", [str(digit) for digit in range(10)])
    assert card["input"] == {
        "name": "images",
        "shape": ["N", 1, 8, 8],
        "dtype": "float32",
        "layout": "NCHW",
    }
    assert card["output"] == {"name": "logits", "shape": ["N", 10]}
    assert card["normalisation"]["scale"] == "0..16 to 0..1"
    assert len(card["normalisation"]["mean"]) == len(card["normalisation"]["std"]) == 1
    assert set(card["metrics"]) == {"search-validation", "test"}
    assert card["searched"]["values"] == exported.candidate.values
    assert card["training"]["epochs"] == 6
    assert card["training"]["sampler"] == {"name": "shift", "every": 10, "warmup": 0.3}
    assert card["training"]["seed"] == 0
    assert card["data"]["name"] == "digits"
    assert card["facts"] == run.facts
    assert {"training seed", "search seed", "data", "machine", "torch"} <= set(card["facts"])
    assert set(card["versions"]) == {"paretoshift", "torch", "onnx", "onnxruntime"}
    assert card["architecture"].startswith("8 px; width")


def test_the_card_holds_the_latency_with_every_sample(exported):
    latency = exported.card["latency"]

    assert latency == json.loads(exported.candidate.latency.to_json())
    assert 20 <= len(latency["samples_ms"]) <= 40
    assert np.median(latency["samples_ms"]) == exported.candidate.values["latency_ms"]
    assert latency["settings"]["threads"] == 1


def test_the_store_knows_of_it(exported):
    with Store(exported.run.store_url, create=False) as store:
        [known] = store.exports("tiny")

    proof = exported.card["verification"]
    assert (known.candidate, known.folder, known.verified) == (
        exported.card["candidate"],
        str(exported.folder),
        True,
    )
    assert known.max_difference == proof["max_relative_difference"] <= proof["tolerance"] == 1e-4
    assert known.agreement == proof["top1_agreement"] == 1
    assert known.test_accuracy == exported.card["metrics"]["test"]["accuracy"]


def test_pixels_prepared_as_the_readme_says_are_those_that_were_trained_on(exported):
    card = json.loads((exported.folder / "card.json").read_text())
    assert (
        "Multiply scikit-learn's pixels of 0 to 16 by 255/16, round, divide by 255, then subtract"
        in (exported.folder / "README.md").read_text()
    )
    mean, std = card["normalisation"]["mean"], card["normalisation"]["std"]

    pixels = load_digits().images[:, None]
    prepared = (np.rint(pixels * 255 / 16) / 255 - mean[0]) / std[0]

    ours = normalize(digits.read(None, Data("digits")).train, mean, std).numpy()
    np.testing.assert_allclose(prepared, ours, atol=1e-5)


def test_its_readme_tells_the_card(exported):
    readme = (exported.folder / "README.md").read_text()

    for words in (
        f"# tiny / {exported.card['candidate']}",
        f"| accuracy, test | {exported.card['metrics']['test']['accuracy']:.2f} % |",
        "| latency, measured | ",
        "float32, (N, 1, 8, 8)",
        "round, divide by 255, then subtract the mean [0.",
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
    ):
        assert words in readme


# -- without our code --------------------------------------------------------------------------


def readme_code(folder: Path, about: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    return next(block for block in blocks if f"import {about}\n" in block)


def logits_of(exported: Exported, before: str, code: str, after: str, folder: Path) -> dict[int, np.ndarray]:
    """What a form says of 1, 3 and 64 images in a process of its own, which must not load our packages."""
    np.save(folder / "images.npy", load_file(exported.folder / "proof.safetensors")["images"].numpy())
    loop = f"for count in (1, 3, 64):\n    images = {before}\n" + re.sub("(?m)^", "    ", code)
    script = (
        f"import sys\nimport numpy as np\n{after}\nproof = np.load({str(folder / 'images.npy')!r})\n{loop}\n"
        f"    np.save({str(folder)!r} + f'/{{count}}.npy', np.asarray(logits.tolist(), np.float32))\n"
        f"assert not {OURS!r} & {{name.partition('.')[0] for name in sys.modules}}\n"
    )
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, cwd=exported.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {count: np.load(folder / f"{count}.npy") for count in (1, 3, 64)}


def check_logits(exported: Exported, found: dict[int, np.ndarray]) -> None:
    expected = load_file(exported.folder / "proof.safetensors")["logits"].numpy()
    for count, logits in found.items():
        np.testing.assert_allclose(logits, expected[:count], atol=1e-4 * np.abs(expected).max())


def test_the_pt2_answers_any_batch_with_torch_alone(exported, tmp_path):
    code = readme_code(exported.folder, "torch")

    found = logits_of(exported, "torch.from_numpy(proof[:count])", code, "import torch", tmp_path)

    check_logits(exported, found)


def test_the_onnx_answers_any_batch_with_onnx_runtime_alone(exported, tmp_path):
    code = readme_code(exported.folder, "onnxruntime")

    found = logits_of(exported, "proof[:count]", code, "sys.modules['torch'] = None", tmp_path)

    check_logits(exported, found)


def test_the_module_is_rebuilt_from_weights_and_architecture(exported):
    subnet = load_subnet(exported.folder)
    proof = load_file(exported.folder / "proof.safetensors")

    with torch.no_grad():
        logits = subnet(proof["images"])

    assert not subnet.training
    torch.testing.assert_close(logits, proof["logits"])


# -- verification ------------------------------------------------------------------------------


def test_verification_computes_what_the_card_says(exported, capsys):
    found = verify(exported.folder)

    assert found["images"] == 64
    assert found["max_relative_difference"] <= 1e-4
    assert set(found["relative_differences"]) == set(exported.card["verification"]["relative_differences"])
    assert main(["verify", str(exported.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["verify", str(exported.folder)]) == 0
    assert "agree on 100 % of 64 images" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["first", "header", "middle", "last"])
@pytest.mark.parametrize("name", EVERY)
def test_one_changed_byte_in_any_file_is_noticed(copied, capfd, name, place):
    file = copied / name
    content = bytearray(file.read_bytes())
    at = {"first": 0, "header": 40, "middle": len(content) // 2, "last": len(content) - 1}[place]
    content[at] ^= 1
    file.write_bytes(content)

    assert f"{file} is not the file that was exported" in refused(capfd, copied)


@pytest.mark.parametrize("name", EVERY)
def test_a_file_that_is_missing_or_renamed_is_noticed(copied, capfd, name):
    (copied / name).rename(copied / f"{name}.old")

    assert f"{copied} lacks {name}; export the candidate again" in refused(capfd, copied)


@pytest.mark.parametrize("name", EVERY)
def test_a_file_cut_short_is_noticed(copied, capfd, name):
    for length in (0, 1, 70):
        (copied / name).write_bytes((copied / name).read_bytes()[:length])

        assert name in refused(capfd, copied)


def test_other_weights_are_noticed_even_if_every_hash_is_right(copied, exported):
    """The forms are compared, not only the files."""
    state = load_file(copied / "model.safetensors")
    name = next(name for name in state if name.endswith("weight") and state[name].ndim == 4)
    state[name] = state[name] * 1.01
    (copied / "model.safetensors").write_bytes(save(state, {"format": "pt"}))
    card = {key: value for key, value in exported.card.items() if key != "seal"}
    card["sha256"]["model.safetensors"] = sha256((copied / "model.safetensors").read_bytes())
    (copied / "card.json").write_bytes(sealed(card))

    with pytest.raises(VerificationFailed, match=r"module and model\.safetensors differ by"):
        verify(copied)


# -- exporting again, elsewhere, with something missing ----------------------------------------


def test_exporting_to_the_same_folder_again_loses_nothing(exported, capfd):
    before = {path.name: path.read_bytes() for path in exported.folder.iterdir()}

    code = main(["export", "tiny", "--store", exported.run.store_url, "--output", str(exported.folder)])

    assert code == 2
    assert f"{exported.folder} is there already; `nas verify {exported.folder}` checks it, --output" in (
        capfd.readouterr().err
    )
    assert {path.name: path.read_bytes() for path in exported.folder.iterdir()} == before


def test_a_supernet_that_was_not_the_one_searched_is_noticed_and_nothing_is_left(tiny_run, tmp_path, capfd):
    run = copy_of(tiny_run, tmp_path / "copy")
    path = run.folder / "runs/tiny" / SUPERNET
    tensors, facts = checkpoint.load(path)
    checkpoint.save(path, {name: 0.5 + 0 * one for name, one in tensors.items()}, facts)

    assert main(["export", "tiny", "--store", run.store_url]) == 5

    assert "is not the one that was searched" in capfd.readouterr().err
    assert list((run.folder / "runs/tiny/exports").iterdir()) == []
    with Store(run.store_url) as store:
        assert store.exports("tiny") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_of_a_machine_with_a_gpu_is_exported_here(tiny_run, tmp_path, capsys):
    run = copy_of(tiny_run, tmp_path / "copy")
    asked = json.loads(record(run).experiment)
    asked["device"] = {"name": "torch-cuda"}
    asked["training"]["device"] = "cuda"
    with sqlite3.connect(run.folder / "nas.db") as connection:
        connection.execute("UPDATE runs SET experiment = ?", [json.dumps(asked)])
    connection.close()

    assert main(["export", "tiny", "--store", run.store_url, "--best", "accuracy", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    best = max(one.values["accuracy"] for one in candidates(run) if one.feasible(record(run).constraints))
    assert told["card"]["metrics"]["search-validation"]["accuracy"] == best
    assert Path(told["folder"]) == run.folder / "runs/tiny/exports" / told["card"]["candidate"]


def test_images_that_are_not_bytes_and_another_resolution_say_so(tmp_path, capsys):
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.normal(labels[:, None, None], 1, (90, 9, 9)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images, labels=labels, classes=["low", "middle", "high"])
    text = """
data: npz
space: {stages: [{width: [4, 6], stride: 2}], operators: [max_pool], resolution: 12, stem: {width: 4}}
training: {epochs: 2, batch_size: 16, sampler: uniform}
search: {budget: 1, searcher: random}
objectives: [accuracy, macs]
"""
    run = write_experiment(tmp_path, text)
    assert main(["run", *run.arguments, "--data-dir", str(tmp_path / "images.npz")]) == 0

    assert main(["export", "tiny", "--store", run.store_url, "--output", str(tmp_path / "out")]) == 0

    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["normalisation"]["scale"] == "none"
    assert card["normalisation"]["resize"] == "bilinear, antialiased, from [9, 9] to [12, 12]"
    assert card["latency"] is None
    readme = (tmp_path / "out/README.md").read_text()
    assert "Subtract the mean [" in readme
    assert "Then resize: bilinear, antialiased, from [9, 9] to [12, 12]." in readme
    assert "low, middle, high." in readme
    assert verify(tmp_path / "out")["top1_agreement"] == 1


# -- which one ---------------------------------------------------------------------------------


@pytest.fixture
def picked(tiny_run):
    """Picks from the tiny run; the candidates it may pick from, and the pick."""
    with Store(tiny_run.store_url, create=False) as store:
        run = store.run("tiny")

        def choose(
            key: str | None = None, best: str | None = None, limits: tuple[str, ...] = ()
        ) -> Candidate:
            return pick(store, run, key, best, limits)

        yield front(store.candidates("tiny"), run.objectives, run.constraints), choose


def test_by_default_it_is_the_knee_and_comes_with_its_latency_record(picked, tiny_run):
    best, choose = picked

    assert choose().key == knee_candidate(best, record(tiny_run).objectives).key
    assert choose().latency is not None


def test_the_best_in_an_objective_is_the_end_of_the_front(picked):
    best, choose = picked

    assert choose(best="accuracy").key == max(best, key=lambda one: one.values["accuracy"]).key
    assert choose(best="latency").key == min(best, key=lambda one: one.values["latency_ms"]).key
    assert choose(best="latency_ms").key == choose(best="latency").key


def test_a_limit_leaves_those_that_keep_it(picked, tiny_run):
    best, choose = picked
    smallest = min(one.values["bytes"] for one in best)
    kept = [one for one in candidates(tiny_run) if one.error is None and one.values["bytes"] <= smallest]

    chosen = choose(best="accuracy", limits=(f"bytes={smallest / 1000:g}k",))

    assert chosen.values["bytes"] <= smallest  # another than the front's, if only larger ones dominate it
    assert chosen.values["accuracy"] == max(one.values["accuracy"] for one in kept)
    with pytest.raises(Infeasible, match=r"keeps its constraints and --max bytes=1, macs=1k; `nas report"):
        choose(limits=("bytes=1", "macs=1k"))


def test_any_candidate_can_be_named_by_the_beginning_of_its_key(picked, tiny_run):
    _, choose = picked

    for one in candidates(tiny_run):
        assert choose(key=one.key[:10]).key == one.key


def test_a_candidate_that_failed_cannot_be_exported(tmp_path, tiny_run):
    failed = Candidate("k1", "{}", error="ValueError: no")
    with Store(f"sqlite:///{tmp_path / 'nas.db'}") as store:
        store.add_run(record(tiny_run))
        store.add_candidate("tiny", failed)

        with pytest.raises(
            ValueError, match="the candidate k1 failed and cannot be exported: ValueError: no"
        ):
            pick(store, store.run("tiny"), "k1", None, ())
        with pytest.raises(Infeasible):
            pick(store, store.run("tiny"), None, None, ())
