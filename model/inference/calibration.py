"""Temperature scaling: one factor on all logits that makes a network's probabilities match its errors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit

from model.inference.metrics import FloatArray, weighted_log_loss

MIN_TEMPERATURE, MAX_TEMPERATURE = 1.0, 10.0
"""Bounds of a temperature. It never sharpens: a few validation studies that all happen to be right would ask
for certainty, and the first wrong prediction would pay for it."""


def probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """The logistic function of ``logits / temperature``, in float64 and of the logits' shape."""
    result: FloatArray = expit(np.asarray(logits, dtype=np.float64) / temperature)
    return result


def fit_temperature(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """The temperature with the lowest weighted log loss, between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`.

    See Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Parameters
    ----------
    labels, logits
        (studies, levels + 1); labels are 0, 1 or -1 (unknown). They must come from other studies than those
        that are scored later.
    """

    def loss(log_temperature: float) -> float:
        return weighted_log_loss(labels, probabilities(logits, math.exp(log_temperature)))

    # The loss is convex in 1/T, so in log T it has a single minimum.
    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)
