"""Optuna's samplers behind ask and tell: every decision is a categorical parameter, or an integer one where the
options are numbers; the study is in memory, since the store is the record.

Optuna is imported when the searcher is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nas.searchers.rounds import Rounds, Told
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

REPEATS = 3  # questions for one architecture, before a random one is taken


class OptunaSearcher(Rounds):
    """
    Args:
        sampler: Optuna's.
        first: architectures that are drawn before it begins, the ends of the space among them.
        batch: architectures that are proposed side by side.
    """

    def __init__(
        self, space: SearchSpace, objectives: int, seed: int, sampler: BaseSampler, first: int, batch: int
    ):
        import optuna
        from optuna.distributions import CategoricalDistribution, IntDistribution

        super().__init__(space, objectives, seed)
        self.first, self.batch = first, batch
        self.optuna, self.sampler = optuna, sampler
        self.told = self.nothing()
        self.study = self._study()
        self.parameters = {}
        for place, decision in enumerate(space.decisions):
            count = len(decision.options)
            numbers = all(isinstance(option, int | float) for option in decision.options)
            self.parameters[str(place)] = (
                IntDistribution(1, count) if numbers else CategoricalDistribution(range(1, count + 1))
            )

    def propose(self) -> tuple[np.ndarray, int]:
        if not len(self.told):
            drawn = self.moves.stratified(2 * self.first, self.random)
            return np.concatenate([self.moves.ends, drawn]), self.first
        rows, running = self.moves.rows([]), []
        for _ in range(REPEATS * self.batch):
            if len(rows) == self.batch:
                break
            trial = self.study.ask(self.parameters)
            running.append(trial)  # still running, so that the next one is another
            asked = np.array([list(trial.params.values())], np.int64).reshape(1, len(self.parameters))
            rows = self.asked.new(np.concatenate([rows, self.space.canonical(asked)]))
        for (
            trial
        ) in running:  # what is told comes as trials of its own: canonical, and in the order of asking
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        return rows, self.batch

    def learn(self, told: Told) -> None:
        kept = (self.told.violations <= 0).all()
        self.told = self.told + told
        if kept and (self.told.violations > 0).any():  # Optuna wants constraints of every trial or of none
            self.study, told = self._study(), self.told
        constrained = (self.told.violations > 0).any()
        for row, losses, violation in zip(told.rows, told.losses, told.violations, strict=True):
            if not np.isfinite(violation):
                continue  # it has nothing to learn from a failure
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    params=dict(zip(self.parameters, np.maximum(row, 1).tolist(), strict=True)),
                    distributions=self.parameters,
                    values=losses.tolist(),
                    constraints={"violation": violation} if constrained else None,
                )
            )

    def _study(self) -> Study:
        shown = self.optuna.logging.get_verbosity()
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)  # or it says that there is a study
        study = self.optuna.create_study(sampler=self.sampler, directions=["minimize"] * self.objectives)
        self.optuna.logging.set_verbosity(shown)
        return study
