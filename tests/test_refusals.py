"""What `process_study` records of a study that cannot be used, and which errors stop the build instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from spine_etl.errors import (
    DicomUnreadable,
    SliceGap,
    SourceChanged,
    SourceUnreachable,
    StoreWriteFailed,
    TableInvalid,
)
from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study
from spine_etl.source.files import LocalFile, LocalFolder
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store import open_store
from spine_etl.store.writer import StoreWriter
from tests.row_digests import RECIPE


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    source = tmp_path_factory.mktemp("source")
    write_phantom(source, 1, 5, size=64, slices=24, masked_share=1.0)
    return discover_studies(source, list(RECIPE.levels))[0]


@dataclass(frozen=True)
class BrokenFolder(LocalFolder):
    """A folder whose listing raises ``error``."""

    error: Exception

    def files(self) -> list[LocalFile]:
        raise self.error


def broken(study: Study, error: Exception) -> Study:
    assert isinstance(study.folder, LocalFolder)
    return replace(study, folder=BrokenFolder(study.folder.path, error))


@pytest.mark.parametrize(
    ("error", "code", "transient"),
    [
        (SourceChanged("a slice."), "SOURCE_CHANGED", True),
        (SourceUnreachable("a server."), "SOURCE_UNREACHABLE", True),
        (DicomUnreadable("a slice."), "DICOM_UNREADABLE", False),
        (SliceGap("a gap."), "SLICE_GAP", False),
        (RuntimeError("DOE^JANE"), "UNEXPECTED", True),
        (MemoryError("DOE^JANE"), "UNEXPECTED", True),
        (KeyError("DOE^JANE"), "UNEXPECTED", True),
    ],
)
def test_refusal_is_transient_if_the_next_build_can_succeed(
    study: Study, tmp_path: Path, error: Exception, code: str, transient: bool
) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    record = process_study(broken(study, error), writer)
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == (code, transient)
    assert record.source_digest == ""  # it cannot be computed, and no later digest equals it
    assert (record.row, record.objects) == (None, {})
    assert writer.record(study.uid) == record
    assert "DOE" not in (tmp_path / "studies" / study.uid / "record.json").read_text()
    assert not (tmp_path / "image/c").exists()


def test_problem_with_a_table_is_permanent(study: Study, tmp_path: Path) -> None:
    problem = TableInvalid("train.csv line 3: C2 is neither 0 nor 1.", study=study.uid)
    record = process_study(replace(study, problem=problem), StoreWriter(tmp_path, RECIPE))
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == ("TABLE_INVALID", False)
    assert record.refusal.reason == "train.csv line 3: C2 is neither 0 nor 1."
    assert len(record.source_digest) == 64


def test_store_that_cannot_be_written_stops_the_build(study: Study, tmp_path: Path) -> None:
    """It is not the study's fault, so the study is not refused."""
    writer = StoreWriter(tmp_path, RECIPE)
    (tmp_path / "mask/c").write_bytes(b"")
    with pytest.raises(StoreWriteFailed, match="mask/c/0/0/0/0/0 cannot be written"):
        process_study(study, writer)
    assert writer.record(study.uid) is None


def test_study_that_fails_once_is_there_after_the_next_build(study: Study, tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    failed = process_study(broken(study, RuntimeError()), writer, 2)
    assert [entry["code"] for entry in writer.commit([failed]).refused] == ["UNEXPECTED"]
    built = process_study(study, writer, 2)
    writer.commit([built])
    again = process_study(broken(study, SourceUnreachable("a server.")), writer, 2)
    store = writer.commit([again])
    assert (store.study_uids, store.refused) == ([study.uid], [])
    assert open_store(tmp_path).table["row"].tolist() == [built.row] == [2]
    assert np.count_nonzero(open_store(tmp_path).mask(0)) > 0
