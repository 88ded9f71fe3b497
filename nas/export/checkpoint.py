"""A candidate as a folder that needs none of our code.

model.safetensors     the weights and batch-norm statistics; what blocks share, under its first name alone
architecture.json     the architecture and its space: with them `load_subnet` rebuilds the module, its kernels as
                      large as those of the weights, since what is zero all around one was cut
model.pt2             torch.export, any batch size: torch.export.load(...).module()(images)
model.onnx            ONNX, any batch size
proof.safetensors     the images that the forms were compared on, and what the supernet said of them
card.json             metrics with their splits, the latency record, recipe, normalisation, versions, hashes
README.md             the card for a person, with code to load the model
"""

from __future__ import annotations

import io
import json
import os
import shutil
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from nas.devices import device_of
from nas.evaluation import Bench, accuracy_of
from nas.experiment import SUPERNET
from nas.export.alone import Alone
from nas.export.card import readme
from nas.export.onnx_graph import onnx_of
from nas.export.verify import VerificationFailed, compare, sealed, sha256, verify
from nas.storage.records import Candidate, Export, Run, now
from nas.storage.store import Store
from search_spaces import Architecture, architecture_from_json, space_from_json
from supernets.cost import COSTS, count
from supernets.merging import deployed, fitted, forms, merged
from supernets.spatial import BATCH_NORMS, channels_last
from supernets.supernet import make_supernet, resize

PROOF_IMAGES = 64  # validation images that the forms are compared on


def export(
    run: Run, candidate: Candidate, store: Store, folder: Path, experiment, splits, alone: Alone | None = None
) -> tuple[Export, dict[str, Any]]:
    """`write_export` of a candidate of the run, and record that.

    Returns:
        The record, and the card.
    """
    record, card = write_export(run, candidate, folder, experiment, splits, alone)
    store.add_export(run.name, record)
    return record, card


def write_export(
    run: Run, candidate: Candidate, folder: Path, experiment, splits, alone: Alone | None = None
) -> tuple[Export, dict[str, Any]]:
    """Write an architecture with what was measured of it to `folder`, and verify it there.

    The test images are read, once, for the accuracy that the card states.

    Args:
        alone: where its weights are from if it was trained by itself; by default they are inherited.

    Returns:
        The record, and the card.

    Raises:
        FileExistsError: the folder is there already.
        nas.export.verify.VerificationFailed: a form differs from the supernet; nothing is left behind.
    """
    check_free(folder)
    space = alone.space if alone else space_from_json(run.space)
    # nothing is timed, and what the run was trained and timed on may not be here
    anywhere = replace(experiment.training, device="auto")
    here = replace(experiment, device={}, devices={}, objectives=(), constraints=(), training=anywhere)
    bench = Bench(here, splits, space, alone.supernet if alone else Path(run.folder) / SUPERNET)
    architecture = architecture_from_json(candidate.architecture)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        card = _write(partial, run, candidate, bench, architecture, experiment, splits, alone)
        verify(partial)
        partial.rename(folder)
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    record = Export(
        candidate=candidate.key,
        folder=str(folder.absolute()),
        verified=True,
        max_difference=card["verification"]["max_relative_difference"],
        agreement=card["verification"]["top1_agreement"],
        test_accuracy=card["metrics"]["test"]["accuracy"],
        card=json.dumps(card),
    )
    return record, card


def check_free(folder: Path) -> None:
    """Raise FileExistsError if there is something where an export is to be."""
    if folder.exists():
        raise FileExistsError(
            f"{folder} is there already; `nas verify {folder}` checks it, --output writes elsewhere"
        )


def load_subnet(folder: Path) -> nn.Module:
    """The exported network rebuilt as a plain module, in evaluation mode, from weights and architecture."""
    stored = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    space = space_from_json(json.dumps(stored["space"]))
    architecture = architecture_from_json(json.dumps(stored["architecture"]))
    network = merged(make_supernet(space).eval().export(architecture))
    tensors = load_file(folder / "model.safetensors")
    subnet = fitted(forms(network)[stored.get("form", "plain")], tensors)
    again = {name: tensors[first] for name, first in _first_names(subnet).items() if first in tensors}
    subnet.load_state_dict(tensors | again)
    return subnet.eval()


