"""Every preset, on real images of the size it is for: a few training steps, and what is exported still is what was
trained, as a module and in ONNX Runtime.
"""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from nas.export.onnx_graph import to_onnx
from search_spaces import SearchSpace, presets, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.merging import merged
from supernets.operators import OPERATORS
from supernets.spatial import BATCH_NORMS
from supernets.supernet import make_supernet, resize

FAMILIES = ("mobile", "mixconv", "mixpath", "parameter_free", "large_kernel", "resnet", "convnext")
SMALL, LARGE = (3, 32, 32), (3, 224, 224)


def images_for(name: str) -> tuple[int, ...]:
    return LARGE if name.endswith("_224") else SMALL


@cache
def photographs(side: int, count: int) -> tuple[Tensor, Tensor]:
    """Parts of two photographs, normalised, and of which of the two each is."""
    random, photos = np.random.default_rng(0), load_sample_images().images
    images, labels = [], []
    for number in range(count):
        label = number % len(photos)
        top, left = (random.integers(0, size - side) for size in photos[label].shape[:2])
        images.append(photos[label][top : top + side, left : left + side])
        labels.append(label)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(labels)


def test_every_family_has_a_preset_for_small_images_and_one_for_224_pixels():
    assert {size for family in FAMILIES for size in (family, f"{family}_224")} <= set(presets())


def test_no_preset_offers_an_experimental_operator():
    for name in presets():
        space = unroll(read_skeleton(name), OPERATORS, ATTENTIONS, images_for(name), 2)
        if not isinstance(space, SearchSpace):
            continue  # cells have a table of their own
        offered = {option.operator for _, _, _, block in space.blocks for option in block.options}
        assert not [one for one in offered if getattr(OPERATORS[one], "experimental", False)], name


@pytest.mark.parametrize("name", presets())
def test_what_a_preset_trains_is_what_onnx_runtime_runs(name):
    space = unroll(read_skeleton(name), OPERATORS, ATTENTIONS, images_for(name), 2)
    images, labels = photographs(images_for(name)[1], 8 if images_for(name) == SMALL else 2)
    supernet, random = make_supernet(space), Random(0)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        architecture = space.sample(random)
        x = resize(images, space.input_shape(architecture.resolution))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(supernet.train()(x, architecture), labels).backward()
        optimizer.step()

    for architecture in (space.sample(random) for _ in range(2)):
        shape = space.input_shape(architecture.resolution)
        x = resize(images, shape)
        module = supernet.train().export(architecture).eval()
        recalibrate(module, x)
        deployed = merged(module)
        session = onnxruntime.InferenceSession(to_onnx(deployed, shape), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = module(x)
            close(torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), expected)
            for norm in (one for one in module.modules() if isinstance(one, BATCH_NORMS)):
                norm.train()
            close(module(x), supernet(x, architecture))


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
