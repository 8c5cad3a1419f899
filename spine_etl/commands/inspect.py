"""``inspect``: print facts about a DICOM file, a series, a label map or a store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELP = "print header, geometry or contents, as the reader understood them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="FILE_OR_FOLDER", help="DICOM file, series folder or .zip, NIfTI label map, or store"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(options: argparse.Namespace) -> int:
    facts = _describe(options.path)
    if options.json:
        print(json.dumps(facts))
    else:
        _print_facts(facts)
    return 0


def _describe(path: str) -> dict[str, Any]:
    from spine_etl.errors import SourceNotFound
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
    if not Path(path).exists():
        raise SourceNotFound(f"there is no file or folder {path}.", action="Check the path.")
    from spine_etl.dicom import read_header

    return describe.describe_header(read_header(path))


def _print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """Print a name and a value per line; nested mappings are indented, lists of lists take a line per row."""
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
