"""What grows with the number of studies: tables, commits, opening, planning; and what a far store costs.

The table and commit path is the real one, over records that no voxels belong to. SeaweedFS on this machine
stands for S3: its answers come in a millisecond or two, so seconds on a real one are more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from flows.building.plan import plan_build
from flows.building.request import BuildRequest
from spine_etl.phantom import write_phantom
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store import open_store
from spine_etl.store.record import BoxRecord, LevelRecord, Record
from spine_etl.store.schema import ARRAY_NAMES
from spine_etl.store.writer import StoreWriter
from tests.benchmarks.contest import ROOT, show

pytestmark = pytest.mark.benchmark

ROWS = (100, 10_000, 100_000)
NIGHT = 50
QUICK = load_recipe("quick")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(number: int, recipe: Recipe, source_digest: str | None = None) -> Record:
    """A study as the data set has them: seven levels, every fifth with five boxes."""
    fractured = number % 5 == 0
    box = BoxRecord(
        x=1, y=2, width=3, height=4, slice_number=7, level="C2", in_crops={"C2": (0, 1, 2, 3, 4, number)}
    )
    level = LevelRecord(
        status="located", origin_mm=(number / 7, 2.0, 3.0), coverage=1.0,
        volume_mm3=9e3 + number, confidence=1.0, slices=(number % 90, 99),
    )  # fmt: skip
    return Record(
        uid=f"1.2.826.0.1.3680043.{number}",
        fingerprint=recipe.fingerprint,
        source_digest=source_digest or sha(f"source {number}"),
        row=number,
        digests={name: sha(f"{name} {number}") for name in ARRAY_NAMES},
        mask_source="given",
        levels=dict.fromkeys(recipe.levels, level),
        fracture={**dict.fromkeys(recipe.levels, 0), "C2": int(fractured), "patient_overall": int(fractured)},
        boxes=(box,) * 5 if fractured else (),
    )


def seconds(work: Callable[..., Any], *inputs: Any) -> float:
    began = time.perf_counter()
    work(*inputs)
    return time.perf_counter() - began


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_commits_and_opening_as_rows_grow(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The second version adds a night's studies to all others."""
    lines = []
    for rows in ROWS:
        bucket = str(tmp_path) if place == "disk" else request.getfixturevalue("s3_bucket")
        address = f"{bucket}/{rows}"
        writer = StoreWriter(address, QUICK)
        everything = [record(number, QUICK) for number in range(rows)]
        first = seconds(writer.commit, everything[:-NIGHT])
        night = seconds(writer.commit, everything[-NIGHT:])
        assert open_store(address).version == 2
        opening = median(seconds(open_store, address) for _ in range(5))
        assert len(open_store(address)) == rows
        size = sum(array.nbytes for array in open_store(address).table.columns.values())
        lines.append((f"{rows:,}", first, night, opening, size / 1e6))
    show(
        f"versions on {place}",
        ("rows", "first commit, s", f"commit of {NIGHT} more, s", "open, s", "table in memory, MB"),
        lines,
    )
    by_rows = {line[0]: line for line in lines}
    # A thousand times the rows may cost what reading a table a thousand times as large costs, and no more.
    assert by_rows["100,000"][3] < 0.1 + 10 * by_rows["10,000"][3]


def test_the_night_of_a_large_source(tmp_path: Path) -> None:
    """100,000 studies of one tiny file each, all known but a few: how long until the plan is made."""
    count = ROWS[-1]
    images = tmp_path / "source" / "train_images"
    for number in range(count):
        folder = images / f"1.2.826.0.1.3680043.{number}"
        folder.mkdir(parents=True)
        (folder / "1.dcm").write_bytes(b"%d" % number)
    from spine_etl.study_record import source_digest

    studies = discover_studies(tmp_path / "source", list(QUICK.levels))
    writer = StoreWriter(tmp_path / "store", QUICK)
    known = studies[NIGHT:]
    digests = [source_digest(study) for study in known]
    writer.commit([
        record(number, QUICK, digest).model_copy(update={"uid": study.uid, "row": number})
        for number, (study, digest) in enumerate(zip(known, digests, strict=True))
    ])  # fmt: skip
    plans = []
    request = BuildRequest(str(tmp_path / "source"), str(tmp_path / "store"), QUICK, workers=2)
    took = seconds(lambda: plans.append(plan_build(request)))
    (plan,) = plans
    assert (plan.committed, len(plan.pending)) == (count - NIGHT, NIGHT)
    show("planning", ("studies", "s", "ms a study"), [(f"{count:,}", took, 1000 * took / count)])


def epochs(address: str, run: Path, *more: str) -> list[float]:
    """Seconds of each epoch of a training."""
    command = [
        sys.executable,
        "-m",
        "model.train",
        "--store",
        address,
        "--out",
        str(run),
        "--recipe",
        "quick",
    ]
    subprocess.run(
        [*command, "--epochs", "4", "--device", "cpu", *more], check=True, capture_output=True, cwd=ROOT
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if line["objective"] == lines[0]["objective"]]


def test_training_from_s3(tmp_path: Path, s3_bucket: str) -> None:
    """The same store on a disk and on S3, with a cache and without, in turns."""
    source = tmp_path / "source"
    write_phantom(source, 16, 5, slices=160, size=256, masked_share=1.0)
    for address in (str(tmp_path / "store"), f"{s3_bucket}/store"):
        built = [sys.executable, "-m", "flows.build_dataset", "--source", str(source), "--store", address]
        done = subprocess.run([*built, "--recipe", "quick"], cwd=ROOT, capture_output=True)
        assert done.returncode in (0, 3), done.stderr
    ratios, lines = [], []
    for turn in range(3):
        local = epochs(str(tmp_path / "store"), tmp_path / f"local{turn}")
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cached = epochs(f"{s3_bucket}/store", tmp_path / f"cached{turn}", "--cache", str(cache))
        bare = epochs(f"{s3_bucket}/store", tmp_path / f"bare{turn}")
        for name, figures in (("disk", local), ("S3, cache", cached), ("S3 alone", bare)):
            lines.append((name, figures[0], median(figures[1:]), median(figures[1:]) / median(local[1:])))
        ratios.append(median(cached[1:]) / median(local[1:]))
    show("epochs", ("store", "first, s", "later, s", "later / disk"), lines)
    assert median(ratios) < 1.5


def test_two_workers_against_one(tmp_path: Path, recipe: Recipe, recipe_file: Path) -> None:
    """Studies a minute between the first and the last of a build, on workers of one thread each.

    Studies are of the real set's usual size, of which a study's own share of Prefect and Dask is small.
    """
    from tests.benchmarks.test_flow import _done_at, _source

    source = _source(tmp_path / "source", studies=24, distinct=3, slices=300, size=512)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for workers in rates:
            shutil.rmtree(tmp_path / "store", ignore_errors=True)
            os.sync()
            done = list(_done_at(source, recipe_file, tmp_path / "store", workers))
            # The first study of each worker compiles and warms up; it is not what a night is made of.
            rates[workers].append(60 * (len(done) - 1 - workers) / (done[-1] - done[workers]))
    gains = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    show(
        "studies a minute",
        ("one worker", "two workers", "gain"),
        list(zip(rates[1], rates[2], gains, strict=True)),
    )
    assert median(gains) >= 1.8 * 0.75
