"""A file that does not keep the contract is named, with what is wrong; no other file suffers from it in silence."""

from __future__ import annotations

import sys

import pytest

from supernets.registry import BadPart, load

GOOD = """
class Part:
    settings = {"size": (3, 5)}
    defaults = {"size": (3,)}
    def __init__(self, channels, stride, size): ...
    def forward(self, x, size): ...
    def export(self, channels, size): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of its own, empty so far."""
    package = tmp_path / f"parts_{tmp_path.name.replace('-', '_')}"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def loaded(folder):
    return load(folder.name, str(folder), "Part")


def test_the_folder_is_the_registry_but_for_names_that_begin_with_an_underscore(folder):
    (folder / "one.py").write_text(GOOD)
    (folder / "_helper.py").write_text("x = 1")

    assert list(loaded(folder)) == ["one"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Part(:", r"one.py cannot be imported: SyntaxError: .*; mend it, or move it away"),
        ("import no_such_module", r"one.py cannot be imported: ModuleNotFoundError: .*no_such_module"),
        ("x = 1", r"one.py has no class Part; write one, or begin the file's name with _"),
        (GOOD.replace("def export", "def expotr"), r"one.py: the class Part has no export"),
        (
            GOOD.replace('defaults = {"size"', 'defaults = {"siez"'),
            r"defaults has 'siez', which is no setting",
        ),
        (GOOD.replace("(3,)", "(7,)"), r"defaults\['size'\] has 7, which settings\['size'\] does not allow"),
        (GOOD.replace("(3, 5)", "3"), r"settings\['size'\] is 3; it must be a tuple of at least one value"),
        (
            GOOD.replace("stride, size", "stride, k"),
            r"__init__ takes no size; it needs a parameter for every",
        ),
    ],
)
def test_a_file_that_breaks_the_contract_is_named_with_what_is_wrong(folder, text, said):
    (folder / "one.py").write_text(text)

    with pytest.raises(BadPart, match=said):
        loaded(folder)
