"""The phantom's boxes and ground truth, measured in its files by nibabel, pydicom and SimpleITK."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk  # noqa: N813

from spine_etl.phantom import phantom_truth, write_phantom
from spine_etl.phantom.anatomy import CERVICAL, LEVELS, Neck, Part, build_neck
from spine_etl.phantom.fractures import choose_levels, make_cut
from spine_etl.phantom.render import Renderer, fracture_boxes, level_truth
from spine_etl.phantom.scanner import EXPLICIT, fully_visible_levels, plan_scan
from spine_etl.phantom.shapes import measure, part_bounds
from tests.phantom.conftest import WrittenStudy

Points = npt.NDArray[np.float64]


def neck_of(seed: int, index: int) -> Neck:
    """The neck of a study with its fractures."""
    neck = build_neck(np.random.default_rng([seed, index, 0]))
    rng = np.random.default_rng([seed, index, 1])
    for level in choose_levels(rng, seed, index, fully_visible_levels(index)):
        neck = neck.with_cut(level, make_cut(rng, level, neck.scale))
    return neck


def in_zone(points: Points, part: Part) -> npt.NDArray[np.bool_]:
    """True for LPS points within 2 mm of the fracture's plane or gap, and within its radius."""
    local = (points - part.origin_mm) @ part.rotation
    normal, offset, gap = part.cut[1:4], part.cut[4], part.cut[8]
    centre, radius = part.cut[10:13], part.cut[13]
    beyond = local @ normal - offset
    near: npt.NDArray[np.bool_] = (beyond >= -2) & (beyond <= gap + 2)
    return near & (np.linalg.norm(local - centre, axis=1) <= radius)


def boxes_by_file(study: WrittenStudy) -> dict[int, list[list[float]]]:
    """Rows x, y, width, height of the table, by file number."""
    rows = defaultdict(list)
    with (study.root / "train_bounding_boxes.csv").open() as file:
        for row in csv.DictReader(file):
            if row["StudyInstanceUID"] == study.truth.uid:
                values = [float(row[name]) for name in ("x", "y", "width", "height")]
                rows[int(row["slice_number"])].append(values)
    return rows


@pytest.fixture(scope="module")
def fractured(tmp_path_factory: pytest.TempPathFactory) -> list[WrittenStudy]:
    """Study 4 has a fracture of C2, study 6 one of C5 and oblique slices; both have boxes and a mask."""
    root = tmp_path_factory.mktemp("fractured")
    truths = write_phantom(root, 7, 7, slices=72, size=112)
    return [WrittenStudy(root, truths[index]) for index in (4, 6)]


@pytest.mark.parametrize(("which", "index", "level"), [(0, 4, "C2"), (1, 6, "C5")])
def test_boxes_enclose_the_fractured_bone_of_the_mask(
    which: int, index: int, level: str, fractured: list[WrittenStudy]
) -> None:
    """A box begins 1.5 pixels before the bone of the mask near the fracture and ends 2.5 pixels behind it."""
    study = fractured[which]
    part, label = neck_of(7, index).vertebrae[LEVELS.index(level)], LEVELS.index(level) + 1
    image = nib.load(study.mask)
    voxels = np.argwhere(np.asarray(image.dataobj) == label)
    points = nib.affines.apply_affine(image.affine, voxels) * [-1, -1, 1]
    points = points[in_zone(points, part)]
    origin = study.to_mm(np.zeros((1, 3), int))[0]
    steps = np.column_stack([study.to_mm(np.eye(3, dtype=int)[[k]])[0] - origin for k in range(3)])
    pixels = np.linalg.solve(steps, (points - origin).T).T.round().astype(int)
    numbers = pixels[:, 0] + study.datasets[0].InstanceNumber
    boxes = boxes_by_file(study)
    assert set(numbers.tolist()) <= set(boxes)
    margins = []
    for number in set(numbers.tolist()):
        ((x, y, width, height),) = boxes[number]
        rows, columns = pixels[numbers == number, 1:].T
        before = (columns.min() - x, rows.min() - y)
        margins.append([*before, x + width - columns.max(), y + height - rows.max()])
    assert len(margins) >= 5
    assert (np.array(margins) > np.array([1.5, 1.5, 2.5, 2.5]) - 1e-6).all()
    np.testing.assert_allclose(np.median(margins, axis=0), [1.5, 1.5, 2.5, 2.5], atol=1e-6)


