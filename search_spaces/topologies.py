"""Which topologies there are: by the name that JSON has, what a space and an architecture of it are."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from search_spaces.categorical import CategoricalArchitecture, CategoricalSpace
from search_spaces.cells import CellArchitecture, CellSpace
from search_spaces.edge_cells import EdgeCellArchitecture, EdgeCellSpace
from search_spaces.parts import Architecture
from search_spaces.space import SearchSpace

NetworkSpace: TypeAlias = SearchSpace | CellSpace | EdgeCellSpace
NetworkArchitecture: TypeAlias = Architecture | CellArchitecture | EdgeCellArchitecture

TOPOLOGIES: dict[str, tuple[type, type]] = {
    "stages": (SearchSpace, Architecture),
    "cells": (CellSpace, CellArchitecture),
    "edge_cells": (EdgeCellSpace, EdgeCellArchitecture),
    "categorical": (CategoricalSpace, CategoricalArchitecture),
}


def space_from_json(text: str) -> NetworkSpace | CategoricalSpace:
    """The space that a `to_json` wrote, of whichever topology."""
    return _kinds(text)[0].from_json(text)


def architecture_from_json(text: str) -> NetworkArchitecture | CategoricalArchitecture:
    """The architecture that a `to_json` wrote, of whichever topology."""
    return _kinds(text)[1].from_json(text)


def architecture_from_text(
    space: NetworkSpace | CategoricalSpace, text: str
) -> NetworkArchitecture | CategoricalArchitecture:
    """The architecture of a space as people keep it in a table: its JSON, or a cell of edges as public tables have it.

    Raises:
        ValueError: it is written otherwise, or not of this space.
    """
    if isinstance(space, EdgeCellSpace) and not text.lstrip().startswith("{"):
        architecture = EdgeCellArchitecture.from_string(text, space.resolution)
    else:
        architecture = _from_json_of(space, text)
    space.check(architecture)
    return architecture


def _from_json_of(space: NetworkSpace | CategoricalSpace, text: str) -> Any:
    [kind] = [architecture for own, architecture in TOPOLOGIES.values() if own is type(space)]
    try:
        found = architecture_from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        found = None
    if not isinstance(found, kind):
        raise ValueError(
            f"{text[:60]!r} is no architecture of the space {space.name}; write its JSON, such as "
            f"{space.ends[0].to_json()}"
        )
    return found


def _kinds(text: str) -> tuple[type, type]:
    """What was stored before there was a choice are stages, and say nothing of it."""
    return TOPOLOGIES.get(json.loads(text).get("topology"), TOPOLOGIES["stages"])
