"""The validation split: both kinds of patients, none of the held-out fold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.cached_features import CachedFeatures
from model.training.validation import Validation, cached_loss, validation_split
from spine_etl.errors import FoldInvalid
from spine_etl.store import Store


def test_both_parts_have_both_kinds_of_patients(tiny_store: Store) -> None:
    train = np.flatnonzero(tiny_store.table["fold"] != 0)
    learning, validating = validation_split(tiny_store, train, 0.3)
    assert sorted([*learning, *validating]) == train.tolist()
    overall = tiny_store.table["patient_overall"]
    for part in (learning, validating):
        assert set(overall[part].tolist()) == {0, 1}
    assert len(validating) == 2


def test_training_folds_with_one_kind_of_patient_are_refused(tiny_store: Store) -> None:
    fractured = np.flatnonzero(tiny_store.table["patient_overall"] == 1)
    with pytest.raises(FoldInvalid, match="0 unfractured studies; at least two are needed"):
        validation_split(tiny_store, fractured, 0.3)


def test_set_aside_patients_are_spread_evenly_over_each_kind() -> None:
    """Of 10 fractured and 20 unfractured, 3 and 6: those in the middle of equal parts of their list."""
    overall = np.array([0, 0, 1] * 10)
    table: Any = SimpleNamespace(table={"patient_overall": np.concatenate([[0, 1], overall])})
    learning, validating = validation_split(table, np.arange(2, 32), 0.3)
    fractured, unfractured = 2 + np.flatnonzero(overall == 1), 2 + np.flatnonzero(overall == 0)
    expected = [*fractured[[1, 5, 8]], *unfractured[[1, 5, 8, 11, 15, 18]]]
    assert validating.tolist() == sorted(expected)
    assert learning.tolist() == sorted(set(range(2, 32)) - set(expected))


@given(
    overall=st.lists(st.sampled_from([0, 1, -1]), min_size=4, max_size=60),
    share=st.floats(0.01, 0.499),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_each_study_is_in_one_part_and_the_kinds_are_balanced_within_one(
    overall: list[int], share: float, seed: int
) -> None:
    """Of each kind at least one is set aside, else its share rounded; order and gaps of indices are kept."""
    labels = np.array([0, 0, 1, 1, *(max(label, 0) for label in overall)])
    studies = np.sort(np.random.default_rng(seed).choice(200, len(labels), replace=False))
    table = np.full(200, -1)
    table[studies] = labels
    store: Any = SimpleNamespace(table={"patient_overall": table})
    learning, validating = validation_split(store, studies, share)
    assert sorted([*learning.tolist(), *validating.tolist()]) == studies.tolist()
    assert learning.tolist() == sorted(learning.tolist())
    assert validating.tolist() == sorted(validating.tolist())
    for label in (0, 1):
        count, aside = (labels == label).sum(), (table[validating] == label).sum()
        assert 1 <= aside < count
        assert abs(aside - share * count) <= (0.5 if share * count >= 1 else 1)
        chosen = np.flatnonzero(np.isin(studies[labels == label], validating))
        ends = np.arange(1, aside + 1) * count / aside  # one in each of equal parts of the list
        assert ((chosen < ends) & (chosen + 1 > ends - count / aside)).all()


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(logits)) - labels * logits


def batch(random: np.random.Generator, studies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, located and logits of slices: (study, 2 levels, 3 slices)."""
    labels = random.integers(-1, 2, (studies, 2, 3)).astype(float)
    return labels, random.random((studies, 2)) > 0.3, random.normal(0, 2, (studies, 2, 3))


def test_slice_loss_is_the_mean_over_known_slices_of_located_levels() -> None:
    """Over all batches together, so a small batch counts less."""
    random = np.random.default_rng(0)
    batches = [batch(random, studies) for studies in (4, 4, 1)]
    given = [
        (None, SimpleNamespace(slices=torch.tensor(labels), located=torch.tensor(located)),
         SimpleNamespace(slices=torch.tensor(logits)))
        for labels, located, logits in batches
    ]  # fmt: skip
    predictor: Any = SimpleNamespace(logits=lambda studies: given)
    losses = [
        cross_entropy(logits, labels)[(labels >= 0) & located[..., None]]
        for labels, located, logits in batches
    ]
    found = Validation(predictor, np.arange(9)).slice_loss()
    assert found == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)


def weights(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Vertebrae weigh 1, fractured 2; patients 7, fractured 14."""
    patient = np.arange(labels.shape[1]) == labels.shape[1] - 1
    return np.where(patient, 7, 1) * (1 + labels) * known


def test_column_loss_leaves_out_what_is_not_located() -> None:
    random = np.random.default_rng(1)
    fracture, overall = random.integers(-1, 2, (5, 2)), random.integers(0, 2, 5)
    logits = random.normal(0, 2, (5, 3))
    logits[1, 0] = logits[3] = np.nan
    table = {"fracture": fracture, "patient_overall": overall}
    predictor: Any = SimpleNamespace(
        store=SimpleNamespace(table=table), column_logits=lambda studies: logits[studies]
    )
    chosen = np.array([1, 3, 4])
    labels = np.column_stack([fracture, overall])[chosen]
    known = (labels >= 0) & ~np.isnan(logits[chosen])
    weighed = weights(np.maximum(labels, 0), known)
    expected = (weighed * cross_entropy(np.nan_to_num(logits[chosen]), np.maximum(labels, 0))).sum()
    assert Validation(predictor, chosen).column_loss() == pytest.approx(expected / weighed.sum())


def test_cached_loss_is_that_of_eval_mode() -> None:
    random = np.random.default_rng(2)
    logits, labels, known = (
        random.normal(0, 2, (4, 3)),
        random.integers(0, 2, (4, 3)),
        random.random((4, 3)) > 0.3,
    )

    class Network(torch.nn.Module):
        """Its sequence head returns its features, in train mode zeros."""

        def sequence(self, features: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return features * (not self.training)

    nothing = torch.zeros(4)
    tensors = torch.tensor(logits), nothing, nothing, torch.tensor(labels, dtype=torch.float64)
    network: Any = Network().train()
    found = cached_loss(network, CachedFeatures(*tensors, torch.tensor(known)))
    weighed = weights(labels, known)
    assert found == pytest.approx((weighed * cross_entropy(logits, labels)).sum() / weighed.sum())
