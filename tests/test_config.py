"""An experiment file is read whole or refused in one line that names the key, the value and what is allowed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nas import config
from nas.config import amount, differences, from_json, read_experiment
from nas.storage.records import Constraint
from search_spaces.skeleton import presets, read_skeleton

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))
DIGITS = "data: digits\nspace: tiny\n"


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, *overrides: str) -> str:
    """What is said of a file that is refused: always one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_experiment(file, overrides)
    said = str(caught.value)
    assert "\n" not in said
    return said


# -- files that work ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_is_an_experiment_and_survives_json(file):
    experiment = read_experiment(file)

    assert experiment.name == file.stem
    assert len(experiment.objectives) >= 2
    assert from_json(experiment.to_json()) == experiment
    assert from_json(experiment.to_json()).to_json() == experiment.to_json()


def test_two_sections_suffice_and_the_file_gives_the_name(tmp_path):
    experiment = read_experiment(write(tmp_path, DIGITS, "my-digits.yaml"))

    assert experiment.name == "my-digits"
    assert [one.key for one in experiment.objectives] == ["accuracy", "latency_ms"]
    assert experiment.device["name"] == "onnxruntime-cpu"
    assert experiment.constraints == ()


def test_a_section_with_nothing_in_it_has_its_defaults(tmp_path):
    empty = "training:\nsearch:\nconstraints:\ndevice:\n"

    assert read_experiment(write(tmp_path, DIGITS + empty)) == read_experiment(write(tmp_path, DIGITS))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("300k", 3e5), ("2.5M", 2.5e6), ("1 G", 1e9), ("1e5", 1e5), ("2e-1", 0.2), ("7", 7.0), ("0.5", 0.5)],
)
def test_quantities_are_written_as_people_say_them(tmp_path, written, meant):
    experiment = read_experiment(write(tmp_path, f"{DIGITS}constraints: {{macs: {{max: {written}}}}}\n"))

    assert experiment.constraints == (Constraint("macs", max=pytest.approx(meant)),)


def test_an_integer_or_a_power_stands_for_a_number(tmp_path):
    experiment = read_experiment(write(tmp_path, DIGITS + "training: {epochs: 3, weight_decay: 5e-4}\n"))

    assert experiment.training.epochs == 3.0
    assert isinstance(experiment.training.epochs, float)
    assert experiment.training.weight_decay == 5e-4


def test_a_space_may_be_a_file_beside_the_experiment(tmp_path):
    shutil.copy(Path(__file__).parent.parent / "search_spaces/presets/tiny.yaml", tmp_path / "own.yaml")

    experiment = read_experiment(write(tmp_path, "data: digits\nspace: own.yaml\n"))

    assert {**experiment.space, "name": "tiny"} == read_skeleton("tiny")


@pytest.mark.parametrize(
    ("written", "ends"),
    [("[1, 3]", (1, 3)), ("[null, 3]", (None, 3)), ("[0, 3]", (None, 3)), ("[0.5, null]", (0.5, None))],
)
def test_a_focus_has_two_ends_and_either_may_be_open(tmp_path, written, ends):
    experiment = read_experiment(write(tmp_path, f"{DIGITS}focus: {{latency_ms: {written}}}\n"))

    assert experiment.focus == (Constraint("latency_ms", *ends),)
    assert from_json(experiment.to_json()) == experiment


def test_an_experiment_of_before_there_was_a_focus_is_read(tmp_path):
    experiment = read_experiment(write(tmp_path, DIGITS))
    stored = json.loads(experiment.to_json())
    del (
        stored["focus"],
        stored["search"]["seconds"],
        stored["search"]["plateau"],
        stored["search"]["start_from"],
    )

    assert from_json(json.dumps(stored)) == experiment


