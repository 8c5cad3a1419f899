"""From DICOM files, a NIfTI mask and tables to the stored rows: every stored number of two tiny studies.

HU are a linear function of the position in the patient, which linear interpolation reproduces, so each voxel
of the crops and overviews has a closed form that knows nothing of grids, axes or kernels. The digests pin the
same voxels bit for bit, edges included, to `GOLDEN_VERSION`.

Study A runs from head to foot, has a mask in another axis order and whole HU. Study B has a gantry tilt,
uneven slices and a slope of 0.5; a localizer finds its levels.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
import zarr
from pydicom.dataset import Dataset, FileMetaDataset

from spine_etl.errors import StudyNotInStore, StudyWarning
from spine_etl.localization import Localization
from spine_etl.pipeline import process_study
from spine_etl.recipe import NUMBERS_VERSION, SCHEMA_VERSION, Recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.reader import Store
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter

RECIPE = Recipe.model_validate(
    {
        "name": "golden",
        "levels": {"C1": 1, "C2": 2, "C3": 3},
        "other_labels": {"T1": 8},
        "crop": {"spacing_mm": 0.5, "shape": [20, 12, 16]},
        "overview": {"spacing_mm": 2.0, "shape": [16, 20, 24]},
    }
)
AIR = -1024
GOLDEN_VERSION = (3, 4)
"""(schema, numbers): the versions that `GOLDEN` belongs to."""
GOLDEN = {
    "A image": "c7a5865714a59bac",
    "A mask": "86f30e75afc50f68",
    "A overview/image": "a240c74bca9db56f",
    "A overview/mask": "438ea1fbcf89079f",
    "B image": "1dfcd3bc9f1bdd41",
    "B mask": "6d23a41323c006fb",
    "B overview/image": "0a4767db6daee7af",
    "B overview/mask": "db3993fb41cb55d0",
}

Array = npt.NDArray[Any]
Built = tuple[Path, Path, Store, list[Record]]
Point = tuple[float, float, float]

# First voxels of the crops and overviews: LPS in millimetres.
ORIGINS: dict[str, Point] = {
    "A C1": (9 - 7.5 * 0.5, 0.8 - 5.5 * 0.5, 22.35 - 9.5 * 0.5),
    "A C3": (0 - 7.5 * 0.5, -2 - 5.5 * 0.5, 2.85 - 9.5 * 0.5),
    "A overview": (3.75 - 11.5 * 2, 4.5 - 9.5 * 2, 15 - 7.5 * 2),
    "B C2": (3.75 - 7.5 * 0.5, 11.25 - 5.5 * 0.5, 10 - 9.5 * 0.5),
    "B overview": (3.75 - 11.5 * 2, 11.25 - 9.5 * 2, 10 - 7.5 * 2),
}


def hu_a(left: Array, posterior: Array, superior: Array) -> Array:
    return 60 + 8 * left - 6 * posterior + 11 * superior


def hu_b(left: Array, posterior: Array, superior: Array) -> Array:
    return 40.5 + 4 * left + 2 * posterior + 6 * superior


def points(name: str) -> tuple[Array, Array, Array]:
    """L, P and S of the voxels of a crop or overview: +z Superior, +y Posterior, +x Left."""
    spacing, shape = (2.0, (16, 20, 24)) if "overview" in name else (0.5, (20, 12, 16))
    left, posterior, superior = ORIGINS[name]
    z, y, x = np.indices(shape)
    return left + spacing * x, posterior + spacing * y, superior + spacing * z


def write_slice(path: Path, pixels: Array, position: Point, spacing: list[float], **rescale: str) -> None:
    dataset = Dataset()
    dataset.file_meta = meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"1.2.3.{path.stem}"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = spacing
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope = rescale["intercept"], rescale["slope"]
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)


def write_a(root: Path) -> None:
    """16 slices of 40 x 96 pixels from head to foot, files 10 to 25; a mask stored along S, R and P."""
    (root / "train_images/A").mkdir(parents=True)
    row, column = np.indices((40, 96))
    for k in range(16):
        left, posterior, superior = -20 + 0.5 * column, -15.0 + row, 30.0 - 2 * k
        stored = hu_a(left, posterior, superior) + 1024
        path = root / f"train_images/A/{10 + k}.dcm"
        write_slice(path, stored, (-20, -15, superior), [1, 0.5], intercept="-1024", slope="1")
    labels = np.zeros((18, 40, 40), np.uint8)
    labels[12:16, 10:21, 10:23] = 1
    labels[0:2, 18:31, 5:21] = 3
    labels[6:9, 30:40, 30:40] = 8
    ras = np.array([[0, 1.0, 0, -24], [0, 0, -0.8, 12], [1.5, 0, 0, 2.1], [0, 0, 0, 1]])
    (root / "segmentations").mkdir()
    nibabel.save(nibabel.Nifti1Image(labels, ras), root / "segmentations/A.nii")


def labels_a(left: Array, posterior: Array, superior: Array) -> Array:
    """The mask of `write_a` by millimetres: blocks from half a voxel before to half a voxel behind."""

    def within(values: Array, first: float, last: float, half: float) -> Array:
        return (values > min(first, last) - half) & (values < max(first, last) + half)

    labels = np.zeros(left.shape, np.uint8)
    for label, s, r, p in ((1, (12, 15), (10, 20), (10, 22)), (3, (0, 1), (18, 30), (5, 20)),
                           (8, (6, 8), (30, 39), (30, 39))):  # fmt: skip
        block = within(superior, 2.1 + 1.5 * s[0], 2.1 + 1.5 * s[1], 0.75)
        block &= within(left, 24 - r[0], 24 - r[1], 0.5)
        block &= within(posterior, -12 + 0.8 * p[0], -12 + 0.8 * p[1], 0.4)
        labels[block] = label
    return labels


def write_b(root: Path) -> None:
    """6 uneven slices of 24 x 24 pixels, files 1 to 6, whose rows move 0.25 mm back with each mm up."""
    (root / "train_images/B").mkdir(parents=True)
    row, column = np.indices((24, 24))
    for k, superior in enumerate([0.0, 4, 9, 12, 16, 20]):
        posterior = -20 + 0.25 * superior
        stored = (hu_b(-25 + 2.5 * column, posterior + 2.5 * row, superior) + 500) / 0.5
        path = root / f"train_images/B/{k + 1}.dcm"
        write_slice(path, stored, (-25, posterior, superior), [2.5, 2.5], intercept="-500", slope="0.5")


def overview_labels_b() -> Array:
    labels = np.zeros((16, 20, 24), np.uint8)
    labels[12:14, 8:12, 10:14] = 1
    labels[6:10, 8:12, 10:14] = 2
    return labels


class FixedLocalizer:
    """Finds C2 with a confidence of 0.75, and C1 with too little."""

    digest = "localizer"

    def localize(self, image: Array, recipe: Recipe) -> Localization:
        return Localization(overview_labels_b(), {"C1": 0.25, "C2": 0.75, "C3": 0.0})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Source, store folder, store and records of both studies: row 3 is A's, row 4 B's."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("store")
    write_a(source)
    write_b(source)
    (source / "train.csv").write_text("StudyInstanceUID,patient_overall,C1,C2,C3\nA,1,1,0,1\n")
    (source / "train_bounding_boxes.csv").write_text(
        "StudyInstanceUID,x,y,width,height,slice_number\n"
        "A,50,12,12,8,14\nA,50,12,12,8,99\nA,32,11,8,4,24\nB,8.5,10,4,2.5,3\n"
    )
    writer = StoreWriter(target, RECIPE)
    a, b = discover_studies(source, list(RECIPE.levels))
    records = [process_study(a, writer, 3), process_study(b, writer, 3, localizer=FixedLocalizer())]
    assert [record.refusal for record in records] == [None, None]
    return source, target, writer.commit(records), records


def stored(built: Built, name: str) -> Array:
    """One of the arrays, ``A image`` or ``B overview/mask``, as zarr-python reads it."""
    study, array = name.split()
    return np.asarray(zarr.open_array(built[1] / array, mode="r")[{"A": 3, "B": 4}[study]])


def test_voxels_are_those_of_this_version(built: Built) -> None:
    assert (SCHEMA_VERSION, NUMBERS_VERSION) == GOLDEN_VERSION, "update GOLDEN and GOLDEN_VERSION"
    digests = {name: hashlib.sha256(stored(built, name).tobytes()).hexdigest()[:16] for name in GOLDEN}
    assert digests == GOLDEN, "a stored number changed: raise NUMBERS_VERSION and update GOLDEN"


def test_crops_of_whole_hu_are_the_closed_form(built: Built) -> None:
    image, mask = stored(built, "A image"), stored(built, "A mask")
    assert image.dtype == np.int16
    assert mask.dtype == np.uint8
    for index, level in ((0, "A C1"), (2, "A C3")):
        left, posterior, superior = points(level)
        # The lowest slice is at 0 mm; air begins one slice, 2 mm, below it.
        air = np.clip(-superior / 2, 0, 1)
        expected = (1 - air) * hu_a(left, posterior, np.maximum(superior, 0)) + air * AIR
        assert np.abs(image[index] - expected).max() <= 0.501
        np.testing.assert_array_equal(mask[index], labels_a(left, posterior, superior))
        assert np.count_nonzero(mask[index]) > 300
    assert (image[1] == AIR).all()  # C2 is not in the mask
    assert (mask[1] == 0).all()


def test_overview_of_whole_hu_is_the_closed_form(built: Built) -> None:
    """The overview is 2 and 4 times as coarse as rows and columns; the triangle keeps a linear function."""
    at = points("A overview")
    inner = np.s_[:, 1:-1, 1:-1]  # at the edges there is air under the triangle
    np.testing.assert_array_equal(stored(built, "A overview/image")[inner], hu_a(*at)[inner])
    np.testing.assert_array_equal(stored(built, "A overview/mask"), labels_a(*at))
    assert set(np.unique(stored(built, "A overview/mask"))) == {0, 1, 3, 8}


def test_edges_of_the_overview_blend_into_air(built: Built) -> None:
    """At the first row, index 0.5, the triangle of half width 2 has weights 1, 3, 3, 1 eighths, 1 of air."""
    left, _, superior = points("A overview")
    rows = -15 + np.array([0.0, 1, 2])
    expected = (AIR + sum(w * hu_a(left, row, superior) for w, row in zip((3, 3, 1), rows, strict=True))) / 8
    edge = stored(built, "A overview/image")[:, 0, 1:-1]
    assert np.abs(edge - expected[:, 0, 1:-1]).max() <= 0.501


def test_tilted_uneven_study_is_the_closed_form(built: Built) -> None:
    left, posterior, superior = points("B C2")
    image, mask = stored(built, "B image"), stored(built, "B mask")
    assert np.abs(image[1] - hu_b(left, posterior, superior)).max() <= 0.501
    # Overview voxels 6 to 9, 8 to 11 and 10 to 13 of 2 mm.
    inside = (np.abs(superior - 10) < 4) & (np.abs(posterior - 11.25) < 4) & (np.abs(left - 3.75) < 4)
    np.testing.assert_array_equal(mask[1], np.where(inside, 2, 0))
    for index in (0, 2):
        assert (image[index] == AIR).all()
        assert (mask[index] == 0).all()


def test_overview_of_the_tilted_uneven_study_is_the_closed_form(
    built: Built,
) -> None:
    left, posterior, superior = points("B overview")
    row, column = (posterior + 20 - 0.25 * superior) / 2.5, (left + 25) / 2.5
    inside = (superior >= 0) & (superior <= 20)
    for index in (row, column):
        inside &= (index >= 0) & (index <= 23)
    image = stored(built, "B overview/image")
    assert inside.sum() > 3000
    assert np.abs(image - hu_b(left, posterior, superior))[inside].max() <= 0.501
    # Air begins one mean step beyond the first and the last slice, and one pixel beyond rows and columns.
    air = (superior <= -4) | (superior >= 24) | (row <= -1) | (row >= 24) | (column <= -1) | (column >= 24)
    assert (image[air] == AIR).all()
    assert air.any()
    np.testing.assert_array_equal(stored(built, "B overview/mask"), np.where(overview_labels_b() == 2, 2, 0))


NAN3, NAN6 = [np.nan] * 3, [np.nan] * 6
BOX_1 = [6.8, -2.1, -0.5, 10.8, 13.9, 11.5]  # slice 14 is at 22 mm, 2 mm thick; C1 begins at 17.6
BOX_3 = [5.8, 1.5, -0.5, 9.8, 9.5, 7.5]  # slice 24 is at 2 mm; C3 begins at -1.9
# Slice 3 is at 9 mm, from 6.5 to 10.5: rows move back by 0.25 mm for each mm between these ends.
BOX_4 = [
    (6.5 - 5.25) / 0.5, (-20 + 25 + 0.25 * 6.5 - 8.5) / 0.5, (-25 + 21.25 - 0) / 0.5,
    (10.5 - 5.25) / 0.5, (-20 + 31.25 + 0.25 * 10.5 - 8.5) / 0.5, (-25 + 31.25 - 0) / 0.5,
]  # fmt: skip
COLUMNS: dict[str, Any] = {
    "patient_overall": [1, -1],
    "fracture": [[1, 0, 1], [-1, -1, -1]],
    "level_status": [[1, 2, 1], [0, 1, 2]],
    "mask_source": [1, 2],
    "coverage": [[1, 0, 0.9], [0, 1, 0]],  # 2 of C3's 20 slices are below -1 mm
    "volume_mm3": [[4 * 11 * 13 * 1.2, 0, 2 * 13 * 16 * 1.2], [0, 4 * 4 * 4 * 8, 0]],
    "level_confidence": [[1, 0, 1], [0.25, 0.75, 0]],
    "level_slices": [[[15, 13], [-1, -1], [24, 23]], [[-1, -1], [3, 4], [-1, -1]]],
    "crop_origin_mm": [[ORIGINS["A C1"], NAN3, ORIGINS["A C3"]], [NAN3, ORIGINS["B C2"], NAN3]],
    "overview_origin_mm": [ORIGINS["A overview"], ORIGINS["B overview"]],
    "straightened": [False, False],
    "slices": [16, 6],
    "source_spacing_mm": [[2, 1, 0.5], [np.hypot(4, 1), 2.5, 2.5]],
    "box_row": [3, 3, 3, 4],
    "box_slice_number": [14, 99, 24, 3],
    "box_source": [[50, 12, 12, 8], [50, 12, 12, 8], [32, 11, 8, 4], [8.5, 10, 4, 2.5]],
    "box_level": [0, -1, 2, 1],
    "box_crop": [[BOX_1, NAN6, NAN6], [NAN6] * 3, [NAN6, NAN6, BOX_3], [NAN6, BOX_4, NAN6]],
    # C1 has 4, 13 and 11 voxels along S, P and L, of which 4, 7 and 8 have their centre in the crop: of two
    # opposite faces one counts. C3 has 2, 16 and 13, and 2, 8 and 8. All of B's C2 is in it but a quarter.
    "label_share": [[224 / 572, 0, 128 / 416], [0, 0.75, 0]],
    "island_voxels": [[0, 0, 0], [0, 0, 0]],
    "island_distance_mm": [[0, 0, 0], [0, 0, 0]],
    "run_row": [3, 3, 3, 4],
    # Slices are at 30, 28, ... mm: C1 is from 19.35 to 25.35, C3 from 1.35 to 4.35, T1 from 10.35 to 14.85.
    "run_label": [1, 3, 8, 2],
    "run_slices": [[13, 15], [23, 24], [18, 19], [3, 4]],
}


def box_text(*values: float) -> str:
    x, y, width, height, number = values
    return f"FractureBox(x={x!r}, y={y!r}, width={width!r}, height={height!r}, slice_number={number!r})"


TABLES = [
    f"([('C1', 1), ('C2', 0), ('C3', 1), ('patient_overall', 1)], ({box_text(50.0, 12.0, 12.0, 8.0, 14)}, "
    f"{box_text(50.0, 12.0, 12.0, 8.0, 99)}, {box_text(32.0, 11.0, 8.0, 4.0, 24)}))",
    f"([], ({box_text(8.5, 10.0, 4.0, 2.5, 3)},))",
]


@pytest.mark.parametrize("name", COLUMNS)
def test_column_of_the_table_is_the_closed_form(built: Built, name: str) -> None:
    _, target, store, _ = built
    folder = next((target / "versions/1").glob("*/zarr.json")).parent
    column = np.asarray(zarr.open_array(folder / name, mode="r")[...])
    if not name.startswith(("box_", "run_")):
        column = column[[3, 4]]
    np.testing.assert_allclose(column, COLUMNS[name], rtol=1e-6, atol=1e-5)
    if name in {"box_row", "run_row"}:
        of_study = store.table[name.replace("_row", "_study")]
        np.testing.assert_array_equal(store.table["row"][of_study], column)
    else:
        np.testing.assert_array_equal(column, store.table[name])


def source_digest(source: Path, study: int) -> bytes:
    """SHA-256 of the parts; a file's digest is XXH3-128, the tables' part is their text."""

    def combined(parts: list[tuple[str, str]]) -> Any:
        return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(parts)).encode())

    def of_file(path: Path) -> str:
        return xxhash.xxh3_128_hexdigest(path.read_bytes())

    folder = source / "train_images" / "AB"[study]
    series = combined([(path.name, of_file(path)) for path in folder.iterdir()]).hexdigest()
    mask = of_file(source / "segmentations/A.nii") if study == 0 else "localizer"
    table = hashlib.sha256(TABLES[study].encode()).hexdigest()
    return combined([("series", series), ("mask", mask), ("tables", table)]).digest()


def chunk_checksums(content: bytes, chunks: int) -> list[int]:
    """The CRC-32C at the end of each chunk of a shard, whose index is at its end."""
    index = np.frombuffer(content[-16 * chunks - 4 : -4], "<u8").reshape(chunks, 2)
    ends = index.sum(axis=1).tolist()
    return [int.from_bytes(content[end - 4 : end], "little") for end in ends]


def test_other_columns_are_uids_folds_codes_and_checksums(built: Built) -> None:
    source, target, store, _ = built
    checksums = {"sha256", "image_crc32c", "mask_crc32c", "overview_image_crc32c", "overview_mask_crc32c"}
    codes = {"mask_name", "warnings"}
    names = {*COLUMNS, "study_uid_ascii", "fold", "source_digest", "row", "box_study", "run_study"}
    assert set(store.table.columns) == (names | checksums | codes) - {"box_row", "run_row"}
    uids = np.zeros((2, 64), np.uint8)
    uids[:, 0] = [ord("A"), ord("B")]
    np.testing.assert_array_equal(store.table["study_uid_ascii"], uids)
    assert store.table["row"].tolist() == [3, 4]
    assert store.table["fold"].tolist() == [0, 1]
    assert store.table["warnings"][:, store.table.warning_codes.index("SLICES_UNEVEN")].tolist() == [0, 1]
    assert store.table["warnings"][:, store.table.warning_codes.index("BOX_WITHOUT_SLICE")].tolist() == [1, 0]
    for study, row in enumerate((3, 4)):
        assert store.table["source_digest"][study].tobytes() == source_digest(source, study)
        objects = [f"image/c/{row}/0/0/0/0", f"mask/c/{row}/0/0/0/0"]
        objects += [f"overview/image/c/{row}/0/0/0", f"overview/mask/c/{row}/0/0/0"]
        for index, key in enumerate(objects):
            content = (target / key).read_bytes()
            assert store.table["sha256"][study, index].tobytes() == hashlib.sha256(content).digest()
            column = key.partition("/c/")[0].replace("/", "_") + "_crc32c"
            expected = chunk_checksums(content, 3) if index < 2 else int.from_bytes(content[-4:], "little")
            assert store.table[column][study].tolist() == expected


def test_records_agree_with_the_table(built: Built) -> None:
    a, b = built[3]
    assert a.facts["spacing"] == [2.0, 1.0, 0.5]
    assert a.facts["uneven"] is False
    assert a.warnings == (
        StudyWarning("MASK_UNCHECKED", "The CT is too small to compare the segmentation with bone."),
        StudyWarning("LABEL_SHARE_LOW", "Only 39.2 % of the voxels of C1 are in its crop."),
        StudyWarning("LABEL_SHARE_LOW", "Only 30.8 % of the voxels of C3 are in its crop."),
        StudyWarning("BOX_WITHOUT_SLICE", "1 of 3 fracture boxes name no slice of the series."),
    )
    assert a.slice_runs == {"C1": ((13, 15),), "C3": ((23, 24),), "T1": ((18, 19),)}
    assert b.facts["spacing"] == pytest.approx([np.hypot(4, 1), 2.5, 2.5], abs=1e-3)
    assert b.facts["uneven"] is True
    assert (a.row, b.row, a.mask_source, b.mask_source) == (3, 4, "given", "predicted")
    assert [box.level for box in a.boxes] == ["C1", None, "C3"]
    assert a.levels["C3"].slices == (24, 23)
    assert a.levels["C3"].origin_mm == pytest.approx(ORIGINS["A C3"], abs=1e-6)  # NIfTI is float32
    assert a.fracture == {"patient_overall": 1, "C1": 1, "C2": 0, "C3": 1}
    assert b.fracture == {}


def test_levels_in_slices_are_those_of_the_mask(built: Built) -> None:
    _, _, store, _ = built
    numbers = [10, 13, 14, 16, 18, 20, 23, 25]
    expected = [set(), {"C1"}, {"C1"}, set(), {"T1"}, set(), {"C3"}, set()]
    assert store.levels_in_slices("A", numbers) == expected
    assert store.levels_in_slices("B", [2, 3, 4, 5]) == [set(), {"C2"}, {"C2"}, set()]
    assert store.levels_in_slices("B", []) == []
    with pytest.raises(StudyNotInStore):
        store.levels_in_slices("C", [1])
