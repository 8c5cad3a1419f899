"""``show``: the pictures it writes for sources, archives and stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import run, study_uids


def test_source_and_store_are_drawn(
    source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = study_uids(source)[0]
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path, "--window", "header") == 0
    assert run("show", "--store", store, "--study", uid, "--out", tmp_path, "--window", "soft") == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(map(str, tmp_path.iterdir()))
    endings = {Path(name).name.removeprefix(uid) for name in printed}
    assert {"_slices.png", "_reslices.png", "_crops.png", "_overview.png"} <= endings


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_archive_gives_the_same_pictures_as_its_folder(source: Path, tmp_path: Path) -> None:
    uid = study_uids(source)[0]
    archive = shutil.make_archive(str(tmp_path / "source"), "zip", source)
    assert run("show", "--source", archive, "--study", uid, "--out", tmp_path / "archive") == 0
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path / "folder") == 0
    assert pictures(tmp_path / "archive") == pictures(tmp_path / "folder")
    assert pictures(tmp_path / "folder")


def test_recipe_is_rsna2022_by_default(source: Path, tmp_path: Path) -> None:
    uid = study_uids(source)[0]
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path / "default") == 0
    named = ("--recipe", "rsna2022")
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path / "named", *named) == 0
    assert pictures(tmp_path / "default") == pictures(tmp_path / "named")


def test_absent_study_and_absent_slice_are_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("show", "--source", source, "--out", tmp_path)
    assert run(*options, "--study", "9.9") == 1
    assert "contains no study 9.9" in capsys.readouterr().err
    assert run(*options, "--study", study_uids(source)[0], "--start", 9999) == 1
    assert "[SOURCE_NOT_FOUND] there is no slice 9999" in capsys.readouterr().err


@pytest.mark.real_data
def test_head_with_gantry_tilt_is_drawn(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "1.2.3").symlink_to((real_data / "ct_head_gantry_tilt").resolve())
    assert run("show", "--source", tmp_path, "--study", "1.2.3", "--out", tmp_path / "pictures") == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2
