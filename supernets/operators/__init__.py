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

Both methods cut the weight in the same one place. Nothing else is declared: cost is counted on what
`export` returns, and `tests/test_operators.py` tests the file the moment it exists. The file's name is
its name in YAML.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

OPERATORS = {
    module.name: import_module(f"{__name__}.{module.name}").Operator for module in iter_modules(__path__)
}
SETTINGS = {name: operator.settings for name, operator in OPERATORS.items()}
