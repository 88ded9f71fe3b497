"""The predictors: what an objective will be, learned from measurements of some architectures. One file each,
registered here by the objective's key. What they say is predicted, and is called so wherever it is shown.
"""

from __future__ import annotations

from nas.predictors.latency import LatencyPredictor

PREDICTORS = {"latency_ms": LatencyPredictor}

__all__ = ["PREDICTORS", "LatencyPredictor"]
