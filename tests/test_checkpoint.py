"""A checkpoint is whole or not there: what was saved comes back bit by bit, and a save that fails midway leaves the
one before.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from supernets import checkpoint

BIG = {"weight": torch.arange(50_000.0)}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "runs" / "supernet.safetensors"


@contextmanager
def disk_full_after(count: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_what_was_saved_comes_back_bit_by_bit(path):
    tensors = {
        "float": torch.tensor([0.1, float("nan"), -0.0, 1e-45]),
        "half": torch.randn(2, 3).bfloat16(),
        "count": torch.tensor(7),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "slice": torch.arange(12.0).view(3, 4)[:, 1:3],
        "weight": torch.nn.Parameter(torch.ones(2)),
    }
    facts = {"step": 3, "loss": 0.1 + 0.2, "name": "größer", "losses": [1e-300, 2.5], "none": None}

    checkpoint.save(path, tensors, facts)

    loaded, remembered = checkpoint.load(path)
    assert remembered == facts and remembered["loss"] == 0.1 + 0.2
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].nan_to_num(99), tensor.detach().nan_to_num(99))


def test_saving_replaces_what_was_there_and_leaves_nothing_else(path):
    for step in range(3):
        checkpoint.save(path, {"weight": torch.full((4,), float(step))}, {"step": step})

    tensors, facts = checkpoint.load(path)
    assert facts == {"step": 2} and tensors["weight"].tolist() == [2.0] * 4
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_full_disk_is_an_error_and_keeps_the_one_before(path):
    checkpoint.save(path, BIG, {"step": 1})
    before = path.read_bytes()

    with (
        disk_full_after(100_000),
        pytest.raises(OSError, match=r"\A[^\n]*cannot write the checkpoint [^\n]*\Z"),
    ):
        checkpoint.save(path, {"weight": BIG["weight"] + 1}, {"step": 2})

    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("facts", [{"step": object()}, {"step": {1, 2}}])
def test_facts_that_are_not_json_are_an_error_and_keep_the_one_before(path, facts):
    checkpoint.save(path, BIG, {"step": 1})
    before = path.read_bytes()

    with pytest.raises(TypeError, match="JSON"):
        checkpoint.save(path, BIG, facts)

    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_whoever_is_killed_while_saving_leaves_a_whole_checkpoint(path):
    program = (
        "import sys, torch; from pathlib import Path; from supernets import checkpoint\n"
        "for step in range(10**6):\n"
        "    checkpoint.save(Path(sys.argv[1]), {'weight': torch.full((10**6,), float(step))}, {'step': step})\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as saving:
        for _ in range(5):
            saving.stdout.readline()
        saving.kill()

    tensors, facts = checkpoint.load(path)
    assert facts["step"] >= 4
    assert tensors["weight"].unique().tolist() == [float(facts["step"])]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_named_in_one_line_and_not_touched(path, kept):
    checkpoint.save(path, BIG, {"step": 1})
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    before = path.read_bytes()

    with pytest.raises(
        ValueError, match=r"\Athe checkpoint [^\n]* is damaged [^\n]*; nothing was overwritten[^\n]*\Z"
    ):
        checkpoint.load(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"not a checkpoint at all", b"\x80\x04\x95pickled", json.dumps({"step": 1}).encode()],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"is damaged"):
        checkpoint.load(path)


def test_tensors_without_facts_are_no_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.ones(2)}, path)

    with pytest.raises(ValueError, match=r"is damaged"):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_named_with_the_way_to_make_one(path):
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint at .*supernet\.safetensors; `nas train` makes one"
    ):
        checkpoint.load(path)
