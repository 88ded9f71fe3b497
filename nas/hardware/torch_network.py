"""What the torch devices share: a copy of the network in its precision, eager or compiled."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING

from nas.hardware.runtime import Runtime, refusal
from nas.hardware.timing import TURNS, fixed_images
from nas.loggers import only_errors
from search_spaces.strict import unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

EXECUTIONS = ("eager", "compiled")
PRECISIONS = ("float32", "bfloat16")


def check_execution(execution: object) -> None:
    if execution not in EXECUTIONS:
        raise unknown(f"device.execution {execution!r}", execution, EXECUTIONS)


def without_compiler() -> str | None:
    """Why this machine cannot compile for its processor, or None if it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        return f"torch.compile needs a C++ compiler ({type(error).__name__}); install g++, or use execution: eager"
    return None


def turns(execution: str) -> int:
    """How many networks are measured in turns: to compile one is to forget those that are compiled already."""
    return 1 if execution == "compiled" else TURNS


def placed(
    device: Runtime, subnet: nn.Module, input_shape: tuple[int, ...], where: str
) -> tuple[nn.Module, Tensor]:
    """A copy of the network on `where`, as it will be run, and its images, both in the device's precision.

    A compiled network has run once: what compiling takes is not in what is timed. Norms are folded into
    convolutions, as in deployment; what torch cannot compile as one graph is refused.

    Raises:
        ValueError: it does not run, or cannot be compiled.
    """
    import torch

    kind = getattr(torch, device.precision)
    network = deepcopy(subnet).to(where, kind)
    images = torch.from_numpy(fixed_images(device.batch, input_shape)).to(where, kind)
    try:
        if device.execution == "compiled":
            torch._dynamo.reset()  # else the ninth network of one class would silently run eager
            network = torch.compile(network, fullgraph=True, dynamic=False, options={"freezing": True})
            with _quiet():
                network(images)
        else:
            network(images)
    except Exception as error:  # the compiler's own kinds have nothing in common
        raise refusal(device, error) from error
    return network, images


@contextmanager
def _quiet():
    """Without what torch warns about torch."""
    with warnings.catch_warnings(), only_errors("torch._inductor"):
        warnings.simplefilter("ignore")
        yield
