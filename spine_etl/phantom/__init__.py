"""Synthetic cervical-spine CT in the RSNA 2022 layout: sample data for demonstrations and tests.

All random numbers derive from the seed and the index of the study, so a study has the same bytes for any
number of studies and threads. Its anatomy and fractures do not depend on ``slices`` and ``size``, which only
set how finely it is sampled. The index also selects a study's format, so that the first eight studies include
both file orders, three pixel formats, uneven slice spacing, oblique slices, a study without ``1.dcm`` and one
without a segmentation.

The phantom differs from the real data set in three ways. Three quarters of the positive studies have boxes (a
quarter in the real set). The rare studies with uneven slice spacing have no segmentation: NIfTI stores an
even grid, which would put their labels at the wrong heights. The anatomy is schematic, not medically
accurate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

import numpy as np

from spine_etl.errors import SourceNotEmpty
from spine_etl.phantom.anatomy import CERVICAL, LEVELS, Neck, build_neck
from spine_etl.phantom.files import write_mask, write_slice, write_table
from spine_etl.phantom.fractures import choose_levels, make_cut
from spine_etl.phantom.render import Box, LevelTruth, Renderer, fracture_boxes, level_truth
from spine_etl.phantom.scanner import SYNTAXES, Scan, fully_visible_levels, plan_scan

__all__ = ["Box", "LevelTruth", "PhantomStudy", "Scan", "phantom_truth", "write_phantom"]

Syntax = Literal["mixed", "implicit", "explicit", "jpeg-lossless"]

_BOXED_SHARE = 0.75
_FIRST_UID_NUMBER, _MAX_STUDIES = 40_000, 49_999


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """The ground truth of one study.

    Parameters
    ----------
    uid
        StudyInstanceUID, also the name of the study's folder.
    scan
        Geometry of the CT, slice by slice in file order.
    levels
        C1..C7, T1 and T2, as far as they are in the scan; a level outside the scan is absent.
    fractured
        Fractured levels from head to foot.
    boxes
        Rows of train_bounding_boxes.csv; empty for a quarter of the positive studies.
    has_mask
        Whether segmentations/<uid>.nii exists.
    """

    uid: str
    scan: Scan
    levels: dict[str, LevelTruth]
    fractured: tuple[str, ...]
    boxes: tuple[Box, ...]
    has_mask: bool


def write_phantom(
    out: Path,
    studies: int,
    seed: int,
    *,
    transfer_syntax: Syntax = "mixed",
    slices: int | None = None,
    size: int = 512,
    masked_share: float = 0.75,
    progress: Callable[[PhantomStudy], None] = lambda study: None,
) -> list[PhantomStudy]:
    """Write a source folder in the RSNA 2022 layout and return the ground truth of its studies.

    Parameters
    ----------
    out
        Must be empty or absent; it is created.
    studies
        Number of studies, up to 49,999.
    seed
        0 or more.
    transfer_syntax
        One for all studies, or ``mixed``: alternating implicit and explicit little endian and JPEG Lossless.
    slices
        Slices per study; by default the slice spacing is 0.5 to 0.8 mm (2.6 mm in oblique studies).
    size
        Rows and columns.
    masked_share
        Share of the studies that have a segmentation, distributed evenly over the indices.
    progress
        Called with each study after it is written.

    Raises
    ------
    SourceNotEmpty
        If ``out`` is not empty.
    ValueError
        If a number is out of range or the transfer syntax is unknown.
    """
    _check_arguments(studies, seed, transfer_syntax, slices, size, masked_share)
    if out.exists() and any(out.iterdir()):
        raise SourceNotEmpty(f"{out.name} already contains files.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(studies):
        neck, study = _make_study(index, seed, transfer_syntax, slices, size, masked_share)
        _write_study(out, neck, study, np.random.default_rng([seed, index, 3]))
        written.append(study)
        progress(study)
    _write_tables(out, written)
    return written


def phantom_truth(
    index: int,
    seed: int,
    *,
    transfer_syntax: Syntax = "mixed",
    slices: int | None = None,
    size: int = 512,
    masked_share: float = 0.75,
) -> PhantomStudy:
    """The ground truth of one study as `write_phantom` would write it; nothing is written."""
    _check_arguments(index + 1, seed, transfer_syntax, slices, size, masked_share)
    return _make_study(index, seed, transfer_syntax, slices, size, masked_share)[1]


def _check_arguments(
    studies: int, seed: int, transfer_syntax: str, slices: int | None, size: int, masked_share: float
) -> None:
    if not 1 <= studies <= _MAX_STUDIES or seed < 0:
        raise ValueError(f"studies must be 1 to {_MAX_STUDIES} and seed at least 0, not {studies} and {seed}")
    if transfer_syntax not in ("mixed", *SYNTAXES):
        raise ValueError(f"transfer_syntax must be mixed, {', '.join(SYNTAXES)}, not {transfer_syntax!r}")
    if (slices is not None and not 16 <= slices <= 2000) or not 32 <= size <= 2048:
        raise ValueError(f"slices must be 16 to 2000 and size 32 to 2048, not {slices} and {size}")
    if not 0 <= masked_share <= 1:
        raise ValueError(f"masked_share must be 0 to 1, not {masked_share}")


def _make_study(
    index: int, seed: int, transfer_syntax: str, slices: int | None, size: int, masked_share: float
) -> tuple[Neck, PhantomStudy]:
    neck = build_neck(np.random.default_rng([seed, index, 0]))
    cuts = np.random.default_rng([seed, index, 1])
    fractured = choose_levels(cuts, seed, index, fully_visible_levels(index))
    for level in fractured:
        neck = neck.with_cut(level, make_cut(cuts, level, neck.scale))
    syntax = list(SYNTAXES.values())[index % 3] if transfer_syntax == "mixed" else SYNTAXES[transfer_syntax]
    scan = plan_scan(neck, np.random.default_rng([seed, index, 2]), index, syntax, slices, size)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        truths = list(threads.map(lambda part: level_truth(part, scan), neck.vertebrae))
    boxed = cuts.random() < _BOXED_SHARE
    return neck, PhantomStudy(
        uid=f"1.2.826.0.1.3680043.{_FIRST_UID_NUMBER + (index * 7919 + seed * 104729) % _MAX_STUDIES}",
        scan=scan,
        levels={name: truth for name, truth in zip(LEVELS, truths, strict=True) if truth.in_view > 0},
        fractured=fractured,
        boxes=tuple(_boxes(neck, scan)) if boxed else (),
        has_mask=scan.evenly_spaced and ceil((index + 1) * masked_share) > ceil(index * masked_share),
    )


def _boxes(neck: Neck, scan: Scan) -> Iterator[Box]:
    for part in neck.vertebrae:
        if part.cut[0] > 0:
            yield from fracture_boxes(part, scan)


def _write_study(out: Path, neck: Neck, study: PhantomStudy, rng: np.random.Generator) -> None:
    scan = study.scan
    folder = out / "train_images" / study.uid
    folder.mkdir(parents=True)
    renderer = Renderer(neck, scan, rng)
    labels = np.zeros((len(scan.positions_mm), scan.size, scan.size), np.uint16)

    def write(index: int) -> None:
        pixels = renderer.slice(index, labels[index])
        write_slice(folder / f"{scan.first_file + index}.dcm", study.uid, scan, index, pixels)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(write, range(len(scan.positions_mm))))
    if study.has_mask:
        (out / "segmentations").mkdir(exist_ok=True)
        write_mask(out / "segmentations" / f"{study.uid}.nii", scan, labels)


def _write_tables(out: Path, studies: list[PhantomStudy]) -> None:
    labels = [
        (s.uid, int(bool(s.fractured)), *(int(level in s.fractured) for level in CERVICAL)) for s in studies
    ]
    write_table(out / "train.csv", ("StudyInstanceUID", "patient_overall", *CERVICAL), labels)
    boxes = [(s.uid, b.x, b.y, b.width, b.height, b.file_number) for s in studies for b in s.boxes]
    columns = ("StudyInstanceUID", "x", "y", "width", "height", "slice_number")
    write_table(out / "train_bounding_boxes.csv", columns, boxes)
