"""Who imports whom: search_spaces <- supernets <- nas <- workers, dashboard, and never back. What only looks at
results starts without torch and Ray, and what only trains without the rest.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

PACKAGES = ("search_spaces", "supernets", "nas", "workers", "dashboard")
MAY_IMPORT = {
    "search_spaces": {"search_spaces"},
    "supernets": {"search_spaces", "supernets"},
    "nas": {"search_spaces", "supernets", "nas"},
    "workers": {"search_spaces", "supernets", "nas", "workers"},
    "dashboard": {"search_spaces", "supernets", "nas", "dashboard"},
}
ONLY_IN = {  # other people's packages that have one room each
    "ray": "workers/",
    "sqlalchemy": "nas/storage/",
    "alembic": "nas/storage/migrations/",
    "pymoo": "nas/searchers/",
    "moocore": "nas/pareto.py",
    "dash": "dashboard/",
    "plotly": "dashboard/",
    "sklearn": ("nas/data/", "nas/predictors/"),
}
DOORS = ("nas/commands/", "nas/library.py")  # wire all layers, and import inside functions
HOUSE = Path(importlib.import_module("nas").__file__).parents[1]
FILES = sorted(path for package in PACKAGES for path in (HOUSE / package).rglob("*.py"))
COMMAND = [
    HOUSE / "nas" / "cli.py",
    HOUSE / "nas" / "exit_codes.py",
    *(HOUSE / "nas" / "commands").glob("*.py"),
]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Each module that a file imports, anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports from where it happens to be"
            yield node.module, node.lineno


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a new Python holds after a program."""
    show = "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program + show], capture_output=True, text=True, check=False, cwd=HOUSE
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def modules_of(*packages: str) -> list[str]:
    paths = [path for path in FILES if path.relative_to(HOUSE).parts[0] in packages]
    return [
        ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]


# -- what files say ----------------------------------------------------------------------------


def test_every_package_is_of_this_distribution():
    """`dashboard` and `workers` are names that others use too."""
    homes = {Path(importlib.import_module(package).__file__).parents[1] for package in PACKAGES}

    assert homes == {HOUSE}
    assert HOUSE in (Path(__file__).parents[1], Path(distribution("paretoshift").locate_file("")))
    assert len(FILES) > 60


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    wrong = [
        f"{path.relative_to(HOUSE)}:{line} imports {name}"
        for path in FILES
        if path.is_relative_to(HOUSE / package) and not str(path.relative_to(HOUSE)).startswith(DOORS)
        for name, line in imported(path)
        if (root := name.split(".")[0]) in PACKAGES and root not in MAY_IMPORT[package]
    ]

    assert wrong == []


@pytest.mark.parametrize("name", ONLY_IN)
def test_what_has_a_room_of_its_own_stays_there(name):
    wrong = [
        f"{path.relative_to(HOUSE)}:{line}"
        for path in FILES
        if not str(path.relative_to(HOUSE)).startswith(ONLY_IN[name])
        for module, line in imported(path)
        if module.split(".")[0] == name
    ]

    assert wrong == []


def test_the_search_spaces_need_only_the_standard_library_yaml_and_numpy():
    allowed = sys.stdlib_module_names | {"search_spaces", "yaml", "numpy"}

    assert {name.split(".")[0] for path in files_of("search_spaces") for name, _ in imported(path)} <= allowed


@pytest.mark.parametrize("path", COMMAND, ids=lambda path: path.stem)
def test_a_command_imports_no_layer_before_it_needs_it(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))

    at_the_top = {
        name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }

    own = {name for name in at_the_top if name.startswith(("nas.commands.", "nas.exit_codes"))}
    assert {name.split(".")[0] for name in at_the_top - own} <= sys.stdlib_module_names


def files_of(package: str) -> list[Path]:
    return [path for path in FILES if path.is_relative_to(HOUSE / package)]


# -- what Python loads -------------------------------------------------------------------------

LIGHT = [
    "search_spaces",
    "nas",
    "nas.cli",
    "nas.config",
    "nas.library",
    "nas.pareto",
    "nas.search",
    "nas.storage.records",
    "nas.storage.store",
    "dashboard.app",
]


@pytest.mark.parametrize("module", LIGHT)
def test_it_loads_neither_torch_nor_ray(module):
    assert not {"torch", "ray"} & loaded_by(f"import {module}")


def test_help_loads_neither_torch_nor_ray_nor_anything_else_that_is_slow():
    helping = "from nas.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"

    assert not {"torch", "ray", "numpy", "sqlalchemy", "dash", "pymoo", "sklearn"} & loaded_by(helping)


def test_a_store_opens_and_reads_without_torch_and_ray(tmp_path):
    opening = f"from nas.storage.store import Store\nassert Store('sqlite:///{tmp_path}/nas.db').runs() == []"

    assert not {"torch", "ray", "dash"} & loaded_by(opening)


def test_the_weights_know_neither_the_experiment_nor_its_store_nor_ray():
    everything = "\n".join(f"import {module}" for module in modules_of("supernets"))

    assert not {"ray", "sqlalchemy", "nas", "workers", "dashboard"} & loaded_by(everything)


def test_only_workers_load_ray():
    everything = "\n".join(
        f"import {module}" for module in modules_of("search_spaces", "supernets", "nas", "dashboard")
    )

    assert "ray" not in loaded_by(everything)


def test_the_core_runs_where_little_is_installed():
    """On a machine with a GPU there may be little but torch, numpy and the ONNX runtime."""
    missing = ("ray", "optuna", "pymoo", "moocore", "dash", "plotly", "sqlalchemy", "rich", "sklearn")
    core = [*modules_of("search_spaces", "supernets"), "nas.data.batches"]
    core += [module for module in modules_of("nas") if module.startswith("nas.hardware")]
    program = f"import sys\nfor name in {missing}: sys.modules[name] = None\n"

    loaded_by(program + "\n".join(f"import {module}" for module in core))
