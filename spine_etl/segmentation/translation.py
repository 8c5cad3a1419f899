"""Segmentations from elsewhere: their labels and class files turned into the recipe's numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from spine_etl.errors import ClassesConflict, LabelNamesDiffer, LabelUnknown, MaskUnreadable, StudyWarning
from spine_etl.geometry import Grid
from spine_etl.jit import compiled, read_only
from spine_etl.recipe import Recipe
from spine_etl.source.label_names import LabelNames
from spine_etl.volume import LabelMap

_MAX_OVERLAP = 0.01
"""Share of a class that other classes may claim too, as a tool that predicts each class by itself does."""

_SAME_GRID_MM = 0.01


def recipe_numbers(recipe: Recipe) -> dict[str, int]:
    """The recipe's number of each level and other label, by name."""
    return {**recipe.levels, **recipe.other_labels}


def translate_labels(label_map: LabelMap, names: LabelNames, recipe: Recipe) -> LabelMap:
    """The map with the recipe's numbers.

    Labels that the names ignore, and named vertebrae that the recipe does not contain, become background.

    Raises
    ------
    LabelUnknown
        Lists the labels that are neither named nor ignored.
    LabelNamesDiffer
        If the file names its own labels differently.
    """
    _check_own_names(label_map, names, recipe)
    wanted = recipe_numbers(recipe)
    table = np.zeros(256, np.uint8)
    for level, number in names.labels.items():
        table[number] = wanted.get(level, 0)
    labels, present = np.zeros(label_map.labels.shape, np.uint8), np.zeros(256, np.bool_)
    _translate(*_flat(label_map.labels), read_only(table), labels.reshape(-1), present)
    known = {0, *names.labels.values()}
    unknown = [n for n in np.flatnonzero(present).tolist() if n not in known and not names.ignores_number(n)]
    if unknown:
        raise LabelUnknown(
            f"The segmentation contains labels {unknown}, which {names.name} neither names nor ignores.",
            action="Pass the label names that the masks were made with, or a file that lists these labels.",
        )
    return LabelMap(labels, label_map.grid, label_map.source_digest, {}, label_map.warnings)


def combine_classes(classes: Iterable[tuple[str, LabelMap]], recipe: Recipe) -> LabelMap:
    """One map from binary ones, each with its level, in the order of the levels from head to foot.

    A voxel in two classes goes to the first of them, and a warning counts such voxels.

    Raises
    ------
    ClassesConflict
        If the grids differ, a level occurs twice, or more than 1 % of a class is in earlier ones.
    MaskUnreadable
        If a map has several labels.
    """
    wanted = recipe_numbers(recipe)
    labels: npt.NDArray[np.uint8] | None = None
    grid: Grid | None = None
    first, seen, warnings = "", set[str](), list[StudyWarning]()
    for level, label_map in classes:
        if level in seen:
            raise ClassesConflict(f"Two classes of the segmentation are {level}.")
        seen.add(level)
        if labels is None or grid is None:
            labels, grid, first = np.zeros(label_map.labels.shape, np.uint8), label_map.grid, level
        if not _same_grid(grid, label_map.grid):
            raise ClassesConflict(f"The classes {first} and {level} have different grids.")
        value, other, count, shared = _paint(*_flat(label_map.labels), wanted[level], labels.reshape(-1))
        if other:
            raise MaskUnreadable(
                f"The class {level} has the labels {value} and {other}; a class file has one.",
                action="Write one binary file for each class, or one file with all labels.",
            )
        if shared > _MAX_OVERLAP * count:
            raise ClassesConflict(f"{shared} of the {count} voxels of {level} are in other classes too.")
        if shared:
            text = f"{shared} of the {count} voxels of {level} are in the classes above it too."
            warnings.append(StudyWarning("CLASSES_OVERLAP", text))
    if labels is None or grid is None:
        raise LabelUnknown("The segmentation contains none of the recipe's levels.")
    return LabelMap(labels, grid, warnings=tuple(warnings))


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, before the first study needs them."""
    empty = np.zeros(1, np.uint8)
    _translate(*_flat(empty), read_only(np.zeros(256, np.uint8)), empty.copy(), np.zeros(256, np.bool_))
    _paint(*_flat(empty), 1, empty.copy())


def _check_own_names(label_map: LabelMap, names: LabelNames, recipe: Recipe) -> None:
    """Compare the file's table of labels, if it has one, for every label that concerns the recipe."""
    wanted, by_number = recipe_numbers(recipe), {number: level for level, number in names.labels.items()}
    for number, own_name in label_map.label_names.items():
        own, ours = names.level_of(own_name), by_number.get(number)
        if own != ours and (own in wanted or ours in wanted):
            raise LabelNamesDiffer(
                f"Label {number} is {own or 'another structure'} in the file and {ours or 'ignored'} in"
                f" {names.name}."
            )


def _same_grid(a: Grid, b: Grid) -> bool:
    return a.shape == b.shape and bool(np.abs(a.corners_mm() - b.corners_mm()).max() <= _SAME_GRID_MM)


def _flat(labels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """All labels in a row, and the same eight to a word, without the last few that do not fill one."""
    flat = np.ascontiguousarray(labels).reshape(-1)
    return read_only(flat), read_only(flat[: flat.size // 8 * 8].view(np.uint64))


@compiled
def _translate(
    labels: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint64],
    table: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    present: npt.NDArray[np.bool_],
) -> None:
    """``out[i] = table[labels[i]]`` where a label is not 0; marks in ``present`` which labels occur.

    ``words`` are the same labels, eight to a word: most words are 0 and are skipped at once.
    """
    for word in range(words.size + 1):
        if word < words.size and words[word] == 0:
            continue
        for i in range(8 * word, min(8 * word + 8, labels.size)):
            label = labels[i]
            if label != 0:
                present[label] = True
                out[i] = table[label]


@compiled
def _paint(
    mask: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], number: int, out: npt.NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    """Write ``number`` where ``mask`` is not 0 and ``out`` is; ``words`` is the mask, eight voxels to a word.

    Returns the first value of the mask, another one (0 if there is none), the number of its voxels, and how
    many of them ``out`` already had.
    """
    value, other, count, shared = 0, 0, 0, 0
    for word in range(words.size + 1):
        if word < words.size and words[word] == 0:
            continue
        for i in range(8 * word, min(8 * word + 8, mask.size)):
            if mask[i] == 0:
                continue
            if value == 0:
                value = mask[i]
            elif mask[i] != value:
                other = mask[i]
            count += 1
            if out[i] != 0:
                shared += 1
            else:
                out[i] = number
    return value, other, count, shared
