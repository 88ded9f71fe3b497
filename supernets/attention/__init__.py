"""The attentions: one file each, and the folder is the registry. The contract is that of an operator without
settings: `Attention(channels)`, `forward(x)` for any width up to that, `export(channels)`; with
`dims = (1, 2)` it works on signals too, and `__init__` gets dims=1 or dims=2."""

from __future__ import annotations

from torch import nn

from search_spaces.strict import unknown
from supernets.registry import load

ATTENTIONS = load(__name__, __path__[0], "Attention")


def make_attention(name: str, channels: int, dims: int = 2) -> nn.Module:
    """An attention of up to so many channels."""
    if name not in ATTENTIONS:
        raise unknown(f"the attention {name!r}", name, ATTENTIONS)
    attention = ATTENTIONS[name]
    return attention(channels, dims=dims) if hasattr(attention, "dims") else attention(channels)
