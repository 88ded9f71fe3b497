"""What the documentation tells people to type works, in the order in which it stands on the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nas.cli import main
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if "```console" in path.read_text(encoding="utf-8"))


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
    from nas.search import Search
    from supernets.recipe import Training

    text = (ROOT / "docs" / "experiment.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z_]+", text))
    for section in (Data, Training, Search):
        missing = {field.name for field in fields(section)} - words
        assert not missing, f"docs/experiment.md says nothing of {section.__name__} {missing}"


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def commands(text: str) -> list[str]:
    """The `nas` commands of a page's console blocks, without the `$ nas`."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ nas ") for line in lines if line.startswith("$ nas ")]
