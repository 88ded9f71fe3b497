"""A supernet against a table: rows are the architectures that they say, whatever the file looks like; the table's
truth and the run's own trainings never meet in one τ; and nothing is trained.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy import stats

from nas import health_reports
from nas.cli import main
from nas.health import BINS, drawn
from nas.health_table import Source, Table, read_table, write_table
from nas.health_view import health_as_json, print_health, verdict
from nas.ranking import health_of
from nas.storage.store import Store
from search_spaces import NetworkArchitecture, NetworkSpace, architecture_from_json, space_from_json
from supernets.cost import cost_table
from tests.conftest import TinyRun
from tests.synthetic import small_space, space
from tests.test_dashboard import RUN
from tests.trials import SAMPLED, architectures, noisy, trials_of

SPACES = {"stages": space(), "cells": space("nasnet"), "edge cells": space("nasbench201")}
TEXTS = [one.to_json() for one in architectures(6)]
REACHED = [91.5, 88.25, 90.0, 85.0, 92.75, 89.0]


def write_csv(file: Path, rows: list[dict], delimiter: str = ",") -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def written(folder: Path, **columns: list) -> Path:
    """A CSV of these columns beside the six architectures."""
    rows = [
        dict(zip(["architecture", *columns], row, strict=True))
        for row in zip(TEXTS, *columns.values(), strict=True)
    ]
    return write_csv(folder / "table.csv", rows)


def planted(trials: list, accuracies) -> Table:
    """A table of the trials' architectures."""
    keys = list(dict.fromkeys(one.key for one in trials))
    reached = {key: tuple(np.atleast_1d(one).tolist()) for key, one in zip(keys, accuracies, strict=True)}
    source = Source("planted.csv", ("accuracy",), False, len(keys), len(keys), 0, 0, "")
    return Table(source, (), reached)


# -- files -------------------------------------------------------------------------------------


def as_list(rows):
    return json.dumps(rows)


def as_lists_of_seeds(rows):
    return json.dumps([{**row, "accuracy": [row["accuracy"]]} for row in rows])


def as_architectures_that_are_objects(rows):
    return json.dumps([{**row, "architecture": json.loads(row["architecture"])} for row in rows])


def as_objects_by_architecture(rows):
    return json.dumps({row["architecture"]: {"accuracy": row["accuracy"]} for row in rows})


def as_numbers_by_architecture(rows):
    return json.dumps({row["architecture"]: row["accuracy"] for row in rows})


@pytest.mark.parametrize(
    "in_json",
    [
        as_list,
        as_lists_of_seeds,
        as_architectures_that_are_objects,
        as_objects_by_architecture,
        as_numbers_by_architecture,
    ],
)
def test_every_json_says_what_the_csv_says(in_json, tmp_path):
    rows = [{"architecture": text, "accuracy": one} for text, one in zip(TEXTS, REACHED, strict=True)]
    (tmp_path / "table.json").write_text(in_json(rows), encoding="utf-8")
    expected = read_table(write_csv(tmp_path / "table.csv", rows), space())

    found = read_table(tmp_path / "table.json", space())

    assert (found.architectures, found.accuracies) == (expected.architectures, expected.accuracies)
    assert sorted(one.to_json() for one in found.architectures) == sorted(TEXTS)
    assert sorted(found.accuracies.values()) == sorted((one,) for one in REACHED)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_may_be_separated_otherwise_and_json_have_an_object_per_line(separator, tmp_path):
    rows = [{"arch": text, "accuracy": one} for text, one in zip(TEXTS, REACHED, strict=True)]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "table.jsonl").write_text(lines, encoding="utf-8")

    found = read_table(write_csv(tmp_path / "table.csv", rows, separator), space())

    assert found.accuracies == read_table(tmp_path / "table.jsonl", space()).accuracies
    assert len(found.accuracies) == 6


