"""A plan without pending studies, which is committed without Prefect and Dask."""

from __future__ import annotations

from pathlib import Path

from flows.building.execute import execute
from flows.building.plan import plan_build
from flows.building.request import BuildRequest
from spine_etl.source.layout import discover_studies
from spine_etl.store import open_store
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from tests.flows.building.tiny_source import Content, refused, stored, write_source
from tests.store.tiny import RECIPE


def test_records_of_a_killed_build_are_committed(tmp_path: Path) -> None:
    write_source(tmp_path / "source", {"1.1": Content(), "1.2": Content(), "1.3": Content()})
    writer = StoreWriter(tmp_path / "store", RECIPE)
    first, second, third = discover_studies(tmp_path / "source", ["C1", "C2"])
    for record in (stored(first, 4), stored(second, 0), refused(third)):
        writer.write_record(record)
    reported: list[Record] = []
    request = BuildRequest(str(tmp_path / "source"), str(tmp_path / "store"), RECIPE)
    plan = plan_build(request)
    assert plan.first_row == 5
    summary = execute(plan, reported.append)
    assert reported == []  # nothing was processed
    assert (summary.processed, summary.unchanged, summary.refused, summary.version) == (0, 2, 1, 1)
    version = open_store(tmp_path / "store")
    assert (version.study_uids, version.table["row"].tolist()) == (["1.1", "1.2"], [4, 0])
    assert [entry["uid"] for entry in version.refused] == ["1.3"]
    assert summary.root_digest == version.root_digest
