"""Progress of long work on stderr: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nas.profile_view import of_any_size
from nas.storage.records import Candidate, Constraint, Objective

EVERY = 10.0  # seconds between two plain lines


class Track:
    """Where one piece of work stands; `to(done, text)` moves it on."""

    def __init__(self, what: str, total: int, done: int, bar: Progress | None, brief: bool = False):
        self.what, self.total, self.bar, self.brief = what, total, bar, brief
        self.begun, self.begun_at = time.monotonic(), done
        self.said = self.begun
        self.task = bar.add_task(what, total=total, completed=done, text="") if bar else None

    def to(self, done: int, text: str = "") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self.said < EVERY and (done < self.total or self.brief):
            return
        self.said, self.brief = now, False
        left = (now - self.begun) / max(done - self.begun_at, 1) * (self.total - done)
        remaining = f", {duration(left)} left" if done < self.total else f" in {duration(now - self.begun)}"
        share = 100 * done // max(self.total, 1)
        print(f"{self.what} {done}/{self.total} ({share} %){remaining}; {text}", file=sys.stderr, flush=True)

    def prepare(self, what: str, step: int, steps: int) -> None:
        """What has to be done before the first step, and how far that is; its time does not count."""
        text, now = f"{what} {step}/{steps}", time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, text=text)
        elif now - self.said >= EVERY:
            self.said = now
            print(f"{self.what}: {text}", file=sys.stderr, flush=True)
        self.begun = now

    def again(self, told: int) -> None:
        """How many of what was done before are being asked for again, to go on from there."""
        self.prepare("asking again what is known:", told, self.begun_at)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def track(what: str, total: int, done: int = 0, brief: bool = False) -> Iterator[Track]:
    """Show how a piece of work of `total` steps gets on, `done` of which are done already.

    Of `brief` work, which is mostly over at once, nothing is said before it has taken a while.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Track(what, total, done, None, brief)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),  # an error's brackets are brackets
    )
    with Progress(*columns, console=console, transient=brief) as bar:
        yield Track(what, total, done, bar)


def in_words(candidate: Candidate, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> str:
    """A candidate in a line: its key and its objectives with units."""
    if candidate.error:
        return f"{candidate.key} failed: {candidate.error[:120]}"
    values = ", ".join(
        " ".join(
            f"{one.name} {of_any_size(candidate.values[one.key])} {one.unit} {_part(candidate, one.key)}".split()
        )
        for one in objectives
    )
    return f"{candidate.key} {values}{'' if candidate.feasible(tuple(constraints)) else ' (infeasible)'}"


def _part(candidate: Candidate, key: str) -> str:
    return candidate.part if key == "accuracy" else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(8), duration(75), duration(4000)
    ('8 s', '1 min 15 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
