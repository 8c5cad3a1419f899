"""The temperature: one number that makes a network as sure of itself as it is right."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from model.inference.metrics import FloatArray, weighted_log_loss

COOLEST, HOTTEST = 1.0, 10.0
"""Bounds of a temperature. It never sharpens: a few validation studies that happen to be all right would ask
for certainty, and the first one that is not pays for it."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """The logistic function of ``logits / temperature``."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    result: FloatArray = np.exp(-np.logaddexp(0, -scaled))
    return result


def fit_temperature(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """The temperature with the least weighted log loss (Guo et al. 2017, "On Calibration of Modern Neural
    Networks"), from `COOLEST` to `HOTTEST`.

    ``labels`` and ``logits`` are (studies, levels + 1), labels -1 where unknown. The studies must be others
    than those that a score is later reported on.
    """

    def loss(log_temperature: float) -> float:
        return weighted_log_loss(labels, probabilities(logits, math.exp(log_temperature)))

    # In 1/T the loss is convex, so in log T it has one minimum: golden section finds it.
    low, high = math.log(COOLEST), math.log(HOTTEST)
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)
