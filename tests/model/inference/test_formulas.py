"""Losses, areas, curves and temperatures against plain loops over random labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import AUROC, ROC, CalibrationError

from model.inference.calibration import fit_temperature
from model.inference.curves import reliability_curve, roc_curve
from model.inference.metrics import auroc, constant_baselines, pooled_auroc, weighted_log_loss

TABLES = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def table(seed: int, studies: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Labels -1, 0 or 1 and probabilities with many ties, of three levels and the patient."""
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 2, (studies, 4))
    labels[0] = 1
    labels[1] = 0
    return labels, random.integers(0, 6, (studies, 4)) / 5


def plain_loss(labels: np.ndarray, probabilities: np.ndarray, per_study: bool) -> float:
    """The loss label by label; weights 1 and 2 for vertebrae, 7 and 14 for the patient; clipped at 1e-7."""
    studies = []
    for row, chances in zip(labels.tolist(), probabilities.tolist(), strict=True):
        loss = weight = 0.0
        for column, (label, chance) in enumerate(zip(row, chances, strict=True)):
            if label == -1:
                continue
            each = (7 if column == 3 else 1) * (2 if label == 1 else 1)
            right = min(max(chance if label == 1 else 1 - chance, 1e-7), 1 - 1e-7)
            loss, weight = loss - each * math.log(right), weight + each
        if weight:
            studies.append((loss, weight))
    if per_study:
        return sum(loss / weight for loss, weight in studies) / len(studies)
    return sum(loss for loss, _ in studies) / sum(weight for _, weight in studies)


@TABLES
@given(SEEDS)
def test_loss_equals_a_plain_loop_in_any_order_of_the_studies(seed: int) -> None:
    labels, chances = table(seed)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    for convention in ("global", "per_study"):
        loss = weighted_log_loss(labels, chances, convention)
        assert loss == pytest.approx(plain_loss(labels, chances, convention == "per_study"), rel=1e-9)
        assert loss == pytest.approx(weighted_log_loss(labels[shuffled], chances[shuffled], convention))
        assert 0 <= loss <= -math.log(1e-7) + 1e-9


@TABLES
@given(SEEDS)
def test_loss_and_areas_are_those_of_torch_and_torchmetrics(seed: int) -> None:
    labels, chances = table(seed)
    weights = np.array([1, 1, 1, 7]) * np.where(labels == 1, 2, 1) * (labels >= 0)
    given_labels = torch.tensor(np.maximum(labels, 0), dtype=torch.float64)
    inside = torch.tensor(chances.clip(1e-7, 1 - 1e-7))
    summed = torch.nn.functional.binary_cross_entropy(
        inside, given_labels, weight=torch.tensor(weights, dtype=torch.float64), reduction="sum"
    )
    assert weighted_log_loss(labels, chances) == pytest.approx(float(summed) / weights.sum(), rel=1e-9)
    metric = AUROC(task="multilabel", num_labels=4, average="none", ignore_index=-1)
    expected = metric(torch.tensor(chances, dtype=torch.float64), torch.tensor(labels))
    np.testing.assert_allclose(auroc(labels, chances), expected, atol=1e-6)


@TABLES
@given(SEEDS)
def test_curves_are_those_of_torchmetrics(seed: int) -> None:
    """The expected calibration error is the mean distance of the reliability curve from the diagonal."""
    random = np.random.default_rng(seed)
    labels, scores = random.integers(0, 2, 50), random.random(50)
    labels[:2] = 0, 1
    tensors = torch.tensor(scores), torch.tensor(labels)
    rates = ROC(task="binary")(*tensors)
    np.testing.assert_allclose(roc_curve(labels, scores), torch.stack(rates[:2]), atol=1e-6)
    predicted, observed, count = reliability_curve(labels, scores)
    error = (np.abs(predicted - observed) * count).sum() / 50
    assert count.sum() == 50
    assert error == pytest.approx(float(CalibrationError(task="binary", n_bins=10)(*tensors)), abs=1e-6)


def test_perfect_and_certainly_wrong_predictions_are_at_the_bounds() -> None:
    labels, _ = table(3)
    right = (labels == 1).astype(float)
    assert weighted_log_loss(labels, right) == pytest.approx(-math.log(1 - 1e-7), rel=1e-6)
    assert weighted_log_loss(labels, 1 - right) == pytest.approx(16.11809565, abs=1e-7)


@TABLES
@given(SEEDS)
def test_weighted_prevalence_beats_every_constant(seed: int) -> None:
    labels, _ = table(seed)
    best = constant_baselines(labels)["weighted_prevalence"]
    lowest = weighted_log_loss(labels, np.broadcast_to(best, labels.shape))
    for column in range(4):
        for constant in np.linspace(0.01, 0.99, 15):
            other = best.copy()
            other[column] = constant
            assert weighted_log_loss(labels, np.broadcast_to(other, labels.shape)) >= lowest - 1e-9


def pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    """The Mann-Whitney statistic: a tie is half a right order."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    right = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    return sum(right) / len(right)


@TABLES
@given(SEEDS)
def test_areas_are_the_share_of_ordered_pairs(seed: int) -> None:
    labels, scores = table(seed)
    expected = [pairs(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(auroc(labels, scores), expected, atol=1e-6)
    pooled = pairs(labels[:, :3].ravel(), scores[:, :3].ravel())
    assert pooled_auroc(labels, scores) == pytest.approx(pooled, abs=1e-6)


@TABLES
@given(SEEDS)
def test_curves_equal_plain_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, scores = random.integers(0, 2, 40), random.random(40).round(1)
    labels[:2] = 0, 1
    thresholds = sorted(set(scores.tolist()), reverse=True)
    false_positive = [0.0] + [np.mean(scores[labels == 0] >= t) for t in thresholds]
    true_positive = [0.0] + [np.mean(scores[labels == 1] >= t) for t in thresholds]
    np.testing.assert_allclose(roc_curve(labels, scores), (false_positive, true_positive), atol=1e-6)
    means, shares, counts = reliability_curve(labels, scores, bins=3)
    bins = [[i for i in range(40) if min(int(scores[i] * 3), 2) == k] for k in range(3)]
    filled = [members for members in bins if members]
    assert counts.tolist() == [len(members) for members in filled]
    np.testing.assert_allclose(means, [scores[members].mean() for members in filled])
    np.testing.assert_allclose(shares, [labels[members].mean() for members in filled])


@pytest.mark.parametrize("factor", [0.5, 1.5, 4.0, 100.0])
def test_temperature_is_the_best_of_a_fine_grid_between_1_and_10(factor: float) -> None:
    random = np.random.default_rng(8)
    logits = random.normal(0, 1.5, (300, 4))
    labels = (random.random((300, 4)) < 1 / (1 + np.exp(-logits))).astype(int)
    grid = np.geomspace(1, 10, 400)
    losses = [plain_loss(labels, 1 / (1 + np.exp(-factor * logits / t)), False) for t in grid]
    assert fit_temperature(labels, factor * logits) == pytest.approx(grid[np.argmin(losses)], rel=0.01)
