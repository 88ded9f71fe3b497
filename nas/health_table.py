"""A table of architectures whose accuracies somebody measured: what a supernet's are compared with, and what
trainings alone leave to other supernets of the space.

    CSV         a line of names, then a line per row; commas, semicolons or tabs between them
    JSON        a list of objects, or an object of objects or numbers, each by its architecture
    JSON lines  an object per line

A row has its architecture in one column, in any spelling that `architecture_from_text` reads, or one column per
decision of the space. It has one accuracy per column that is asked for, or a list of them. All accuracies of an
architecture, of whichever columns and rows, are trainings of it.
"""

from __future__ import annotations

import csv
import json
import math
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from nas.storage.records import Trial
from search_spaces import NetworkArchitecture, NetworkSpace, architecture_from_text
from search_spaces.parts import short
from search_spaces.strict import unknown
from search_spaces.vectors import Decision

ARCHITECTURE = ("architecture", "arch", "arch_str", "architecture_str", "arch_string")  # the first is read
ACCURACY = "accuracy"
SEPARATORS = ",;\t"
WRITTEN = ("architecture", "seed", ACCURACY, "epochs", "macs", "parameters")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where accuracies come from that the run did not measure, and what of it could be used."""

    file: str
    accuracy: tuple[str, ...]  # the columns
    lower_is_better: bool  # then they stand here with a minus
    architectures: int  # different ones of the space
    rows: int
    strangers: int  # rows that are no architecture of the space
    unmeasured: int  # rows without a number
    why: str  # the first of the strangers is none


@dataclass(frozen=True)
class Table:
    """Accuracies by key of the architecture, one per training; the more the better, in whatever unit."""

    source: Source
    architectures: tuple[NetworkArchitecture, ...]  # each once, in order of the keys
    accuracies: Mapping[str, tuple[float, ...]]


def read_table(
    path: Path,
    space: NetworkSpace,
    architecture: str | None = None,
    accuracy: Sequence[str] = (),
    lower_is_better: bool = False,
) -> Table:
    """Read a table against a space.

    Args:
        architecture: the column that has it; by default the first of `ARCHITECTURE`, or all decisions.
        accuracy: the columns, by default `ACCURACY`.
        lower_is_better: they are errors or losses.

    Raises:
        ValueError: it cannot be read, has no such column, an accuracy that is no number, or no row of the space.
    """
    rows = _rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    accuracy = tuple(dict.fromkeys(accuracy)) or (ACCURACY,)
    for name in accuracy:
        _check_column(path, name, columns, "--accuracy")
    read = _reader(path, space, architecture, columns)
    found: dict[str, NetworkArchitecture] = {}
    accuracies: dict[str, tuple[float, ...]] = {}
    strangers, unmeasured = [], 0
    for number, row in enumerate(rows, 1):
        reached = tuple(one for name in accuracy for one in _numbers(path, number, name, row.get(name)))
        try:
            one = read(row)
        except ValueError as error:
            strangers.append(f"row {number}: {error}")
            continue
        if not reached:
            unmeasured += 1
            continue
        found[one.key] = one
        reached = tuple(-value for value in reached) if lower_is_better else reached
        accuracies[one.key] = (*accuracies.get(one.key, ()), *reached)
    if not found:
        raise ValueError(_nothing(path, space, len(rows), strangers))
    source = Source(
        str(path),
        accuracy,
        lower_is_better,
        len(found),
        len(rows),
        len(strangers),
        unmeasured,
        strangers[0] if strangers else "",
    )
    return Table(source, tuple(found[key] for key in sorted(found)), accuracies)


def check_writable(path: Path) -> None:
    """Raise ValueError before long work if a table cannot be written there afterwards."""
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--write-table is {path}; it must end in .csv")
    if not path.parent.is_dir():
        raise ValueError(f"--write-table is {path}; there is no folder {path.parent}")


def write_table(path: Path, trials: Iterable[Trial]) -> int:
    """Write the trainings alone among trials as a CSV that `read_table` reads, a row for each; how many.

    Raises:
        ValueError: there are none.
    """
    alone = [one for one in trials if one.kind == "alone" and one.error is None]
    if not alone:
        raise ValueError(
            f"no architecture was trained alone, so there is nothing to write to {path}; --subnets N trains some"
        )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, WRITTEN, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**one.values, "architecture": one.architecture, "seed": one.seed} for one in alone)
    return len(alone)


def _nothing(path: Path, space: NetworkSpace, rows: int, strangers: Sequence[str]) -> str:
    if not rows:
        return f"{path} has no rows"
    if len(strangers) < rows:
        return f"no row of {path} has both an architecture of the space {space.name} and an accuracy"
    return f"no row of {path} is an architecture of the space {space.name}; {strangers[0]}"


# -- rows --------------------------------------------------------------------------------------


def _rows(path: Path) -> list[Row]:
    """The rows of a file, by column, in the order of the file.

    Raises:
        ValueError: it is none of the formats, or damaged.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _json_lines}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: a table is one of {', '.join(readers)}, by the end of its name")
    if not path.is_file():
        raise ValueError(f"there is no table {path}")
    try:
        return list(readers[path.suffix.lower()](path.read_text(encoding="utf-8-sig")))
    except (ValueError, csv.Error) as error:  # of JSON, of the encoding, or ours
        raise ValueError(f"{path} cannot be read: {error}") from None


