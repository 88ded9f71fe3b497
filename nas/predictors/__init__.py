"""The predictors: what an objective will be, learned from measurements of some architectures. One file each,
registered here by the objective's key. What they say is predicted, and is called so wherever it is shown.

`fit_latency_model` and `fit_latencies` are the doors for measurements of one's own, of any space.
"""

from __future__ import annotations

from nas.predictors.accuracy import AccuracyModel, fit_accuracies
from nas.predictors.latency import LatencyPredictor
from nas.predictors.learning import fit_latency_model
from nas.predictors.model import LatencyModel, fit_latencies

PREDICTORS = {"latency_ms": LatencyPredictor, "predicted_accuracy": AccuracyModel}

__all__ = [
    "PREDICTORS",
    "AccuracyModel",
    "LatencyModel",
    "LatencyPredictor",
    "fit_accuracies",
    "fit_latencies",
    "fit_latency_model",
]