@pytest.mark.parametrize("name", SPACES)
def test_a_column_per_decision_says_what_the_architecture_in_one_column_says(name, tmp_path):
    of, random = SPACES[name], Random(0)
    samples = [of.sample(random) for _ in range(20)]
    whole = [{"architecture": one.to_json(), "accuracy": n} for n, one in enumerate(samples)]
    parts = [{**in_decisions(of, one), "accuracy": n} for n, one in enumerate(samples)]

    by_text = read_table(write_csv(tmp_path / "whole.csv", whole), of)
    by_decisions = read_table(write_csv(tmp_path / "parts.csv", parts), of)
    (tmp_path / "parts.json").write_text(json.dumps(parts), encoding="utf-8")

    assert by_text.source.strangers == 0
    assert by_decisions.architectures == by_text.architectures
    assert by_decisions.accuracies == by_text.accuracies
    assert read_table(tmp_path / "parts.json", of).accuracies == by_text.accuracies


def in_decisions(of: NetworkSpace, one: NetworkArchitecture) -> dict:
    """A cell per decision, empty where it does not arise."""
    pairs = zip(of.decisions, of.encode(one), strict=True)
    return {decision.name: decision.options[n - 1] if n else None for decision, n in pairs}


def test_a_decision_that_arises_must_be_told_and_one_that_does_not_need_not(tmp_path):
    of = space()
    shallow, deep = of.ends
    rows = [{**in_decisions(of, one), "accuracy": 1} for one in (shallow, deep)]
    missing = {**rows[1], "stage 0 block 0 operator": None}
    other = {**rows[1], "stage 0 width": 13}

    found = read_table(write_csv(tmp_path / "table.csv", [*rows, missing, other]), of)

    assert set(found.architectures) == {shallow, deep}
    assert (found.source.rows, found.source.strangers) == (4, 2)
    assert "row 3: stage 0 block 0 operator is empty; the space offers depthwise" in found.source.why


def test_the_lines_of_public_tables_are_architectures_of_edge_cells(tmp_path):
    of = SPACES["edge cells"]
    line = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
    rows = [{"arch_str": line, "seed 777": 93.1, "seed 888": 93.4}, {"arch_str": "|x~0|", "seed 777": 1}]

    found = read_table(write_csv(tmp_path / "table.csv", rows), of, accuracy=["seed 777", "seed 888"])

    [one] = found.architectures
    assert str(one) == line and found.accuracies == {one.key: (93.1, 93.4)}
    assert found.source.strangers == 1


def test_several_rows_of_an_architecture_are_its_trainings_as_several_columns_are(tmp_path):
    again = [one + 1 for one in REACHED]
    columns = read_table(
        written(tmp_path, first=REACHED, second=again), space(), accuracy=["first", "second"]
    )
    rows = [
        {"architecture": text, "seed": seed, "accuracy": one}
        for seed, reached in enumerate((REACHED, again))
        for text, one in zip(TEXTS, reached, strict=True)
    ]

    long = read_table(write_csv(tmp_path / "long.csv", rows), space())

    assert long.accuracies == columns.accuracies
    assert (long.source.rows, columns.source.rows) == (12, 6)
    assert long.source.architectures == columns.source.architectures == 6


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_told(tmp_path, capsys):
    other = small_space().sample(Random(0)).to_json()
    rows = [{"architecture": text, "accuracy": one} for text, one in zip(TEXTS, REACHED, strict=True)]
    rows += [{"architecture": other, "accuracy": 1}, {"architecture": "", "accuracy": 2}]
    rows += [{"architecture": rows[0]["architecture"], "accuracy": "nan"}]
    rows[1]["accuracy"] = ""

    table = read_table(write_csv(tmp_path / "table.csv", rows), space())

    source = table.source
    assert (source.rows, source.architectures, source.strangers, source.unmeasured) == (9, 5, 2, 2)
    assert source.why.startswith("row 7: the architecture has 1 stages, the space digits")
    print_health(health_of([], table))
    assert "Left out: 2 rows of 9 are no architectures of the space (row 7: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "architecture,acuracy\n{},1\n", "the column accuracy of .* did you mean acuracy"),
        ("a.csv", "cell,accuracy\nx,1\n", "no column architecture, .* decisions of digits, such as 'stage"),
        ("a.csv", 'architecture,accuracy\n"{}",high\n', "row 1: accuracy is 'high', which is no number"),
        ("a.csv", "architecture,accuracy,accuracy\n{},1,2\n", "two columns 'accuracy'"),
        ("a.csv", "architecture,accuracy\n{},93,1\n", "row 1 has more cells than there are columns"),
        ("a.csv", "architecture,accuracy\nx,1\ny,2\n", "no row of .* of the space digits; row 1: 'x' is no"),
        ("a.csv", "architecture,accuracy\n", "has no rows|column accuracy"),
        ("a.json", "[1]", "neither a list of objects nor objects by architecture"),
        ("a.json", "{", "cannot be read: "),
        ("a.jsonl", "[1]\n", "line 1 is no object"),
        ("a.xlsx", "", "a table is one of .csv, .tsv, .json, .jsonl"),
    ],
)
def test_what_is_no_table_of_the_space_is_a_mistake_with_the_place(name, text, message, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name, space())


