"""The temperature, against a fine search, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest

from model.inference.calibration import COOLEST, HOTTEST, fit_temperature, probabilities
from model.inference.metrics import weighted_log_loss


def test_probabilities_do_not_overflow() -> None:
    assert probabilities([-1e4, 0, 1e4]).tolist() == [0, 0.5, 1]
    assert probabilities([2.0], 2.0)[0] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("overconfidence", [0.7, 1.0, 4.0])
def test_the_temperature_is_found(overconfidence: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(0, 1.5, (400, 8))
    labels = (random.random((400, 8)) < probabilities(true)).astype(int)
    labels[random.random(labels.shape) < 0.1] = -1
    found = fit_temperature(labels, true * overconfidence)
    every = np.geomspace(COOLEST, HOTTEST, 300)
    losses = [weighted_log_loss(labels, probabilities(true * overconfidence, t)) for t in every]
    assert found == pytest.approx(every[int(np.argmin(losses))], rel=1.1e-2)


def test_a_few_that_are_all_right_do_not_ask_for_certainty() -> None:
    labels = np.array([[1, 0], [0, 1]])
    assert fit_temperature(labels, np.where(labels == 1, 3.0, -3.0)) == pytest.approx(COOLEST, rel=1e-3)
    assert fit_temperature(labels, np.where(labels == 1, -3.0, 3.0)) == pytest.approx(HOTTEST, rel=1e-3)
