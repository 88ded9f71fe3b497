"""Every image is in exactly one split, the same one for the same seed; a batch depends on its step and on
nothing else; what is written in any format comes back pixel by pixel, and what is broken is named in one line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import DATASETS, Data, Images, Split, image_folder, load
from nas.data.batches import Batches, normalize
from nas.data.files import fetch
from nas.data.images import check
from nas.data.splits import allot, split

CIFAR = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin", b"labels", b"label_names"),
    "cifar100": ("cifar-100-python", "cifar-100-binary", b"fine_labels", b"fine_label_names"),
}
ONE_LINE = r"\A[^\n]*\Z"


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def numbered(count: int, classes: int, test: int | None = None) -> Images:
    """Images that each say their own number in their two pixels; class sizes differ."""
    numbers = np.arange(count + (test or 0))
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8)[:, None, None]  # (N, 1, 1, 2)
    labels = np.minimum(np.arange(count) % (classes + 2), classes - 1)
    tests = (None, None) if test is None else (images[count:], np.arange(test) % classes)
    return Images(images[:count], labels, *tests, tuple(map(str, range(classes))))


def numbers(part: Split) -> list[int]:
    return [int(low) + 256 * int(high) for low, high in part.images[:, 0, 0]]


def refused(settings: Data) -> str:
    """What `load` says when it refuses; one line, whatever the reason."""
    with pytest.raises((ValueError, OSError), match=ONE_LINE) as caught:
        load(settings)
    return str(caught.value)


# --- writing every format -------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_fashion(folder: Path, ending: str = ".gz", count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pixels(count + 20, 28, 28), np.arange(count + 20) % 10
    write_idx(folder / f"train-images-idx3-ubyte{ending}", images[:count])
    write_idx(folder / f"train-labels-idx1-ubyte{ending}", labels[:count])
    write_idx(folder / f"t10k-images-idx3-ubyte{ending}", images[count:])
    write_idx(folder / f"t10k-labels-idx1-ubyte{ending}", labels[count:])
    return images, labels


def cifar_parts(name: str, binary: bool) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """The files of a small CIFAR, by name, with its images (N, 3, 32, 32) and labels."""
    classes = 10 if name == "cifar10" else 100
    images, labels = pixels(6 * classes, 3, 32, 32), np.arange(6 * classes) % classes
    train = [f"data_batch_{n}" for n in range(1, 6)] if name == "cifar10" else ["train"]
    cuts = [*np.split(np.arange(5 * classes), len(train)), np.arange(5 * classes, 6 * classes)]
    files = [*train, "test_batch" if name == "cifar10" else "test"]
    names = [f"class {n}" for n in range(classes)]
    _, _, label_key, name_key = CIFAR[name]
    contents = {}
    for file, rows in zip(files, cuts, strict=True):
        flat = images[rows].reshape(len(rows), -1)
        if binary:
            coarse = [] if name == "cifar10" else [labels[rows] // 5]
            contents[file + ".bin"] = (
                np.column_stack([*coarse, labels[rows], flat]).astype(np.uint8).tobytes()
            )
        else:
            contents[file] = pickle.dumps({b"data": flat, label_key: labels[rows].tolist()}, protocol=2)
    if binary:
        file = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        contents[file] = ("\n".join(names) + "\n\n").encode()
    else:
        file = "batches.meta" if name == "cifar10" else "meta"
        contents[file] = pickle.dumps({name_key: [text.encode() for text in names]}, protocol=2)
    return contents, images, labels


def write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def write_archive(path: Path, folder: str, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_npz(path: Path, **arrays: np.ndarray) -> Data:
    np.savez(path, **arrays)
    return Data("npz", str(path))


def write_images(folder: Path, images: np.ndarray, ending: str = "png") -> None:
    """Images (N, H, W) or (N, H, W, 3) as files of one class folder."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.{ending}")


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_test", [None, 40])
@pytest.mark.parametrize("validation", [None, 50, 0.3])
def test_every_image_is_in_exactly_one_split(own_test, validation):
    images = numbered(400, 5, own_test)

    splits = split(images, Data("npz", validation=validation, calibration=30))

    test = splits.read_test("to count them")
    parts = (splits.train, splits.validation, splits.calibration, test)
    assert sorted(number for part in parts for number in numbers(part)) == list(range(400 + (own_test or 0)))
    labels = np.concatenate([images.train_labels, *([] if own_test is None else [images.test_labels])])
    assert all((part.labels == labels[numbers(part)]).all() for part in parts)