def _write(
    folder: Path,
    run: Run,
    candidate: Candidate,
    bench: Bench,
    architecture: Architecture,
    experiment,
    splits,
    alone: Alone | None,
) -> dict[str, Any]:
    """Every file of the folder; the card, which says what the others are, last."""
    shape = bench.space.input_shape(architecture.resolution)
    branched = bench.branched(architecture)
    form = candidate.latency.form if candidate.latency else "plain"
    subnet = channels_last(forms(deployed(branched))[form])
    accuracy = {"search-validation": _validation_accuracy(bench, subnet, shape, run, candidate, alone)}
    proof = _proof(bench, architecture, branched, shape)
    subnet = subnet.cpu().to(memory_format=torch.contiguous_format)
    test = splits.read_test(f"export of {run.name} {candidate.key}")
    accuracy["test"] = _test_accuracy(subnet, test, splits, shape)

    tensors = subnet.state_dict()
    state = {name: tensors[name].contiguous() for name in dict.fromkeys(_first_names(subnet).values())}
    # as bytes: safetensors' own files would be for their owner alone
    (folder / "model.safetensors").write_bytes(save(state, {"format": "pt"}))
    (folder / "proof.safetensors").write_bytes(save(proof))
    stored = {
        "space": json.loads(run.space),
        "architecture": json.loads(architecture.to_json()),
        "form": form,
    }
    _write_json(folder / "architecture.json", stored)
    (folder / "model.pt2").write_bytes(_program(subnet, shape))
    (folder / "model.onnx").write_bytes(onnx_of(subnet, shape))

    layout, filter = ("NCHW", "bilinear") if run.dims == 2 else ("NCL", "linear")
    scale = "divide by 255" if splits.train.images.dtype.kind == "u" else "none"
    scale = {"wav_folder": "PCM to -1..1", "digits": "0..16 to 0..1"}.get(experiment.data.name, scale)
    card = {
        "run": run.name,
        "candidate": candidate.key,
        "architecture": str(architecture).replace("px", run.unit, 1),
        "input": {"name": "images", "shape": ["N", *shape], "dtype": "float32", "layout": layout},
        "output": {"name": "logits", "shape": ["N", len(splits.classes)]},
        "normalisation": {
            "scale": scale,
            "sample_rate": splits.rate,
            "mean": list(splits.mean),
            "std": list(splits.std),
            "resize": f"{filter}, antialiased, from {list(splits.shape[1:])} to {list(shape[1:])}"
            if shape != splits.shape
            else "none",
        },
        "classes": list(splits.classes),
        "metrics": {split: {"accuracy": value, "unit": "%"} for split, value in accuracy.items()},
        "searched": {
            "values": dict(candidate.values),
            "intervals": dict(candidate.intervals),
            **({} if candidate.whole else {"accuracy_on": candidate.part}),
        },
        "exported_form": {"name": form, **dict(zip(COSTS, map(int, count(subnet, shape)), strict=True))},
        "device": device_of(min(candidate.latencies, default="")) or None,
        "latency": candidate.latency and asdict(candidate.latency),
        "training": asdict(alone.recipe if alone else experiment.training),
        "data": asdict(replace(experiment.data, directory=None)),
        "weights": "trained alone from the start" if alone else "inherited from the supernet",
        "facts": dict(run.facts),
        "versions": {name: version(name) for name in ("paretoshift", "torch", "onnx", "onnxruntime")},
        "exported": now(),
    }
    card["verification"] = compare(folder, proof)
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    card["sha256"] = {path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())}
    (folder / "card.json").write_bytes(sealed(card))
    return card


def _first_names(subnet: nn.Module) -> dict[str, str]:
    """By the name of each tensor, the first name that the same tensor has: blocks may share a kernel."""
    firsts: dict[int, str] = {}
    tensors = subnet.state_dict(keep_vars=True)
    return {name: firsts.setdefault(id(tensor), name) for name, tensor in tensors.items()}


@torch.no_grad()
def _proof(
    bench: Bench, architecture: Architecture, branched: nn.Module, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """Real images, what the supernet's slice says of them, and the exported module by the same statistics.

    A supernet has no running statistics, so slice and module are compared by those of the batch; the
    forms of the module, in which its branches are merged, are compared with the module as it was
    trained, by the statistics that it was given.
    """
    images = bench.validation_images(shape)[:PROOF_IMAGES]
    bench.supernet.train()
    sliced = bench.supernet(images, architecture)
    bench.supernet.eval()
    logits, module = branched(images), deepcopy(branched)
    norms = [one for one in module.modules() if isinstance(one, BATCH_NORMS)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0  # by the statistics of the batch, leaving its own alone
    proof = {"images": images, "supernet": sliced, "module": module(images), "logits": logits}
    return {name: tensor.cpu().contiguous() for name, tensor in proof.items()}


def _validation_accuracy(
    bench: Bench,
    subnet: nn.Module,
    shape: tuple[int, ...],
    run: Run,
    candidate: Candidate,
    alone: Alone | None,
) -> float:
    """What the search measured, measured again: the supernet must still be the one that was searched.

    Another machine or precision may classify a few images differently.
    """
    accuracy = accuracy_of(subnet, bench.validation_images(shape), bench.validation_labels)
    again, count = accuracy, len(bench.validation_labels)
    if not candidate.whole:
        count = candidate.scored[0]
        again = accuracy_of(subnet, bench.validation_images(shape)[:count], bench.validation_labels[:count])
    recorded = again if alone else candidate.values.get("accuracy", again)
    if abs(again - recorded) > max(1, 200 / count):
        raise VerificationFailed(
            f"{candidate.key} classifies {again:.2f} % of the validation images, the search recorded "
            f"{recorded:.2f} %: the supernet in {run.folder} is not the one that was searched; restore it, or "
            "start over with `nas run --fresh`"
        )
    return accuracy


def _test_accuracy(subnet: nn.Module, test, splits, shape: tuple[int, ...]) -> float:
    from nas.data.batches import normalize

    images = resize(normalize(test.images, splits.mean, splits.std), shape)
    return accuracy_of(subnet, images, torch.from_numpy(test.labels))


def _program(subnet: nn.Module, shape: tuple[int, ...]) -> bytes:
    """torch.export with a free batch size; two images, since one would be taken for a constant."""
    images = torch.zeros(2, *shape)
    program = torch.export.export(subnet, (images,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
