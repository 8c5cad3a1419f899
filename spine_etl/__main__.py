"""The command line: python -m spine_etl {phantom,read,inspect,show,check}.

Exit status: 0 all well; 1 refused, or check found faults; 2 the command line is wrong; 130 interrupted.
Each command imports what it needs when it runs, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spine_etl.errors import SpineError
    from spine_etl.phantom import PhantomStudy
    from spine_etl.report.drawing import Window
    from spine_etl.source.layout import Study
    from spine_etl.store import Store
    from spine_etl.volume import Volume

_CERVICAL = [f"C{n}" for n in range(1, 8)]
_TELL_EVERY_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parse(argv)
    from spine_etl.errors import SpineError

    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except SpineError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed: pip install 'spine-etl[read]'.")
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror}.")
    except KeyboardInterrupt:
        return 130
    return status


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


def phantom(options: argparse.Namespace) -> int:
    """Write synthetic studies."""
    from spine_etl.phantom import write_phantom

    print(f"Writing {options.studies} studies to {options.out} ...", flush=True)

    def tell(study: PhantomStudy) -> None:
        fractured = ", ".join(study.fractured) or "none"
        mask = "with" if study.has_mask else "without"
        slices = len(study.scan.positions_mm)
        print(f"{study.uid}: {slices} slices, {mask} mask, fractured: {fractured}", flush=True)

    write_phantom(
        options.out,
        options.studies,
        options.seed,
        transfer_syntax=options.transfer_syntax,
        slices=options.slices,
        size=options.size,
        masked_share=options.masked_share,
        progress=tell,
    )
    return 0


def read(options: argparse.Namespace) -> int:
    """Write a series as NIfTI, just as it was read."""
    from spine_etl.dicom import read_series
    from spine_etl.nifti import write_volume

    volume = read_series(options.folder)
    if options.isotropic:
        from spine_etl.resample import resample_isotropic

        volume = resample_isotropic(volume, options.isotropic, threads=len(os.sched_getaffinity(0)))
    write_volume(options.out, volume)
    for warning in volume.warnings:
        print(f"note: {warning}", file=sys.stderr)
    z, y, x = volume.grid.spacing_mm
    print(f"{options.out}: {volume.grid.shape} voxels (z, y, x) of {z:.4g} x {y:.4g} x {x:.4g} mm")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Print what a file, a series or a store says of itself."""
    facts = _facts_of(options.path)
    if options.json:
        print(json.dumps(facts))
    else:
        _print_facts(facts)
    return 0


def _facts_of(path: str) -> dict[str, Any]:
    from spine_etl.report import describe

    if "://" in path or Path(path, "zarr.json").is_file():
        from spine_etl.store import open_store

        return describe.describe_store(open_store(path))
    if Path(path).is_dir() or path.endswith(".zip"):
        from spine_etl.dicom import read_series

        return describe.describe_series(read_series(path))
    if path.endswith((".nii", ".nii.gz")):
        from spine_etl.nifti import read_label_map

        return describe.describe_label_map(read_label_map(path))
    from spine_etl.dicom import read_header

    return describe.describe_header(read_header(path))


def _print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            print(f"{indent}{name}")
            _print_facts(value, indent + "  ")
            continue
        rows = value if isinstance(value, list) and any(isinstance(row, list) for row in value) else [value]
        for number, row in enumerate(rows):
            print(f"{indent}{'' if number else name:{width}}  {_as_text(row)}".rstrip())


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_as_text, value))
    return "-" if value is None else str(value)


def show(options: argparse.Namespace) -> int:
    """Draw a study of a source folder or of a store."""
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = _show_stored(options) if options.store else _show_source(options)
    for picture in pictures:
        print(picture)
    return 0


def _show_stored(options: argparse.Namespace) -> list[Path]:
    from spine_etl.report.drawing import BONE, SOFT
    from spine_etl.report.pictures import draw_stored
    from spine_etl.store import open_store

    window = SOFT if options.window == "soft" else BONE
    return draw_stored(options.out, open_store(options.store), options.study, window=window)


def _show_source(options: argparse.Namespace) -> list[Path]:
    from spine_etl.dicom import read_series
    from spine_etl.nifti import read_label_map
    from spine_etl.report.describe import RSNA_NAMES, label_names
    from spine_etl.report.pictures import draw_study

    names, levels = RSNA_NAMES, _CERVICAL
    if options.recipe:
        from spine_etl.recipe import load_recipe

        recipe = load_recipe(options.recipe)
        names, levels = label_names(recipe), list(recipe.levels)
    study = _find_study(options.source, options.study, levels)
    volume = read_series(study.folder)
    mask = read_label_map(study.mask) if study.mask else None
    for note in _notes(study, volume):
        print(f"note: {note}", file=sys.stderr)
    window = _window(options.window, volume)
    return draw_study(options.out, study, volume, mask, names=names, window=window, start=options.start)


def _find_study(source: str, uid: str, levels: list[str]) -> Study:
    from spine_etl.errors import SourceNotFound
    from spine_etl.source.layout import discover_studies

    study = next((study for study in discover_studies(source, levels) if study.uid == uid), None)
    if study is None:
        raise SourceNotFound(f"{source} holds no study {uid}.")
    return study


