"""Gaussian processes by Optuna: Matérn kernels with a scale per decision, and what raises the logarithm of the
expected hypervolume improvement most (Daulton, Balandat, Bakshy, NeurIPS 2020).

A proposal takes 1 to 2 s of processor time when 60 candidates are known, and more with each: a search of 100 took 209 s
(benchmarks/enumerated_xeon2_202611.md). That is Optuna's search on its own predictions, which no setting of it
shortens; a `batch` of 1 saves nothing either. It needs torch.
"""

from __future__ import annotations

from nas.searchers.optuna_study import OptunaSearcher
from nas.searchers.rounds import count_setting
from search_spaces import SearchSpace


class GP(OptunaSearcher):
    """
    Args:
        first: architectures that are drawn before the processes are fitted, the ends of the space among them.
        batch: architectures that are proposed side by side.
    """

    def __init__(self, space: SearchSpace, objectives: int, seed: int = 0, first: int = 16, batch: int = 4):
        from optuna.samplers import GPSampler

        first, batch = count_setting("first", first, 2), count_setting("batch", batch, 1)
        sampler = GPSampler(seed=seed % 2**32, n_startup_trials=first)
        super().__init__(space, objectives, seed, sampler, first, batch)
