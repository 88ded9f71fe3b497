"""A found cell, carried over to other data: more repeats, more filters, weights trained from the start.

Zoph, Vasudevan, Shlens, Le, "Learning Transferable Architectures for Scalable Image Recognition", CVPR 2018:
only the structure of the cells is kept. So a transfer is an experiment like any other, whose space holds one
architecture; training, evaluation, resuming, export and verification are those of every run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nas import config
from nas.storage.records import Candidate, Run
from search_spaces import (
    CellArchitecture,
    CellSpace,
    EdgeCellArchitecture,
    EdgeCellSpace,
    SearchSpace,
    architecture_from_json,
    space_from_json,
)
from search_spaces.cells import KINDS
from search_spaces.strict import read_yaml


def transferred(run: Run, candidate: Candidate, repeats: int | None, filters: int | None) -> dict[str, Any]:
    """The skeleton that holds the cells of a candidate alone.

    Args:
        repeats, filters: of the new network; the run's own by default. The stem grows with the filters.

    Raises:
        ValueError: the run is not of cells, or the candidate has no reduction cell.
    """
    space = space_from_json(run.space)
    if not isinstance(space, CellSpace | EdgeCellSpace):
        of = "stages" if isinstance(space, SearchSpace) else "decisions of its own evaluator"
        raise ValueError(
            f"{run.name} is not a run of cells but of {of}, so there is no cell to transfer; a space of cells "
            "is for example space: nasnet"
        )
    architecture = architecture_from_json(candidate.architecture)
    filters = space.filters if filters is None else filters
    size = {
        "repeats": space.repeats if repeats is None else repeats,
        "filters": filters,
        "reductions": space.reductions,
    }
    stem = {"kernel_size": space.stem.kernel_size, "stride": space.stem.stride}
    if isinstance(architecture, EdgeCellArchitecture):
        made_of = {"edge_cells": {**size, "cell": str(architecture)}}
    else:
        stem = {"width": max(1, round(space.stem.width * filters / space.filters)), **stem}
        cells = _both_cells(architecture, candidate)
        made_of = {"cells": {**size, "drop_path": space.drop_path, **cells}}
    name = f"{space.name}-{candidate.key}"
    return {"name": name, "stem": stem, "activation": space.activation, **made_of}


def _both_cells(architecture: CellArchitecture, candidate: Candidate) -> dict[str, Any]:
    if not architecture.reduction:
        raise ValueError(
            f"the normal cell of {candidate.key} steps over every reduction, so no reduction cell was found; "
            "transfer another candidate"
        )
    return {kind: [block.row for block in architecture.cell(kind)] for kind in KINDS}


def experiment_of(
    skeleton: Mapping[str, Any], file: Path, overrides: Sequence[str], name: str
) -> tuple[config.Experiment, str]:
    """The experiment of a file with another space, which is trained and evaluated, not searched; and its text.

    Args:
        overrides: settings that replace the file's and the skeleton's, `space.stem.stride=2`.
    """
    one = ["training.sampler=uniform", "search={searcher: random, budget: 1}"]
    experiment = config.read_experiment(file, [f"space={json.dumps(skeleton)}", *one, *overrides], name)
    content = read_yaml(file)
    written = {
        **content,
        "name": name,
        "space": dict(experiment.space),
        "training": {**(content.get("training") or {}), "sampler": "uniform"},
        "search": {"searcher": "random", "budget": 1},
    }
    return experiment, yaml.safe_dump(written, sort_keys=False, default_flow_style=None)