def _notes(study: Study, volume: Volume) -> Iterable[str]:
    """What the pictures cannot show."""
    yield from volume.warnings
    if study.problem:
        yield f"{study.problem}"
    if not study.mask:
        yield "the study has no segmentation, so there is no picture of it."
    numbers = set() if volume.file_numbers is None else set(volume.file_numbers.tolist())
    lost = [box.slice_number for box in study.boxes if box.slice_number not in numbers]
    if lost:
        yield f"boxes name slices that the series does not hold: {lost}."


def _window(name: str, volume: Volume) -> Window:
    from spine_etl.report.drawing import BONE, SOFT, header_window

    return {"bone": BONE, "soft": SOFT}.get(name) or header_window(volume)


def check(options: argparse.Namespace) -> int:
    """Read every committed object of a store against its digest."""
    from spine_etl.store import open_store
    from spine_etl.store.schema import ARRAY_NAMES

    store = open_store(options.store, options.version)
    faults = _faults(store)
    studies, objects = len(store), len(store) * len(ARRAY_NAMES)
    if options.json:
        found = [{"study": fault.study, **fault.as_dict()} for fault in faults]
        line = {"studies": studies, "objects": objects, "faults": found}
        print(json.dumps({**line, "version": store.version, "root_digest": store.root_digest}))
    elif faults:
        for fault in faults:
            print(f"{fault.code} {fault.study} {fault.reason}")
    else:
        print(f"{studies} studies, {objects} objects, all as committed")
    return 1 if faults else 0


def _faults(store: Store) -> list[SpineError]:
    """What is wrong with a store, telling from time to time how far it is read."""
    from spine_etl.store.check import check_study

    faults: list[SpineError] = []
    told = time.monotonic()
    for study in range(len(store)):
        faults += check_study(store, study)
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            print(f"{study + 1} of {len(store)} studies read ...", file=sys.stderr)
    return faults


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _arguments()
    options = parser.parse_args(argv)
    if options.run is show and options.store:
        if options.window == "header":
            parser.error("show --window header needs --source: a store holds no DICOM header")
        if options.start is not None or options.recipe:
            parser.error("show --start and --recipe go with --source: a store has its own recipe")
    return options


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spine_etl",
        description="Make, read, look at and check cervical-spine CT studies and the datasets made of them.",
        epilog="Exit status: 0 all well, 1 refused or faults found, 2 wrong command line.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_phantom, _add_read, _add_inspect, _add_show, _add_check):
        add(commands)
    return parser


def _command(commands: Any, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(run.__name__, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_phantom(commands: Any) -> None:
    parser = _command(commands, phantom, "write synthetic studies in the RSNA 2022 layout")
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--studies", type=_between(1, 49_999), required=True, help="number of studies")
    parser.add_argument("--seed", type=_between(0, 2**32), required=True, help="same seed, same bytes")
    parser.add_argument(
        "--transfer-syntax", choices=["mixed", "implicit", "explicit", "jpeg-lossless"], default="mixed"
    )
    parser.add_argument(
        "--slices", type=_between(16, 2000), help="slices a study (default: as anatomy needs)"
    )
    parser.add_argument(
        "--size", type=_between(32, 2048), default=512, help="rows and columns (default: 512)"
    )
    parser.add_argument(
        "--masked-share", type=_share, default=0.75, help="share with a segmentation (default: 0.75)"
    )


def _add_read(commands: Any) -> None:
    parser = _command(commands, read, "write a DICOM series as NIfTI, as it was read")
    parser.add_argument(
        "folder", metavar="FOLDER", help="one DICOM series: a folder, a .zip, or s3://bucket/prefix"
    )
    parser.add_argument("--out", required=True, help="file to write, .nii or .nii.gz")
    parser.add_argument(
        "--isotropic", type=_millimetres, metavar="MM", help="resample to cubes of that size, patient's axes"
    )


def _add_inspect(commands: Any) -> None:
    parser = _command(commands, inspect, "print header, geometry or contents, as the reader understood them")
    parser.add_argument(
        "path", metavar="FILE_OR_FOLDER", help="DICOM file, series folder or .zip, NIfTI label map, or store"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")


def _add_show(commands: Any) -> None:
    parser = _command(commands, show, "draw a study's slices, segmentation, reslices or stored crops as PNG")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--source", metavar="SOURCE", help="in the RSNA 2022 layout: a folder, a .zip, or s3://..."
    )
    where.add_argument("--store", help="store that holds the study")
    parser.add_argument("--study", metavar="UID", required=True, help="StudyInstanceUID")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the pictures")
    parser.add_argument(
        "--window", choices=["bone", "soft", "header"], default="bone", help="window of HU (default: bone)"
    )
    parser.add_argument("--start", type=int, metavar="N", help="file number of the montage's first slice")
    parser.add_argument(
        "--recipe", metavar="FILE", help="recipe that names the levels (default: RSNA 2022's)"
    )


def _add_check(commands: Any) -> None:
    parser = _command(commands, check, "read every committed object of a store against its digest")
    parser.add_argument("store", metavar="STORE", help="the store")
    parser.add_argument("--version", type=_between(1, 2**31), help="version to check (default: the newest)")
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")


def _between(low: int, high: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} to {high}")
        return value

    return whole_number


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to 1")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text} mm is not within 0.05 to 20")
    return value


if __name__ == "__main__":
    sys.exit(main())
