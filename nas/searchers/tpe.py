"""Multi-objective TPE by Optuna: the densities of good and of other architectures, and what is most likely of the
good (Ozaki, Tanigaki, Watanabe, Nomura, Onishi, JAIR 73, 2022). Decisions are modelled together.
"""

from __future__ import annotations

from nas.searchers.optuna_study import OptunaSearcher
from nas.searchers.rounds import count_setting
from search_spaces import SearchSpace


class TPE(OptunaSearcher):
    """
    Args:
        first: architectures that are drawn before the densities are, the ends of the space among them.
        batch: architectures that are proposed side by side.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, first: int = 16, batch: int = 4):
        from optuna.samplers import TPESampler

        first, batch = count_setting("first", first, 2), count_setting("batch", batch, 1)
        sampler = TPESampler(seed=seed % 2**32, n_startup_trials=first, multivariate=True)
        super().__init__(space, objectives, seed, sampler, first, batch)
