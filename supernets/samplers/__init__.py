"""The samplers: which architectures each training step trains. One file each."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from search_spaces import SearchSpace
from search_spaces.strict import check_keys, unknown
from supernets.cost import Costs
from supernets.registry import BadPart
from supernets.samplers.attentive import Attentive
from supernets.samplers.fair import Fair
from supernets.samplers.plan import Sampler
from supernets.samplers.progressive import Progressive
from supernets.samplers.sandwich import Sandwich
from supernets.samplers.shift import Shift
from supernets.samplers.uniform import Uniform
from supernets.samplers.uniform_cost import UniformCost

SAMPLERS = {
    "uniform": Uniform,
    "uniform_cost": UniformCost,
    "fair": Fair,
    "attentive": Attentive,
    "shift": Shift,
    "sandwich": Sandwich,
    "progressive": Progressive,
}
WRAPPERS = ("progressive", "sandwich")  # those that stand around another, from the outside in
METHODS = [name for name in vars(Sampler) if not name.startswith("_")]


def check_sampler(
    given: str | Mapping[str, Any], where: str = "training.sampler", around: str = ""
) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a `training.sampler`, or of the one inside it.

    Args:
        where: the dotted place in the experiment, for errors.
        around: the name of the sampler that it stands in, if any.

    Raises:
        ValueError: there is no such sampler, it has no such setting, or not that value of it.
    """
    if not isinstance(given, str | Mapping):
        raise ValueError(
            f"{where} is {given!r}; it must be a name or a mapping such as {{name: shift, bins: 8}}"
        )
    settings = {"name": given} if isinstance(given, str) else dict(given)
    name = settings.pop("name", None)
    outer = WRAPPERS[: WRAPPERS.index(around) + 1] if around else ()
    allowed = [one for one in SAMPLERS if one not in outer]
    if name in outer:
        raise ValueError(
            f"{where} is {name}, which cannot stand inside {around}; allowed: {', '.join(allowed)}"
        )
    if name not in allowed:
        if name is None:
            raise ValueError(
                f"{where} is {settings}, without a name; write for example {{name: shift, bins: 8}}"
            )
        raise unknown(f"{where} {name!r}", name, allowed)
    if lacks := [method for method in METHODS if not hasattr(SAMPLERS[name], method)]:
        file = f"{SAMPLERS[name].__module__.replace('.', '/')}.py"
        raise BadPart(
            f"{file} has no {', '.join(lacks)}; plan.py says what a sampler has, and `Stateless` has most of it"
        )
    own = [key for key in signature(SAMPLERS[name]).parameters if key not in ("space", "costs", "steps")]
    check_keys(where, settings, own)
    if name in WRAPPERS:
        check_sampler(_inner(settings), f"{where}.of", name)
    try:
        SAMPLERS[name].check(**{key: value for key, value in settings.items() if key != "of"})
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    return name, settings


def make_sampler(
    given: str | Mapping[str, Any],
    space: SearchSpace,
    costs: Costs,
    steps: int,
    where: str = "training.sampler",
) -> Sampler:
    """The sampler that a `training.sampler` names, for so many steps.

    Raises:
        ValueError: as `check_sampler`, or the sampler cannot do with this space or these costs.
    """
    name, settings = check_sampler(given, where)
    if name in WRAPPERS:
        settings["of"] = make_sampler(_inner(settings), space, costs, steps, f"{where}.of")
    try:
        return SAMPLERS[name](space, costs, steps, **settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _inner(settings: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """The sampler that a wrapper stands around, as written."""
    return settings.get("of", "uniform")
