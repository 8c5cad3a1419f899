"""Sums and weights of the losses, against the metric and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.inference.metrics import weighted_log_loss
from model.training.losses import column_term, evidence_term, slice_term


def test_column_loss_equals_the_metric() -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(-1, 2, (9, 8)), random.normal(0, 2, (9, 8))
    total, weight, factor = column_term(
        torch.tensor(logits),
        torch.tensor(np.maximum(labels, 0), dtype=torch.float64),
        torch.tensor(labels >= 0),
    )
    expected = weighted_log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert float(factor * total / weight) == pytest.approx(expected, rel=1e-6)


def test_sums_of_partial_batches_add_up() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float()
    known = torch.rand(6, 3) > 0.3
    whole = column_term(logits, labels, known)
    halves = [column_term(logits[part], labels[part], known[part]) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(halves[0].total + halves[1].total, whole.total)
    torch.testing.assert_close(halves[0].weight + halves[1].weight, whole.weight)


def test_evidence_is_raised_inside_the_box_and_lowered_outside() -> None:
    evidence = torch.tensor([[[2.0, -1.0], [0.5, -3.0]]]).repeat(4, 1, 1).requires_grad_()
    box_masks = torch.zeros(4, 4, 4, dtype=torch.uint8)
    box_masks[0, 0, 3] = 1  # in the map's pixel (0, 1)
    box_masks[2] = 1
    labels = torch.tensor([1.0, 0.0, -1.0, 1.0])  # no box of the last slice is visible
    total, weight, _ = evidence_term(evidence, labels, box_masks)
    fractured = np.log1p(np.exp(1.0)) + np.log1p(np.exp(2.0))  # -1 inside the box, 2 outside
    assert float(total.detach()) == pytest.approx(fractured + np.log1p(np.exp(2.0)))
    assert float(weight) == 2
    total.backward()
    assert evidence.grad is not None
    assert evidence.grad[0, 0, 1] < 0  # raised by gradient descent
    assert evidence.grad[0, 0, 0] > 0
    assert evidence.grad[1, 0, 0] > 0
    assert not evidence.grad[2:].any()


def test_box_that_fills_the_slice_leaves_no_outside() -> None:
    box_masks = torch.ones(1, 8, 8, dtype=torch.uint8)
    total, weight, _ = evidence_term(torch.full((1, 2, 2), 1.5), torch.ones(1), box_masks)
    assert float(total) == pytest.approx(np.log1p(np.exp(-1.5)))
    assert float(weight) == 1


def test_unknown_slices_are_ignored() -> None:
    logits = torch.tensor([[0.0, 3.0, -1.0]], requires_grad=True)
    total, weight, _ = slice_term(logits, torch.tensor([[1.0, -1.0, 0.0]]))
    assert float(total.detach()) == pytest.approx(np.log(2) + np.log1p(np.exp(-1)))
    assert float(weight) == 2
    total.backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 1]) == 0
    assert (logits.grad[0, [0, 2]] != 0).all()


def softplus(values: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(values))) + np.maximum(values, 0)


def test_column_loss_in_numpy() -> None:
    """Vertebrae weigh 1, fractured 2; patients 7, fractured 14; a mixed label weighs in between."""
    random = np.random.default_rng(1)
    logits, known = random.normal(0, 3, (6, 8)), random.random((6, 8)) > 0.2
    labels = random.choice([0.0, 1.0, 0.25], (6, 8))
    weights = np.array([1, 1, 1, 1, 1, 1, 1, 7]) * (1 + labels) * known
    losses = weights * (labels * softplus(-logits) + (1 - labels) * softplus(logits))
    total, weight, factor = column_term(torch.tensor(logits), torch.tensor(labels), torch.tensor(known))
    assert (float(total), float(weight)) == pytest.approx((losses.sum(), weights.sum()))
    assert factor == 1.0


@pytest.mark.parametrize("column", [0, 6, 7])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_weight_of_each_label(column: int, label: float) -> None:
    labels, known = torch.zeros(1, 8), torch.zeros(1, 8, dtype=torch.bool)
    labels[0, column], known[0, column] = label, True
    total, weight, _ = column_term(torch.zeros(1, 8), labels, known)
    expected = {(6, 0.0): 1, (6, 1.0): 2, (0, 0.0): 1, (0, 1.0): 2, (7, 0.0): 7, (7, 1.0): 14}[column, label]
    assert float(weight) == expected
    assert float(total) == pytest.approx(expected * np.log(2))


def test_slice_loss_in_numpy() -> None:
    random = np.random.default_rng(2)
    logits, labels = random.normal(0, 3, (3, 4, 5)), random.choice([-1.0, 0.0, 1.0, 0.4], (3, 4, 5))
    losses = np.where(labels >= 0, labels * softplus(-logits) + (1 - labels) * softplus(logits), 0)
    total, weight, factor = slice_term(torch.tensor(logits), torch.tensor(labels), 0.5)
    assert float(total) == pytest.approx(losses.sum())
    assert (float(weight), factor) == ((labels >= 0).sum(), 0.5)


def test_evidence_loss_in_numpy() -> None:
    random = np.random.default_rng(3)
    evidence, labels = random.normal(0, 3, (40, 3, 4)), random.choice([-1.0, 0.0, 1.0], 40)
    marks = (random.random((40, 6, 8)) > 0.9) & (random.random((40, 1, 1)) > 0.3)
    total, count = 0.0, 0
    for values, label, marked in zip(evidence, labels, marks, strict=True):
        inside = marked.reshape(3, 2, 4, 2).any(axis=(1, 3))  # two by two of its pixels are one of the map
        if label == 1 and inside.any():
            total += softplus(-values[inside].max()) + softplus(values[~inside].max())
            count += 1
        elif label == 0:
            total += softplus(values[~inside].max())
            count += 1
    term = evidence_term(torch.tensor(evidence), torch.tensor(labels), torch.tensor(marks))
    assert float(term.total) == pytest.approx(total)
    assert float(term.weight) == count