# -- settings given on the command line --------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("search.budget=64", ("search", "budget"), 64),
        ("data.crop=2", ("data", "crop"), 2),  # data: digits
        ("data.directory=/with space/x=1", ("data", "directory"), "/with space/x=1"),
        ("training.epochs=2", ("training", "epochs"), 2.0),  # no such section in the file
        ("search.searcher.population=8", ("search", "searcher"), {"name": "nsga2", "population": 8}),
        ("training.sampler=uniform", ("training", "sampler"), "uniform"),
    ],
)
def test_an_override_reaches_its_setting(tmp_path, override, place, value):
    file = write(tmp_path, DIGITS + "search: {searcher: nsga2}\n")

    experiment = read_experiment(file, [override])

    assert getattr(getattr(experiment, place[0]), place[1]) == value


def test_later_overrides_win_and_the_name_comes_last(tmp_path):
    file = write(tmp_path, DIGITS)

    experiment = read_experiment(file, ["search.budget=1", "search.budget=2", "device.threads=2"], "other")

    assert (experiment.name, experiment.search.budget, experiment.device["threads"]) == ("other", 2, 2)


def test_an_override_makes_a_section_that_is_empty(tmp_path):
    assert read_experiment(write(tmp_path, DIGITS + "search:\n"), ["search.seed=3"]).search.seed == 3


# -- what differs ------------------------------------------------------------------------------


def test_differences_are_named_setting_by_setting_and_the_name_is_none(tmp_path):
    old = read_experiment(write(tmp_path, DIGITS))
    new = replace(old, name="another", search=replace(old.search, seed=5))

    assert differences(old, old) == []
    assert differences(old, new) == ["search.seed was 0, is 5"]


# -- files that do not work --------------------------------------------------------------------

