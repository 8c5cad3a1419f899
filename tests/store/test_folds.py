"""Folds against a greedy assignment in plain Python, and updated tables against dicts."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.store.record import Record
from spine_etl.store.table import table_from_records
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import BOX, RECIPE, no_objects, refused_record

LEVELS = list(RECIPE.levels)
UNKNOWN = -1
UIDS = [f"1.{number}" for number in (1, 2, 9, 10, 11, 100)]  # "1.10" comes before "1.2"
Version = dict[str, tuple[int, int, tuple[int, ...]]]
"""Row, label and slice numbers of the boxes of each study."""


def record(uid: str, row: int, label: int, boxes: tuple[int, ...] = ()) -> Record:
    return Record.model_validate(
        {
            "uid": uid,
            "fingerprint": RECIPE.fingerprint,
            "source_digest": "0" * 64,
            "row": row,
            "objects": no_objects(),
            "levels": {level: {"status": "unlocated"} for level in LEVELS},
            "fracture": {} if label == UNKNOWN else {"patient_overall": label},
            "boxes": [BOX.model_copy(update={"slice_number": number}) for number in boxes],
        }
    )


def assign(labels: dict[str, int], kept: dict[str, int], folds: int) -> dict[str, int]:
    """Folds by UID: in the order of the UIDs, each new study joins the fold with the fewest of its label.

    Of several such folds it is the smallest one, and of these the one with the lowest number.
    """
    assigned = {uid: fold for uid, fold in kept.items() if uid in labels}
    for uid in sorted(set(labels) - set(assigned)):
        same_label = Counter(fold for other, fold in assigned.items() if labels[other] == labels[uid])
        all_labels = Counter(assigned.values())
        sizes = [(same_label[fold], all_labels[fold], fold) for fold in range(folds)]
        assigned[uid] = sorted(sizes)[0][2]
    return assigned


steps = st.lists(
    st.tuples(
        st.dictionaries(
            st.sampled_from(UIDS),
            st.tuples(
                st.integers(0, 2**31 - 1),
                st.sampled_from([UNKNOWN, 0, 1]),
                st.lists(st.integers(0, 2**31 - 1), max_size=2).map(tuple),
            ),
        ),
        st.sets(st.sampled_from(UIDS), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


def check_updates(steps: list[tuple[Version, set[str]]], folds: int) -> None:
    """Remove studies, then add or replace some, several times; folds outlive a removal."""
    table = table_from_records([], RECIPE)
    studies: Version = {}
    past: dict[str, int] = {}
    for newer, removed in steps:
        records = [record(uid, *newer[uid]) for uid in sorted(newer, reverse=True)]
        table = table.without(removed).updated(table_from_records(records, RECIPE), past, folds)
        studies = {uid: study for uid, study in studies.items() if uid not in removed} | newer
        expected = assign({uid: label for uid, (_, label, _) in studies.items()}, past, folds)
        past |= expected
        uids = sorted(studies)
        assert table.study_uids == uids
        assert table["row"].tolist() == [studies[uid][0] for uid in uids]
        assert table["patient_overall"].tolist() == [studies[uid][1] for uid in uids]
        assert table["fold"].tolist() == [expected[uid] for uid in uids]
        boxes = [(uid, number) for uid in uids for number in studies[uid][2]]
        owners = [uids[study] for study in table["box_study"].tolist()]
        assert list(zip(owners, table["box_slice_number"].tolist(), strict=True)) == boxes
        assert table.rows == max((study[0] + 1 for study in studies.values()), default=0)


@given(steps=steps, folds=st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_updated_tables_are_those_of_dicts(steps: list[tuple[Version, set[str]]], folds: int) -> None:
    check_updates(steps, folds)


@pytest.mark.soak
@given(steps=steps, folds=st.integers(2, 6))
@settings(max_examples=5000, deadline=None)
def test_many_updated_tables_are_those_of_dicts(steps: list[tuple[Version, set[str]]], folds: int) -> None:
    check_updates(steps, folds)


@pytest.mark.parametrize(
    ("labels", "kept", "expected"),
    [
        ([0, 0, 0, 0], {}, [0, 1, 2, 0]),
        ([1, 0, 1, 0], {}, [0, 1, 2, 0]),  # the first 0 avoids fold 0, which is larger, and so on
        ([UNKNOWN, 1, 0], {}, [0, 1, 2]),  # unknown is a label of its own
        ([UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN], {}, [0, 1, 2, 0]),
        ([0, 0, 0], {0: 2}, [2, 0, 1]),
        ([0, 1, 0], {0: 0, 1: 0}, [0, 0, 1]),
        ([1, 0, 0, 1], {0: 1, 1: 1, 2: 2}, [1, 1, 2, 0]),  # fold 0 has no 1 and is the smallest
        ([1, 1, 0, 0, 1], {0: 0, 1: 1, 2: 2, 3: 2}, [0, 1, 2, 2, 2]),  # the largest, but it has no 1
    ],
)
def test_fold_under_ties(labels: list[int], kept: dict[int, int], expected: list[int]) -> None:
    records = [record(f"1.{index}", index, label) for index, label in enumerate(labels)]
    past = {f"1.{index}": fold for index, fold in kept.items()}
    table = table_from_records([], RECIPE).updated(table_from_records(records, RECIPE), past, 3)
    assert table["fold"].tolist() == expected
    assert table["fold"].dtype == np.int16


def test_order_of_the_records_changes_nothing(tmp_path: Path) -> None:
    """Workers finish in any order. Ties are resolved by UID, so folds and digest are the same."""
    labels = {"1.1": 1, "1.10": UNKNOWN, "1.2": 0, "1.9": 1}
    records = [record(uid, row, label, (row,)) for row, (uid, label) in enumerate(labels.items())]
    versions = []
    for number, order in enumerate(list(permutations([*records, refused_record("1.5")]))[::17]):
        writer = StoreWriter(tmp_path / str(number), RECIPE)
        versions.append(writer.commit(order))
    assert len({version.root_digest for version in versions}) == 1
    for version in versions:
        assert version.study_uids == ["1.1", "1.10", "1.2", "1.9"]
        assert version.table["fold"].tolist() == [0, 1, 2, 3]


def test_a_study_without_a_label_takes_the_fold_of_unknown_ones(tmp_path: Path) -> None:
    """Once its label is known it keeps its fold, and counts for the others with its new label."""
    writer = StoreWriter(tmp_path / "store", RECIPE.model_copy(update={"folds": 2}))
    first = writer.commit([record("1.1", 0, UNKNOWN), record("1.2", 1, UNKNOWN), record("1.3", 2, 1)])
    assert first.table["fold"].tolist() == [0, 1, 0]
    second = writer.commit([record("1.2", 1, 1), record("1.4", 3, 1), record("1.5", 4, UNKNOWN)])
    assert second.table["patient_overall"].tolist() == [-1, 1, 1, 1, -1]
    # Label 1 is in both folds once, and so are all studies but one: 1.4 joins the smaller fold 1.
    assert second.table["fold"].tolist() == [0, 1, 0, 1, 1]
