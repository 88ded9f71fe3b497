"""The proof that an export is the network that was searched.

On the same real images: the supernet's slice against the exported module, and the module against its
other forms, rebuilt from the folder's own files. What every file must be to the byte stands in the card,
and what the card must be in its own last line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4  # largest difference of logits, relative to the largest logit
FILES = (
    "model.safetensors",
    "architecture.json",
    "model.pt2",
    "model.onnx",
    "proof.safetensors",
    "README.md",
)
_SEAL = b',\n "seal": "%s"\n}\n'


class VerificationFailed(RuntimeError):
    """An export is not, or no longer, the network that was searched."""


def verify(folder: Path) -> dict[str, Any]:
    """Compute the verification of an export anew: hashes of all files, then the forms on the proof's images.

    Returns:
        The verification, as it stands in the card.

    Raises:
        FileNotFoundError: it is no export.
        VerificationFailed: a file is missing or changed, or a form differs by more than the tolerance.
    """
    expected = _card(folder).get("sha256", {})
    for name in FILES:
        if not (folder / name).is_file():
            raise VerificationFailed(f"{folder} lacks {name}; export the candidate again")
        found = sha256((folder / name).read_bytes())
        if found != expected.get(name):
            raise VerificationFailed(
                f"{folder / name} is not the file that was exported: SHA-256 {found[:12]}…, the card says "
                f"{str(expected.get(name))[:12]}…; export the candidate again"
            )
    from safetensors.torch import load_file

    verification = compare(folder, load_file(folder / "proof.safetensors"))
    if not verification["max_relative_difference"] <= TOLERANCE or verification["top1_agreement"] < 1:
        worst = max(verification["relative_differences"].items(), key=lambda pair: pair[1])
        raise VerificationFailed(
            f"{folder}: {worst[0]} differ by {worst[1]:.2g} of the largest logit, {TOLERANCE:g} is allowed, and agree "
            f"on {100 * verification['top1_agreement']:g} % of the images; please report this"
        )
    return verification


def compare(folder: Path, proof: dict[str, Any]) -> dict[str, Any]:
    """Largest differences between the forms, relative to the largest logit, and their agreement."""
    images = proof["images"]
    logits = {name: proof[name].numpy() for name in ("supernet", "module", "logits")}
    forms = {
        "model.safetensors": _rebuilt(folder, images),
        "model.pt2": _program(folder, images),
        "model.onnx": _onnx(folder, images),
    }
    differences = {"supernet slice and module": _difference(logits["supernet"], logits["module"])}
    differences |= {f"module and {name}": _difference(logits["logits"], form) for name, form in forms.items()}
    answers = [logits["logits"], *forms.values()]
    agree = np.all([one.argmax(1) == answers[0].argmax(1) for one in answers], axis=0)
    agree &= logits["supernet"].argmax(1) == logits["module"].argmax(1)
    return {
        "images": len(images),
        "tolerance": TOLERANCE,
        "relative_differences": differences,
        "max_relative_difference": float(np.max(list(differences.values()))),  # not a number if one is none
        "top1_agreement": float(agree.mean()),
    }


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sealed(card: Mapping[str, Any]) -> bytes:
    """A card as JSON; its last entry is the SHA-256 of all that stands before it."""
    text = json.dumps(card, indent=1).removesuffix("\n}").encode()
    return text + _SEAL % sha256(text).encode()


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "card.json"
    if not path.is_file():
        if any((folder / name).is_file() for name in FILES):
            raise VerificationFailed(f"{folder} lacks card.json; export the candidate again")
        raise FileNotFoundError(f"{folder} is no export: it has no card.json; `nas export` makes one")
    content = path.read_bytes()
    text = content[: -len(_SEAL % bytes(64))]
    if content != text + _SEAL % sha256(text).encode():
        raise VerificationFailed(f"{path} is not the file that was exported; export the candidate again")
    return json.loads(content)


def _rebuilt(folder: Path, images) -> np.ndarray:
    import torch

    from nas.export.checkpoint import load_subnet

    with torch.no_grad():
        return load_subnet(folder)(images).numpy()


def _program(folder: Path, images) -> np.ndarray:
    import torch

    with torch.no_grad():
        return torch.export.load(folder / "model.pt2").module()(images).numpy()


def _onnx(folder: Path, images) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]