SECTIONS = "name, data, space, training, search, objectives, constraints, focus, device"
REFUSED = {
    "an unknown section": ("serch: {}", "serch is not known; did you mean search? Allowed: " + SECTIONS),
    "a setting without its section": (
        "epochs: 3",
        "epochs is no section, but a setting of one: training.epochs",
    ),
    "a setting of two sections": ("seed: 3", "seed is no section, but a setting of one: "),
    "a misspelt key": ("training: {epoch: 3}", "training.epoch is not known; did you mean epochs? Allowed: "),
    "a key that is no word": ("training: {1: 2}", "training.1 is not known; Allowed: epochs, "),
    "text for an integer": ("search: {budget: many}", "search.budget is 'many'; it must be an integer"),
    "half a candidate": ("search: {budget: 2.5}", "search.budget is 2.5; it must be an integer"),
    "a yes for an integer": ("search: {seed: true}", "search.seed is True; it must be an integer"),
    "no budget": ("search: {budget: 0}", "search.budget is 0; it must be at least 1"),
    "a seed below zero": ("search: {seed: -1}", "search.seed is -1; it must be 0 or more"),
    "text for a number": ("training: {epochs: long}", "training.epochs is 'long'; it must be a number"),
    "infinitely long": ("training: {epochs: .inf}", "training.epochs is inf; it must be a finite number"),
    "not a number": ("training: {clip: .nan}", "training.clip is nan; it must be a finite number"),
    "no epochs": ("training: {epochs: 0}", "training.epochs is 0.0; it must be above 0"),
    "a number for a section": ("training: 5", "training is 5; it must be a section such as training: {...}"),
    "a list for a section": ("search: []", "search is []; it must be a section"),
    "one objective": ("objectives: [accuracy]", "a Pareto front needs two or more of accuracy, latency, "),
    "one objective, in a word": (
        "objectives: latency",
        "objectives is ['latency']; a Pareto front needs two",
    ),
    "an objective with its unit": (
        "objectives: [accuracy, latency_ms]",
        "objectives: 'latency_ms' is not known; did you mean latency? Allowed: accuracy, latency, macs,",
    ),
    "an objective twice": ("objectives: [macs, macs]", "objectives lists macs twice; list it once"),
    "objectives that are none": (
        "objectives: 5",
        "objectives is 5; write a list such as [accuracy, latency]",
    ),
    "objectives as a mapping": ("objectives: {accuracy: 1, macs: 2}", "write a list such as [accuracy, lat"),
    "a list in the objectives": ("objectives: [[accuracy], macs]", "objectives: ['accuracy'] is not known"),
    "a constraint without its unit": (
        "constraints: {latency: {max: 2}}",
        "constraints.latency is not known; did you mean latency_ms? Allowed: accuracy, latency_ms, macs,",
    ),
    "a share for percent": (
        "constraints: {accuracy: {min: 0.9}}",
        "constraints.accuracy is {'min': 0.9}; accuracy is in percent: write 90",
    ),
    "more than all": ("constraints: {accuracy: {min: 101}}", "accuracy is in percent, at most 100"),
    "least above most": (
        "constraints: {bytes: {min: 5k, max: 1k}}",
        "constraints.bytes: min 5000 is above max 1000",
    ),
    "a quantity with a unit": (
        "constraints: {bytes: {max: 3kB}}",
        "constraints.bytes.max is '3kB'; it must be a number above 0, such as 2.5, 300k or 1M",
    ),
    "a quantity of three parts": ("constraints: {macs: {max: 1.2.3}}", "constraints.macs.max is '1.2.3'; it"),
    "a negative quantity": ("constraints: {macs: {max: -1}}", "constraints.macs.max is -1; it must be a num"),
    "a limit without a side": ("constraints: {bytes: 5k}", "constraints.bytes is '5k'; write {max: ...} or"),
    "a misspelt side": (
        "constraints: {bytes: {maximum: 5}}",
        "constraints.bytes.maximum is not known; did y",
    ),
    "constraints as a list": ("constraints: [bytes]", "constraints is ['bytes']; write for example"),
    "a focus without its unit": (
        "focus: {latency: [1, 3]}",
        "focus.latency is not known; did you mean latency_ms? Allowed: accuracy, latency_ms",
    ),
    "a focus on what is no objective": ("focus: {macs: [1k, 3k]}", "focus.macs is not known; Allowed: accu"),
    "a focus as a list": ("focus: [1, 3]", "focus is [1, 3]; write for example focus: {latency_ms: [1, 3]}"),
    "a focus with one end": ("focus: {latency_ms: [1]}", "focus.latency_ms is [1]; write the two ends"),
    "a focus without ends": (
        "focus: {latency_ms: [0, null]}",
        "focus.latency_ms is [0, None]; write the two",
    ),
    "a focus like a constraint": (
        "focus: {latency_ms: {max: 2}}",
        "focus.latency_ms is {'max': 2}; write the",
    ),
    "a focus upside down": (
        "focus: {latency_ms: [3, 1]}",
        "focus.latency_ms is [3, 1]; the first end must be below the second",
    ),
    "a focus of words": ("focus: {latency_ms: [1, far]}", "focus.latency_ms is 'far'; it must be a number"),
    "a focus in shares": (
        "focus: {accuracy: [0.8, 0.9]}",
        "focus.accuracy is [0.8, 0.9]; accuracy is in perc",
    ),
    "no time": ("search: {seconds: 0}", "search.seconds is 0.0; it must be above 0, or left out"),
    "time without end": ("search: {seconds: .inf}", "search.seconds is inf; it must be"),
    "no plateau": ("search: {plateau: 0}", "search.plateau is 0; it must be at least 1 candidate"),
    "a start that is no run": (
        "search: {start_from: [digits]}",
        "search.start_from is ['digits']; it must be",
    ),
    "a start of a misspelt key": (
        "search: {start_from: {runs: a}}",
        "search.start_from.runs is not known; did",
    ),
    "an unknown device": (
        "device: onnxruntime_cpu",
        "device.name 'onnxruntime_cpu' is not known; did you mean onnxruntime-cpu?",
    ),
    "a device setting": (
        "device: {thread: 1}",
        "device.thread is not known; did you mean threads? Allowed: ",
    ),
    "no threads": ("device: {threads: 0}", "device.threads is 0; it must be a whole number, at least 1"),
    "a name with a space": ("name: my digits", "name is 'my digits'; use letters, digits, dots, dashes and "),
    "a name of folders": ("name: ../up", "name is '../up'; use letters, digits"),
    "a number as name": ("name: 5", "name is 5, which YAML does not read as text; put it in quotes"),
    "a key twice": ("data: npz", "line 3: the key 'data' is written twice; keep one"),
    "no YAML": ("search: {budget: 3", "not valid YAML at line 4"),
    "a tab": ("search:\n\tbudget: 3", "not valid YAML at line 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_in_one_line_that_says_what_is_wrong(tmp_path, case):
    text, said = REFUSED[case]

    assert said in refusal(write(tmp_path, DIGITS + text + "\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("space: tiny", "the experiment has no section data; add for example data: digits"),
        ("data: digits", "the experiment has no section space; add for example space: digits"),
        ("data: mnist\nspace: tiny", "data.name is 'mnist'; it must be one of digits, fashion_mnist, "),
        ("data: fashion-mnist\nspace: tiny", "did you mean fashion_mnist?"),
        ("data: {directory: x}\nspace: tiny", "data.name is missing"),
        ("data:\nspace: tiny", "data.name is None; it must be text"),
        ("data: digits\nspace: digts", "the space 'digts' is not known; did you mean digits? Allowed: "),
        ("data: digits\nspace: own.yaml", "no skeleton at "),
        ("", "holds no sections; see examples/digits.yaml"),
        ("- data", "holds no sections"),
    ],
)
def test_what_every_experiment_needs_is_asked_for(tmp_path, text, said):
    assert said in refusal(write(tmp_path, text))


def test_the_spaces_that_are_offered_exist(tmp_path):
    offered = refusal(write(tmp_path, "data: digits\nspace: nowhere\n")).partition("Allowed: ")[2]

    assert offered.split(", ") == presets()


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(bytes(range(256)))

    assert "no experiment file at" in refusal(tmp_path / "nowhere.yaml")
    assert "no experiment file at" in refusal(tmp_path)
    assert "weights.yaml: not a text file in UTF-8" in refusal(binary)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.budget", "-o search.budget: write it as section.setting=value, such as search.budget=64"),
        ("search.budgt=3", "search.budgt is not known; did you mean budget? Allowed: budget, searcher, seed"),
        ("budget=3", "budget is no section, but a setting of one: search.budget"),
        ("objectives.first=3", "-o objectives.first=3: objectives is no section"),
        ("search.budget={", "-o search.budget={: not valid YAML"),
        ("space.stages.depth=2", "-o space.stages.depth=2: stages is no section"),
    ],
)
def test_an_override_that_cannot_be_is_named_as_it_was_typed(tmp_path, override, said):
    assert said in refusal(write(tmp_path, DIGITS + "objectives: [accuracy, macs]\n"), override)


def test_an_override_changes_a_part_of_a_preset_and_says_so_in_the_name(tmp_path):
    written = {**read_skeleton("tiny"), "name": "tiny, changed", "expansion": [2]}

    changed = read_experiment(write(tmp_path, DIGITS), ["space.expansion=[2]"])

    assert changed.space == written


def test_the_file_in_the_docstring_is_an_experiment(tmp_path):
    example = re.search(r"\n\n((?: {4}.*\n)+)", config.__doc__)[1]

    assert read_experiment(write(tmp_path, re.sub(r"(?m)^ {4}", "", example))).name == "digits"


def test_an_amount_with_a_prefix_is_the_very_number_that_is_written():
    assert all(amount(f"{number / 1000}k", "here") == number for number in range(1, 20_000))
    assert [amount(text, "here") for text in ("2.5M", "1G", "3.k", "2e3", "7")] == [2.5e6, 1e9, 3000, 2000, 7]
