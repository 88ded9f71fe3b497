"""The attentions: one file each, and the folder is the registry. The contract is that of an operator without
settings: `Attention(channels)`, `forward(x)` for any width up to that, `export(channels)`; with
`dims = (1, 2)` it works on signals too, and `__init__` gets dims=1 or dims=2."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from torch import nn

ATTENTIONS = {
    module.name: import_module(f"{__name__}.{module.name}").Attention for module in iter_modules(__path__)
}


def make_attention(name: str, channels: int, dims: int = 2) -> nn.Module:
    """An attention of up to so many channels."""
    attention = ATTENTIONS[name]
    return attention(channels, dims=dims) if hasattr(attention, "dims") else attention(channels)
