"""The competition's loss, by hand and on the official labels, and AUROC against a count of pairs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from model.inference.metrics import auroc, constant_baselines, pooled_auroc, weighted_log_loss

COLUMNS = ("C1", "C2", "C3", "C4", "C5", "C6", "C7", "patient_overall")


@pytest.mark.real_data
def test_constants_on_the_official_labels(real_data: Path) -> None:
    with (real_data / "rsna2022" / "train.csv").open() as file:
        labels = np.array([[int(row[name]) for name in COLUMNS] for row in csv.DictReader(file)])
    assert labels.shape == (2019, 8)
    expected = {
        "half": (0.6931, 0.6931),
        "prevalence": (0.6127, 0.5638),
        "weighted_prevalence": (0.5668, 0.5757),
    }
    for name, constant in constant_baselines(labels).items():
        everywhere = np.broadcast_to(constant, labels.shape)
        found = tuple(round(weighted_log_loss(labels, everywhere, how), 4) for how in ("global", "per_study"))
        assert found == expected[name]


def test_weighted_log_loss_by_hand() -> None:
    labels = np.array([[0] * 6 + [1, 1], [0] * 8])
    probabilities = np.array([[0.5] * 6 + [0.25, 0.8], [0.5] * 7 + [0.1]])
    first = 6 * np.log(2) + 2 * np.log(4) - 14 * np.log(0.8)
    second = 7 * np.log(2) - 7 * np.log(0.9)
    assert weighted_log_loss(labels, probabilities) == pytest.approx((first + second) / (22 + 14))
    per_study = (first / 22 + second / 14) / 2
    assert weighted_log_loss(labels, probabilities, "per_study") == pytest.approx(per_study)


@pytest.mark.parametrize("convention", ["global", "per_study"])
def test_unknown_labels_are_ignored(convention: str) -> None:
    labels = np.array([[1, 0, 1], [0, -1, 0], [-1, -1, -1]])
    probabilities = np.array([[0.7, 0.2, 0.9], [0.1, np.nan, 0.3], [np.nan] * 3])
    without = weighted_log_loss(labels, probabilities, convention)
    assert without == weighted_log_loss(labels[:2], np.nan_to_num(probabilities[:2], nan=0.99), convention)


def test_certain_mistake_costs_a_finite_loss() -> None:
    loss = weighted_log_loss([[1, 1]], [[0.0, 0.0]])
    assert loss == pytest.approx(-np.log(1e-7))
    assert weighted_log_loss([[1, 1]], [[1.0, 1.0]]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([[1, 0]], [[0.5]]), ([[-1, -1]], [[0.5, 0.5]]), ([[1, 0]], [[1.5, 0.5]]), ([[1, 0]], [[np.nan, 0.5]])],
)
def test_invalid_scores_are_refused(labels: list[list[int]], probabilities: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        weighted_log_loss(labels, probabilities)


def test_weighted_prevalence_is_the_best_constant() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (50, 8))
    best = constant_baselines(labels)["weighted_prevalence"]
    least = weighted_log_loss(labels, np.broadcast_to(best, labels.shape))
    for column in range(8):
        for step in (-0.02, 0.02):
            other = best + step * (np.arange(8) == column)
            assert weighted_log_loss(labels, np.broadcast_to(other, labels.shape)) > least


def test_column_without_labels_gets_a_half() -> None:
    baselines = constant_baselines(np.array([[-1, 1], [-1, 0]]))
    assert baselines["prevalence"].tolist() == [0.5, 0.5]
    assert baselines["weighted_prevalence"].tolist() == pytest.approx([0.5, 2 / 3])


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(-1, 2, (60, 3))
    probabilities = random.random((60, 3)).round(1)  # with ties
    areas = auroc(labels, probabilities)
    for column in range(3):
        truth, scores = labels[:, column], probabilities[:, column]
        apart = scores[truth == 1][:, None] - scores[truth == 0][None, :]
        assert areas[column] == pytest.approx(((apart > 0) + 0.5 * (apart == 0)).mean())
    joined = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[0.9, 0.3, 0.1], [0.2, 0.4, 0.1]])
    assert pooled_auroc(*joined) == 1.0


def test_auroc_of_one_class_is_nan() -> None:
    assert np.isnan(auroc([[0, 1], [0, 0], [-1, 1]], [[0.1, 0.2], [0.3, 0.1], [0.9, 0.9]])[0])
    assert np.isnan(pooled_auroc([[0, 1]], [[0.1, 0.2]]))
