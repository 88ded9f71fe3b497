"""The samplers: which architectures each training step trains. One file each."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from search_spaces import SearchSpace
from search_spaces.strict import check_keys, unknown
from supernets.cost import Costs
from supernets.samplers.plan import Sampler
from supernets.samplers.sandwich import Sandwich
from supernets.samplers.shift import Shift
from supernets.samplers.uniform import Uniform

SAMPLERS = {"uniform": Uniform, "sandwich": Sandwich, "shift": Shift}


def check_sampler(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a `training.sampler`.

    Raises:
        ValueError: there is no such sampler, it has no such setting, or not that value of it.
    """
    settings = {"name": given} if isinstance(given, str) else dict(given)
    name = settings.pop("name", None)
    if name not in list(SAMPLERS):  # a list, since what people write need not be hashable
        raise unknown(f"training.sampler {name!r}", name, SAMPLERS)
    own = [key for key in signature(SAMPLERS[name]).parameters if key not in ("space", "costs", "steps")]
    check_keys("training.sampler", settings, own)
    SAMPLERS[name].check(**settings)
    return name, settings


def make_sampler(given: str | Mapping[str, Any], space: SearchSpace, costs: Costs, steps: int) -> Sampler:
    """The sampler that a `training.sampler` names, for so many steps."""
    name, settings = check_sampler(given)
    return SAMPLERS[name](space, costs, steps, **settings)
