"""What the pages read of a store."""

from __future__ import annotations

import json
from threading import Lock

from dashboard.standing import Standing, standing
from dashboard.timings import Timing, timings
from nas import explanations
from nas.again import FACT
from nas.explain import Explained
from nas.hardware.peaks import Peaks
from nas.storage.records import Candidate, Run
from nas.storage.store import Store


class Reader:
    """A store whose candidates are read once: there only come more, until a run is about something else."""

    def __init__(self, store: Store):
        self.store = store
        self._known: dict[tuple, list[Candidate]] = {}
        self._timed: dict[tuple, tuple[int, list[Timing]]] = {}
        self._lock = Lock()

    def candidates(self, run: Run) -> list[Candidate]:
        """All candidates of a run, without latency records; only the new ones are read."""
        with self._lock:
            known = self._known.setdefault(_identity(run), [])
            known += self.store.candidates(run.name, after=known[-1].number if known else 0)
            return list(known)

    def timings(self, run: Run) -> list[Timing]:
        """The latencies of a run in short, in the order of measuring; only the new records are read."""
        with self._lock:
            seen, known = self._timed.get(_identity(run), (0, []))
            new = self.store.candidates(run.name, after=seen, with_latency=True)
            known = known + [each for one in new for each in timings(one)]
            self._timed[_identity(run)] = new[-1].number if new else seen, known
            return known

    def standing(self, run: Run) -> Standing:
        return standing(run, self.candidates(run))

    def explained(self, run: Run, candidate: Candidate) -> dict[str, Explained]:
        """A candidate taken apart, as far as somebody did, by the device's name in the run, "" where it has none
        there; or by what it is, if it is no device of the run.

        Raises:
            ValueError: a file of it is damaged.
        """
        return explanations.kept_everywhere(run, candidate.key)

    def peaks(self, run: Run) -> list[Peaks]:
        """
        Raises:
            ValueError: a file of them is damaged.
        """
        return explanations.kept_peaks(run)

    def signs(self, run: Run) -> str:
        """A text that changes whenever something of a run's search has changed."""
        return json.dumps([run.created, run.status, run.message, self.store.count_candidates(run.name)])


def _identity(run: Run) -> tuple:
    """What the candidates read so far are of. A name may pass on to another run, which was then made at another
    time; and candidates get values when a run is extended by objectives or constraints, and when its front is measured
    again."""
    return run.name, run.created, run.objectives, run.constraints, run.facts.get(FACT)
