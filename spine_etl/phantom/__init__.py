"""Synthetic cervical-spine CT in the RSNA 2022 layout: sample data for demonstrations and tests.

Every number comes from (seed, index of the study), so a study is the same, byte for byte, whatever the
number of studies or threads; a study's anatomy and fractures do not depend on ``slices`` and ``size``, which
only sample it more coarsely. What differs between studies follows their index, so that the first eight
already hold both file orders, three pixel formats, uneven steps, oblique slices, a study without ``1.dcm``
and one without a segmentation.

Three things differ from the real set: three quarters of the positive studies have boxes (a quarter in the
real set); the rare studies with uneven steps have no segmentation, since a NIfTI file holds an even grid
and would put their labels at the wrong heights; and nothing in them is anatomy to learn medicine from.
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
from spine_etl.phantom.anatomy import LEVELS, Neck, build_neck
from spine_etl.phantom.files import write_mask, write_slice, write_table
from spine_etl.phantom.fractures import choose_levels, make_cut
from spine_etl.phantom.render import Box, LevelTruth, Renderer, fracture_boxes, level_truth
from spine_etl.phantom.scanner import SYNTAXES, Scan, plan_scan, showable_levels

__all__ = ["Box", "LevelTruth", "PhantomStudy", "Scan", "phantom_truth", "write_phantom"]

Syntax = Literal["mixed", "implicit", "explicit", "jpeg-lossless"]

_BOXED_SHARE = 0.75
_FIRST_NUMBER, _NUMBERS = 40_000, 49_999
_CERVICAL = LEVELS[:7]


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """The truth of one study.

    Parameters
    ----------
    uid
        StudyInstanceUID, also the folder's name.
    scan
        The CT's geometry, slice by slice in file order.
    levels
        C1..C7, T1, T2 as far as the scan shows them; a level it does not show at all is absent.
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
    """Write a source folder in the RSNA 2022 layout and return what is true of it.

    Parameters
    ----------
    out
        Made where absent; must be empty.
    studies
        Number of studies, up to 49,999.
    seed
        0 or more.
    transfer_syntax
        One for all studies, or ``mixed``: in turn implicit and explicit little endian and JPEG Lossless.
    slices
        Slices in each study; by default as many as steps of 0.5 to 0.8 mm need (2.6 mm where oblique).
    size
        Rows and columns.
    masked_share
        Share of the studies that have a segmentation, spread evenly.
    progress
        Called with each study once it is written.

    Raises
    ------
    SourceNotEmpty
        If ``out`` holds anything.
    ValueError
        If a number is out of range or the transfer syntax has another name.
    """
    _check(studies, seed, transfer_syntax, slices, size, masked_share)
    if out.exists() and any(out.iterdir()):
        raise SourceNotEmpty(f"{out.name} already holds files.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(studies):
        neck, study = _make(index, seed, transfer_syntax, slices, size, masked_share)
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
    """What is true of one study that `write_phantom` writes with the same settings, without writing it."""
    _check(index + 1, seed, transfer_syntax, slices, size, masked_share)
    return _make(index, seed, transfer_syntax, slices, size, masked_share)[1]


def _check(
    studies: int, seed: int, transfer_syntax: str, slices: int | None, size: int, masked_share: float
) -> None:
    if not 1 <= studies <= _NUMBERS or seed < 0:
        raise ValueError(f"studies must be 1 to {_NUMBERS} and seed at least 0, not {studies} and {seed}")
    if transfer_syntax not in ("mixed", *SYNTAXES):
        raise ValueError(f"transfer_syntax must be mixed, {', '.join(SYNTAXES)}, not {transfer_syntax!r}")
    if (slices is not None and not 16 <= slices <= 2000) or not 32 <= size <= 2048:
        raise ValueError(f"slices must be 16 to 2000 and size 32 to 2048, not {slices} and {size}")
    if not 0 <= masked_share <= 1:
        raise ValueError(f"masked_share must be 0 to 1, not {masked_share}")


def _make(
    index: int, seed: int, transfer_syntax: str, slices: int | None, size: int, masked_share: float
) -> tuple[Neck, PhantomStudy]:
    neck = build_neck(np.random.default_rng([seed, index, 0]))
    cuts = np.random.default_rng([seed, index, 1])
    fractured = choose_levels(cuts, seed, index, showable_levels(index))
    for level in fractured:
        neck = neck.cut(level, make_cut(cuts, level, neck.scale))
    syntax = list(SYNTAXES.values())[index % 3] if transfer_syntax == "mixed" else SYNTAXES[transfer_syntax]
    scan = plan_scan(neck, np.random.default_rng([seed, index, 2]), index, syntax, slices, size)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        truths = list(threads.map(lambda part: level_truth(part, scan), neck.vertebrae))
    boxed = cuts.random() < _BOXED_SHARE
    return neck, PhantomStudy(
        uid=f"1.2.826.0.1.3680043.{_FIRST_NUMBER + (index * 7919 + seed * 104729) % _NUMBERS}",
        scan=scan,
        levels={name: truth for name, truth in zip(LEVELS, truths, strict=True) if truth.in_view > 0},
        fractured=fractured,
        boxes=tuple(_boxes(neck, scan)) if boxed else (),
        has_mask=scan.even and ceil((index + 1) * masked_share) > ceil(index * masked_share),
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

    def write(place: int) -> None:
        pixels = renderer.slice(place, labels[place])
        write_slice(folder / f"{scan.first_file + place}.dcm", study.uid, scan, place, pixels)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(write, range(len(scan.positions_mm))))
    if study.has_mask:
        (out / "segmentations").mkdir(exist_ok=True)
        write_mask(out / "segmentations" / f"{study.uid}.nii", scan, labels)


def _write_tables(out: Path, studies: list[PhantomStudy]) -> None:
    labels = [
        (s.uid, int(bool(s.fractured)), *(int(level in s.fractured) for level in _CERVICAL)) for s in studies
    ]
    write_table(out / "train.csv", ("StudyInstanceUID", "patient_overall", *_CERVICAL), labels)
    boxes = [(s.uid, b.x, b.y, b.width, b.height, b.file_number) for s in studies for b in s.boxes]
    columns = ("StudyInstanceUID", "x", "y", "width", "height", "slice_number")
    write_table(out / "train_bounding_boxes.csv", columns, boxes)
