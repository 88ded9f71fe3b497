"""The operators: one file each, and the folder is the registry.

An operator mixes space; the block around it mixes channels. To add one, add a file here with

    class Operator(nn.Module):
        settings = {"kernel_size": (3, 5)}          # its settings and the values they may take

        def __init__(self, channels, stride, kernel_size): ...
            # `channels` is the widest it will see; one tuple of offered values per setting

        def forward(self, x, kernel_size): ...
            # (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)) for any C up to `channels`

        def export(self, channels, kernel_size): ...
            # a plain module with its own copy of the weights that this choice uses

Both methods cut the weight in the same one place. Nothing else need be declared: cost is counted on what
`export` returns, and `tests/test_operators.py` tests the file the moment it exists. The file's name is
its name in YAML. What an operator may say beside that, as class attributes:

    defaults = {"kernel_size": (3,)}   # offered where a skeleton does not name the setting; else all values
    dims = (1, 2)                      # works on signals (N, C, L) too: `__init__` then gets dims=1 or dims=2
    normalized = True                  # has its own norms and activations (`__init__` then gets activation=
                                       # "relu", a key of supernets.elastic.ACTIVATIONS): the block adds none
    experimental = True                # not for presets: slow, dynamic, or little tried
    rates = {"positions": 5.0}         # parameters that learn at so many times the rate, and never decay
    paper, exactness = "...", "..."    # for docs/operators.md: where it comes from, and what its export keeps

    @staticmethod
    def paths(kernel_size): ...        # how many paths are summed; the block has a last norm for each number

    def constrain(self): ...           # called after every optimiser step, without gradients

An exported module that was trained in branches has a method `merge()`, which gives the plain layers that
they amount to (`supernets.merging`); with `embed()` it offers the same function as fewer, larger layers, and
the device is asked which it runs faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules

from torch import nn

OPERATORS = {
    module.name: import_module(f"{__name__}.{module.name}").Operator for module in iter_modules(__path__)
}


def make_operator(
    name: str,
    channels: int,
    stride: int,
    settings: Mapping[str, Sequence],
    activation: str = "relu",
    dims: int = 2,
) -> nn.Module:
    """An operator of up to so many channels, offering these values of its settings."""
    operator, told = OPERATORS[name], {}
    if hasattr(operator, "dims"):
        told["dims"] = dims
    if is_normalized(name):
        told["activation"] = activation
    return operator(channels, stride, **settings, **told)


def is_normalized(name: str) -> bool:
    """Whether an operator has norms and activations of its own."""
    return getattr(OPERATORS[name], "normalized", False)


def paths(name: str, settings: Sequence[tuple[str, object]]) -> int:
    """How many paths a choice sums."""
    operator = OPERATORS[name]
    return operator.paths(**dict(settings)) if hasattr(operator, "paths") else 1
