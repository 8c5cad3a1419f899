"""The command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name

from spine_etl import process_study
from spine_etl.__main__ import main
from spine_etl.recipe import load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter

COMMANDS = ("phantom", "read", "inspect", "show", "check")
ROOT = Path(__file__).parents[1]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small phantom studies."""
    folder = tmp_path_factory.mktemp("phantom") / "source"
    assert run("phantom", "--out", folder, "--studies", 2, "--seed", 3, "--slices", 24, "--size", 64) == 0
    return folder


@pytest.fixture(scope="module")
def store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    recipe = load_recipe("quick")
    writer = StoreWriter(folder, recipe)
    studies = discover_studies(source, list(recipe.levels))
    writer.commit([process_study(study, writer, row) for row, study in enumerate(studies)])
    return folder


def uids(source: Path) -> list[str]:
    return sorted(path.name for path in (source / "train_images").iterdir())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_at_once(command: str) -> None:
    line = [sys.executable, "-m", "spine_etl", *command.split(), "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor, not of the clock: other tests may run beside this one.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom spine_etl.__main__ import main\n"
        "try: main(['show', '--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'zarr', 'pydantic', 'matplotlib', 'numba', 'pydicom'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "phantom --out x --studies 0 --seed 1",
        "phantom --out x --studies 1 --seed 1 --masked-share 1.5",
        "read folder --out x.nii --isotropic 0",
        "show --study 1 --out x",
        "show --source a --store b --study 1 --out x",
        "show --store b --study 1 --out x --window header",
        "show --store b --study 1 --out x --start 3",
    ],
)
def test_a_wrong_command_line_exits_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage:")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("inspect nowhere", "DICOM_UNREADABLE"),
        ("inspect nowhere.nii", "SOURCE_NOT_FOUND"),
        ("read nowhere --out x.nii", "SOURCE_NOT_FOUND"),
        ("read nowhere.zip --out x.nii", "SOURCE_NOT_FOUND"),
        ("check nowhere", "STORE_NOT_FOUND"),
        ("show --source nowhere --study 1 --out pictures", "SOURCE_NOT_FOUND"),
    ],
)
def test_a_refusal_is_one_line_and_exits_1(
    line: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: [{code}] ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spine_etl.store.open_store", interrupted)
    assert run("check", "x") == 130


def test_a_closed_pipe_is_no_error(source: Path) -> None:
    study = source / "train_images" / uids(source)[0]
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'spine_etl', 'inspect', sys.argv[1]],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "child.stdout.close()\n"
        "sys.stderr.buffer.write(child.stderr.read())"
    )
    done = subprocess.run([sys.executable, "-c", code, study], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_phantom_masks_the_share_that_is_asked_for(tmp_path: Path) -> None:
    options = ("phantom", "--studies", 4, "--seed", 3, "--slices", 24, "--size", 64)
    for share, masks in ((0, 0), (0.5, 2), (1, 4)):
        source = tmp_path / str(share)
        assert run(*options, "--out", source, "--masked-share", share) == 0
        assert len(list((source / "segmentations").glob("*.nii"))) == masks


def test_phantom_refuses_a_folder_that_holds_anything(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("phantom", "--out", source, "--studies", 1, "--seed", 3) == 1
    assert "[SOURCE_NOT_EMPTY]" in capsys.readouterr().err


def test_read_writes_what_simpleitk_reads(source: Path, tmp_path: Path) -> None:
    for uid in uids(source):
        folder = source / "train_images" / uid
        assert run("read", folder, "--out", tmp_path / "x.nii.gz") == 0
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
        headers.sort(key=lambda header: header.ImagePositionPatient[2])
        theirs = sitk.DICOMOrient(sitk.ReadImage([str(header.filename) for header in headers]), "LPS")
        ours = sitk.DICOMOrient(sitk.ReadImage(tmp_path / "x.nii.gz"), "LPS")
        expected = np.maximum(sitk.GetArrayFromImage(theirs), -1024)  # outside the field of view lies air
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), expected)
        for corner in ((0, 0, 0), tuple(n - 1 for n in theirs.GetSize())):
            np.testing.assert_allclose(
                ours.TransformIndexToPhysicalPoint(corner),
                theirs.TransformIndexToPhysicalPoint(corner),
                atol=0.01,
            )


def test_read_isotropic_covers_the_volume(source: Path, tmp_path: Path) -> None:
    folder = source / "train_images" / uids(source)[0]
    assert run("read", folder, "--out", tmp_path / "x.nii", "--isotropic", 4) == 0
    image = sitk.ReadImage(tmp_path / "x.nii")
    np.testing.assert_allclose(image.GetSpacing(), 4)
    assert run("read", folder, "--out", tmp_path / "full.nii") == 0
    full = sitk.ReadImage(tmp_path / "full.nii")
    extent = np.multiply(full.GetSize(), full.GetSpacing())
    assert (np.multiply(image.GetSize(), 4) >= extent - 1e-3).all()
    assert (np.multiply(image.GetSize(), 4) < extent + 4).all()


