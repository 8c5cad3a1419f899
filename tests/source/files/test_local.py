"""Files of this machine that change while they are read, and when they last did."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spine_etl.dicom import read_series
from spine_etl.errors import DicomUnreadable, MaskUnreadable, SourceChanged, SourceNotFound
from spine_etl.nifti import read_label_map
from spine_etl.pipeline import process_study
from spine_etl.recipe import load_recipe
from spine_etl.source.files import LocalFile, LocalFolder
from spine_etl.source.layout import Study, discover_studies
from spine_etl.store.writer import StoreWriter

RECIPE = load_recipe("quick")


@dataclass(frozen=True)
class Busy(LocalFolder):
    """A folder that somebody writes to, right after it was listed."""

    meddle: Callable[[Path], object] = lambda path: None

    def files(self) -> list[LocalFile]:
        found = super().files()
        self.meddle(self.path)
        return found


@dataclass(frozen=True)
class BusyFile(LocalFile):
    """A file that somebody writes to, right after it was opened."""

    meddle: Callable[[Path], object] = lambda path: None

    def open(self):
        content = super().open()
        self.meddle(self.path)
        return content


@pytest.fixture
def study(phantom: Path, tmp_path: Path) -> Study:
    shutil.copytree(phantom, tmp_path / "source")
    return next(s for s in discover_studies(tmp_path / "source", list(RECIPE.levels)) if s.mask)


def a_slice(folder: Path) -> Path:
    return sorted(folder.glob("*.dcm"))[7]


def rewrite(folder: Path) -> None:
    """The same size, other voxels, and the date put back to the next nanosecond."""
    path = a_slice(folder)
    seen, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))


def replace(folder: Path) -> None:
    """Another file of the same size and date under its name, as rsync puts it there."""
    path = a_slice(folder)
    shutil.copy2(path, path.with_name(".coming"))
    path.with_name(".coming").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": rewrite,
    "replaced": replace,
    "grown": lambda folder: a_slice(folder).open("ab").write(b"\0"),
    "shrunk": lambda folder: os.truncate(a_slice(folder), 3000),
    "added": lambda folder: shutil.copy(a_slice(folder), folder / "new.dcm"),
    "gone": lambda folder: a_slice(folder).unlink(),
    "all gone": shutil.rmtree,
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_series_that_changes_is_no_mixture(study: Study, change: Callable[[Path], object]) -> None:
    with pytest.raises((SourceChanged, SourceNotFound)):
        read_series(Busy(study.folder.path, meddle=change))


def test_what_does_not_matter_changes_nothing(study: Study) -> None:
    expected = read_series(study.folder).source_digest
    quiet = Busy(study.folder.path, meddle=lambda folder: (folder / ".coming").write_bytes(b"part"))
    assert read_series(quiet).source_digest == expected


def test_a_slice_that_was_damaged_all_along_is_called_so(study: Study) -> None:
    os.truncate(a_slice(study.folder.path), 3000)
    with pytest.raises(DicomUnreadable):
        read_series(study.folder)


def test_a_changing_study_is_tried_again(study: Study, tmp_path: Path) -> None:
    busy = Study(study.uid, Busy(study.folder.path, meddle=rewrite), study.mask)
    record = process_study(busy, StoreWriter(tmp_path / "store", RECIPE))
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == ("SOURCE_CHANGED", True)


def test_a_segmentation_that_changes(study: Study) -> None:
    assert study.mask
    path = study.mask.path

    def cut(path: Path) -> None:
        os.truncate(path, path.stat().st_size - 100)

    with pytest.raises(SourceChanged):
        read_label_map(BusyFile(str(path), meddle=cut))
    with pytest.raises(MaskUnreadable):
        read_label_map(path)


def test_a_date_that_was_kept_hides_no_copy(study: Study) -> None:
    began = time.time() - 1  # file systems' clocks tick coarsely
    for path in [study.folder.path, *study.folder.path.iterdir()]:
        os.utime(path, (0, 0))
    assert began < study.folder.modified_at() <= time.time()
    assert began < LocalFile(str(a_slice(study.folder.path))).modified_at() <= time.time()


def test_a_date_that_is_yet_to_come_says_nothing(study: Study) -> None:
    os.utime(a_slice(study.folder.path), (2e9 * 2, 2e9 * 2))
    assert study.folder.modified_at() <= time.time()


def test_the_newest_change_is_that_of_any_file(study: Study) -> None:
    before = study.folder.modified_at()
    time.sleep(0.05)
    (study.folder.path / ".1.dcm.Xy3").write_bytes(b"on its way")
    assert study.folder.modified_at() > before
    before = study.folder.modified_at()
    time.sleep(0.05)
    a_slice(study.folder.path).unlink()
    assert study.folder.modified_at() > before
