"""What may vary in a network: search spaces as plain data. Needs nothing but the standard library, YAML and numpy."""

from search_spaces.categorical import CategoricalArchitecture, CategoricalSpace
from search_spaces.cells import CellArchitecture, CellSpace
from search_spaces.edge_cells import EdgeCellArchitecture, EdgeCellSpace
from search_spaces.parts import Architecture, Block, Choice, Option, Stage, StageChoice, Stem
from search_spaces.single import only
from search_spaces.skeleton import presets, read_skeleton, unroll
from search_spaces.space import SearchSpace
from search_spaces.topologies import (
    NetworkArchitecture,
    NetworkSpace,
    architecture_from_json,
    architecture_from_text,
    space_from_json,
)
from search_spaces.vectors import Decision

__all__ = [
    "Architecture",
    "Block",
    "CategoricalArchitecture",
    "CategoricalSpace",
    "CellArchitecture",
    "CellSpace",
    "Choice",
    "Decision",
    "EdgeCellArchitecture",
    "EdgeCellSpace",
    "NetworkArchitecture",
    "NetworkSpace",
    "Option",
    "SearchSpace",
    "Stage",
    "StageChoice",
    "Stem",
    "architecture_from_json",
    "architecture_from_text",
    "only",
    "presets",
    "read_skeleton",
    "space_from_json",
    "unroll",
]
