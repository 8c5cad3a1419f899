"""Building a dataset of which only some studies are segmented, as users do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spine_etl.phantom import write_phantom
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.schema import MASK_SOURCE
from tests.flows.commands import run

pytestmark = pytest.mark.integration


def bootstrap(source: Path, store: Path, localizer: Path) -> tuple[int, dict[str, Any], str]:
    options = ("--store", store, "--localizer", localizer, "--workers", "2", "--epochs", "1")
    return run("bootstrap", source, *options)


def test_all_studies_are_localized_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    source, store, localizer = tmp_path / "source", tmp_path / "store", tmp_path / "localizer"
    truths = write_phantom(source, 6, 3, size=64, slices=48, masked_share=0.6)
    masked = [truth.uid for truth in truths if truth.has_mask]
    code, line, stderr = bootstrap(source, store, localizer)
    assert code == 0, stderr
    built = open_store(store)
    assert (line["version"], line["processed"], line["unchanged"]) == (2, 6 - len(masked), len(masked))
    sources = dict(zip(built.study_uids, built.table["mask_source"].tolist(), strict=True))
    for uid, code in sources.items():
        assert MASK_SOURCE[code] == ("given" if uid in masked else "predicted")
    assert list(check_store(built)) == []
    # The first version, committed before the localizer was trained, is unchanged.
    first = open_store(store, version=1)
    assert len(first) == 6
    located = dict(zip(first.study_uids, first.located().any(axis=1).tolist(), strict=True))
    assert located == {truth.uid: truth.uid in masked for truth in truths}
    given = [built.index(uid) for uid in masked]
    np.testing.assert_array_equal(
        built.table["crop_origin_mm"][given], first.table["crop_origin_mm"][[first.index(u) for u in masked]]
    )
    code, line, stderr = bootstrap(source, store, localizer)
    assert (code, line["processed"], line["unchanged"]) == (0, 0, 6)
    assert line["root_digest"] == built.root_digest
    assert "Training" not in stderr


def test_too_few_segmentations_are_an_error(tmp_path: Path) -> None:
    write_phantom(tmp_path / "source", 2, 3, size=64, slices=48, masked_share=0.5)
    code, line, _ = bootstrap(tmp_path / "source", tmp_path / "store", tmp_path / "localizer")
    assert code == 1
    assert line["error"]["code"] == "FOLD_INVALID"
