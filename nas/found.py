"""What a search with a person's own evaluator came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nas import pareto
from nas.devices import DeviceFront, Goals, fronts_of
from nas.goals import is_finite
from nas.storage.records import Candidate, Constraint, Objective
from search_spaces import architecture_from_json

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Found:
    """Every candidate in the order in which it was recorded, and what they are judged by."""

    space: Any
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    candidates: list[Candidate]
    ended: str = ""  # what ended the search, in words

    def __repr__(self) -> str:
        return f"Found({len(self.candidates)} candidates, {len(self.front)} on the front)"

    @cached_property
    def front(self) -> list[Candidate]:
        """The candidates that keep the constraints and that nothing dominates, in ascending order of the last
        objective."""
        return pareto.front(self.candidates, self.objectives, self.constraints)

    @cached_property
    def fronts(self) -> dict[str, DeviceFront]:
        """By the name of each device that objectives or constraints are of, `latency_ms@phone`: the candidates that
        nothing dominates by what is its own or everyone's, and their knee."""
        return {
            one.device: one for one in fronts_of(Goals(self.objectives, self.constraints), self.candidates)
        }

    @property
    def knee(self) -> Candidate | None:
        """The best compromise on the front; None if nothing is on it."""
        return pareto.knee_candidate(self.front, self.objectives) if self.front else None

    def architecture(self, candidate: Candidate) -> Any:
        """The architecture of a candidate, as the evaluator got it."""
        return architecture_from_json(candidate.architecture)

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> float:
        """What the front dominates up to a reference, in the product of the units; 0 if nothing is on the front.

        Args:
            reference: the worst value of every objective that counts, `{"accuracy": 50, "latency_ms": 10}`. Without
                it, it follows from the front (`nas.pareto.reference_point`), and no two of them compare.

        Raises:
            ValueError: the reference has other keys than the objectives, or what is no finite number.
        """
        points = pareto.losses(self.front, self.objectives)
        if reference is not None:
            keys = [one.key for one in self.objectives]
            if not isinstance(reference, Mapping) or set(reference) != set(keys):
                has = ", ".join(map(str, reference)) if isinstance(reference, Mapping) else repr(reference)
                raise ValueError(f"the reference has {has}; it needs {', '.join(keys)}")
            for key, worst in reference.items():
                if not is_finite(worst):
                    raise ValueError(f"the reference is {worst!r} for {key}; it must be a finite number")
            corner = np.array([one.loss(reference[one.key]) for one in self.objectives])
        elif self.front:
            corner = pareto.reference_point(points)
        return pareto.hypervolume(points, corner) if self.front else 0.0

    def to_frame(self) -> DataFrame:
        """A row per candidate: its number and key, its decisions, its values, the low and the high end of those that
        are uncertain, whether it keeps the constraints and is on the front, its error, and the seconds that the
        evaluation took.

        A decision that has the name of another column is called `decision NAME`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_frame needs pandas, which is not installed: pip install pandas") from None
        on_front = {one.key for one in self.front}
        values = list(dict.fromkeys(key for one in self.candidates for key in one.values))
        uncertain = [key for key in values if any(key in one.intervals for one in self.candidates)]
        ends = {f"{key} {end}": (key, at) for key in uncertain for at, end in enumerate(("low", "high"))}
        taken = {"number", "candidate", "feasible", "front", "error", "seconds", *values, *ends}
        rows = [
            {
                "number": one.number,
                "candidate": one.key,
                **{f"decision {k}" if k in taken else k: v for k, v in self._decided(one).items()},
                **{key: one.values.get(key) for key in values},
                **{name: one.interval(key)[at] for name, (key, at) in ends.items() if key in one.values},
                "feasible": one.feasible(self.constraints),
                "front": one.key in on_front,
                "error": one.error,
                "seconds": one.seconds,
            }
            for one in self.candidates
        ]
        return pandas.DataFrame(rows)

    def _decided(self, candidate: Candidate) -> dict[str, Any]:
        """What was decided, by name; None where a decision does not arise."""
        architecture = self.architecture(candidate)
        if isinstance(architecture, Mapping):
            return dict(architecture)
        pairs = zip(self.space.decisions, self.space.encode(architecture), strict=True)
        return {decision.name: decision.options[number - 1] if number else None for decision, number in pairs}
