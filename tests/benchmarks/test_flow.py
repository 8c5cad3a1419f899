"""Overhead of the flow: studies per minute on two workers against a plain loop in one process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from spine_etl.phantom import write_phantom
from spine_etl.pipeline import process_study, warm_up
from spine_etl.recipe import Recipe
from spine_etl.source.layout import discover_studies
from spine_etl.store.writer import StoreWriter
from tests.benchmarks.comparison import ROOT, print_table

pytestmark = pytest.mark.benchmark

STUDIES, DISTINCT, SLICES, SIZE, WORKERS, ROUNDS = 40, 8, 160, 256, 2, 3
GOAL = 1.6


def test_flow_against_loop(recipe: Recipe, recipe_file: Path, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", STUDIES, DISTINCT, SLICES, SIZE)
    warm_up()
    pairs = []
    for _ in range(ROUNDS):
        loop = _run_loop(source, recipe, tmp_path / "store")
        flow, start, end = _run_flow(source, recipe_file, tmp_path / "store")
        pairs.append((loop, flow, start, end))
    gain = median(flow / loop for loop, flow, _, _ in pairs)
    loop, flow, start, end = (median(figures) for figures in zip(*pairs, strict=True))
    print_table(
        f"{STUDIES} studies of {SLICES} slices of {SIZE}x{SIZE}, {WORKERS} workers against a plain loop",
        ("", "studies per minute", "s per study", "s to the first", "s after the last"),
        [("loop", loop, 60 / loop, 0.0, 0.0), ("flow", flow, 60 / flow, start, end)],
    )
    print(f"flow / loop: {gain:.2f}")
    assert gain >= 0.6 * GOAL


def write_source(folder: Path, studies: int, distinct: int, slices: int, size: int) -> Path:
    """Write a source of ``studies`` studies: ``distinct`` phantoms, and copies made of hard links."""
    written = write_phantom(folder, distinct, 5, transfer_syntax="explicit", slices=slices, size=size)
    for study in written:
        mask = folder / "segmentations" / f"{study.uid}.nii"
        for copy in range(1, studies // distinct):
            images = folder / "train_images"
            shutil.copytree(images / study.uid, images / f"{study.uid}.{copy}", copy_function=os.link)
            if mask.exists():
                os.link(mask, mask.with_name(f"{study.uid}.{copy}.nii"))
    return folder


def _run_loop(source: Path, recipe: Recipe, store: Path) -> float:
    """Studies per minute of `process_study`, one study after another in this process."""
    shutil.rmtree(store, ignore_errors=True)
    writer = StoreWriter(store, recipe)
    studies = discover_studies(source, list(recipe.levels))
    process_study(studies[0], writer)
    os.sync()
    start = time.perf_counter()
    for row, study in enumerate(studies[1:], start=1):
        assert process_study(study, writer, row).refusal is None
    return 60 * (len(studies) - 1) / (time.perf_counter() - start)


def _run_flow(source: Path, recipe_file: Path, store: Path) -> tuple[float, float, float]:
    """Studies per minute between the first and last finished study; seconds before and after them."""
    shutil.rmtree(store, ignore_errors=True)
    os.sync()
    start = time.perf_counter()
    finished = list(finish_times(source, recipe_file, store))
    end = time.perf_counter()
    assert len(finished) == STUDIES
    return 60 * (len(finished) - 1) / (finished[-1] - finished[0]), finished[0] - start, end - finished[-1]


def finish_times(source: Path, recipe_file: Path, store: Path, workers: int = WORKERS) -> Iterator[float]:
    """Run a build and yield the time at which each study is finished, as its progress lines show."""
    command = [sys.executable, "-m", "flows.build_dataset", "--source", source, "--store", store]
    command += ["--recipe", recipe_file, "--workers", workers]
    with subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if re.match(r"\d+/\d+ ", line):
                yield time.perf_counter()
    assert process.returncode == 0
