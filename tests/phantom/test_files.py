"""The files follow the RSNA 2022 layout, and other tools read the same data from them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.encaps import get_frame

from spine_etl.errors import SourceNotEmpty
from spine_etl.phantom import phantom_truth, write_phantom
from spine_etl.phantom.anatomy import CERVICAL

META = (0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013)
HEADER = (
    *(0x00080018, 0x00080023, 0x00080033, 0x00100010, 0x00100020, 0x00180050, 0x0020000D, 0x0020000E),
    *(0x00200013, 0x00200032, 0x00200037, 0x00280002, 0x00280004, 0x00280010, 0x00280011, 0x00280030),
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281050, 0x00281051, 0x00281052, 0x00281053),
    0x7FE00010,
)
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_bytes_depend_on_seed_not_on_number_of_studies(tmp_path: Path) -> None:
    three = write_phantom(tmp_path / "a", 3, 9, slices=20, size=48)
    write_phantom(tmp_path / "b", 2, 9, slices=20, size=48)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    common = {
        name: content for name, content in a.items() if three[2].uid not in name and not name.endswith(".csv")
    }
    assert common == {name: content for name, content in b.items() if not name.endswith(".csv")}
    assert any(name.endswith(".nii") for name in common)
    assert any(name.endswith(".dcm") for name in common)
    assert a["train.csv"].startswith(b["train.csv"])


def test_seeds_give_different_phantoms(tmp_path: Path) -> None:
    uids = {write_phantom(tmp_path / str(seed), 1, seed, slices=16, size=32)[0].uid for seed in (0, 1)}
    pixels = [pydicom.dcmread(next(tmp_path.glob(f"{seed}/*/*/5.dcm"))).pixel_array for seed in (0, 1)]
    assert len(uids) == 2
    assert not np.array_equal(*pixels)


def test_headers_have_exactly_the_attributes_of_real_ones(written: list[Any]) -> None:
    for study in written:
        for ds in (study.datasets[0], study.datasets[-1]):
            assert tuple(int(element.tag) for element in ds.file_meta) == META
            assert tuple(int(element.tag) for element in ds) == HEADER


@pytest.mark.real_data
def test_expected_attributes_are_those_of_real_headers(real_data: Path) -> None:
    dumps = sorted((real_data / "rsna2022" / "headers").glob("dcm_*.txt"))
    assert len(dumps) >= 9
    for file in dumps:
        tags = re.findall(r"^\((\w{4}), (\w{4})\)", file.read_text(), re.MULTILINE)
        assert tuple(int(group + element, 16) for group, element in tags) == (*META, *HEADER)


def test_headers_agree_with_their_file_and_position(written: list[Any]) -> None:
    for study in written:
        for number, (file, ds) in enumerate(zip(study.files, study.datasets, strict=True)):
            assert ds.InstanceNumber == int(file.stem) == study.truth.scan.first_file + number
            assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
            assert ds.PatientID == study.truth.uid.rsplit(".", 1)[1]
            assert max(len(str(text)) for text in ds.ImagePositionPatient) <= 16
            assert np.allclose(ds.ImagePositionPatient, study.truth.scan.positions_mm[number], atol=0)


def test_eight_studies_include_all_common_kinds(written: list[Any]) -> None:
    first = [study.datasets[0] for study in written]
    foot_to_head = [
        s.datasets[-1].ImagePositionPatient[2] > s.datasets[0].ImagePositionPatient[2] for s in written
    ]
    assert 0 < sum(foot_to_head) < len(foot_to_head) / 2
    assert {str(ds.file_meta.TransferSyntaxUID) for ds in first} == {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        JPEG_LOSSLESS,
    }
    assert {(ds.BitsStored, ds.PixelRepresentation) for ds in first} == {(12, 0), (16, 1)}
    assert {float(ds.RescaleIntercept) for ds in first} == {-1024.0, 0.0}
    assert any(ds.WindowCenter != ds.WindowWidth and np.size(ds.WindowCenter) == 2 for ds in first)
    assert any(not (study.files[0].parent / "1.dcm").exists() for study in written)
    assert 1 <= sum(not study.mask.exists() for study in written) <= 3
    corners = [study.hu[:, 0, 0].max() for study in written]
    assert {-3024.0, -2000.0} <= set(corners)


def test_slice_steps_differ_from_thickness_and_one_study_is_uneven(written: list[Any]) -> None:
    different = uneven = oblique = 0
    for study in written:
        positions = np.array([ds.ImagePositionPatient for ds in study.datasets], float)
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        different += abs(steps.mean() - float(study.datasets[0].SliceThickness)) > 0.1 * steps.mean()
        oblique += abs(study.datasets[0].ImageOrientationPatient[2]) > 0.01
        if np.ptp(steps) > 0.05 * steps.mean():
            uneven += 1
            assert steps.min() > 0.75 * steps.mean()
            assert steps.max() < 1.3 * steps.mean()
            assert not study.mask.exists()
        else:
            assert np.ptp(steps) < 0.002
    assert different >= 3
    assert (uneven, oblique) == (1, 1)


@pytest.mark.parametrize("plugin", ["pylibjpeg", "gdcm"])
def test_jpeg_lossless_decodes_to_the_uncompressed_pixels(tmp_path: Path, plugin: str) -> None:
    for syntax in ("explicit", "implicit", "jpeg-lossless"):
        write_phantom(tmp_path / syntax, 2, 2, slices=16, size=48, transfer_syntax=syntax)
    for raw in sorted((tmp_path / "explicit").rglob("*.dcm"))[::5]:
        name = raw.relative_to(tmp_path / "explicit")
        expected = pydicom.dcmread(raw).pixel_array
        assert np.array_equal(pydicom.dcmread(tmp_path / "implicit" / name).pixel_array, expected)
        jpeg = pydicom.dcmread(tmp_path / "jpeg-lossless" / name)
        assert jpeg.file_meta.TransferSyntaxUID == JPEG_LOSSLESS
        stream = get_frame(jpeg.PixelData, 0)
        assert np.array_equal(imagecodecs.jpeg8_decode(stream).view(expected.dtype), expected)
        jpeg.pixel_array_options(decoding_plugin=plugin)
        assert np.array_equal(jpeg.pixel_array, expected)


def test_jpeg_stream_is_process_14_selection_value_1(written: list[Any]) -> None:
    """ITU-T T.81: SOF3 (FFC3), the stored bits as precision; SOS with predictor 1, no point transform."""
    checked = 0
    for study in written:
        ds = study.datasets[0]
        if ds.file_meta.TransferSyntaxUID != JPEG_LOSSLESS:
            continue
        stream = get_frame(ds.PixelData, 0)
        frame, scan = stream.index(b"\xff\xc3"), stream.index(b"\xff\xda")
        assert stream[frame + 4] == ds.BitsStored
        components = stream[scan + 4]
        predictor, _, point_transform = stream[scan + 5 + 2 * components : scan + 8 + 2 * components]
        assert (components, predictor, point_transform) == (1, 1, 0)
        checked += 1
    assert checked >= 2


def test_simpleitk_reads_the_same_volume(written: list[Any]) -> None:
    for study in (written[0], written[2]):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(study.files[0].parent))
        image = sitk.ReadImage(names)
        order = [study.files.index(Path(name)) for name in names]
        assert np.array_equal(sitk.GetArrayFromImage(image), study.hu[order])
        for index in ((0, 0, 0), (3, 5, len(names) - 1)):
            point = study.to_mm(np.array([[order[index[2]], index[1], index[0]]]))[0]
            assert np.allclose(image.TransformIndexToPhysicalPoint(index), point, atol=2e-3)


def test_mask_headers_match_real_ones(written: list[Any]) -> None:
    for study in written:
        if not study.truth.has_mask:
            assert not study.mask.exists()
            continue
        header = nib.load(study.mask).header
        assert header.get_data_dtype() == np.uint16
        assert np.isnan(header["scl_slope"])
        assert np.isnan(header["scl_inter"])
        assert (int(header["qform_code"]), int(header["sform_code"])) == (2, 1)
        assert nib.aff2axcodes(header.get_best_affine()) == ("L", "A", "S")
        assert np.allclose(header.get_qform(), header.get_sform(), atol=1e-3)
        assert header["pixdim"][0] == -1


def test_tables_agree_with_each_other(written: list[Any]) -> None:
    root = written[0].root
    with (root / "train.csv").open() as file:
        labels = list(csv.DictReader(file))
    assert [row["StudyInstanceUID"] for row in labels] == [study.truth.uid for study in written]
    for row, study in zip(labels, written, strict=True):
        levels = {level: int(row[level]) for level in CERVICAL}
        assert int(row["patient_overall"]) == max(levels.values())
        assert {level for level, value in levels.items() if value} == set(study.truth.fractured)
    with (root / "train_bounding_boxes.csv").open() as file:
        boxes = list(csv.DictReader(file))
    assert list(boxes[0]) == ["StudyInstanceUID", "x", "y", "width", "height", "slice_number"]
    positive = {row["StudyInstanceUID"] for row in labels if row["patient_overall"] == "1"}
    assert {row["StudyInstanceUID"] for row in boxes} <= positive
    for row in boxes:
        assert (root / "train_images" / row["StudyInstanceUID"] / f"{row['slice_number']}.dcm").exists()


def test_non_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SourceNotEmpty, match="already contains"):
        write_phantom(tmp_path, 1, 0, slices=16, size=32)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("accepted", "refused"),
    [
        ({"slices": 16}, {"slices": 15}),
        ({"slices": 2000}, {"slices": 2001}),
        ({"size": 32}, {"size": 31}),
        ({"size": 2048}, {"size": 2049}),
        ({"masked_share": 0.0}, {"masked_share": -0.001}),
        ({"masked_share": 1.0}, {"masked_share": 1.001}),
        ({"transfer_syntax": "implicit"}, {"transfer_syntax": "jpeg2000"}),
    ],
)
def test_limits_of_the_numbers(accepted: dict[str, Any], refused: dict[str, Any], tmp_path: Path) -> None:
    phantom_truth(0, 0, **{"slices": 16, "size": 32, **accepted})
    for call in (
        lambda: phantom_truth(0, 0, **refused),
        lambda: write_phantom(tmp_path / "out", 1, 0, **refused),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
    assert not (tmp_path / "out").exists()


def test_limits_of_studies_and_seed(tmp_path: Path) -> None:
    uids = {phantom_truth(index, 0, slices=16, size=32).uid for index in (0, 49_998)}
    assert len(uids) == 2
    for index, seed in ((49_999, 0), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="must be"):
            phantom_truth(index, seed)
    with pytest.raises(ValueError, match="must be"):
        write_phantom(tmp_path / "out", 0, 0)
    assert not (tmp_path / "out").exists()