def test_every_split_has_the_classes_in_the_proportion_of_the_whole():
    images = numbered(700, 5)

    splits = split(images, Data("npz", calibration=50))

    whole = np.bincount(images.train_labels) / 700
    for part in (splits.train, splits.validation, splits.calibration, splits.read_test("to count")):
        assert np.abs(np.bincount(part.labels, minlength=5) - whole * len(part)).max() < 1.5
        assert (np.diff(part.labels) != 0).mean() > 0.3, "in random order, not class after class"


def test_a_rare_class_is_still_in_train_validation_and_test():
    labels = np.array([0] * 500 + [1] * 3)
    images = Images(pixels(503, 1, 4, 4), labels, None, None, ("common", "rare"))

    splits = split(images, Data("npz"))

    for part in (splits.train, splits.validation, splits.read_test("to look for the rare one")):
        assert (part.labels == 1).sum() == 1


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    images = numbered(300, 3)

    first, again, other = (split(images, Data("npz", seed=seed)) for seed in (7, 7, 8))

    assert numbers(first.train) == numbers(again.train)
    assert numbers(first.validation) == numbers(again.validation)
    assert first.fingerprint == again.fingerprint
    assert set(numbers(first.validation)) != set(numbers(other.validation))
    assert first.fingerprint != other.fingerprint


def test_the_sizes_are_those_asked_for():
    images = numbered(1000, 4, 10)

    by_count, by_share, by_default = (split(images, Data("npz", validation=v)) for v in (123, 0.3, None))

    assert [len(s.validation) for s in (by_count, by_share, by_default)] == [123, 300, 200]
    assert len(by_default.calibration) == 100, "never more than a tenth of the training set"
    assert len(split(images, Data("npz", calibration=20)).calibration) == 20


@pytest.mark.parametrize("seed", range(5))
def test_a_deal_is_whole_and_within_its_limits(seed):
    random = np.random.default_rng(seed)
    high = random.integers(1, 50, 12)
    low = np.minimum(random.integers(0, 2, 12), high)
    for total in range(low.sum(), high.sum() + 1):
        dealt = allot(high, total, low, high)
        assert dealt.sum() == total and (low <= dealt).all() and (dealt <= high).all()


def test_test_images_influence_nothing_and_reading_them_is_logged(caplog):
    images = numbered(200, 2, 40)
    changed = Images(images.train, images.train_labels, 255 - images.test, images.test_labels, images.classes)

    with caplog.at_level(logging.INFO):
        one, two = (split(each, Data("npz")) for each in (images, changed))

    assert not [record for record in caplog.records if "test" in record.message]
    for name in ("train", "validation", "calibration"):
        assert numbers(getattr(one, name)) == numbers(getattr(two, name))
    assert (one.mean, one.std) == (two.mean, two.std)
    assert one.fingerprint != two.fingerprint
    with caplog.at_level(logging.INFO):
        one.read_test("export of candidate abc")
    assert caplog.messages == ["reading the 40 test images of npz: export of candidate abc"]


