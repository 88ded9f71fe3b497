"""Reports of a run's health against tables, kept in the run's folder for who looks at them later.

RUN/health/TABLE-COLUMNS.json     the latest against a table, by its file's name and by what was read of it

Those against trainings alone are not kept: the store has the trainings. The table it has not, and a report on
thousands of architectures takes long.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from nas.health_table import Source
from nas.json_file import read_json, write_json
from nas.ranking import Health
from nas.storage.records import Run

FOLDER = "health"
WAY_OUT = "remove it, and run nas health with --table again"


def keep(run: Run, health: Health) -> Path:
    """Keep a report against a table, in place of an earlier one against the same columns of it; where."""
    path = folder_of(run) / f"{_stem(health.table)}.json"
    write_json(path, asdict(health))
    return path


def names(run: Run) -> list[str]:
    """Of the reports that are kept, the latest first."""
    files = folder_of(run).glob("*.json")
    return [path.stem for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def kept(run: Run, name: str) -> Health:
    """
    Raises:
        LookupError: there is no such report.
        ValueError: its file is damaged, or of another version.
    """
    if name not in names(run):
        raise LookupError(f"no report of {run.name} is called {name}")
    path = folder_of(run) / f"{name}.json"
    stored = read_json(path, WAY_OUT)
    try:
        return _read(Health, stored)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or of another version ({error!r}); {WAY_OUT}") from None


def made(run: Run, name: str) -> str:
    """When a report was kept, in UTC, ISO 8601."""
    written = (folder_of(run) / f"{name}.json").stat().st_mtime
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def forget(run: Run) -> None:
    """Drop all reports of a run."""
    shutil.rmtree(folder_of(run), ignore_errors=True)


def signs(run: Run) -> str:
    """A text that changes whenever a report is kept or dropped; empty where there is none."""
    files = sorted(folder_of(run).glob("*.json"))
    return " ".join(f"{path.name}:{path.stat().st_mtime_ns}" for path in files)


def folder_of(run: Run) -> Path:
    """Where the reports of a run are."""
    return Path(run.folder) / FOLDER


def _stem(table: Source) -> str:
    """Tables of one name may lie in different folders, and have several columns."""
    read = json.dumps([str(Path(table.file).resolve()), table.accuracy, table.lower_is_better])
    return f"{Path(table.file).stem}-{sha256(read.encode()).hexdigest()[:8]}"


def _read(kind: Any, stored: Any) -> Any:
    """A value of a type, of which `asdict` and JSON left dicts and lists."""
    if is_dataclass(kind):
        return kind(**{name: _read(_fields(kind)[name], value) for name, value in stored.items()})
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], one) for one in stored)
    if isinstance(kind, UnionType):
        [known] = set(get_args(kind)) - {NoneType}
        return None if stored is None else _read(known, stored)
    return stored


@cache
def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