def _csv(text: str) -> Iterator[Row]:
    separator = max(SEPARATORS, key=text.partition("\n")[0].count)
    reader = csv.DictReader(StringIO(text), delimiter=separator, strict=True)
    names = reader.fieldnames or []
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has two columns {twice!r}; keep one")
    for number, row in enumerate(reader, 1):
        if None in row:
            raise ValueError(f"row {number} has more cells than there are columns")
        yield row


def _json(text: str) -> Iterator[Row]:
    content = json.loads(text)
    if isinstance(content, dict):
        content = [
            {ARCHITECTURE[0]: key, **(value if isinstance(value, dict) else {ACCURACY: value})}
            for key, value in content.items()
        ]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("it holds neither a list of objects nor objects by architecture")
    return iter(content)


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            yield row


# -- cells -------------------------------------------------------------------------------------


def _check_column(path: Path, name: str, columns: Sequence[str], flag: str) -> None:
    if name not in columns:
        raise unknown(f"the column {name} of {path} (choose it with {flag})", name, columns)


def _numbers(path: Path, number: int, name: str, cell: Any) -> list[float]:
    """The numbers of a cell: none, one, or a list of them."""
    found = []
    for one in cell if isinstance(cell, list) else [cell]:
        if one is None or (isinstance(one, str) and not one.strip()):
            continue
        try:
            value = float(one)
        except (TypeError, ValueError):
            raise ValueError(f"{path} row {number}: {name} is {one!r}, which is no number") from None
        found += [value] if math.isfinite(value) else []
    return found


def _reader(
    path: Path, space: NetworkSpace, architecture: str | None, columns: Sequence[str]
) -> Callable[[Row], NetworkArchitecture]:
    """What makes an architecture of a row, or raises ValueError."""
    if architecture is not None:
        _check_column(path, architecture, columns, "--architecture")
    column = architecture or next((name for name in ARCHITECTURE if name in columns), None)
    if column is not None:
        return lambda row: _of_text(space, column, row.get(column))
    missing = [one.name for one in space.decisions if one.name not in columns]
    if missing:
        several = (
            f"{len(missing)} of the {len(space.decisions)} decisions of {space.name}, such as {missing[0]!r}"
        )
        raise ValueError(
            f"{path} has no column {', '.join(ARCHITECTURE[:-1])} or {ARCHITECTURE[-1]}, and none for {several}; "
            f"--architecture COLUMN says which names the architecture; its columns: {', '.join(columns)}"
        )
    numbers = [{_spelled(option): n for n, option in enumerate(one.options, 1)} for one in space.decisions]
    return lambda row: _of_decisions(space, numbers, row)


def _of_text(space: NetworkSpace, column: str, cell: Any) -> NetworkArchitecture:
    if cell is None or cell == "":
        raise ValueError(f"{column} is empty")
    return architecture_from_text(space, cell if isinstance(cell, str) else json.dumps(cell))


def _of_decisions(space: NetworkSpace, numbers: Sequence[Mapping[str, int]], row: Row) -> NetworkArchitecture:
    """What does not arise may be empty, and does not count."""
    pairs = list(zip(space.decisions, numbers, strict=True))
    vector = [_number(decision, options, row.get(decision.name)) for decision, options in pairs]
    architecture = space.decode(vector)
    for (decision, options), given, arises in zip(pairs, vector, space.encode(architecture), strict=True):
        if arises and not given:
            raise ValueError(f"{decision.name} is empty; the space offers {', '.join(options)}")
    return architecture


def _number(decision: Decision, options: Mapping[str, int], cell: Any) -> int:
    """Of the option that a cell names, from 1; 0 for an empty cell."""
    text = _spelled(cell)
    if text and text not in options:
        raise ValueError(f"{decision.name} is {text}; the space offers {', '.join(options)}")
    return options.get(text, 0)


def _spelled(cell: Any) -> str:
    """The one spelling of 3, 3.0, "3"; of True, "true"; of (3, 5), [3, 5], "[3, 5]", "3+5"; empty for nothing."""
    if isinstance(cell, str):
        try:
            cell = literal_eval(cell.strip())
        except (ValueError, SyntaxError):
            return cell.strip()
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return short(tuple(cell) if isinstance(cell, list) else cell)
