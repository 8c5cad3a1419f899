"""``phantom``: options that reach the writer, and the refusal to overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import run


def test_masked_share_sets_number_of_segmentations(tmp_path: Path) -> None:
    options = ("phantom", "--studies", 4, "--seed", 3, "--slices", 24, "--size", 64)
    for share, masks in ((0, 0), (0.5, 2), (1, 4)):
        folder = tmp_path / str(share)
        assert run(*options, "--out", folder, "--masked-share", share) == 0
        assert len(list((folder / "segmentations").glob("*.nii"))) == masks


def test_non_empty_folder_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("phantom", "--out", source, "--studies", 1, "--seed", 3) == 1
    assert "[SOURCE_NOT_EMPTY]" in capsys.readouterr().err


def test_each_study_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "source"
    assert run("phantom", "--out", folder, "--studies", 2, "--seed", 3, "--slices", 24, "--size", 64) == 0
    first, *studies = capsys.readouterr().out.splitlines()
    assert first == f"Writing 2 studies to {folder} ..."
    assert sorted(line.split(":")[0] for line in studies) == sorted(
        path.name for path in (folder / "train_images").iterdir()
    )
    assert all(": 24 slices, with" in line for line in studies)