def test_inspect_says_where_a_series_lies(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for uid in uids(source):
        folder = source / "train_images" / uid
        assert run("inspect", folder, "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        first = pydicom.dcmread(folder / f"{facts['file_numbers'][0]}.dcm")
        other = pydicom.dcmread(folder / f"{facts['file_numbers'][1]}.dcm")
        assert facts["first_voxel_lps_mm"] == pytest.approx(list(first.ImagePositionPatient), abs=1e-3)
        assert facts["shape"] == [24, 64, 64]
        falls = first.ImagePositionPatient[2] > other.ImagePositionPatient[2]
        assert facts["axes"]["z"] == ("to Inferior" if falls else "to Superior")
        assert facts["spacing_mm"][1:] == pytest.approx(list(first.PixelSpacing), abs=1e-4)
        assert facts["transfer_syntaxes"] == [first.file_meta.TransferSyntaxUID]


def test_an_archive_is_looked_at_like_a_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = uids(source)[0]
    folder, whole = source / "train_images" / uid, tmp_path / "source"
    series = shutil.make_archive(str(tmp_path / "series"), "zip", folder)
    assert run("inspect", series, "--json") == run("inspect", folder, "--json") == 0
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert {**ours, "source_digest": None} == {**theirs, "source_digest": None}
    archive = shutil.make_archive(str(whole), "zip", source)
    for number, place in enumerate((archive, source)):
        options = ("--study", uid, "--out", tmp_path / str(number))
        assert run("show", "--source", place, *options) == 0
    drawn = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "01"]
    assert drawn[0] == drawn[1]
    assert drawn[0]


def test_inspect_prints_a_header_without_the_patient(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = pydicom.dcmread(next((source / "train_images" / uids(source)[0]).iterdir()))
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "ID4711", "19700102"
    dataset.StudyDate, dataset.SeriesDescription = "20210304", "Neck of Jane"
    dataset.save_as(tmp_path / "1.dcm")
    assert run("inspect", tmp_path / "1.dcm") == 0
    assert run("inspect", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "RescaleIntercept" in printed
    for secret in ("Doe", "Jane", "4711", "1970", "20210304"):
        assert secret not in printed


def test_inspect_measures_labels(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((source / "segmentations").iterdir())
    assert run("inspect", path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    image = sitk.ReadImage(path)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(sitk.Cast(image, sitk.sitkUInt8))
    assert [int(label) for label in facts["labels"]] == list(statistics.GetLabels())
    for label, found in facts["labels"].items():
        assert found["voxels"] == statistics.GetNumberOfPixels(int(label))
        assert found["volume_mm3"] == pytest.approx(statistics.GetPhysicalSize(int(label)), abs=0.06)
        assert found["centre_lps_mm"] == pytest.approx(statistics.GetCentroid(int(label)), abs=2e-3)


def test_inspect_and_check_tell_of_a_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", store, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["version"], facts["studies"], facts["refused"]) == (1, 2, {})
    assert facts["fingerprint"] == load_recipe("quick").fingerprint
    assert run("inspect", store) == 0
    assert facts["fingerprint"] in capsys.readouterr().out
    assert run("check", store) == 0
    assert capsys.readouterr().out == "2 studies, 8 objects, all as committed\n"
    assert run("check", store, "--json") == 0
    line = json.loads(capsys.readouterr().out)
    expected = {"studies": 2, "objects": 8, "faults": [], "version": 1, "root_digest": facts["versions"]["1"]}
    assert line == expected


def test_check_names_each_damaged_object(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "store"
    shutil.copytree(store, broken)
    image = broken / "image/c/0/0/0/0/0"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    (broken / "mask/c/1/0/0/0/0").unlink()
    assert run("check", broken, "--version", 1) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("CHUNK_CORRUPT 1.2.826")
    assert "image/c/0" in first
    assert second.startswith("CHUNK_MISSING 1.2.826")
    assert "mask/c/1" in second
    assert run("check", broken, "--json") == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["code"] for fault in faults] == ["CHUNK_CORRUPT", "CHUNK_MISSING"]


def test_show_draws_sources_and_stores(
    source: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = uids(source)[0]
    assert run("show", "--source", source, "--study", uid, "--out", tmp_path, "--window", "header") == 0
    assert run("show", "--store", store, "--study", uid, "--out", tmp_path, "--window", "soft") == 0
    named = capsys.readouterr().out.split()
    assert sorted(named) == sorted(map(str, tmp_path.iterdir()))
    endings = {Path(name).name.removeprefix(uid) for name in named}
    assert {"_slices.png", "_reslices.png", "_crops.png", "_overview.png"} <= endings


def test_show_refuses_a_study_or_slice_that_is_not_there(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", "--source", source, "--study", "9.9", "--out", tmp_path) == 1
    assert "holds no study 9.9" in capsys.readouterr().err
    assert (
        run("show", "--source", source, "--study", uids(source)[0], "--out", tmp_path, "--start", 9999) == 1
    )
    assert "[SOURCE_NOT_FOUND] there is no slice 9999" in capsys.readouterr().err


@pytest.mark.real_data
def test_a_tilted_head_is_described_and_drawn(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", real_data / "ct_head_gantry_tilt", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["gantry_tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    assert facts["slice_steps_mm"] == pytest.approx([1.14, 7.38], abs=0.01)
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "1.2.3").symlink_to((real_data / "ct_head_gantry_tilt").resolve())
    assert run("show", "--source", tmp_path, "--study", "1.2.3", "--out", tmp_path / "pictures") == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2