def test_a_column_that_is_not_there_is_a_mistake_with_the_nearest(tmp_path):
    file = written(tmp_path, top1=REACHED)

    with pytest.raises(ValueError, match=r"top_1 .*--accuracy.* did you mean top1"):
        read_table(file, space(), accuracy=["top_1"])
    with pytest.raises(ValueError, match=r"architectures .*--architecture.* did you mean architecture"):
        read_table(file, space(), "architectures", ["top1"])


# -- truths ------------------------------------------------------------------------------------


def test_own_trainings_written_as_a_table_give_the_report_that_they_gave(tmp_path):
    trials = noisy(24, noise=0.4)

    rows = write_table(tmp_path / "alone.csv", trials)
    own, table = health_of(trials), health_of(trials, read_table(tmp_path / "alone.csv", space()))

    assert rows == 48
    for name in (
        "inherited",
        "loss",
        "uncalibrated",
        "macs",
        "parameters",
        "within",
        "one_seed",
        "seeds",
        "over_macs",
    ):
        assert getattr(table.taus, name) == getattr(own.taus, name), name
    assert (table.top, table.usages, table.spearman) == (own.top, own.usages, own.spearman)
    assert verdict(table).word == verdict(own).word
    assert (table.gap, table.taus.sparse, table.bins[0].gap, table.epochs) == (None, None, None, None)


def test_there_is_no_table_without_trainings(tmp_path):
    with pytest.raises(ValueError, match="no architecture was trained alone"):
        write_table(tmp_path / "none.csv", [one for one in noisy(3, 1) if one.kind != "alone"])
    assert list(tmp_path.iterdir()) == []


def test_the_truth_of_a_table_is_not_mixed_with_trainings_alone():
    random = np.random.default_rng(0)
    inherited, truth = random.normal(80, 2, (2, 30))
    trials = trials_of(inherited, -inherited)  # alone, the order is the reverse

    health = health_of(trials, planted(trials, truth))

    assert health.taus.inherited.value == pytest.approx(stats.kendalltau(inherited, truth).statistic)
    assert health.taus.macs.value == pytest.approx(stats.kendalltau(np.arange(30), truth).statistic)
    assert health.spearman.inherited == pytest.approx(stats.spearmanr(inherited, truth).statistic)
    assert health.seconds_alone == health.waiting == health.failed == 0
    assert health_of(trials).taus.inherited.value == -1


def test_only_architectures_of_the_table_count():
    trials = noisy(30, noise=0.1)
    keys = list(dict.fromkeys(one.key for one in trials))
    some = [one for one in trials if one.key in keys[:12]]

    health = health_of(trials, planted(some, np.arange(12.0)))

    assert {one.key for one in health.compared} == set(keys[:12])
    assert health == health_of(some, planted(some, np.arange(12.0)))


def test_trainings_in_the_table_give_the_ceiling_if_half_of_the_architectures_have_them(capsys):
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 20))
    trials = trials_of(first, first)
    most, few = (
        [(a, b) if number < several else a for number, (a, b) in enumerate(zip(first, second, strict=True))]
        for several in (10, 9)
    )

    told, silent = (health_of(trials, planted(trials, one)) for one in (most, few))

    assert told.taus.seeds.value == pytest.approx(stats.kendalltau(first[:10], second[:10]).statistic)
    assert silent.taus.seeds is None and silent.seeds == 2
    print_health(told)
    assert "ceiling: one training in the table against another" in capsys.readouterr().out
    assert "how well two trainings agree the table does not tell" in str(verdict(silent))


