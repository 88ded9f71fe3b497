"""A folder as a registry: one class per file, checked when it is loaded, so that a mistake is said of its file."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType


class BadPart(ValueError):
    """A file of the folder does not keep the contract; the message names it."""


def load(package: str, folder: str, kind: str) -> dict[str, type]:
    """The class `kind` of every file of a package, by the file's name; names that begin with _ are left out.

    Raises:
        BadPart: a file cannot be imported, has no such class, or the class contradicts itself.
    """
    names = [one.name for one in iter_modules([folder]) if not one.name.startswith("_")]
    return {name: _loaded(package, Path(folder) / f"{name}.py", kind) for name in names}


def _loaded(package: str, file: Path, kind: str) -> type:
    try:
        module = import_module(f"{package}.{file.stem}")
    except Exception as error:  # whatever a person's file does
        raise BadPart(
            f"{file} cannot be imported: {type(error).__name__}: {error}; mend it, or move it away"
        ) from error
    part = _class(module, file, kind)
    settings = getattr(part, "settings", {})
    defaults = getattr(part, "defaults", {})
    for name, values in settings.items():
        if not isinstance(values, tuple) or not values:
            raise BadPart(
                f"{file}: settings[{name!r}] is {values!r}; it must be a tuple of at least one value"
            )
    for name, values in defaults.items():
        if name not in settings:
            raise BadPart(
                f"{file}: defaults has {name!r}, which is no setting; settings: {_listed(settings)}"
            )
        if wrong := [one for one in values if one not in settings[name]]:
            raise BadPart(
                f"{file}: defaults[{name!r}] has {wrong[0]!r}, which settings[{name!r}] does not allow"
            )
    taken = inspect.signature(part.__init__).parameters
    if missing := [name for name in settings if name not in taken]:
        raise BadPart(f"{file}: __init__ takes no {missing[0]}; it needs a parameter for every setting")
    return part


def _class(module: ModuleType, file: Path, kind: str) -> type:
    if not inspect.isclass(part := getattr(module, kind, None)):
        raise BadPart(f"{file} has no class {kind}; write one, or begin the file's name with _")
    for method in ("forward", "export"):
        if not callable(getattr(part, method, None)):
            raise BadPart(
                f"{file}: the class {kind} has no {method}; {kind}.{method} is part of the contract"
            )
    return part


def _listed(names) -> str:
    return ", ".join(names) or "none"
