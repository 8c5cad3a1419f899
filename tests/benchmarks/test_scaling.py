"""Scaling with the number of studies (tables, commits, opening, planning) and the cost of a remote store.

Tables and commits use the real code, with records that have no voxels. S3 is SeaweedFS on this machine, which
answers within a millisecond or two; a real S3 service takes longer.
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
from spine_etl.store.arrays import ARRAY_NAMES
from spine_etl.store.record import BoxRecord, LevelRecord, Record, StoredObject
from spine_etl.store.writer import StoreWriter
from tests.benchmarks.comparison import ROOT, print_table

pytestmark = pytest.mark.benchmark

ROWS = (100, 10_000, 100_000)
NEW_STUDIES = 50
QUICK = load_recipe("quick")


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(number: int, recipe: Recipe, source_digest: str | None = None) -> Record:
    """A record like those of the real data set: seven levels; every fifth study has five boxes."""
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
        objects={
            name: StoredObject(
                sha256=sha(f"{name} {number}"),
                crc32c=(number,) * (1 if "overview" in name else len(recipe.levels)),
            )
            for name in ARRAY_NAMES
        },
        mask_source="given",
        levels=dict.fromkeys(recipe.levels, level),
        fracture={**dict.fromkeys(recipe.levels, 0), "C2": int(fractured), "patient_overall": int(fractured)},
        boxes=(box,) * 5 if fractured else (),
    )


def seconds(work: Callable[..., Any], *inputs: Any) -> float:
    start = time.perf_counter()
    work(*inputs)
    return time.perf_counter() - start


@pytest.mark.parametrize("medium", ["disk", "s3"])
def test_commit_and_open_as_rows_grow(medium: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The second version adds a few new studies to all others."""
    lines = []
    for rows in ROWS:
        bucket = str(tmp_path) if medium == "disk" else request.getfixturevalue("s3_bucket")
        address = f"{bucket}/{rows}"
        writer = StoreWriter(address, QUICK)
        records = [record(number, QUICK) for number in range(rows)]
        first = seconds(writer.commit, records[:-NEW_STUDIES])
        second = seconds(writer.commit, records[-NEW_STUDIES:])
        assert open_store(address).version == 2
        opening = median(seconds(open_store, address) for _ in range(5))
        assert len(open_store(address)) == rows
        size = sum(array.nbytes for array in open_store(address).table.columns.values())
        lines.append((f"{rows:,}", first, second, opening, size / 1e6))
    print_table(
        f"versions on {medium}",
        ("rows", "first commit, s", f"commit of {NEW_STUDIES} more, s", "open, s", "table in memory, MB"),
        lines,
    )
    by_rows = {line[0]: line for line in lines}
    # The time to open a store may grow in proportion to the rows, but no faster.
    assert by_rows["100,000"][3] < 0.1 + 10 * by_rows["10,000"][3]


def test_plan_for_a_large_source_with_few_new_studies(tmp_path: Path) -> None:
    """Time to plan a build of 100,000 studies of one tiny file each, of which all but a few are committed."""
    count = ROWS[-1]
    images = tmp_path / "source" / "train_images"
    for number in range(count):
        folder = images / f"1.2.826.0.1.3680043.{number}"
        folder.mkdir(parents=True)
        (folder / "1.dcm").write_bytes(b"%d" % number)
    from spine_etl.study_record import source_digest

    studies = discover_studies(tmp_path / "source", list(QUICK.levels))
    writer = StoreWriter(tmp_path / "store", QUICK)
    committed = studies[NEW_STUDIES:]
    digests = [source_digest(study) for study in committed]
    writer.commit([
        record(number, QUICK, digest).model_copy(update={"uid": study.uid, "row": number})
        for number, (study, digest) in enumerate(zip(committed, digests, strict=True))
    ])  # fmt: skip
    plans = []
    request = BuildRequest(str(tmp_path / "source"), str(tmp_path / "store"), QUICK, workers=2)
    planning = seconds(lambda: plans.append(plan_build(request)))
    (plan,) = plans
    assert (plan.committed, len(plan.pending)) == (count - NEW_STUDIES, NEW_STUDIES)
    print_table(
        "planning", ("studies", "s", "ms per study"), [(f"{count:,}", planning, 1000 * planning / count)]
    )


def epoch_seconds(address: str, run: Path, *arguments: str) -> list[float]:
    """Train for four epochs and return the seconds of each."""
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
        [*command, "--epochs", "4", "--device", "cpu", *arguments], check=True, capture_output=True, cwd=ROOT
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if line["objective"] == lines[0]["objective"]]


def test_training_from_s3_against_disk(tmp_path: Path, s3_bucket: str) -> None:
    """The same store on disk, on S3 with a cache and on S3 without one, compared round by round."""
    source = tmp_path / "source"
    write_phantom(source, 16, 5, slices=160, size=256, masked_share=1.0)
    for address in (str(tmp_path / "store"), f"{s3_bucket}/store"):
        build = [sys.executable, "-m", "flows.build_dataset", "--source", str(source), "--store", address]
        done = subprocess.run([*build, "--recipe", "quick"], cwd=ROOT, capture_output=True)
        assert done.returncode in (0, 3), done.stderr
    ratios, lines = [], []
    for round_number in range(3):
        local = epoch_seconds(str(tmp_path / "store"), tmp_path / f"local{round_number}")
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cached = epoch_seconds(
            f"{s3_bucket}/store", tmp_path / f"cached{round_number}", "--cache", str(cache)
        )
        uncached = epoch_seconds(f"{s3_bucket}/store", tmp_path / f"uncached{round_number}")
        for name, figures in (("disk", local), ("S3, cache", cached), ("S3, no cache", uncached)):
            lines.append((name, figures[0], median(figures[1:]), median(figures[1:]) / median(local[1:])))
        ratios.append(median(cached[1:]) / median(local[1:]))
    print_table("epochs", ("store", "first, s", "later, s", "later / disk"), lines)
    assert median(ratios) < 1.5


def test_two_workers_against_one(tmp_path: Path, recipe: Recipe, recipe_file: Path) -> None:
    """Studies per minute between the first and last study of a build, on workers of one thread each.

    Studies have the usual size of the real data set, so the overhead of Prefect and Dask per study is small.
    """
    from tests.benchmarks.test_flow import finish_times, write_source

    source = write_source(tmp_path / "source", studies=24, distinct=3, slices=300, size=512)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for workers in rates:
            shutil.rmtree(tmp_path / "store", ignore_errors=True)
            os.sync()
            finished = list(finish_times(source, recipe_file, tmp_path / "store", workers))
            # The first study of each worker is left out: it includes compilation and other warm-up.
            rates[workers].append(60 * (len(finished) - 1 - workers) / (finished[-1] - finished[workers]))
    gains = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print_table(
        "studies per minute",
        ("one worker", "two workers", "gain"),
        list(zip(rates[1], rates[2], gains, strict=True)),
    )
    assert median(gains) >= 1.8 * 0.75
