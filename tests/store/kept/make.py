"""Write the store that later releases must read: python -m tests.store.kept.make.

Run it once for each schema version, and keep the archives of all that are supported. The phantom, and so the
numbers in tests/store/test_kept_store.py, may differ when it is run again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from spine_etl.__main__ import main
from spine_etl.pipeline import process_study
from spine_etl.recipe import SCHEMA_VERSION, Recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter

RECIPE = Recipe.model_validate(
    {
        "name": "kept",
        "levels": {f"C{n}": n for n in range(1, 8)},
        "other_labels": {f"T{n}": 7 + n for n in range(1, 13)},
        "crop": {"spacing_mm": 5.0, "shape": [12, 14, 16]},
        "overview": {"spacing_mm": 12.0, "shape": [32, 20, 20]},
        "folds": 2,
    }
)


def write_store(source: Path, folder: Path) -> None:
    """Three versions: all studies, one with a duplicate slice; one refused; accepted again, in a new row."""
    options = f"--out {source} --studies 4 --seed 3 --slices 60 --size 96 --masked-share 0.75"
    assert main(["phantom", *options.split()]) == 0
    writer = StoreWriter(folder, RECIPE)
    studies = list(discover_studies(source, list(RECIPE.levels)))
    duplicate = source / "train_images" / studies[2].uid / "999.dcm"
    shutil.copy(min(duplicate.parent.iterdir()), duplicate)
    writer.commit([process_study(study, writer, row) for row, study in enumerate(studies)])
    file = min((source / "train_images" / studies[1].uid).iterdir())
    content = file.read_bytes()
    file.write_bytes(b"")
    writer.commit([process_study(studies[1], writer)])
    file.write_bytes(content)
    writer.commit([process_study(studies[1], writer)], {study.uid: n % 3 for n, study in enumerate(studies)})


if __name__ == "__main__":
    archive = Path(__file__).parent / f"schema{SCHEMA_VERSION}.zip"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "store"
        write_store(Path(temporary) / "source", folder)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                target.write(path, path.relative_to(folder))
    print(f"{archive}: {archive.stat().st_size} bytes", file=sys.stderr)
