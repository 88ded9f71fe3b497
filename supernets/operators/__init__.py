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
    normalized = True                  # ends in norms and activations of its own: the block then adds none after
                                       # it (`__init__` gets activation="relu", a key of elastic.ACTIVATIONS)
    experimental = True                # not for presets: slow, dynamic, or little tried
    shareable = True                   # several blocks may use its weights; it has some, and no norms inside
    rates = {"positions": 5.0}         # parameters that learn at so many times the rate, and never decay
    paper = "He et al., CVPR 2016"     # for docs/operators.md: where it comes from,
    exactness = "exact slice"          # and what its export keeps

    @staticmethod
    def paths(kernel_size): ...        # how many parallel paths a choice sums, where that varies: the block then
                                       # has one last norm for each number (MixPath's Shadow BN)

    def constrain(self): ...           # called after every optimiser step, without gradients
    def start_near_identity(self): ... # where several operators take turns; see supernets.elastic

Tools: `supernets.slicing` cuts (`center`, `leading`, `same_padding`), `supernets.spatial` has `conv` and
`convolution` (the plain layer with its own copy of a weight). A norm inside an operator is
`supernets.elastic.Norm(channels, dims)`, which takes any width and keeps no statistics of its own; `.export(C)`
gives the plain one. `nn.BatchNorm2d` fails at smaller widths.

An exported module that was trained in branches has a method `merge()`, which gives the plain layers that
they amount to, with `fold` and `enlarged` of `supernets.merging`; `large_kernel.py` is an example. Without it,
the branches are deployed as they are. With `embed()` it offers the same function as fewer, larger layers, and
the device is asked which it runs faster. Zeros all around the kernel of a plain convolution are cut when it is
deployed, so a kernel's size may be learned (`flex.py`); the cost table then holds the most that it may become.
Files whose names begin with _ are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from search_spaces.strict import unknown
from supernets.registry import BadPart, load

OPERATORS = load(__name__, __path__[0], "Operator")


def make_operator(
    name: str,
    channels: int,
    stride: int,
    settings: Mapping[str, Sequence],
    activation: str = "relu",
    dims: int = 2,
) -> nn.Module:
    """An operator of up to so many channels, offering these values of its settings.

    Raises:
        ValueError: there is none of that name (any more), or its `rates` name what it has not.
    """
    if name not in OPERATORS:
        raise unknown(f"the operator {name!r}", name, OPERATORS)
    operator, told = OPERATORS[name], {}
    if hasattr(operator, "dims"):
        told["dims"] = dims
    if is_normalized(name):
        told["activation"] = activation
    made = operator(channels, stride, **settings, **told)
    for parameter in getattr(operator, "rates", {}):
        if not isinstance(getattr(made, parameter, None), nn.Parameter):
            raise BadPart(f"the operator {name}: rates has {parameter!r}, which is no parameter of it")
    return made


def is_normalized(name: str) -> bool:
    """Whether an operator has norms and activations of its own."""
    return getattr(OPERATORS[name], "normalized", False)


def paths(name: str, settings: Sequence[tuple[str, object]]) -> int:
    """How many paths a choice sums."""
    operator = OPERATORS[name]
    return operator.paths(**dict(settings)) if hasattr(operator, "paths") else 1