def test_mask_volumes_are_those_of_the_analytic_shapes(tmp_path: Path) -> None:
    """Volume and centroid of each level in the mask, by SimpleITK."""
    (study,) = write_phantom(tmp_path, 1, 11, slices=160, size=192)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    path = tmp_path / "segmentations" / f"{study.uid}.nii"
    statistics.Execute(sitk.Cast(sitk.ReadImage(path), sitk.sitkUInt8))
    for name, part in zip(CERVICAL, neck_of(11, 0).vertebrae, strict=False):
        label = LEVELS.index(name) + 1
        bounds = part_bounds(part.boxes, part.cut)
        shape = (part.origin_mm, part.rotation, part.shapes, part.boxes, part.cut)
        _, visible, volume = measure(0.8, *bounds, study.scan.view, *shape)
        assert visible == pytest.approx(volume)
        assert statistics.GetPhysicalSize(label) == pytest.approx(volume * 0.8**3, rel=0.02)
        centroid = statistics.GetCentroid(label)
        np.testing.assert_allclose(centroid, study.levels[name].centroid_mm, atol=0.15)


@pytest.mark.parametrize(("index", "level"), [(10, "C2"), (21, "C6"), (21, "C7")])
def test_share_in_view_is_that_of_the_voxels(index: int, level: str) -> None:
    """Voxels of the vertebra are counted in a scan that cuts it and in one that does not."""
    truth = phantom_truth(index, 0, slices=120, size=128)
    neck = neck_of(0, index)
    label = LEVELS.index(level) + 1
    volumes = []
    for scan_index in (index, 0):
        scan = plan_scan(neck, np.random.default_rng([0, index, 2]), scan_index, EXPLICIT, 120, 128)
        renderer = Renderer(neck, scan, np.random.default_rng(1))
        heights = scan.positions_mm @ scan.normal
        voxels = 0
        for position in range(len(heights)):
            labels = np.zeros((128, 128), np.uint16)
            renderer.slice(position, labels)
            voxels += int((labels == label).sum())
        step = np.ptp(heights) / (len(heights) - 1)
        volumes.append(voxels * scan.pixel_spacing_mm**2 * step)
    shown = truth.levels.get(level)
    assert (shown.in_view if shown else 0.0) == pytest.approx(volumes[0] / volumes[1], abs=0.03)


@pytest.mark.parametrize("level", CERVICAL)
def test_fracture_is_visible_inside_its_boxes(level: str) -> None:
    """Compared with the intact neck, more than 25 pixels within the boxes lose over 250 HU."""
    intact = build_neck(np.random.default_rng(21))
    for attempt in range(3):
        fractured = intact.with_cut(level, make_cut(np.random.default_rng(attempt), level, intact.scale))
        scan = plan_scan(intact, np.random.default_rng(1), 0, EXPLICIT, 140, 140)
        before, after = (Renderer(neck, scan, np.random.default_rng(2)) for neck in (intact, fractured))
        lost = 0
        for box in fracture_boxes(fractured.vertebrae[CERVICAL.index(level)], scan):
            rows = slice(int(box.y), int(np.ceil(box.y + box.height)))
            columns = slice(int(box.x), int(np.ceil(box.x + box.width)))
            labels = np.zeros((140, 140), np.uint16)
            index = box.file_number - scan.first_file
            intact_hu, fractured_hu = before.slice(index, labels), after.slice(index, labels.copy())
            lost += int((intact_hu.astype(int) - fractured_hu > 250)[rows, columns].sum())
        assert lost > 25, attempt


def test_displaced_fragments_belong_to_their_vertebra() -> None:
    intact = build_neck(np.random.default_rng(3))
    scan = plan_scan(intact, np.random.default_rng(1), 0, EXPLICIT, 80, 64)
    moved = 0
    for attempt in range(12):
        cut = make_cut(np.random.default_rng(attempt), "C7", intact.scale)
        if cut[8] == 0:
            continue
        before, after = (level_truth(n.vertebrae[6], scan) for n in (intact, intact.with_cut("C7", cut)))
        moved += np.abs(before.bounds_mm - after.bounds_mm).max() > 1.0
    assert moved >= 1
