"""Local files that change while they are read, and their modification times."""

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
class ChangingFolder(LocalFolder):
    """A folder that changes right after it is listed."""

    change: Callable[[Path], object] = lambda path: None

    def files(self) -> list[LocalFile]:
        files = super().files()
        self.change(self.path)
        return files


@dataclass(frozen=True)
class ChangingFile(LocalFile):
    """A file that changes right after it is opened."""

    change: Callable[[Path], object] = lambda path: None

    def open(self):
        content = super().open()
        self.change(self.path)
        return content


@pytest.fixture
def study(phantom: Path, tmp_path: Path) -> Study:
    shutil.copytree(phantom, tmp_path / "source")
    return next(s for s in discover_studies(tmp_path / "source", list(RECIPE.levels)) if s.mask)


def slice_path(folder: Path) -> Path:
    return sorted(folder.glob("*.dcm"))[7]


def rewrite(folder: Path) -> None:
    """Change a voxel; the size stays, and the modification time advances by one nanosecond only."""
    path = slice_path(folder)
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace(folder: Path) -> None:
    """Rename another file of the same size and date over a slice, as rsync does."""
    path = slice_path(folder)
    shutil.copy2(path, path.with_name(".coming"))
    path.with_name(".coming").rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": rewrite,
    "replaced": replace,
    "grown": lambda folder: slice_path(folder).open("ab").write(b"\0"),
    "shrunk": lambda folder: os.truncate(slice_path(folder), 3000),
    "added": lambda folder: shutil.copy(slice_path(folder), folder / "new.dcm"),
    "deleted": lambda folder: slice_path(folder).unlink(),
    "folder deleted": shutil.rmtree,
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_series_that_changes_while_read_is_refused(study: Study, change: Callable[[Path], object]) -> None:
    with pytest.raises((SourceChanged, SourceNotFound)):
        read_series(ChangingFolder(study.folder.path, change=change))


def test_new_hidden_file_is_not_a_change(study: Study) -> None:
    expected = read_series(study.folder).source_digest
    quiet = ChangingFolder(study.folder.path, change=lambda folder: (folder / ".coming").write_bytes(b"part"))
    assert read_series(quiet).source_digest == expected


def test_damaged_slice_that_does_not_change_is_reported_as_damaged(study: Study) -> None:
    os.truncate(slice_path(study.folder.path), 3000)
    with pytest.raises(DicomUnreadable):
        read_series(study.folder)


def test_refusal_of_a_changing_study_is_transient(study: Study, tmp_path: Path) -> None:
    changing = Study(study.uid, ChangingFolder(study.folder.path, change=rewrite), study.mask)
    record = process_study(changing, StoreWriter(tmp_path / "store", RECIPE))
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.transient) == ("SOURCE_CHANGED", True)


def test_segmentation_that_changes_while_read_is_refused(study: Study) -> None:
    assert study.mask
    path = study.mask.path

    def truncate(path: Path) -> None:
        os.truncate(path, path.stat().st_size - 100)

    with pytest.raises(SourceChanged):
        read_label_map(ChangingFile(str(path), change=truncate))
    with pytest.raises(MaskUnreadable):
        read_label_map(path)


def test_files_and_folders_behind_links_are_listed(tmp_path: Path) -> None:
    """A broken link is a file that cannot be read, so that it is not left out without an error."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "root").mkdir()
    for name in ("folder", "file", "nothing"):
        (tmp_path / "root" / f"link to {name}").symlink_to(tmp_path / name)
    root = LocalFolder(tmp_path / "root")
    files = {file.name: file for file in root.files()}
    assert sorted(files) == ["link to file", "link to nothing"]
    assert [folder.name for folder in root.folders()] == ["link to folder"]
    with files["link to file"].open() as content:
        assert content.read() == b"content"
    with pytest.raises(FileNotFoundError):
        files["link to nothing"].open()


def test_modification_time_that_is_reached_counts(tmp_path: Path) -> None:
    """A date in the future says nothing about the copy; once it has passed it is a change like any other."""
    (tmp_path / "file").write_bytes(b"")
    future = time.time() + 1
    os.utime(tmp_path / "file", (future, future))
    file = LocalFile(str(tmp_path / "file"))
    changed = file.modified_at()
    if time.time() < future:  # always, unless the machine is very busy
        assert changed == (tmp_path / "file").stat().st_ctime < future
    time.sleep(max(0, future - time.time()) + 0.01)
    assert file.modified_at() == pytest.approx(future, abs=1e-6)


def test_copy_with_preserved_dates_counts_as_modified_when_copied(study: Study) -> None:
    start = time.time() - 1  # the clock of a file system is coarse
    for path in [study.folder.path, *study.folder.path.iterdir()]:
        os.utime(path, (0, 0))
    assert start < study.folder.modified_at() <= time.time()
    assert start < LocalFile(str(slice_path(study.folder.path))).modified_at() <= time.time()


def test_modification_time_in_the_future_is_ignored(study: Study) -> None:
    os.utime(slice_path(study.folder.path), (2e9 * 2, 2e9 * 2))
    assert study.folder.modified_at() <= time.time()


def test_modification_time_of_a_folder_is_its_newest_change(study: Study) -> None:
    before = study.folder.modified_at()
    time.sleep(0.05)
    (study.folder.path / ".1.dcm.Xy3").write_bytes(b"partial")
    assert study.folder.modified_at() > before
    before = study.folder.modified_at()
    time.sleep(0.05)
    slice_path(study.folder.path).unlink()
    assert study.folder.modified_at() > before
