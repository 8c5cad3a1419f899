"""``phantom``: options that reach the writer, and the refusal to overwrite."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from spine_etl.commands import phantom
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


def options(**given: object) -> argparse.Namespace:
    """The parsed options of a command line of the command."""
    parser = argparse.ArgumentParser()
    phantom.add_arguments(parser)
    line = {"out": "x", "studies": 1, "seed": 0} | given
    return parser.parse_args([text for name, value in line.items() for text in (f"--{name}", str(value))])


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("studies", (1, 49_999), (0, 50_000)),
        ("seed", (0, 4_294_967_296), (-1, 4_294_967_297)),
        ("slices", (16, 2000), (15, 2001)),
        ("size", (32, 2048), (31, 2049)),
    ],
)
def test_limits_of_the_options(name: str, accepted: tuple[int, int], refused: tuple[int, int]) -> None:
    for value in accepted:
        assert getattr(options(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(SystemExit) as caught:
            options(**{name: value})
        assert caught.value.code == 2


def test_defaults_are_those_of_the_data_set() -> None:
    parsed = options()
    assert (parsed.size, parsed.slices, parsed.masked_share) == (512, None, 0.75)
    assert parsed.transfer_syntax == "mixed"
