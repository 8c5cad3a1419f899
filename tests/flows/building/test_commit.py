"""The summary of a build."""

from __future__ import annotations

from pathlib import Path

from flows.building.commit import commit
from flows.building.plan import Plan
from flows.building.request import BuildRequest
from spine_etl.errors import SliceGap
from spine_etl.recipe import load_recipe
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, refused_record, write_study


def test_studies_are_counted_once(tmp_path: Path) -> None:
    recipe = load_recipe("quick")
    request = BuildRequest("source", str(tmp_path / "store"), recipe)
    writer = StoreWriter(request.store, recipe)
    refused, earlier = (
        Record.refused(uid, recipe.fingerprint, "", SliceGap("2 slices are missing."))
        for uid in ("1.1", "1.2")
    )
    plan = Plan(request, writer, finished=[earlier], without_images=["1.3"])
    summary = commit(plan, [refused])
    assert (summary.processed, summary.unchanged, summary.refused, summary.version) == (0, 0, 2, 1)
    assert [refusal["uid"] for refusal in summary.refusals] == ["1.1", "1.2"]
    assert summary.refusals[0]["code"] == "SLICE_GAP"
    assert summary.without_images == ["1.3"]
    assert summary.store == str(tmp_path / "store")


def test_table_of_folds_is_compared_with_the_version(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", RECIPE)
    request = BuildRequest("source", str(tmp_path / "store"), RECIPE)
    records = [write_study(writer, "1.1", 1), write_study(writer, "1.2", 2), refused_record("1.3")]
    plan = Plan(request, writer, folds={"1.2": 1, "1.3": 0, "1.4": 0, "1.5": 0})
    summary = commit(plan, records)
    assert summary.folds_without_study == ["1.4", "1.5"]
    assert summary.studies_without_fold == ["1.1"]
    without = commit(Plan(request, writer), records)
    assert (without.version, without.folds_without_study, without.studies_without_fold) == (1, [], [])
