"""``show``: draw a study from a source folder or from a store as PNG files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spine_etl.recipe import Recipe
    from spine_etl.source.layout import Study
    from spine_etl.volume import Volume
    from spine_etl.windows import Window

HELP = "draw a study's slices, segmentation, reslices or stored crops as PNG"

_DEFAULT_RECIPE = "rsna2022"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--source", metavar="SOURCE", help="in the RSNA 2022 layout: a folder, a .zip, or s3://bucket/prefix"
    )
    origin.add_argument("--store", help="store that contains the study")
    parser.add_argument(
        "--masks", metavar="FOLDER", help="segmentations for studies of --source that have none"
    )
    parser.add_argument(
        "--masks-from", metavar="NAMES", help="label names of --masks: a set that ships, or a TOML file"
    )
    parser.add_argument("--study", metavar="UID", required=True, help="StudyInstanceUID")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the pictures")
    parser.add_argument(
        "--window", choices=["bone", "soft", "header"], default="bone", help="window of HU (default: bone)"
    )
    parser.add_argument("--start", type=int, metavar="N", help="file number of the montage's first slice")
    parser.add_argument(
        "--recipe",
        help="names the levels: a recipe that ships (rsna2022, quick) or a TOML file "
        f"(default: {_DEFAULT_RECIPE})",
    )


def run(options: argparse.Namespace) -> int:
    _check_options(options)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = _draw_from_store(options) if options.store else _draw_from_source(options)
    for picture in pictures:
        print(picture)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Exit with status 2 if an option needs --source and --store is given."""
    if (options.masks is None) != (options.masks_from is None):
        options.parser.error("--masks and --masks-from need each other")
    if not options.store:
        return
    if options.masks:
        options.parser.error("--masks needs --source: a store contains its masks")
    if options.window == "header":
        options.parser.error("--window header needs --source: a store has no DICOM header")
    if options.start is not None or options.recipe:
        options.parser.error("--start and --recipe need --source: a store has its own recipe")


def _draw_from_store(options: argparse.Namespace) -> list[Path]:
    from spine_etl.report.pictures import draw_stored
    from spine_etl.store import open_store
    from spine_etl.windows import BONE, SOFT_TISSUE

    window = SOFT_TISSUE if options.window == "soft" else BONE
    return draw_stored(options.out, open_store(options.store), options.study, window=window)


def _draw_from_source(options: argparse.Namespace) -> list[Path]:
    from spine_etl.dicom import read_series
    from spine_etl.masks import read_mask
    from spine_etl.recipe import load_recipe
    from spine_etl.report.describe import label_names
    from spine_etl.report.pictures import draw_study

    recipe = load_recipe(options.recipe or _DEFAULT_RECIPE)
    study = _with_external_mask(_find_study(options.source, options.study, recipe), options, recipe)
    volume = read_series(study.folder)
    mask = read_mask(study, recipe)
    for note in _notes(study, volume):
        print(f"note: {note}", file=sys.stderr)
    window = _window(options.window, volume)
    names = label_names(recipe)
    return draw_study(options.out, study, volume, mask, names=names, window=window, start=options.start)


def _find_study(source: str, uid: str, recipe: Recipe) -> Study:
    from spine_etl.errors import SourceNotFound
    from spine_etl.source.layout import discover_studies

    for study in discover_studies(source, list(recipe.levels)):
        if study.uid == uid:
            return study
    raise SourceNotFound(f"{source} contains no study {uid}.")


def _with_external_mask(study: Study, options: argparse.Namespace, recipe: Recipe) -> Study:
    if not options.masks:
        return study
    from spine_etl.source.files import open_source
    from spine_etl.source.label_names import load_label_names
    from spine_etl.source.masks import assign_masks

    names = load_label_names(options.masks_from)
    names.check(recipe)
    return assign_masks([study], open_source(options.masks), names).studies[0]


def _notes(study: Study, volume: Volume) -> Iterator[str]:
    """Facts about the study that the pictures cannot show."""
    yield from map(str, volume.warnings)
    if study.problem:
        yield f"{study.problem}"
    if not (study.mask or study.external_mask):
        yield "the study has no segmentation, so no picture of it is drawn."
    numbers = set() if volume.file_numbers is None else set(volume.file_numbers.tolist())
    absent = [box.slice_number for box in study.boxes if box.slice_number not in numbers]
    if absent:
        yield f"boxes refer to slices that are not in the series: {absent}."


def _window(name: str, volume: Volume) -> Window:
    from spine_etl.windows import BONE, SOFT_TISSUE, header_window

    return {"bone": BONE, "soft": SOFT_TISSUE}.get(name) or header_window(volume)
