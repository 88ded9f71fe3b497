"""What several commands print on stdout."""

from __future__ import annotations

import json
from pathlib import Path


def print_json(content: object) -> None:
    print(json.dumps(content, indent=1))


def print_export(folder: Path, card: dict) -> None:
    print(f"{folder}")
    for split, metric in card["metrics"].items():
        print(f"  accuracy, {split}: {metric['accuracy']:.2f} %")
    print(verified(card["verification"]))


def verified(verification: dict) -> str:
    return (
        f"  verified: supernet slice, module, model.safetensors, model.pt2 and model.onnx differ by at most "
        f"{verification['max_relative_difference']:.1e} of the largest logit "
        f"and agree on {100 * verification['top1_agreement']:g} % of {verification['images']} images"
    )
