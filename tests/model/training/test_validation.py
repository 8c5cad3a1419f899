"""The validation split: both kinds of patients, none of the held-out fold."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.validation import validation_split
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
