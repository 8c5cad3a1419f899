"""Sums and weights of the losses, against the metric and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.losses import column_term, slice_term
from model.metrics import weighted_log_loss


def test_the_column_loss_is_the_metric() -> None:
    random = np.random.default_rng(0)
    labels, logits = random.integers(-1, 2, (9, 8)), random.normal(0, 2, (9, 8))
    total, weight, factor = column_term(
        torch.tensor(logits),
        torch.tensor(np.maximum(labels, 0), dtype=torch.float64),
        torch.tensor(labels >= 0),
    )
    expected = weighted_log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert float(factor * total / weight) == pytest.approx(expected, rel=1e-6)


def test_parts_of_a_batch_add_up() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.randint(0, 2, (6, 3)).float()
    known = torch.rand(6, 3) > 0.3
    whole = column_term(logits, labels, known)
    halves = [column_term(logits[part], labels[part], known[part]) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(halves[0].total + halves[1].total, whole.total)
    torch.testing.assert_close(halves[0].weight + halves[1].weight, whole.weight)


def test_unknown_slices_take_no_part() -> None:
    logits = torch.tensor([[0.0, 3.0, -1.0]], requires_grad=True)
    total, weight, _ = slice_term(logits, torch.tensor([[1.0, -1.0, 0.0]]))
    assert float(total.detach()) == pytest.approx(np.log(2) + np.log1p(np.exp(-1)))
    assert float(weight) == 2
    total.backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 1]) == 0
    assert (logits.grad[0, [0, 2]] != 0).all()
