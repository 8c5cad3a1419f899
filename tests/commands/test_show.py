"""``show``: the pictures it writes for sources, archives and stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from spine_etl import open_store
from spine_etl.report.pictures import draw_stored
from spine_etl.windows import Window
from tests.commands.conftest import run, study_uids
from tests.tiny_series import HEAD_TO_FOOT, write_series


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


def test_external_mask_is_drawn_like_the_study_own(source: Path, tmp_path: Path) -> None:
    uid = study_uids(source)[0]
    copy = tmp_path / "source"
    shutil.copytree(source, copy)
    (tmp_path / "masks").mkdir()
    (copy / "segmentations" / f"{uid}.nii").rename(tmp_path / "masks" / f"{uid}_seg.nii")
    masks = ("--masks", tmp_path / "masks", "--masks-from", "rsna")
    assert run("show", "--source", copy, "--study", uid, "--out", tmp_path / "external", *masks) == 0
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path / "own") == 0
    assert pictures(tmp_path / "external") == pictures(tmp_path / "own")


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


@pytest.mark.parametrize(
    ("window", "center", "width"), [("bone", 400, 1800), ("soft", 40, 400), ("header", 40, 350)]
)
def test_window_is_the_chosen_one(window: str, center: float, width: float, tmp_path: Path) -> None:
    """A series of 100 HU; the first of the two windows in its header is 40/350. PS3.3 C.11.2.1.2.1."""
    series = tmp_path / "train_images" / "1.2.3"
    series.mkdir(parents=True)
    write_series(series, HEAD_TO_FOOT, hu=100)
    options = ("--study", "1.2.3", "--out", tmp_path / "pictures", "--window", window)
    assert run("show", "--source", tmp_path, *options) == 0
    grey = imread(tmp_path / "pictures" / "1.2.3_slices.png")[..., 0]
    expected = (100 - (center - 0.5)) / (width - 1) + 0.5
    assert np.abs(grey - expected).min() < 1 / 255
    assert (np.abs(grey - expected) < 1.01 / 255).mean() > 0.15  # of the picture


def test_notes_say_what_the_pictures_cannot_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files are 7 to 10: one of two boxes is on a slice of its own."""
    series = tmp_path / "train_images" / "1.2.3"
    series.mkdir(parents=True)
    write_series(series, HEAD_TO_FOOT)
    (tmp_path / "train_bounding_boxes.csv").write_text(
        "StudyInstanceUID,x,y,width,height,slice_number\n1.2.3,1,1,2,1,7\n1.2.3,1,1,2,1,11\n"
    )
    assert run("show", "--source", tmp_path, "--study", "1.2.3", "--out", tmp_path / "pictures") == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: the study has no segmentation, so no picture of it is drawn.",
        "note: boxes refer to slices that are not in the series: [11].",
    ]


def test_window_of_stored_crops_is_the_chosen_one(store: Path, source: Path, tmp_path: Path) -> None:
    uid = study_uids(source)[0]
    (tmp_path / "expected").mkdir()
    draw_stored(tmp_path / "expected", open_store(store), uid, window=Window("soft tissue", 40, 400))
    options = ("--study", uid, "--out", tmp_path / "shown", "--window", "soft")
    assert run("show", "--store", store, *options) == 0
    assert pictures(tmp_path / "shown") == pictures(tmp_path / "expected")


@pytest.mark.real_data
def test_head_with_gantry_tilt_is_drawn(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "1.2.3").symlink_to((real_data / "ct_head_gantry_tilt").resolve())
    assert run("show", "--source", tmp_path, "--study", "1.2.3", "--out", tmp_path / "pictures") == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2
