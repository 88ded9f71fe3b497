"""A found cell, rebuilt larger and trained on other data, is a run like any other: it resumes, is exported and
verified, and its experiment can be carried out again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli import main
from nas.storage.records import Candidate, Run
from nas.storage.store import Store
from nas.transfer import transferred as carried_over
from search_spaces import CategoricalSpace, architecture_from_json, space_from_json
from tests.conftest import TINY as STAGES
from tests.conftest import write_experiment
from tests.test_cells import TINY

TO = """
name: larger
data: {name: digits}
training: {epochs: 1, batch_size: 32, checkpoint_every: 10}
objectives: [accuracy, macs]
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A finished run of cells, and the experiment file that they are carried over to."""
    run = write_experiment(tmp_path_factory.mktemp("cells"), TINY.replace("epochs: 2", "epochs: 1"))
    (run.folder / "larger.yaml").write_text(TO, encoding="utf-8")
    assert main(["run", *run.arguments]) == 0
    return run


@pytest.fixture(scope="module")
def found(cells) -> list[str]:
    """The keys of candidates that have a reduction cell."""
    with Store(cells.store_url, create=False) as store:
        candidates = store.candidates("cells")
    return [one.key for one in candidates if architecture_from_json(one.architecture).reduction]


def transfer(cells, *more: str) -> int:
    where = ["--store", cells.store_url, "--runs", str(cells.folder / "runs")]
    return main(["transfer", "cells", "--to", str(cells.folder / "larger.yaml"), *where, *more])


def record(cells, name: str):
    with Store(cells.store_url, create=False) as store:
        return store.run(name), store.candidates(name)


@pytest.fixture(scope="module")
def transferred(cells, found) -> str:
    """The name of a finished transfer."""
    assert transfer(cells, "--candidate", found[0], "--repeats", "3", "--filters", "9") == 0
    return f"cells-{found[0]}"


def test_the_cells_are_kept_and_repeats_filters_and_stem_grow(cells, found, transferred):
    run, [candidate] = record(cells, transferred)
    old, _ = record(cells, "cells")
    space, before = space_from_json(run.space), space_from_json(old.space)
    with Store(cells.store_url, create=False) as store:
        source = architecture_from_json(store.candidate("cells", found[0]).architecture)

    made = architecture_from_json(candidate.architecture)
    assert (made.normal, made.reduction) == (source.normal, source.reduction)
    assert (space.size, space.repeats, space.filters, space.stem.width) == (1, 3, 9, 12)
    assert (space.reductions, space.drop_path) == (before.reductions, before.drop_path)
    assert candidate.error is None and set(candidate.values) >= {"accuracy", "macs"}
    assert run.status == "finished"
    assert candidate.values["parameters"] > 2 * store_values(cells, found[0])["parameters"]


def store_values(cells, key: str) -> dict[str, float]:
    with Store(cells.store_url, create=False) as store:
        return dict(store.candidate("cells", key).values)


def test_a_transfer_is_exported_and_verified(cells, transferred, tmp_path):
    folder = tmp_path / "export"

    assert main(["export", transferred, "--store", cells.store_url, "--output", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["verification"]["max_relative_difference"] < 1e-4


def test_the_same_command_goes_on_and_the_written_experiment_is_the_same_run(cells, found, transferred):
    before = record(cells, transferred)[1]

    assert transfer(cells, "--candidate", found[0], "--repeats", "3", "--filters", "9") == 0

    file = cells.folder / "runs" / transferred / "experiment.yaml"
    again = ["run", str(file), "--store", cells.store_url, "--runs", str(cells.folder / "runs")]
    assert main(again) == 0
    assert record(cells, transferred)[1] == before


def test_settings_of_the_new_network_are_given_as_for_any_run(cells, found):
    changes = ["-o", "space.stem.stride=2", "-o", "space.cells.drop_path=0", "--name", "changed"]

    assert transfer(cells, "--candidate", found[0], *changes) == 0

    space = space_from_json(record(cells, "changed")[0].space)
    assert (space.stem.stride, space.drop_path, space.repeats, space.filters) == (2, 0.0, 1, 6)
    text = Path(cells.folder / "runs" / "changed" / "experiment.yaml").read_text(encoding="utf-8")
    assert "stride: 2" in text


def test_another_size_under_the_same_name_is_refused(cells, found, transferred, capsys):
    assert transfer(cells, "--candidate", found[0], "--repeats", "2", "--filters", "9") == 2
    assert "exists with other settings: space.cells.repeats was 3, is 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--candidate", "zzz"], "run 'cells' has no candidate zzz"),
        (["--repeats", "0"], "space.cells.repeats is 0; it must be an integer of at least 1"),
        (["--filters", "1"], "space.cells.filters is 1; it must be an integer of at least 2"),
        (["--to", "nowhere.yaml"], "no experiment file at nowhere.yaml"),
    ],
)
def test_what_cannot_be_transferred_is_told_in_one_line(cells, found, more, said, capsys):
    which = [] if more[0] == "--candidate" else ["--candidate", found[0]]

    assert transfer(cells, *which, *more, "--name", "never") == 2

    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_candidate_without_a_reduction_cell_cannot_be_transferred(cells, found, capsys):
    with Store(cells.store_url, create=False) as store:
        without = [one.key for one in store.candidates("cells") if one.key not in found]
    assert without  # the first end of the space, of which every cell reads the cell before the last

    assert transfer(cells, "--candidate", without[0]) == 2
    assert "steps over every reduction" in capsys.readouterr().err


def test_a_run_of_stages_has_no_cell_to_transfer(tmp_path, capsys):
    run = write_experiment(
        tmp_path, STAGES.replace("epochs: 6", "epochs: 0.2").replace("budget: 20", "budget: 1")
    )
    assert main(["run", *run.arguments]) == 0
    capsys.readouterr()

    code = main(["transfer", "tiny", "--to", str(run.file), *run.arguments[1:]])

    assert code == 2
    assert "tiny is not a run of cells but of stages" in capsys.readouterr().err


def test_a_run_of_an_evaluator_of_ones_own_has_no_cell_to_transfer():
    space = CategoricalSpace({"width": [1, 2]})
    run, nothing = Run("own", "{}", space.to_json(), (), (), ""), Candidate("0", "{}", {})

    with pytest.raises(
        ValueError, match="own is not a run of cells but of decisions of its own evaluator, so"
    ):
        carried_over(run, nothing, None, None)
