"""Which devices this machine offers, with what settings and versions; of the others why not, and how to get them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields

from nas.hardware import DEVICES


@dataclass(frozen=True)
class Offer:
    """A device as this machine has it, or has it not.

    `choices` holds for each setting that has names what may be chosen here, the default first; `refused` why not
    what the device knows beside that, by `setting: choice`.
    """

    name: str
    reason: str | None  # why it is not here, and how to get it
    settings: Mapping[str, int | float | str]  # with their defaults
    choices: Mapping[str, tuple[str, ...]]
    versions: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def offers() -> list[Offer]:
    """All devices in the order of their registry; every runtime that is installed is loaded."""
    return [_offer(kind) for kind in DEVICES.values()]


def _offer(kind: type) -> Offer:
    settings = {one.name: one.default for one in fields(kind) if one.default is not MISSING}
    known = {"precision": kind.precisions, "execution": kind.executions}
    known = {setting: values for setting, values in known.items() if values}
    if reason := kind.available():
        return Offer(kind.name, reason, settings, known)
    refused = dict(_refused(kind, known))
    choices = {
        setting: tuple(one for one in values if f"{setting}: {one}" not in refused)
        for setting, values in known.items()
    }
    return Offer(kind.name, None, settings, choices, kind.versions(), refused)


def _refused(kind: type, known: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for setting, values in known.items():
        for value in values:
            if reason := kind(**{setting: value}).unusable():
                yield f"{setting}: {value}", reason
