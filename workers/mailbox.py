"""What training ranks and the driver tell each other: an actor, in a file of its own so that it loads nothing."""

from __future__ import annotations


class Mailbox:
    """A letter is a tuple: what it is, and what it says."""

    def __init__(self):
        self.letters: list[tuple] = []
        self.stopping = False
        self.failed = False

    def post(self, *letter) -> None:
        self.letters.append(letter)

    def take(self) -> list[tuple]:
        """The letters since the last time, in order."""
        letters, self.letters = self.letters, []
        return letters

    def stop(self) -> None:
        self.stopping = True

    def is_stopping(self) -> bool:
        return self.stopping

    def fail(self, kind: str, message: str) -> None:
        """For good; the first reason counts, others follow from it."""
        if not self.failed:
            self.failed = True
            self.post("failed", kind, message)

    def has_failed(self) -> bool:
        return self.failed
