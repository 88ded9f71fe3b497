"""A pick keeps its budget, is the same again, is measured as a candidate is, and leaves the run as it was."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nas.cli import main
from nas.pick import STEPS
from nas.storage.records import Constraint
from nas.storage.store import Store
from search_spaces import architecture_from_json, space_from_json
from supernets.cost import COSTS, cost_table
from tests.conftest import TINY, TinyRun, write_experiment
from tests.test_resume import candidates, copy_of, record

KEPT = "fitted to costs alone, by an earlier pick"
NOW = "fitted to costs alone, now, and kept for the next pick"


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory) -> TinyRun:
    """A copy of the tiny run, to keep generators in."""
    return copy_of(tiny_run, tmp_path_factory.mktemp("picked") / "copy")


@pytest.fixture
def quickly(monkeypatch) -> None:
    """Generators are fitted for a quarter as long, where it does not matter how well."""
    monkeypatch.setattr("nas.pick.STEPS", STEPS // 4)


def nas_pick(run: TinyRun, *arguments: str) -> int:
    return main(["pick", run.name, "--store", run.store_url, *arguments])


def picked(capsys, run: TinyRun, *arguments: str) -> dict:
    """What a pick says as JSON."""
    capsys.readouterr()
    assert nas_pick(run, *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def counted(run: TinyRun, architecture: dict) -> dict[str, int]:
    """The costs of an architecture, by the table of its space."""
    table = cost_table(space_from_json(record(run).space))
    [row] = table.of([architecture_from_json(json.dumps(architecture))]).tolist()
    return dict(zip(COSTS, row, strict=True))


def refused(capsys, run: TinyRun, *arguments: str) -> tuple[int, str]:
    """The exit code and the one line of a pick that is refused."""
    capsys.readouterr()
    code = nas_pick(run, *arguments)
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("nas: ")]
    assert (out, len(said)) == ("", 1)
    return code, said[0]


# -- budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "budgets"), [("macs", ("20k", "45k", "100k")), ("bytes", ("3k", "8k"))])
def test_a_pick_keeps_its_budget_and_mostly_uses_it(run, capsys, key, budgets):
    shares = []
    for budget in budgets:
        found = picked(capsys, run, f"--{key}", budget)

        costs, limit = counted(run, found["pick"]["architecture"]), 1000 * float(budget[:-1])
        assert found["cost"] == {"value": costs[key], "predicted": False}
        assert found["pick"]["values"].items() >= costs.items()
        assert costs[key] <= limit
        assert found["budget"] == {"key": key, "max": limit}
        shares.append(costs[key] / limit)
    assert np.median(shares) > 0.85


def test_a_more_accurate_candidate_of_the_search_is_recommended_and_no_other(run, capsys):
    advised = []
    for budget in ("20k", "60k", "100k", "200k"):
        found = picked(capsys, run, "--macs", budget)
        assert nas_pick(run, "--macs", budget) == 0
        said = capsys.readouterr().out
        better = [one["values"]["accuracy"] for one in (found["search"], found["pick"]) if one]
        advised.append(len(better) == 2 and better[0] > better[1])
        key = (found["search"] or {}).get("candidate")
        advice = f"the search's is more accurate: nas export tiny --candidate {key}"
        assert (advice in said) == advised[-1]
    assert any(advised)


def test_more_than_the_dearest_costs_is_no_limit_and_less_than_the_cheapest_costs_is_infeasible(run, capsys):
    table = cost_table(space_from_json(record(run).space))
    least, most = table.of([table.smallest, table.largest])[:, COSTS.index("macs")].tolist()

    assert picked(capsys, run, "--macs", "3G")["cost"]["value"] > 0.8 * most
    assert picked(capsys, run, "--macs", str(least))["cost"]["value"] == least
    said = f"nas: no architecture of tiny is known with macs of at most {least - 1}; the least is {least}"
    assert refused(capsys, run, "--macs", str(least - 1)) == (3, said)


def test_the_same_pick_is_the_same_architecture_and_its_generator_is_kept(run, quickly, capsys):
    first = picked(capsys, run, "--parameters", "1.5k")
    again = picked(capsys, run, "--parameters", "1.5k")

    assert (first["generator"], again["generator"]) == (NOW, KEPT)
    assert first["pick"]["architecture"] == again["pick"]["architecture"]
    assert first["pick"]["values"]["accuracy"] == again["pick"]["values"]["accuracy"]


def test_a_generator_of_something_else_is_not_used_and_a_damaged_one_is_refused(run, quickly, capsys):
    first = picked(capsys, run, "--parameters", "2k")
    path = run.folder / "runs" / run.name / "generators" / "parameters.json"
    kept = json.loads(path.read_text())

    path.write_text(json.dumps(kept | {"identity": kept["identity"] | {"space": "another"}}))
    again = picked(capsys, run, "--parameters", "2k")
    assert (again["generator"], again["pick"]["architecture"]) == (NOW, first["pick"]["architecture"])

    empty = json.dumps(kept | {"state": {}})
    cut = json.dumps(kept | {"state": kept["state"] | {"weights": kept["state"]["weights"][:-3]}})
    for damaged in ("{", "[]", empty, cut):
        path.write_text(damaged)
        code, said = refused(capsys, run, "--parameters", "2k")
        assert (code, said[-38:]) == (2, "; remove it, and another one is fitted")
        assert str(path) in said
    path.unlink()


# -- what is shown -----------------------------------------------------------------------------


def test_a_pick_stands_beside_the_most_accurate_candidate_within_the_budget(run, capsys):
    found = picked(capsys, run, "--bytes", "8k")
    within = [one for one in candidates(run) if one.feasible((Constraint("bytes", max=8000),))]

    assert found["search"]["values"]["accuracy"] == max(one.values["accuracy"] for one in within)
    assert found["search"]["values"]["bytes"] <= 8000
    assert {"accuracy", "latency_ms", "macs", "parameters", "bytes"} <= found["pick"]["values"].keys()
    low, high = found["pick"]["intervals"]["latency_ms"]
    assert 0 < low <= found["pick"]["values"]["latency_ms"] <= high


def test_the_table_says_what_is_measured_and_where_the_generator_comes_from(run, capsys):
    assert nas_pick(run, "--bytes", "20k") == 0

    out, err = capsys.readouterr()
    first, heading, pick, search, *notes = [line.rstrip() for line in out.splitlines()]
    assert first.startswith("tiny: picked for bytes of at most 20.0 k; counted ")
    assert heading.split("  ")[0].strip() == ""
    assert (pick.split()[0], search.split()[0]) == ("pick", "search")
    assert notes[0] == "accuracy on the search-validation images; latency: measured, median [95 % interval]"
    assert f"the generator was {KEPT}" in notes or f"the generator was {NOW}" in notes
    assert notes[-1] == "the pick breaks constraints of the run: bytes at most 15000"
    assert err.splitlines()[-1] == f"export it:  nas pick tiny --bytes 20k --export --store {run.store_url}"


# -- latency -----------------------------------------------------------------------------------


def test_a_budget_of_latency_is_kept_by_the_measurement_and_the_prediction_is_called_one(
    run, quickly, capsys
):
    found = picked(capsys, run, "--latency-ms", "0.5")

    assert found["cost"]["predicted"] is True
    assert re.match(r"latency is predicted from \d+ measurements on onnxruntime-cpu", found["prediction"])
    assert found["pick"]["intervals"]["latency_ms"][1] <= 0.5
    code, said = refused(capsys, run, "--latency-ms", "0.0001")
    assert code == 3
    assert said.startswith(
        "nas: no architecture that was picked and measured has latency_ms of at most 0.0001; the least"
    )


# -- exports -----------------------------------------------------------------------------------


def test_a_pick_is_exported_and_verified_and_does_not_become_a_candidate(run, tmp_path, capsys):
    before = candidates(run)
    known = {one.key for one in before}
    folder = tmp_path / "export"

    found = picked(capsys, run, "--macs", "55k", "--export", "--output", str(folder))

    assert found["pick"]["candidate"] not in known
    assert candidates(run) == before
    assert found["export"]["folder"] == str(folder)
    card = json.loads((folder / "card.json").read_text())
    assert card["candidate"] == found["pick"]["candidate"]
    assert card["metrics"]["search-validation"]["accuracy"] == found["pick"]["values"]["accuracy"]
    assert main(["verify", str(folder)]) == 0
    code, said = refused(capsys, run, "--macs", "55k", "--export", "--output", str(folder))
    assert (code, "is there already" in said) == (2, True)
    with closing(Store(run.store_url)) as store:
        assert store.exports(run.name) == []


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--macs", "3q"), "nas: --macs is '3q'; it must be a number above 0, such as 2.5, 300k or 1M"),
        (("--macs", "-1"), "nas: --macs is '-1'; it must be a number above 0, such as 2.5, 300k or 1M"),
        (("--macs", "1M", "--output", "x"), "nas: --output says where to write; give --export as well"),
    ],
)
def test_a_mistake_is_told_in_one_line(run, capsys, arguments, said):
    assert refused(capsys, run, *arguments) == (2, said)


@pytest.mark.parametrize("arguments", [(), ("--macs", "1M", "--bytes", "1k")])
def test_a_pick_is_for_one_budget(run, arguments):
    with pytest.raises(SystemExit) as ended:
        nas_pick(run, *arguments)

    assert ended.value.code == 2


def test_a_supernet_that_is_not_trained_to_the_end_gives_no_pick(tmp_path, capsys):
    from nas import config
    from nas.experiment import open_run, train_run

    run = write_experiment(tmp_path)
    with (
        Store(run.store_url) as store,
        open_run(config.read_experiment(run.file), store, Path(tmp_path, "runs")) as opened,
    ):
        assert not train_run(opened, lambda: True)

    code, said = refused(capsys, run, "--macs", "50k")

    assert code == 2
    assert said.endswith("steps; finish it with `nas train`")


# -- a generator that was trained with the supernet ---------------------------------------------


def test_the_generator_of_the_training_is_used_for_its_cost_and_for_no_other(tmp_path, quickly, capsys):
    sampler = "{name: sandwich, randoms: 1, of: {name: shift, architectures: generator, fit: 40, bins: 4, cost: bytes}}"
    text = TINY.replace("{name: shift, every: 10, warmup: 0.3}", sampler).replace("epochs: 6", "epochs: 1")
    run = write_experiment(tmp_path, text)
    assert main(["train", *run.arguments]) == 0

    of_training = picked(capsys, run, "--bytes", "6k")
    of_its_own = picked(capsys, run, "--macs", "50k")

    assert of_training["generator"] == "trained with the supernet"
    assert counted(run, of_training["pick"]["architecture"])["bytes"] <= 6000
    assert of_training["search"] is None
    assert of_its_own["generator"] == NOW
    assert [path.name for path in (tmp_path / "runs/tiny/generators").iterdir()] == ["macs.json"]
