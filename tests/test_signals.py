"""Signals (N, C, L) go the way of images: read sample by sample, split, moved and blanked, trained, searched,
exported; what is broken is named in one line.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import struct
import wave
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.io import wavfile
from sklearn.datasets import load_digits

from dashboard.drawing import network
from dashboard.figures import hover
from nas.cli import main
from nas.config import read_experiment
from nas.data import DATASETS, Data, Split, load, wav_folder
from nas.data.batches import Batches, normalize
from nas.export.checkpoint import load_subnet
from nas.hardware import device
from nas.storage.records import Latency
from nas.storage.store import Store
from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.cost import CostTable, count
from supernets.merging import merged
from supernets.operators import OPERATORS
from supernets.supernet import Supernet, resize

ROOT = Path(__file__).parents[1]
ONE_LINE = r"\A[^\n]*\Z"
RATE = 8000


def waves(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Signals (count, *shape), float64 within -1..1, each with an offset of its own."""
    random = np.random.default_rng(seed)
    return random.uniform(-0.5, 0.5, (count, *shape)) + random.uniform(-0.4, 0.4, (count, *[1] * len(shape)))


def refused(settings: Data) -> str:
    """What `load` says when it refuses; one line, whatever the reason."""
    with pytest.raises((ValueError, OSError), match=ONE_LINE) as caught:
        load(settings)
    return str(caught.value)


# -- one archive -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40,), (1, 40), (3, 40), (8, 8)])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_an_archive_comes_back_as_plain_numbers(tmp_path, shape, dtype):
    signals, labels = (waves(30, *shape) * 100 + 100).astype(dtype), np.arange(30) % 2
    np.savez(tmp_path / "it.npz", signals=signals, labels=labels, classes=["calm", "wild"])

    read = DATASETS["npz"].read(tmp_path / "it.npz", Data("npz"))

    assert read.train.dtype == np.float32 and read.classes == ("calm", "wild")
    assert np.array_equal(read.train, signals.reshape(30, -1, shape[-1]).astype(np.float32))


def test_an_archive_may_bring_its_own_test_signals(tmp_path):
    signals, tests = waves(30, 2, 20).astype(np.float32), waves(6, 2, 20, seed=1).astype(np.float32)
    labels = {"labels": np.arange(30) % 2, "test_labels": np.arange(6) % 2}
    np.savez(tmp_path / "it.npz", signals=signals, test_signals=tests, **labels)

    splits = load(Data("npz", str(tmp_path / "it.npz")))

    assert splits.shape == (2, 20) and str(splits).endswith("6 test signals of 2 x 20, 2 classes")
    assert np.array_equal(splits.read_test("compare").images, tests)


GOOD = {"signals": waves(30, 40), "labels": np.arange(30) % 2}
SMALLER = {"test_signals": waves(6, 39), "test_labels": np.arange(6) % 2}
WITH_NAN = np.where(np.arange(30)[:, None] == 7, np.nan, GOOD["signals"])


