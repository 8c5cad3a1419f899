"""ROC and reliability curves, by hand and against a count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.inference.curves import draw_curves, reliability_curve, roc_curve


def test_roc_curve_by_hand() -> None:
    false_positive, true_positive = roc_curve([1, 0, 1, 0], [0.9, 0.8, 0.8, 0.1])
    assert false_positive.tolist() == [0, 0, 0.5, 1]
    assert true_positive.tolist() == [0, 0.5, 1, 1]


def test_roc_curve_counts_the_labels_above_each_threshold() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 200), random.random(200).round(2)
    scores[:2] = 0.5, 0.5 + 1e-12  # one number in float32
    false_positive, true_positive = roc_curve(labels, scores)
    thresholds = [np.inf, *np.unique(scores)[::-1]]
    assert false_positive == pytest.approx([(scores[labels == 0] >= t).mean() for t in thresholds])
    assert true_positive == pytest.approx([(scores[labels == 1] >= t).mean() for t in thresholds])


def test_reliability_curve_by_hand() -> None:
    predicted, observed, count = reliability_curve([1, 0, 1, 1], [0.05, 0.08, 0.55, 1.0])
    assert predicted.tolist() == pytest.approx([0.065, 0.55, 1.0])
    assert observed.tolist() == [0.5, 1, 1]
    assert count.tolist() == [2, 1, 1]


def test_columns_with_one_kind_of_label_have_no_roc_curve(tmp_path: Path) -> None:
    labels = np.array([[0, -1, 0], [0, -1, 0]])
    for path in draw_curves(labels, np.full((2, 3), 0.2), ["C1", "C2", "patient_overall"], tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
