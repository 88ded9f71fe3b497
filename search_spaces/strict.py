"""Strict reading of what people write: no duplicate key, no unknown name, every error with its way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml


def unknown(what: str, name: object, allowed: Iterable[object]) -> ValueError:
    """The error for a name that is not among the allowed ones, with the nearest match.

    >>> str(unknown("search.budgt", "budgt", ["budget", "seed"]))
    'search.budgt is not known; did you mean budget? Allowed: budget, seed'
    """
    names = [str(one) for one in allowed]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return ValueError(f"{what} is not known; {hint}Allowed: {', '.join(names) or 'nothing'}")


def check_keys(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise the error of the first key that is not allowed; `where` is the dotted place of the keys."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise unknown(f"{where}.{key}" if where else str(key), key, allowed)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is written twice; YAML itself would keep the last one in silence."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    loader.flatten_mapping(node)
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise ValueError(f"line {key_node.start_mark.line + 1}: the key {key!r} is not a name")
        if key in seen:
            raise ValueError(
                f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice; keep one"
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_implicit_resolver(  # YAML 1.1, unlike 1.2, takes 5e-4 for text and wants 5.0e-4
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


def parse_yaml(text: str, source: str) -> Any:
    """The content of a YAML text; `source` is what errors call it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{source}: not valid YAML at line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8; an experiment or a skeleton is YAML") from None
    return parse_yaml(text, str(path))
