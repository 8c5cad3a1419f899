"""The table of levels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from model.localizer.localizer import Localizer
from model.localizer.table import write_table
from spine_etl.store import Store
from tests.model.localizer.untrained import save_untrained_fold


def test_table_lists_studies_without_a_segmentation_only(
    tmp_path: Path, build_store: Callable[..., Store]
) -> None:
    store = build_store(tmp_path / "store", 3, {1: {"mask_source": "none"}})
    save_untrained_fold(tmp_path / "run", store.recipe)
    out = tmp_path / "table.csv"
    write_table(out, Localizer(tmp_path / "run"), store)
    lines = out.read_text().splitlines()
    assert lines[0] == "study_uid,level,L_mm,P_mm,S_mm,confidence"
    assert {line.split(",")[0] for line in lines[1:]} <= {"1.001"}
