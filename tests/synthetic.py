"""A space and objectives that are computed from an architecture itself: searches without a network."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nas.storage.records import Candidate, Objective
from search_spaces import Architecture, Choice, SearchSpace, unroll
from search_spaces.skeleton import read_skeleton
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

OBJECTIVES = (
    Objective("accuracy", "accuracy", "%", "maximize"),
    Objective("macs", "macs", "MACs", "minimize"),
    Objective("memory", "memory", "B", "minimize"),
)


def space(skeleton: str = "digits", **changed) -> SearchSpace:
    """A preset on 8×8 images of ten classes, some keys of its skeleton changed."""
    return unroll({**read_skeleton(skeleton), **changed}, OPERATORS, ATTENTIONS, (1, 8, 8), 10)


def small_space() -> SearchSpace:
    """24 architectures."""
    stages = [{"width": [8, 12, 16], "depth": 1}]
    return space(stages=stages, operators=["max_pool"], expansion=[1, 2], attention=["none", "se"])


def values(architecture: Architecture) -> dict[str, float]:
    """Accuracy that saturates with work well spent, what the work costs, and the widest hidden layer."""
    blocks = list(_blocks(architecture))
    macs = sum(width * one.expansion * (_area(one) + 2 * width) for width, one in blocks)
    seen = sum(math.log1p(width * one.expansion) * _worth(one) for width, one in blocks)
    return {
        "accuracy": 100 * (1 - math.exp(-seen / 12)),
        "macs": float(macs),
        "memory": float(max(width * one.expansion for width, one in blocks)),
    }


def candidate(architecture: Architecture) -> Candidate:
    return Candidate(architecture.key, architecture.to_json(), values(architecture))


def _blocks(architecture: Architecture) -> Iterator[tuple[int, Choice]]:
    for stage in architecture.stages:
        for choice in stage.blocks:
            yield stage.width, choice


def _area(choice: Choice) -> float:
    settings = dict(choice.settings)
    if "kernels" in settings:
        return sum(size**2 for size in settings["kernels"]) / len(settings["kernels"])
    return settings.get("kernel_size", 1) ** 2


def _worth(choice: Choice) -> float:
    worth = {"depthwise": 1.0, "mixed": 1.1, "max_pool": 0.4, "identity": 0.1}[choice.operator]
    return worth * (1.15 if choice.attention == "se" else 1.0)
