"""The attentions: one file each, and the folder is the registry. The contract is that of an operator without
settings: `Attention(channels)`, `forward(x)` for any width up to that, `export(channels)`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

ATTENTIONS = {
    module.name: import_module(f"{__name__}.{module.name}").Attention for module in iter_modules(__path__)
}
