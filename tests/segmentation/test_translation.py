"""Labels and classes from elsewhere become the recipe's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from spine_etl.errors import ClassesConflict, LabelNamesDiffer, LabelUnknown, MaskUnreadable, StudyWarning
from spine_etl.geometry import Grid
from spine_etl.recipe import load_recipe
from spine_etl.segmentation import combine_classes, translate_labels
from spine_etl.source.label_names import LabelNames, load_label_names
from spine_etl.volume import LabelMap

QUICK = load_recipe("quick")
NAMES = LabelNames(name="own", labels={"C1": 50, "C7": 44, "T1": 43, "L1": 31}, ignore=(9, "100-117"))

SHIFTED = np.array([[1, 0, 0, 0.02], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def label_map(
    *labels: int, names: dict[int, str] | None = None, affine: np.ndarray | None = None
) -> LabelMap:
    voxels = np.array(labels, np.uint8).reshape(1, 1, -1)
    warning = StudyWarning("SINGLE_SLICE", "for the test.")
    grid = Grid(voxels.shape, np.eye(4) if affine is None else affine)
    return LabelMap(voxels, grid, "digest", names or {}, (warning,))


def test_every_label_gets_the_number_of_its_name() -> None:
    given = label_map(0, 50, 44, 43, 9, 117, 31, 50)
    translated = translate_labels(given, NAMES, QUICK)
    assert translated.labels.tolist() == [[[0, 1, 7, 8, 0, 0, 0, 1]]]
    assert (translated.grid, translated.source_digest) == (given.grid, "digest")
    assert translated.warnings == given.warnings
    assert given.labels.tolist() == [[[0, 50, 44, 43, 9, 117, 31, 50]]]


def test_exchanged_numbers_are_not_translated_twice() -> None:
    names = LabelNames(name="own", labels={"C1": 2, "C2": 1})
    assert translate_labels(label_map(1, 2, 1), names, QUICK).labels.tolist() == [[[2, 1, 2]]]


@pytest.mark.parametrize("label", [1, 8, 10, 42, 45, 99, 118, 255])
def test_label_that_is_neither_named_nor_ignored_is_refused(label: int) -> None:
    with pytest.raises(LabelUnknown, match=rf"labels \[{label}\], which own neither"):
        translate_labels(label_map(0, 50, label), NAMES, QUICK)


def test_transposed_labels_keep_their_axes() -> None:
    voxels = np.asfortranarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3)
    names = LabelNames(name="own", labels={"C3": 1, "C4": 2})
    translated = translate_labels(LabelMap(voxels, Grid((2, 3, 4), np.eye(4))), names, QUICK)
    np.testing.assert_array_equal(translated.labels, np.array([0, 3, 4])[voxels])


def test_file_that_names_its_labels_alike_is_translated() -> None:
    own = {50: "vertebrae_C1", 44: "vertebrae_C7", 9: "liver", 60: "heart"}
    assert translate_labels(label_map(50, names=own), NAMES, QUICK).labels.tolist() == [[[1]]]


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({41: "vertebrae_C1"}, "Label 41 is C1 in the file and ignored in own."),
        ({50: "vertebrae_C7"}, "Label 50 is C7 in the file and C1 in own."),
        ({50: "pulmonary_artery"}, "Label 50 is another structure in the file and C1 in own."),
    ],
)
def test_file_that_names_its_labels_differently_is_refused(own: dict[int, str], reason: str) -> None:
    with pytest.raises(LabelNamesDiffer) as caught:
        translate_labels(label_map(50, names=own), NAMES, QUICK)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("file", "names"), [(1, 2), (2, 1), (1, 3), (3, 1)])
def test_every_vertebra_of_another_version_is_refused(file: int, names: int) -> None:
    """The versions differ in the number of each level, so a table of one contradicts the other."""
    table = load_label_names(f"totalsegmentator-v{file}").labels
    for level in (*QUICK.levels, *QUICK.other_labels):
        own = {table[level]: f"vertebrae_{level}"}
        with pytest.raises(LabelNamesDiffer):
            translate_labels(label_map(0, names=own), load_label_names(f"totalsegmentator-v{names}"), QUICK)


def test_versions_2_and_3_differ_only_below_the_recipe() -> None:
    own = {26: "vertebrae_L6", 44: "vertebrae_C7"}
    assert translate_labels(label_map(26, 44, names=own), load_label_names("totalsegmentator"), QUICK).labels[
        0, 0
    ].tolist() == [0, 7]


def test_classes_are_combined() -> None:
    combined = combine_classes([("C1", label_map(1, 1, 0, 0)), ("T1", label_map(0, 0, 255, 0))], QUICK)
    assert combined.labels.tolist() == [[[1, 1, 8, 0]]]
    assert combined.warnings == ()


def test_empty_class_is_an_absent_level() -> None:
    assert combine_classes([("C1", label_map(0, 0)), ("C2", label_map(0, 1))], QUICK).labels.max() == 2


@pytest.mark.parametrize(("shared", "refused"), [(1, False), (2, False), (3, True)])
def test_a_voxel_in_two_classes_goes_to_the_first_up_to_one_percent(shared: int, refused: bool) -> None:
    first = label_map(*[1] * 100, *[0] * 200)
    second = label_map(*[0] * (100 - shared), *[1] * 200, *[0] * shared)
    classes = [("C1", first), ("C2", second)]
    if refused:
        with pytest.raises(ClassesConflict, match="3 of the 200 voxels of C2"):
            combine_classes(classes, QUICK)
        return
    combined = combine_classes(classes, QUICK)
    assert np.count_nonzero(combined.labels == 1) == 100
    assert np.count_nonzero(combined.labels == 2) == 200 - shared
    text = f"{shared} of the 200 voxels of C2 are in the classes above it too."
    assert combined.warnings == (StudyWarning("CLASSES_OVERLAP", text),)


@pytest.mark.parametrize(
    "affine",
    [np.diag([1, 1, 1.01, 1]), np.diag([1, 1, -1, 1]), SHIFTED],
)
def test_classes_on_different_grids_are_refused(affine: np.ndarray) -> None:
    classes = [("C1", label_map(1, 0, 0)), ("C2", label_map(0, 0, 1, affine=affine.astype(float)))]
    with pytest.raises(ClassesConflict, match="C1 and C2 have different grids"):
        combine_classes(classes, QUICK)


def test_classes_of_different_shapes_are_refused() -> None:
    with pytest.raises(ClassesConflict, match="different grids"):
        combine_classes([("C1", label_map(1, 0)), ("C2", label_map(0, 0, 1))], QUICK)


def test_mirrored_block_is_not_the_same_grid() -> None:
    """Both blocks have the same corners; only their order shows that one is mirrored."""
    mirrored = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]], float)
    classes = [("C1", label_map(1, 0, 0)), ("C2", label_map(0, 1, 1, affine=mirrored))]
    with pytest.raises(ClassesConflict, match="different grids"):
        combine_classes(classes, QUICK)


def test_the_same_level_twice_is_refused() -> None:
    with pytest.raises(ClassesConflict, match="Two classes of the segmentation are C1"):
        combine_classes([("C1", label_map(1, 0)), ("C1", label_map(0, 1))], QUICK)


def test_class_file_with_several_labels_is_refused() -> None:
    with pytest.raises(MaskUnreadable, match="C2 has the labels 1 and 3"):
        combine_classes([("C1", label_map(0, 0, 0)), ("C2", label_map(1, 1, 3))], QUICK)


def test_no_class_of_the_recipe_is_refused() -> None:
    with pytest.raises(LabelUnknown, match="none of the recipe's levels"):
        combine_classes([], QUICK)


@pytest.mark.parametrize("size", [*range(1, 18), 1001])
def test_kernels_treat_every_voxel_alike(size: int) -> None:
    """Eight voxels are looked at at once: no position within the eight, nor the rest, may be left out."""
    for position in {0, size // 2, size - 1}:
        voxels = [0] * size
        voxels[position] = 50
        expected = [0] * size
        expected[position] = 1
        assert translate_labels(label_map(*voxels), NAMES, QUICK).labels.ravel().tolist() == expected
        assert combine_classes([("C1", label_map(*voxels))], QUICK).labels.ravel().tolist() == expected
    random = np.random.default_rng(size).choice([0, 50, 44, 43, 9], size)
    translated = translate_labels(label_map(*random), NAMES, QUICK).labels.ravel()
    assert translated.tolist() == [{0: 0, 50: 1, 44: 7, 43: 8, 9: 0}[label] for label in random.tolist()]
