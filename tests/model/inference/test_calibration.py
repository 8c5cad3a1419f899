"""The temperature, against a closed form, a fine grid, and its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.inference.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, probabilities
from model.inference.metrics import weighted_log_loss


def test_probabilities_do_not_overflow() -> None:
    assert probabilities([-1e4, 0, 1e4]).tolist() == [0, 0.5, 1]
    assert probabilities([2.0], 2.0)[0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_temperature_of_one_logit_has_a_closed_form() -> None:
    """30 fractured vertebrae (weight 2) and 20 others (weight 1) with the logit 3: the loss is lowest where
    the probability is 60 / 80, so at T = 3 / ln(0.75 / 0.25)."""
    labels = np.full((50, 2), -1)
    labels[:, 0] = [1] * 30 + [0] * 20
    found = fit_temperature(labels, np.full((50, 2), 3.0))
    assert found == pytest.approx(3 / math.log(3), rel=1e-7)


@pytest.mark.parametrize("overconfidence", [0.7, 1.0, 4.0])
def test_temperature_has_the_lowest_loss_of_a_grid(overconfidence: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(0, 1.5, (400, 8))
    labels = (random.random((400, 8)) < probabilities(true)).astype(int)
    labels[random.random(labels.shape) < 0.1] = -1
    found = fit_temperature(labels, true * overconfidence)
    every = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 300)
    losses = [weighted_log_loss(labels, probabilities(true * overconfidence, t)) for t in every]
    assert found == pytest.approx(every[int(np.argmin(losses))], rel=1.1e-2)


def test_few_correct_studies_do_not_sharpen() -> None:
    labels = np.array([[1, 0], [0, 1]])
    correct, wrong = np.where(labels == 1, 3.0, -3.0), np.where(labels == 1, -3.0, 3.0)
    assert fit_temperature(labels, correct) == pytest.approx(MIN_TEMPERATURE, rel=1e-3)
    assert fit_temperature(labels, wrong) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)