@pytest.mark.parametrize(
    "arrays, said",
    [
        (
            GOOD | {"images": np.zeros((30, 8, 8), np.uint8)},
            "has signals and images; a network learns from one",
        ),
        (GOOD | {"test_images": np.zeros((3, 8, 8), np.uint8)}, "has signals and test_images"),
        ({"images": np.zeros((30, 8, 8)), "test_signals": waves(3, 9)}, "has images and test_signals"),
        ({"signals": GOOD["signals"]}, "has no labels; it has signals"),
        (GOOD | {"test_signals": waves(3, 40)}, "has test_signals but no test_labels"),
        (GOOD | {"signals": waves(30, 2, 3, 4)}, "have the shape (30, 2, 3, 4); must be (N, L) or (N, C, L)"),
        (GOOD | {"signals": np.full((30, 40), "a")}, "must be whole numbers or a float type"),
        (GOOD | {"signals": WITH_NAN}, "signal 7 has a sample that is NaN or infinite; repair or remove it"),
        (GOOD | {"signals": np.full((30, 40), 1e300)}, "NaN or infinite"),
        (GOOD | {"signals": np.zeros((30, 0))}, "not a single sample"),
        (GOOD | {"signals": waves(29, 40)}, "29 signals but 30 labels; each signal needs one label"),
        (GOOD | SMALLER, "test signals are 1 x 39 float32, training signals are 1 x 40 float32"),
        (GOOD | {"labels": np.arange(30) // 29}, "too few training signals of class 1 (1)"),
    ],
)
def test_an_archive_with_wrong_content_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "it.npz", **arrays)

    message = refused(Data("npz", str(tmp_path / "it.npz")))

    assert said in message
    assert str(tmp_path / "it.npz") in message or "of class 1" in message


def test_signals_with_more_channels_than_samples_are_read_with_a_warning(tmp_path, caplog):
    np.savez(tmp_path / "it.npz", **GOOD | {"signals": waves(30, 40, 6)})

    assert load(Data("npz", str(tmp_path / "it.npz"))).shape == (40, 6)
    assert "read as 40 channels of 6 samples; if they are (N, L, C), transpose them" in caplog.text


# -- a folder of recordings --------------------------------------------------------------------


def write_pcm(path: Path, samples: np.ndarray, bits: int = 16, rate: int = RATE) -> None:
    """(C, L) within -1..1 as PCM, by Python's own library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.rint(samples.T * 2 ** (bits - 1)).astype("<i4") + (128 if bits == 8 else 0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(numbers[..., None].view(np.uint8)[..., : bits // 8].tobytes())


def write_folder(folder: Path, signals: np.ndarray, **settings) -> list[Path]:
    """Half of the (N, C, L) signals as class a, half as class b."""
    half = len(signals) // 2
    paths = [folder / "ab"[number // half] / f"{number:03}.wav" for number in range(2 * half)]
    for path, samples in zip(paths, signals, strict=True):
        write_pcm(path, samples, **settings)
    return paths


def read_folder(folder: Path, **settings):
    return DATASETS["wav_folder"].read(folder, Data("wav_folder", **settings))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits, tolerance", [(8, 4e-3), (16, 2e-5), (24, 2e-7), (32, 2e-7)])
def test_pcm_of_the_standard_library_comes_back(tmp_path, bits, tolerance, channels):
    signals = waves(8, channels, 51)
    write_folder(tmp_path, signals, bits=bits)

    read = read_folder(tmp_path)

    assert read.train.dtype == np.float32 and read.classes == ("a", "b")
    assert read.train_labels.tolist() == [0] * 4 + [1] * 4 and read.test is None
    np.testing.assert_allclose(read.train, signals, atol=tolerance)


@pytest.mark.parametrize(
    "dtype, scale, offset",
    [
        ("u1", 2**7, 128),
        ("<i2", 2**15, 0),
        ("<i4", 2**31, 0),
        ("<f4", 1, 0),
        ("<f8", 1, 0),
    ],
)
def test_what_scipy_writes_comes_back_as_scipy_reads_it(tmp_path, dtype, scale, offset):
    signals = waves(4, 40, 2)
    for path, samples in zip(write_folder(tmp_path, signals.swapaxes(1, 2)), signals, strict=True):
        wavfile.write(path, RATE, (samples * scale + offset).astype(dtype))

    read = read_folder(tmp_path)

    for found, path in zip(read.train, sorted(tmp_path.rglob("*.wav")), strict=True):
        rate, theirs = wavfile.read(path)
        assert rate == RATE
        np.testing.assert_allclose(found, (theirs.T.astype(float) - offset) / scale, atol=1e-7)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + sum(map(len, chunks))) + b"WAVE" + b"".join(chunks)


def form(tag: int, bits: int, channels: int = 1, rate: int = RATE, more: bytes = b"") -> bytes:
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits) + more)


def test_other_chunks_are_passed_over_and_the_extensible_format_is_read(tmp_path):
    numbers = np.arange(-20, 20, dtype="<i2") * 700
    extension = struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    notes = chunk(b"LIST", b"odd")  # padded to an even number of bytes
    content = riff(notes, form(0xFFFE, 16, more=extension), notes, chunk(b"data", numbers.tobytes()), notes)
    for path in write_folder(tmp_path, waves(4, 1, 40)):
        path.write_bytes(content)

    read = read_folder(tmp_path)

    np.testing.assert_array_equal(read.train[3, 0], numbers / 2**15)


def test_a_long_signal_is_cut_to_its_middle_and_a_short_one_gets_zeros_on_both_sides(tmp_path):
    lengths = [20, 31, 31, 44]
    signals = [waves(1, length, seed=length)[0] for length in lengths]
    for number, samples in enumerate(signals):
        write_pcm(tmp_path / "ab"[number // 2] / f"{number}.wav", samples[None])

    read, asked = read_folder(tmp_path), read_folder(tmp_path, length=10)

    assert read.train.shape == (4, 1, 31), "the median length"
    expected = [np.pad(signals[0], (5, 6)), signals[1], signals[2], signals[3][6:37]]
    np.testing.assert_allclose(read.train[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(asked.train[0, 0], signals[0][5:15], atol=1e-4)


def test_a_test_folder_is_the_test_set_and_does_not_decide_the_length(tmp_path):
    signals, tests = waves(4, 1, 30), waves(8, 1, 90, seed=1)
    write_folder(tmp_path / "train", signals)
    write_folder(tmp_path / "test", tests)

    read = read_folder(tmp_path)

    np.testing.assert_allclose(read.train, signals, atol=1e-4)
    np.testing.assert_allclose(read.test, tests[:, :, 30:60], atol=1e-4)
    assert read.test_labels.tolist() == [0] * 4 + [1] * 4


GOOD_DATA = chunk(b"data", bytes(80))
DAMAGED = {
    "empty": (b"", "it is empty"),
    "text": (b"not a recording at all", "does not begin as a RIFF/WAVE file does"),
    "cut in the head": (riff(form(1, 16), GOOD_DATA)[:40], "it ends before its samples"),
    "cut in the samples": (riff(form(1, 16), GOOD_DATA)[:-7], "it is cut short: 73 of 80 bytes of samples"),
    "no samples": (riff(form(1, 16)), "it ends before its samples"),
    "silent in every sense": (riff(form(1, 16), chunk(b"data", b"")), "it has no sample"),
    "half a sample": (riff(form(1, 16), chunk(b"data", bytes(79))), "it ends within a sample"),
    "samples first": (riff(GOOD_DATA, form(1, 16)), "its samples come before their format"),
    "a short format": (riff(chunk(b"fmt ", bytes(8)), GOOD_DATA), "its format is cut short"),
    "mu-law": (riff(form(7, 8), GOOD_DATA), "its samples are of format 7 with 8 bits; read are PCM (1)"),
    "12 bits": (riff(form(1, 12), GOOD_DATA), "of format 1 with 12 bits"),
    "half floats": (riff(form(3, 16), GOOD_DATA), "of format 3 with 16 bits"),
    "no channel": (riff(form(1, 16, channels=0), GOOD_DATA), "its format has 0 channels"),
    "NaN": (riff(form(3, 32), chunk(b"data", np.full(20, np.nan, "<f4").tobytes())), "NaN or infinite"),
    "beyond float32": (riff(form(3, 64), chunk(b"data", np.full(20, 1e300).tobytes())), "NaN or infinite"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_recording_is_named(tmp_path, case):
    path = write_folder(tmp_path, waves(8, 1, 40))[5]
    content, said = DAMAGED[case]
    path.write_bytes(content)

    message = refused(Data("wav_folder", str(tmp_path)))

    assert f"{path} cannot be decoded (" in message and said in message
    assert message.endswith("repair or remove it")


@pytest.mark.parametrize(
    "settings, said",
    [
        (
            {"rate": 11025},
            "has a sample rate of 11025 Hz, most others have a sample rate of 8000 Hz; resample",
        ),
        ({"samples": waves(1, 2, 40)[0]}, "has 2 channel(s), most others have 1 channel(s); mix"),
    ],
)
def test_a_recording_unlike_the_others_is_named(tmp_path, settings, said):
    path = write_folder(tmp_path, waves(8, 1, 40))[0]
    write_pcm(path, **{"samples": waves(1, 1, 40)[0], **settings})

    assert f"{path} {said}" in refused(Data("wav_folder", str(tmp_path)))


def test_folders_without_recordings_are_named(tmp_path):
    write_folder(tmp_path, waves(4, 1, 40))
    settings = Data("wav_folder", str(tmp_path))
    (tmp_path / "c").mkdir()
    assert f"{tmp_path / 'c'} holds no signal; add some (.wav) or remove the folder" in refused(settings)
    assert "the one class folder train" in refused(Data("wav_folder", str(one_class(tmp_path / "one"))))
    assert "data.directory is missing; wav_folder needs it" in refused(Data("wav_folder"))


def one_class(folder: Path) -> Path:
    write_pcm(folder / "train" / "a.wav", waves(1, 1, 40)[0])
    return folder


def test_signals_that_would_fill_the_memory_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    write_folder(tmp_path, waves(4, 2, 40))
    monkeypatch.setattr(wav_folder, "read_samples", None)

    message = refused(Data("wav_folder", str(tmp_path), length=10**9))

    assert "GiB" in message and "set data.length to 201326592 or less" in message


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("wav_folder", 0, "data.length is 0; it must be a whole number of at least 1"),
        ("wav_folder", 1.5, "data.length is 1.5; it must be a whole number"),
        ("npz", 64, "data.length is 64, but only wav_folder cuts and pads; leave it out for npz"),
    ],
)
def test_a_length_is_a_whole_number_and_for_recordings_alone(name, value, said):
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        Data(name, length=value)
    assert said in str(caught.value)


# -- splits and batches ------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_each_channel_of_the_train_split(tmp_path):
    signals = waves(90, 3, 25) * [[1], [1000], [0]] + [[5], [-300], [7]]
    np.savez(tmp_path / "it.npz", signals=signals, labels=np.arange(90) % 3)

    splits = load(Data("npz", str(tmp_path / "it.npz")))

    assert len(splits.mean) == 3 and splits.std[2] == 1, "a channel that never changes is left alone"
    train = splits.train.images.astype(np.float64)
    np.testing.assert_allclose(splits.mean, train.mean(axis=(0, 2)), rtol=1e-6)
    normal = normalize(splits.train.images, splits.mean, splits.std)
    assert normal.shape == splits.train.images.shape and normal.is_contiguous()
    np.testing.assert_allclose(normal.mean((0, 2)), [0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(normal.std((0, 2)), [1, 1, 0], atol=1e-3)


def batches(count: int = 50, shape: tuple[int, ...] = (3, 17), **settings) -> Batches:
    """Far from 0, so that what is blanked must be the mean; each label names its signal."""
    part = Split((waves(count, *shape) + 100).astype(np.float32), np.arange(count))
    return Batches(part, (100,) * shape[0], (0.2,) * shape[0], **{"batch_size": 8, "seed": 1} | settings)


def test_a_batch_of_signals_depends_on_its_step_and_on_nothing_before_it():
    one, other = (batches(crop=2, cutout=4) for _ in range(2))

    forwards = [one(step) for step in range(8)]
    backwards = [other(step) for step in reversed(range(8))][::-1]

    for (mine, labels), (yours, same) in zip(forwards, backwards, strict=True):
        assert mine.shape == (8, 3, 17) and mine.dtype == torch.float32 and mine.is_contiguous()
        assert torch.equal(mine, yours) and torch.equal(labels, same)


def test_crop_moves_a_signal_and_what_comes_in_is_the_mean():
    crop, ours = 2, batches(crop=2)
    normal = normalize(ours.images, ours.mean, ours.std)
    windows = torch.nn.functional.pad(normal, [crop] * 2).unfold(2, 17, 1)  # (N, C, 5, L)

    seen = set()
    for step in range(20):
        for signal, label in zip(*ours(step), strict=True):
            matches = [place for place in range(5) if torch.equal(windows[label, :, place], signal)]
            assert len(matches) == 1
            seen.update(matches)

    assert seen == set(range(5)), "every shift"


def test_cutout_blanks_one_span_of_all_channels_and_leaves_the_rest():
    plain, holed = batches(), batches(cutout=4)

    for step in range(20):
        for before, after in zip(plain(step)[0], holed(step)[0], strict=True):
            places = torch.nonzero((before != after).any(dim=0))[:, 0]
            assert 2 <= len(places) <= 4 and len(places) == places[-1] - places[0] + 1
            assert (after[:, places] == 0).all()


def test_augmentation_that_signals_cannot_have_is_refused(tmp_path):
    np.savez(tmp_path / "it.npz", **GOOD)

    def said(**settings) -> str:
        return refused(Data("npz", str(tmp_path / "it.npz"), **settings))

    assert "data.flip is True, but signals are not mirrored" in said(flip=True)
    for key in ("crop", "cutout"):
        assert f"data.{key} is 40, but the signals are 40 samples long; it must be below 40" in said(
            **{key: 40}
        )


# -- the preset --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 128), (12, 1000), (3, 4096)])
def test_the_preset_is_a_space_of_signals(shape):
    space = unroll(read_skeleton("signal"), OPERATORS, ATTENTIONS, shape, 5)

    assert (space.dims, space.resolutions, space.image_shape) == (1, (shape[1],), shape)
    assert space.size > 10**9
    assert CostTable(space)._shape(shape[1], space.stages) == (-(-shape[1] // 16),)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    """The preset's operators in two of its stages, at two lengths."""
    preset = read_skeleton("signal")
    stages = [{**stage, "depth": [1, 2], "expansion": [1, 2]} for stage in preset["stages"][:2]]
    skeleton = {**preset, "stages": stages, "resolution": [97, 128], "head": {"width": 48}}
    return Supernet(unroll(skeleton, OPERATORS, ATTENTIONS, (3, 128), 5), seed=3)


def sampled(space: SearchSpace) -> list[Architecture]:
    return [*space.ends, *(space.sample(Random(seed)) for seed in range(6))]


def test_slices_of_the_preset_are_its_exports(supernet):
    signals = torch.from_numpy(waves(6, 3, 128)).float()
    supernet.train()
    for architecture in sampled(supernet.space):
        subnet = supernet.export(architecture)
        given = resize(signals, supernet.space.input_shape(architecture.resolution))

        assert given.shape == (6, 3, architecture.resolution)
        with torch.no_grad():
            torch.testing.assert_close(subnet(given), supernet(signals, architecture))


def test_deployed_subnets_of_the_preset_cost_what_the_table_says(supernet):
    space = supernet.space
    table = CostTable(space)
    signals = torch.from_numpy(waves(6, 3, 128)).float()
    for architecture in sampled(space):
        shape = space.input_shape(architecture.resolution)
        subnet = recalibrate(supernet.export(architecture), resize(signals, shape))
        plain = merged(subnet)

        assert table.of([architecture])[0].tolist() == count(plain, shape).tolist()
        given = resize(signals, shape)
        with torch.no_grad():
            torch.testing.assert_close(plain(given), subnet(given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "torch-cpu"])
def test_a_subnet_of_signals_is_timed(supernet, name):
    architecture, _ = supernet.space.ends
    shape = supernet.space.input_shape(architecture.resolution)
    subnet = recalibrate(supernet.export(architecture), torch.from_numpy(waves(4, *shape)).float())

    record = device({"name": name, "min_runs": 5, "max_runs": 5}).measure(merged(subnet).eval(), shape)

    assert record.input_shape == (3, 97) and record.median_ms > 0
    assert Latency.from_json(record.to_json()) == record


def test_a_signal_too_short_for_the_preset_is_refused():
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        unroll(read_skeleton("signal"), OPERATORS, ATTENTIONS, (1, 12), 2)

    assert "the strides multiply to 16, too many for signals of 12 samples" in str(caught.value)


def test_what_works_on_images_alone_is_refused_by_name():
    class Flat:
        settings = {}

    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        unroll({"stages": [{"width": 8}], "operators": ["flat"]}, OPERATORS | {"flat": Flat}, {}, (1, 64), 2)

    assert "flat" in str(caught.value) and "signals" in str(caught.value)


# -- end to end --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """The commands of docs/signals.md, carried out on digits as rows of 64 samples."""

    folder: Path
    card: dict
    out: str
    signals: np.ndarray
    labels: np.ndarray

    @property
    def exported(self) -> Path:
        return self.folder / "exported"


PAGE = (ROOT / "docs" / "signals.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("signals")
    digits = load_digits()
    signals = digits.images.reshape(-1, 64).astype(np.int16)
    np.savez(folder / "signals.npz", signals=signals, labels=digits.target)
    text = (ROOT / "examples" / "signals.yaml").read_text(encoding="utf-8")
    smaller = {
        "epochs: 60": "epochs: 10",
        "budget: 100": "budget: 4",
        "crop: 8": "crop: 1",
        "threads: 1": "threads: 1, min_runs: 10, max_runs: 20, seconds: 0.01",
        "space: signal": "space: {name: small, stem: {width: 12, kernel_size: 5}, resolution: [48, 64], operators: "
        "[depthwise: {kernel_size: [5, 9], dilation: [1]}, max_pool], stages: [{width: [16, 24], depth: [1, 2]}, "
        "{width: [24, 32], stride: 2, expansion: 2}], attention: [none, se]}",
    }
    for old, new in smaller.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "examples").mkdir()
    (folder / "examples" / "signals.yaml").write_text(text, encoding="utf-8")
    [block] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = [line.removeprefix("$ nas ") for line in block.splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with redirect_stdout(StringIO()) as out:
            for command in commands:
                assert main(shlex.split(command)) == 0, command
    card = json.loads((folder / "exported" / "card.json").read_text(encoding="utf-8"))
    return Finished(folder, card, out.getvalue(), signals, digits.target)


def test_the_page_shows_the_example(tmp_path):
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "page.yaml").write_text(block, encoding="utf-8")

    page, example = (
        read_experiment(file) for file in (tmp_path / "page.yaml", ROOT / "examples/signals.yaml")
    )

    assert page == example and example.space == read_skeleton("signal")


def test_a_network_learns_from_signals_is_searched_and_verified(finished):
    assert "test signals of 1 x 64, 10 classes" in finished.out
    assert "MACs of one signal" in finished.out
    assert re.search(r"(48|64) samples, \d+×\d", finished.out) and " px" not in finished.out
    assert finished.card["metrics"]["test"]["accuracy"] > 25, "chance is 10"
    assert finished.card["verification"]["top1_agreement"] == 1


def test_the_card_of_a_signal_network_says_how_it_is_used(finished):
    card, readme = finished.card, (finished.exported / "README.md").read_text(encoding="utf-8")
    _, channels, length = card["input"]["shape"]

    assert card["input"]["layout"] == "NCL" and channels == 1 and length in (48, 64)
    assert card["architecture"].startswith(f"{length} samples; width")
    assert card["latency"]["input_shape"] == [1, length]
    assert f"(N, 1, {length}), N signals of channels, samples." in readme
    assert "The test signals were" in readme and "validation signals" in readme and "pixel" not in readme
    assert card["normalisation"]["scale"] == "none"
    resized = "none" if length == 64 else "linear, antialiased, from [64] to [48]"
    assert card["normalisation"]["resize"] == resized


def test_every_form_classifies_raw_signals_prepared_as_the_card_says(finished):
    normal, shape = finished.card["normalisation"], finished.card["input"]["shape"]
    signals = (finished.signals[:, None].astype(np.float32) - normal["mean"]) / normal["std"]
    given = resize(torch.from_numpy(signals).float(), tuple(shape[1:]))
    session = onnxruntime.InferenceSession(finished.exported / "model.onnx")
    program = torch.export.load(finished.exported / "model.pt2").module()

    [onnx] = session.run(None, {"images": given.numpy()})
    with torch.no_grad():
        rebuilt = load_subnet(finished.exported)(given)
        torch.testing.assert_close(program(given), rebuilt, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(onnx, rebuilt.numpy(), rtol=1e-4, atol=1e-4)
    assert (onnx.argmax(1) == finished.labels).mean() > 0.25


def test_the_dashboard_draws_signals_by_their_length(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    with Store("sqlite:///nas.db", create=False) as store:
        run = store.run("signals")
        candidate = store.candidates("signals")[0]
    space, architecture = SearchSpace.from_json(run.space), Architecture.from_json(candidate.architecture)
    length = architecture.resolution

    text = str(network(architecture, space))

    assert f"'1 × {length}'" in text and f"'12 × {length}'" in text
    assert f"'{architecture.stages[1].width} × {length // 2}'" in text
    assert "convolution, kernel 5" in text and "average over the signal" in text and "×5" not in text
    shown = hover(run, candidate)
    assert f"<br>{length} samples<br>" in shown and "measured on validation signals" in shown


def test_recordings_are_trained_and_exported_with_their_scale(tmp_path, monkeypatch, capsys, caplog):
    random = np.random.default_rng(0)
    time = np.arange(96) / RATE
    tones = [np.sin(2 * np.pi * (300 + 900 * (n >= 30)) * time + random.uniform(0, 6)) for n in range(60)]
    write_folder(tmp_path / "tones", np.array(tones)[:, None] * 0.5)
    (tmp_path / "tones.yaml").write_text(
        """
data: {name: wav_folder, directory: tones, length: 80}
space: {stages: [{width: [6, 8], stride: 2}], operators: [depthwise: {kernel_size: [5], dilation: [1]}],
        stem: {width: 6, kernel_size: 9, stride: 2}}
training: {epochs: 25, batch_size: 8, sampler: uniform}
search: {budget: 2, searcher: random}
objectives: [accuracy, macs]
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        assert main(["run", "tones.yaml"]) == 0
    assert main(["export", "tones", "--output", "out"]) == 0

    assert "12 test signals of 1 x 80 at 8000 Hz, 2 classes" in caplog.text
    assert "reading 60 signals of 1 x 80 at 8000 Hz; they are 96 to 96 samples long" in caplog.messages
    card = json.loads(Path("out/card.json").read_text(encoding="utf-8"))
    assert card["metrics"]["test"]["accuracy"] == 100
    assert card["normalisation"]["scale"] == "PCM to -1..1"
    assert card["normalisation"]["sample_rate"] == RATE
    readme = Path("out/README.md").read_text(encoding="utf-8")
    assert "Divide PCM samples by" in readme and "Signals are sampled at 8000 Hz." in readme
    capsys.readouterr()