def test_mean_and_deviation_are_those_of_the_train_split_alone():
    images = Images(pixels(90, 3, 5, 6), np.arange(90) % 2, None, None, ("a", "b"))

    splits = split(images, Data("npz"))

    train = splits.train.images / 255
    np.testing.assert_allclose(splits.mean, train.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(splits.std, train.std(axis=(0, 2, 3)))
    assert splits.shape == (3, 5, 6)


def test_a_channel_that_never_changes_is_normalised_to_zero():
    images = pixels(60, 2, 4, 4)
    images[:, 1] = 77

    splits = split(Images(images, np.arange(60) % 2, None, None, ("a", "b")), Data("npz"))

    normal = normalize(splits.train.images, splits.mean, splits.std)
    assert normal[:, 1].abs().max() < 1e-6
    assert abs(normal[:, 0].mean()) < 1e-5 and abs(normal[:, 0].std() - 1) < 1e-3


# --- formats --------------------------------------------------------------------------------------


def test_digits_come_with_the_library():
    splits = load(Data("digits"))

    assert splits.shape == (1, 8, 8)
    assert splits.classes == tuple("0123456789")
    assert splits.train.images.dtype == np.uint8 and splits.train.images.max() == 255
    assert (
        sum(map(len, (splits.train, splits.validation, splits.calibration, splits.read_test("size")))) == 1797
    )


@pytest.mark.parametrize("ending", [".gz", ""])
def test_idx_files_come_back(tmp_path, ending):
    images, labels = write_fashion(tmp_path, ending)

    read = DATASETS["fashion_mnist"].read(tmp_path, Data("fashion_mnist"))

    assert np.array_equal(np.concatenate([read.train, read.test])[:, 0], images)
    assert np.array_equal(np.concatenate([read.train_labels, read.test_labels]), labels)
    assert len(read.train) == 60 and read.classes[9] == "Ankle boot"
    check(read, "it")


@pytest.mark.parametrize("place", ["folder", "folder itself", "archive", "archive itself"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", CIFAR)
def test_cifar_comes_back_from_either_form_packed_or_not(tmp_path, name, binary, place):
    contents, images, labels = cifar_parts(name, binary)
    folder = CIFAR[name][binary]
    archive = tmp_path / f"{name.replace('r', 'r-')}-{'binary' if binary else 'python'}.tar.gz"
    if "folder" in place:
        write_folder(tmp_path / folder, contents)
    else:
        write_archive(archive, folder, contents)
    directory = {"folder itself": tmp_path / folder, "archive itself": archive}.get(place, tmp_path)

    read = DATASETS[name].read(directory, Data(name))

    assert np.array_equal(np.concatenate([read.train, read.test]), images)
    assert np.array_equal(np.concatenate([read.train_labels, read.test_labels]), labels)
    assert read.classes[3] == "class 3" and len(read.classes) == len(np.unique(labels))
    check(read, "it")


@pytest.mark.parametrize(
    "shape, axes",
    [
        ((9, 12), (0, 1, 2)),
        ((9, 12, 3), (0, 3, 1, 2)),
        ((3, 9, 12), (0, 1, 2, 3)),
        ((9, 12, 1), (0, 3, 1, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_npz_comes_back_from_any_layout(tmp_path, shape, axes, dtype):
    images, labels = pixels(30, *shape).astype(dtype), np.arange(30) % 2
    write_npz(tmp_path / "it.npz", images=images, labels=labels, classes=np.array(["cat", "dog"]))

    read = DATASETS["npz"].read(tmp_path / "it.npz", Data("npz"))

    expected = images.transpose(axes).reshape(30, -1, 9, 12)
    assert np.array_equal(read.train, expected)
    assert read.train.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert np.array_equal(read.train_labels, labels) and read.classes == ("cat", "dog")


def test_npz_may_bring_its_own_test_set_and_no_class_names(tmp_path):
    tests = {"test_images": pixels(6, 8, 8, seed=1), "test_labels": np.arange(6, dtype=np.uint8) % 3}
    settings = write_npz(tmp_path / "it.npz", images=pixels(30, 8, 8), labels=np.arange(30) % 3, **tests)

    splits = load(settings)

    assert np.array_equal(splits.read_test("compare").images[:, 0], tests["test_images"])
    assert splits.classes == ("0", "1", "2")


@pytest.mark.parametrize("layout", ["flat", "test", "val"])
def test_a_folder_of_png_comes_back(tmp_path, layout):
    images = pixels(24, 16, 16, 3)
    root = tmp_path if layout == "flat" else tmp_path / "train"
    for label, name in enumerate(("ants", "bees")):
        write_images(root / name, images[label * 8 : label * 8 + 8])
    if layout != "flat":
        write_images(tmp_path / layout / "bees", images[16:])
    (root / "ants" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()

    read = DATASETS["image_folder"].read(tmp_path, Data("image_folder", image_size=16))

    assert read.classes == ("ants", "bees") and read.train_labels.tolist() == [0] * 8 + [1] * 8
    assert np.array_equal(read.train.transpose(0, 2, 3, 1), images[:16])
    if layout == "flat":
        assert read.test is None
    else:
        assert np.array_equal(read.test.transpose(0, 2, 3, 1), images[16:])
        assert read.test_labels.tolist() == [1] * 8


@pytest.mark.parametrize("shape", [(70, 90), (70, 90, 3)])
def test_a_folder_of_jpeg_comes_back_as_pillow_decodes_it(tmp_path, shape):
    for name in ("a", "b"):
        write_images(tmp_path / name, pixels(3, *shape), "jpg")

    read = DATASETS["image_folder"].read(tmp_path, Data("image_folder", image_size=70))

    assert read.train.shape == (6, len(shape) * 2 - 3, 70, 70)
    for pixel, path in zip(read.train, sorted(tmp_path.rglob("*.jpg")), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(pixel.transpose(1, 2, 0).squeeze(), np.asarray(image)[:, 10:80])


def test_large_jpeg_gives_the_same_pixels_with_and_without_simplejpeg(tmp_path, monkeypatch):
    for name in ("a", "b"):
        write_images(tmp_path / name, np.kron(pixels(2, 40, 50, 3), np.ones((1, 8, 8, 1), np.uint8)), "jpg")
    settings = Data("image_folder", image_size=20)

    installed = DATASETS["image_folder"].read(tmp_path, settings)
    monkeypatch.setattr(image_folder, "simplejpeg", None)
    without = DATASETS["image_folder"].read(tmp_path, settings)

    assert np.array_equal(installed.train, without.train)


def test_one_coloured_image_makes_all_of_them_rgb(tmp_path):
    grey, coloured = pixels(4, 8, 8), pixels(4, 8, 8, 3)
    write_images(tmp_path / "coloured", coloured)
    write_images(tmp_path / "grey", grey)

    read = DATASETS["image_folder"].read(tmp_path, Data("image_folder", image_size=8))

    assert np.array_equal(read.train[:4].transpose(0, 2, 3, 1), coloured)
    assert np.array_equal(read.train[4:], np.repeat(grey[:, None], 3, axis=1))


def test_sixteen_bits_are_brought_to_eight(tmp_path):
    deep = (pixels(2, 8, 8).astype(np.uint16) << 8) + 5
    write_images(tmp_path / "a", deep)
    write_images(tmp_path / "b", deep)

    read = DATASETS["image_folder"].read(tmp_path, Data("image_folder", image_size=8))

    assert np.array_equal(read.train[:2, 0], deep >> 8)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(tmp_path, orientation, ending):
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :] += 100
    upright[:, :8] += 50
    exif = Image.Exif()
    exif[image_folder.ORIENTATION] = orientation
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the others undo themselves
    turn = back.get(orientation, image_folder.UPRIGHT.get(orientation))
    stored = Image.fromarray(upright) if turn is None else Image.fromarray(upright).transpose(turn)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stored.save(tmp_path / name / f"0.{ending}", exif=exif)

    read = DATASETS["image_folder"].read(tmp_path, Data("image_folder", image_size=16))

    assert np.abs(read.train[0, 0].astype(int) - upright).max() <= 3


def test_a_download_is_checked_and_kept(tmp_path, caplog):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "mirror" / "it.gz").write_bytes(b"right")
    (tmp_path / "broken" / "it.gz").write_bytes(b"wrong")
    broken, mirror = ((tmp_path / name).as_uri() + "/" for name in ("broken", "mirror"))
    md5 = hashlib.md5(b"right").hexdigest()
    cache = tmp_path / "cache" / "it"

    with caplog.at_level(logging.INFO):
        path = fetch("it.gz", md5, (broken, mirror), cache)

    assert path.read_bytes() == b"right" and list(cache.iterdir()) == [path]
    assert f"downloading {mirror}it.gz to {path}" in caplog.messages
    (tmp_path / "mirror" / "it.gz").unlink()
    assert fetch("it.gz", md5, (mirror,), cache) == path, "not downloaded twice"
    path.write_bytes(b"ri")
    with pytest.raises(ValueError, match=r"MD5 is .*, expected .*; delete it and run again to download it"):
        fetch("it.gz", md5, (mirror,), cache)
    path.unlink()
    with pytest.raises(
        OSError, match=r"cannot download it.gz .*its MD5 is .*No such file.*; put the file there yourself"
    ):
        fetch("it.gz", md5, (broken, mirror), cache)
    assert not list(cache.iterdir()), "nothing half-done is left"


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, allowed",
    [
        ("name", "digit", "did you mean digits?"),
        ("crop", -1, "at least 0"),
        ("crop", 1.5, "whole number"),
        ("cutout", True, "whole number"),
        ("seed", -3, "at least 0"),
        ("flip", 1, "true or false"),
        ("validation", 0, "at least 1, a share"),
        ("validation", 1.0, "between 0 and 1"),
        ("validation", True, "a share"),
        ("calibration", 1, "at least 2"),
        ("test", 1, "between 0 and 1"),
        ("test", 0.0, "between 0 and 1"),
        ("image_size", 0, "at least 1"),
        ("image_size", 32, "only image_folder resizes"),
        ("length", 0, "at least 1"),
        ("length", 32, "only wav_folder cuts and pads"),
        ("directory", 5, "a path"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(key, value, allowed):
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        Data(**{"name": "digits", key: value})

    assert f"data.{key} is {value!r}" in str(caught.value) and allowed in str(caught.value)


@pytest.mark.parametrize("key", ["crop", "cutout"])
def test_an_augmentation_larger_than_the_image_is_refused(key):
    assert f"data.{key} is 8, but the images are 8 x 8; it must be below 8" in refused(
        Data("digits", **{key: 8})
    )


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_a_directory_that_is_not_there_is_named(tmp_path, name):
    message = refused(Data(name, str(tmp_path / "gone")))

    assert str(tmp_path / "gone") in message and "does not exist" in message


def test_digits_take_no_directory_and_folders_need_one(tmp_path):
    assert "leave it out" in refused(Data("digits", str(tmp_path)))
    assert "data.directory is missing" in refused(Data("npz"))
    assert "data.directory is missing" in refused(Data("image_folder"))


def test_missing_files_are_listed(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()

    message = refused(Data("fashion_mnist", str(tmp_path)))

    assert "lacks train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz" in message


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("binary", [False, True])
def test_missing_parts_of_cifar_are_listed(tmp_path, name, binary):
    contents, _, _ = cifar_parts(name, binary)
    missing = sorted(contents)[-1]
    del contents[missing]
    write_folder(tmp_path / CIFAR[name][binary], contents)

    assert f"lacks {missing}" in refused(Data(name, str(tmp_path)))
    assert "holds none of cifar-10" in refused(Data(name, str(tmp_path.parent)))


@pytest.mark.parametrize("ending", [".gz", ""])
@pytest.mark.parametrize("keep", [0, 3, 14, 0.5, 0.99])
def test_an_idx_file_cut_short_is_named(tmp_path, ending, keep):
    write_fashion(tmp_path, ending)
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])

    message = refused(Data("fashion_mnist", str(tmp_path)))

    assert str(path) in message and "replace it by the original" in message


def test_an_idx_file_of_fewer_labels_is_refused(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(50) % 10)

    assert "60 images but 50 labels" in refused(Data("fashion_mnist", str(tmp_path)))


@pytest.mark.parametrize("keep", [0, 0.3, 0.95])
@pytest.mark.parametrize("binary", [False, True])
def test_a_cifar_part_or_archive_cut_short_is_named(tmp_path, binary, keep):
    contents, _, _ = cifar_parts("cifar10", binary)
    part = "data_batch_2.bin" if binary else "data_batch_2"
    archive = f"cifar-10-{'binary' if binary else 'python'}.tar.gz"
    write_archive(tmp_path / archive, "it", contents)
    packed = (tmp_path / archive).read_bytes()
    (tmp_path / archive).write_bytes(packed[: int(keep * len(packed))])
    write_folder(tmp_path / "parts", contents | {part: contents[part][: int(keep * len(contents[part]))]})

    assert part in refused(Data("cifar10", str(tmp_path / "parts")))
    assert archive in refused(Data("cifar10", str(tmp_path)))


class Harmful:
    """Creates a file when unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path):
    contents, _, _ = cifar_parts("cifar10", binary=False)
    harmful = pickle.dumps({b"data": Harmful(tmp_path / "harm"), b"labels": []}, protocol=2)
    write_folder(tmp_path / "parts", contents | {"data_batch_1": harmful})

    message = refused(Data("cifar10", str(tmp_path / "parts")))

    assert "data_batch_1" in message and "which no CIFAR file needs" in message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("data", [np.zeros((50, 3072)), np.zeros((50, 300), np.uint8), None, b"x"])
def test_a_pickle_of_something_else_is_refused(tmp_path, data):
    contents, _, _ = cifar_parts("cifar100", binary=False)
    content = pickle.dumps({b"data": data, b"fine_labels": [0] * 50}, protocol=2)
    write_folder(tmp_path / "cifar-100-python", contents | {"train": content})

    assert "train in" in refused(Data("cifar100", str(tmp_path)))


def test_damaged_pickles_are_refused_and_never_crash():
    random = np.random.default_rng(0)
    whole = pickle.dumps({b"data": pixels(2, 3072), b"labels": [1, 2]}, protocol=2)
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in random.integers(-120, 200, 3):
            damaged[place] = random.integers(256)
        try:
            DATASETS["cifar10"].PYTHON.read_batch(bytes(damaged))
        except ValueError as error:
            assert str(error)


GOOD = {"images": pixels(30, 8, 8), "labels": np.arange(30) % 2}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"images": np.full((30, 8, 8), np.nan)}, "image 0 has a pixel that is NaN or infinite"),
        ({"images": np.full((30, 8, 8), 1e300)}, "NaN or infinite"),
        ({"images": GOOD["images"].astype(np.int64)}, "int64; must be uint8 or a float type"),
        ({"images": pixels(30, 64)}, "have the shape (30, 64)"),
        ({"images": pixels(30, 8, 8, 8)}, "which may be (N, C, H, W) or (N, H, W, C)"),
        ({"images": pixels(29, 8, 8)}, "29 images but 30 labels"),
        ({"images": pixels(30, 0, 8)}, "not a single pixel"),
        ({"images": np.array([{}] * 30)}, "is not a whole .npz file of plain arrays"),
        ({"labels": np.arange(30) / 2}, "must be whole numbers"),
        ({"labels": GOOD["labels"][:, None]}, "must be whole numbers"),
        ({"labels": GOOD["labels"] - 1}, "go down to -1; must count the classes from 0"),
        ({"labels": np.zeros(30, int)}, "needs at least two classes"),
        ({"labels": np.zeros(0, int), "images": pixels(0, 8, 8)}, "needs at least two classes"),
        ({"labels": np.array([0, 1] + [2] * 28)}, "0 (1), 1 (1); needs at least 3 of each class"),
        ({"labels": np.array([0] * 15 + [2] * 15)}, "too few training images of class 1 (0)"),
        ({"classes": np.array(["cat"])}, "one class cat; needs at least two classes"),
        ({"classes": np.array(["a", "b", "c"])}, "class c (0)"),
        ({"classes": np.array([1, 2])}, "must be strings"),
        ({"test_images": pixels(4, 8, 8)}, "test_images but no test_labels"),
        ({"test_labels": np.arange(4)}, "test_labels but no test_images"),
        (
            {"test_images": pixels(4, 9, 9), "test_labels": np.arange(4) % 2},
            "test images are 1 x 9 x 9 uint8",
        ),
        ({"test_images": pixels(4, 8, 8), "test_labels": np.arange(4)}, "label 2 of image 2 is out of range"),
    ],
)
def test_an_npz_that_breaks_a_promise_is_refused(tmp_path, change, reason):
    settings = write_npz(tmp_path / "it.npz", **(GOOD | change))

    message = refused(settings)

    assert reason in message and (str(tmp_path) in message or "too few" in message)


@pytest.mark.parametrize("content", [b"", b"text", "half", "npy"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "it.npz"
    np.savez(path, **GOOD)
    if content == "npy":
        np.save(tmp_path / "it.npy", GOOD["images"])
        content = (tmp_path / "it.npy").read_bytes()
    path.write_bytes(path.read_bytes()[:1000] if content == "half" else content)

    assert "is not a whole .npz file" in refused(Data("npz", str(path)))


def test_an_npz_without_labels_is_refused(tmp_path):
    settings = write_npz(tmp_path / "it.npz", images=GOOD["images"])

    assert "has no labels; it has images" in refused(settings)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    settings = Data("image_folder", str(tmp_path), image_size=8)

    assert "no class folder; needs at least two classes" in refused(settings)
    write_images(tmp_path / "ants", pixels(6, 8, 8))
    assert "the one class folder ants; needs at least two classes" in refused(settings)
    (tmp_path / "bees").mkdir()
    assert f"{tmp_path / 'bees'} holds no image" in refused(settings)


def test_a_test_class_that_train_lacks_is_named(tmp_path):
    for name in ("train/ants", "train/bees", "test/wasps"):
        write_images(tmp_path / name, pixels(3, 8, 8))

    assert "has the class wasps" in refused(Data("image_folder", str(tmp_path)))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("keep", [0, 20, 0.5])
def test_an_image_cut_short_is_named(tmp_path, ending, keep):
    for name in ("ants", "bees"):
        write_images(tmp_path / name, pixels(3, 40, 40, 3), ending)
    path = tmp_path / "bees" / f"001.{ending}"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])

    message = refused(Data("image_folder", str(tmp_path)))

    assert f"{path} cannot be decoded" in message and "repair or remove it" in message


def test_images_that_would_fill_the_memory_are_refused_before_any_is_decoded(tmp_path):
    for name in ("ants", "bees"):
        write_images(tmp_path / name, pixels(2, 8, 8, 3))

    message = refused(Data("image_folder", str(tmp_path), image_size=60_000))

    assert "GiB" in message and "lower data.image_size to 23170 or less" in message


@pytest.mark.parametrize("validation", [1, 59, 5000])
def test_a_validation_that_cannot_be_taken_is_refused(tmp_path, validation):
    settings = Data("npz", str(tmp_path / "it.npz"), validation=validation)
    np.savez(tmp_path / "it.npz", images=pixels(60, 4, 4), labels=np.arange(60) % 3)

    assert f"data.validation asks for {validation}" in refused(settings)


# --- batches --------------------------------------------------------------------------------------


def batches(count: int = 50, shape: tuple[int, ...] = (3, 12, 10), **settings) -> Batches:
    part = Split(pixels(count, *shape), np.arange(count))  # each label names its image
    return Batches(part, (0.4,) * shape[0], (0.2,) * shape[0], **{"batch_size": 8, "seed": 1} | settings)


def assert_same(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert all(torch.equal(mine, yours) for mine, yours in zip(one, other, strict=True))


def test_a_batch_depends_on_its_step_and_on_nothing_before_it():
    settings = {"crop": 2, "flip": True, "cutout": 4}
    one, other = batches(**settings), batches(**settings)

    forwards = [one(step) for step in range(15)]
    backwards = [other(step) for step in reversed(range(15))][::-1]

    for mine, yours in zip(forwards, backwards, strict=True):
        assert_same(mine, yours)
    assert not torch.equal(forwards[0][0], batches(**settings, seed=2)(0)[0])


def test_an_epoch_shows_no_image_twice_and_the_next_has_another_order():
    ours = batches()

    first, second = (
        [label for step in steps for label in ours(step)[1].tolist()] for steps in (range(6), range(6, 12))
    )

    assert len(ours) == 6
    assert len(set(first)) == len(set(second)) == 48
    assert first != second


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_take_disjoint_parts_of_one_permutation(ranks):
    ours = batches()
    steps = ours.steps_per_epoch(ranks)

    shown = [
        label
        for step in range(steps)
        for rank in range(ranks)
        for label in ours(step, rank, ranks)[1].tolist()
    ]

    assert steps == len(ours) // ranks
    assert len(shown) == len(set(shown)) == steps * ranks * 8
    assert shown == [label for step in range(steps * ranks) for label in ours(step)[1].tolist()]


def test_ranks_draw_their_own_augmentation():
    part = Split(np.repeat(pixels(1, 1, 12, 12), 16, axis=0), np.zeros(16, np.int64))
    ours = Batches(part, (0.5,), (0.2,), 8, seed=0, crop=3)

    assert not torch.equal(ours(0, 0, 2)[0], ours(0, 1, 2)[0])


def test_a_batch_larger_than_the_split_is_clipped_to_it():
    ours = batches(count=5, batch_size=64)

    _, labels = ours(3)

    assert len(ours) == 1 and sorted(labels.tolist()) == [0, 1, 2, 3, 4]
    assert len(ours(0, 1, 2)[1]) == 2 and ours.steps_per_epoch(2) == 1
    with pytest.raises(ValueError, match="6 ranks cannot share 5 training images"):
        ours(0, 0, 6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 10), (4, 7, 9)])
@pytest.mark.parametrize(
    "settings", [{}, {"crop": 2}, {"flip": True}, {"cutout": 3}, {"crop": 1, "flip": True}]
)
def test_augmentation_keeps_shape_type_and_layout(shape, settings):
    images, labels = batches(shape=shape, **settings)(0)

    assert images.shape == (8, *shape) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (8,) and labels.dtype == torch.int64


def test_without_augmentation_a_batch_is_the_normalised_originals():
    ours = batches()

    images, labels = ours(0)

    originals = pixels(50, 3, 12, 10)[labels]
    torch.testing.assert_close(images, torch.tensor((originals / 255 - 0.4) / 0.2, dtype=torch.float32))
    assert torch.equal(images, normalize(originals, ours.mean, ours.std))


def test_crop_and_flip_show_a_window_of_the_padded_image_or_its_mirror_image():
    crop, normal = 2, {"mean": (0.4,) * 3, "std": (0.2,) * 3}
    ours = batches(crop=crop, flip=True)
    padded = np.pad(pixels(50, 3, 12, 10), ((0, 0), (0, 0), (crop, crop), (crop, crop)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 10), axis=(2, 3))  # (N, C, 5, 5, H, W)

    seen = set()
    for step in range(40):
        for image, label in zip(*ours(step), strict=True):
            places = windows[label].transpose(1, 2, 0, 3, 4).reshape(25, 3, 12, 10)
            both = normalize(np.concatenate([places, places[..., ::-1]]), **normal)
            matches = [place for place in range(50) if torch.equal(both[place], image)]
            assert len(matches) == 1
            seen.update(matches)

    assert seen == set(range(50)), "every shift, mirrored and not"


def test_cutout_blanks_one_square_and_leaves_the_rest():
    plain, holed = batches(), batches(cutout=4)

    for step in range(20):
        for before, after in zip(plain(step)[0], holed(step)[0], strict=True):
            rows, columns = torch.nonzero((before != after).any(dim=0), as_tuple=True)
            hole = after[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (hole == 0).all() and 4 <= hole[0].numel() <= 16


def test_floats_are_normalised_as_they_are():
    images = np.random.default_rng(0).normal(3, 2, (20, 2, 6, 5)).astype(np.float32)
    ours = Batches(Split(images, np.arange(20)), (3, 3), (2, 2), 20, seed=0, flip=True, crop=1)

    assert ours(0)[0].shape == (20, 2, 6, 5)
    normal = normalize(images, (3, 3), (2, 2))
    np.testing.assert_allclose(normal, (images - 3) / 2, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_sees_the_batches_of_a_cpu():
    settings = {"crop": 2, "flip": True, "cutout": 4}

    ours, theirs = batches(**settings)(5), batches(**settings, device="cuda")(5)

    torch.testing.assert_close(theirs[0].cpu(), ours[0])
    assert torch.equal(theirs[1].cpu(), ours[1])


def test_reading_data_loads_no_torch():
    code = "import sys, nas.data as d; d.load(d.Data('digits')); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
