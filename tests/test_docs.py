"""What the documentation tells people to type works, in the order in which it stands on the page."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli import main
from nas.storage.store import Store
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for path in (ROOT / "docs").glob("*.md") if "```console" in path.read_text(encoding="utf-8")
)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_succeeds(page, tmp_path, monkeypatch):
    (tmp_path / "examples").mkdir()
    small = TINY.replace("name: tiny\n", "name: digits\n", 1)
    (tmp_path / "examples" / "digits.yaml").write_text(small, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    for command in commands(page.read_text(encoding="utf-8")):
        assert main(shlex.split(command)) == 0, command


def test_the_settings_tables_hold_every_setting():
    from dataclasses import fields

    from nas.data import Data
    from nas.landmarks import Landmarks
    from nas.search import Search
    from supernets.recipe import Training

    text = (ROOT / "docs" / "experiment.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_]+", text))
    for section in (Data, Training, Search, Landmarks):
        missing = {field.name for field in fields(section)} - words
        assert not missing, f"docs/experiment.md says nothing of {section.__name__} {missing}"


def test_the_experiment_and_the_skeleton_of_the_readme_are_read():
    from nas.config import experiment
    from search_spaces import read_skeleton, unroll
    from search_spaces.strict import parse_yaml
    from supernets.attention import ATTENTIONS
    from supernets.operators import OPERATORS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    written, skeleton = (
        parse_yaml(block, "README") for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )

    assert experiment(written).constraints[1].max == 300_000
    assert unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (3, 64, 64), 10).size > 10**6


def test_the_operator_of_the_readme_is_the_one_in_the_folder():
    import torch

    from supernets.operators.max_pool import Operator

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n([^`]*class Operator.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(block, names)
    written, real = (kind(4, 2, kernel_size=(3, 5)) for kind in (names["Operator"], Operator))
    x = torch.randn(2, 4, 7, 7)

    assert names["Operator"].settings == Operator.settings
    torch.testing.assert_close(written(x, kernel_size=5), real(x, kernel_size=5))
    torch.testing.assert_close(written.export(4, kernel_size=5)(x), real(x, kernel_size=5))


@pytest.mark.parametrize("page", ["README.md", "docs/evaluator.md"])
def test_the_searches_with_an_own_evaluator_run_as_they_are_written(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "class Operator" not in block
    ]
    names: dict = {}
    for block in blocks:
        exec(block, names)

    assert "nas.library" in blocks[0]
    assert len(names["found"].candidates) == 12 and names["found"].front
    assert "kernel" in capsys.readouterr().out


def test_the_example_with_an_own_evaluator_runs_and_goes_on(tmp_path):
    for budget in ("3", "5"):
        command = [sys.executable, str(ROOT / "examples" / "own_evaluator.py"), budget]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and "width" in done.stdout, done.stderr
    with Store(f"sqlite:///{tmp_path}/nas.db", create=False) as store:
        assert store.count_candidates("perceptrons") == 5


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def commands(text: str) -> list[str]:
    """The `nas` commands of a page's console blocks, without the `$ nas`."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ nas ") for line in lines if line.startswith("$ nas ")]


def test_the_page_of_operators_has_whatever_says_its_source_with_its_settings():
    from nas.catalogue import entries, settings_in_words

    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    for one in (one for one in entries() if one.paper):
        assert f"| {one.name} | {settings_in_words(one)} |" in text, f"{one.name}: {ANEW}"
        assert f"- **{one.name}**: {one.what}" in text, f"{one.name}: {ANEW}"


ANEW = "nas operators --measure --markdown > docs/operators.md"
