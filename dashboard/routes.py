"""The addresses of the pages: everything that a page shows follows from its address."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, unquote, urlencode


def run(name: str) -> str:
    return f"/run/{quote(name, safe='')}"


def training(name: str) -> str:
    return f"{run(name)}/training"


def health(name: str, report: str = "") -> str:
    """Against trainings alone, or a report of another kind by its name."""
    return f"{run(name)}/health" + (f"/{quote(report, safe='')}" if report else "")


def hardware(name: str) -> str:
    return f"{run(name)}/hardware"


def candidate(name: str, key: str) -> str:
    return f"{run(name)}/candidate/{quote(key, safe='')}"


def axes(x: str, y: str) -> str:
    """The part of the front's address that says what is drawn over what."""
    return f"?{urlencode({'x': x, 'y': y})}"


def chosen_axes(search: str | None) -> tuple[str | None, str | None]:
    """The x and y of an address; None where it names none."""
    given = parse_qs((search or "").removeprefix("?"))
    return given.get("x", [None])[0], given.get("y", [None])[0]


def parts(pathname: str | None) -> tuple[str, ...]:
    """An address cut at its slashes: `/run/a%2Fb/training` is run, a/b, training."""
    return tuple(unquote(part) for part in (pathname or "/").strip("/").split("/") if part)