def test_of_errors_the_least_are_the_best(tmp_path):
    file = written(tmp_path, error=[100 - one for one in REACHED], accuracy=REACHED)
    trials = trials_of(REACHED, REACHED, several=architectures(6))

    errors = read_table(file, space(), accuracy=["error"], lower_is_better=True)

    assert health_of(trials, errors).taus.inherited.value == 1
    assert health_of(trials, read_table(file, space(), accuracy=["error"])).taus.inherited.value == -1
    assert health_of(trials, errors).compared[0].alone == REACHED[0] - 100


# -- which architectures -----------------------------------------------------------------------


def test_what_is_drawn_covers_the_costs_of_the_table_and_stays_when_more_is_asked_for(tmp_path, caplog):
    several = tuple(architectures(60))
    table = Table(Source("t.csv", ("accuracy",), False, 60, 60, 0, 0, ""), several, {})
    macs = cost_table(space()).of(several)[:, 0]

    everything = drawn(table, space(), None, seed=0)
    some = drawn(table, space(), 24, seed=0)

    assert set(everything) == set(several) and len(everything) == 60
    assert some == everything[:24] != drawn(table, space(), 24, seed=1)
    edges = np.linspace(macs.min(), macs.max(), BINS + 1)
    there, _ = np.histogram(macs, edges)
    counts, _ = np.histogram(cost_table(space()).of(some)[:, 0], edges)
    assert all(count >= min(24 // BINS, known) for count, known in zip(counts, there, strict=True))
    assert not caplog.records
    assert drawn(table, space(), 61, seed=0) == everything
    [said] = [record.getMessage() for record in caplog.records]
    assert said == "no more than 60 architectures are in t.csv; all are taken"


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def copy(tiny_run, tmp_path) -> TinyRun:
    """The tiny run in a folder of this test's own."""
    shutil.copytree(tiny_run.folder, tmp_path / "copy")
    folder = tmp_path / "copy"
    copied = TinyRun(folder, folder / "tiny.yaml", f"sqlite:///{folder / 'nas.db'}")
    with Store(copied.store_url) as store:
        store.rename_run("tiny", "tiny", str(folder / "runs" / "tiny"))
    return copied


@pytest.fixture
def numbered(copy, tmp_path) -> Path:
    """A table of 40 architectures of the tiny run, whose accuracies are how many of them cost less."""
    with Store(copy.store_url, create=False) as store:
        of = space_from_json(store.run("tiny").space)
    random, found = Random(0), {}
    while len(found) < 40:
        one = of.sample(random)
        found[one.key] = one
    macs = cost_table(of).of(list(found.values()))[:, 0]
    ranks = stats.rankdata(macs)
    rows = [{"arch": one.to_json(), "top1": rank} for one, rank in zip(found.values(), ranks, strict=True)]
    return write_csv(tmp_path / "numbered.csv", rows)


def examine(run: TinyRun, *arguments: str) -> int:
    return main(["health", "tiny", "--store", run.store_url, *arguments])


def test_a_run_against_a_table_trains_nothing_and_goes_on_from_what_it_measured(copy, numbered, capsys):
    arguments = ("--table", str(numbered), "--accuracy", "top1", "--json", "--subnets")
    assert examine(copy, *arguments, "10") == 0
    first = json.loads(capsys.readouterr().out)
    with Store(copy.store_url, create=False) as store:
        before = store.trials("tiny")
    assert examine(copy, *arguments, "12") == 0
    second = json.loads(capsys.readouterr().out)
    with Store(copy.store_url, create=False) as store:
        trials, of = store.trials("tiny"), space_from_json(store.run("tiny").space)

    assert trials[: len(before)] == before and len(trials) == len(before) + 4
    assert {one.kind for one in trials} - {"sampled"} == {"inherited", "uncalibrated"}
    assert not (copy.folder / "runs" / "tiny" / "alone").exists()
    assert (first["architectures"], second["architectures"]) == (10, 12)
    assert second["table"]["accuracy"] == ["top1"] and second["table"]["architectures"] == 40
    inherited = {one.key: one.values["accuracy"] for one in trials if one.kind == "inherited"}
    macs = {
        one.key: cost_table(of).of([architecture_from_json(one.architecture)])[0, 0]
        for one in trials
        if one.kind == "inherited"
    }
    keys = list(inherited)
    expected = stats.kendalltau([inherited[key] for key in keys], [macs[key] for key in keys]).statistic
    assert second["taus"]["inherited"]["value"] == pytest.approx(expected)
    assert second["taus"]["macs"]["value"] == 1
    with Store(copy.store_url, create=False) as store:
        run = store.run("tiny")
    [kept] = health_reports.names(run)  # of the same columns, so the latter stands for both
    assert json.loads(json.dumps(health_as_json(health_reports.kept(run, kept)))) == second
    assert examine(copy, *arguments, "12") == 0
    capsys.readouterr()
    assert health_of(trials).architectures == 0


def test_what_makes_no_sense_beside_a_table_or_without_one_is_one_line_and_exit_code_2(
    tiny_run, tmp_path, capsys
):
    file = str(tmp_path / "none.csv")
    mistakes = {
        ("--table", file, "--seeds", "2"): "--seeds is about trainings alone",
        ("--table", file, "--fresh", "--epochs", "1"): "--epochs and --fresh is about trainings alone",
        ("--table", file): f"there is no table {file}",
        ("--table", file, "--write-table", file): "--write-table is about trainings alone",
        ("--write-table", str(tmp_path / "a.json")): "it must end in .csv",
        ("--write-table", str(tmp_path / "no" / "a.csv")): f"there is no folder {tmp_path / 'no'}",
        ("--subnets", "all"): "about a table; give --table FILE too",
        ("--known", "--subnets", "3"): "--known measures nothing, and --subnets is about what to measure",
        ("--write-table", str(tmp_path / "a.csv")): "no architecture was trained alone",
        ("--accuracy", "top1"): "about a table; give --table FILE too",
        ("--lower-is-better",): "about a table; give --table FILE too",
    }
    for arguments, message in mistakes.items():
        assert examine(tiny_run, *arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("nas: ") and message in line


@pytest.mark.parametrize("number", [0, 3, 12, 40])
def test_a_kept_report_is_read_as_it_was(number, tmp_path):
    """With all that may be unknown, and until it is forgotten."""
    trials, run = noisy(number, noise=1.0), replace(RUN, folder=str(tmp_path))
    report = health_of([SAMPLED, *trials], planted(trials, np.arange(number)))

    path = health_reports.keep(run, report)

    [name] = health_reports.names(run)
    assert health_reports.kept(run, name) == report
    assert path.name in health_reports.signs(run)
    health_reports.forget(run)
    assert health_reports.names(run) == [] and health_reports.signs(run) == ""
    with pytest.raises(LookupError, match="no report of digits is called planted"):
        health_reports.kept(run, name)


def test_tables_of_one_name_and_other_columns_of_a_table_are_reports_of_their_own(tmp_path):
    trials, run = noisy(6, noise=1.0), replace(RUN, folder=str(tmp_path))
    table = planted(trials, range(6))
    others = (
        {},
        {"file": "other/planted.csv"},
        {"accuracy": ("loss",)},
        {"lower_is_better": True},
        {"rows": 9},
    )

    for changed in others:
        found = replace(table, source=replace(table.source, **changed))
        health_reports.keep(run, health_of(trials, found))

    assert len(health_reports.names(run)) == len(others) - 1  # the last is of the same columns as the first


def test_starting_over_forgets_what_was_compared_with_tables(copy, numbered, capsys):
    assert examine(copy, "--table", str(numbered), "--accuracy", "top1", "--subnets", "10") == 0
    with Store(copy.store_url, create=False) as store:
        run = store.run("tiny")
    kept = health_reports.names(run)

    assert examine(copy, "--fresh", "--subnets", "1", "--epochs", "0.1") == 0

    assert len(kept) == 1 and health_reports.names(run) == []
    capsys.readouterr()


def test_a_table_corrects_by_its_order_whatever_its_unit():
    trials = noisy(40, noise=1.0)
    reached = np.array([one.values["accuracy"] for one in trials if one.kind == "alone" and one.seed == 0])

    found = [
        health_of(trials, planted(trials, unit)).corrected
        for unit in (reached, reached / 100, -np.exp(-reached / 5), 1e4 * reached - 7)
    ]

    assert found[0].tau.value > 0.3 and all(one == found[0] for one in found)
