"""A whole study, from its folder to its crops on the disk, against what else one could write for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from spine_etl.phantom import Syntax
from tests.benchmarks.comparison import PeerProcess, Timing, median_of, median_ratio, print_table

pytestmark = pytest.mark.benchmark

ROUNDS = {
    "ours": 8,
    "floor": 8,
    "expert_simpleitk": 8,
    "overlapped_simpleitk": 8,
    "monai_tuned": 1,
    "naive": 1,
    "monai_documented": 1,
}
"""Turns of each; those of fewer take the last ones."""
LEAST = 0.6
"""Share of a goal below which the test fails: a busy machine is no defect."""


@dataclass(frozen=True)
class Goals:
    """How many times as slow as ours others should be, and how many times the floor ours may be."""

    expert_simpleitk: float
    floor: float
    monai_documented: float = 30.0
    naive: float = 15.0
    peak_mb: float = 500.0


GOALS: dict[Syntax, Goals] = {"explicit": Goals(2.5, 3.0), "jpeg-lossless": Goals(3.5, 2.0)}


@pytest.mark.parametrize("syntax", GOALS)
def test_a_whole_study(
    syntax: Syntax, source: Callable[[Syntax], Path], recipe_file: Path, tmp_path: Path
) -> None:
    turns = _contest(source(syntax), recipe_file, tmp_path)
    _show(syntax, turns, json.loads((tmp_path / "floor" / "stages.json").read_text()))
    for name in ROUNDS:
        _assert_same_crops(tmp_path / "ours.npz", tmp_path / f"{name}.npz")
    goals, ours = GOALS[syntax], turns["ours"]
    for name in ("expert_simpleitk", "monai_documented", "naive"):
        assert median_ratio(turns[name], ours) >= LEAST * getattr(goals, name), name
    assert median_ratio(ours, turns["floor"]) <= goals.floor / LEAST
    assert _own_mb(ours) <= goals.peak_mb / LEAST


def _contest(source: Path, recipe_file: Path, folder: Path) -> dict[str, list[Timing]]:
    """The turns of every contender, in rounds; the last one's crops are kept."""
    contenders = {name: PeerProcess(name, source, recipe_file, folder / name) for name in ROUNDS}
    turns: dict[str, list[Timing]] = {name: [] for name in ROUNDS}
    try:
        for left in range(max(ROUNDS.values()), 0, -1):
            for name, contender in contenders.items():
                if left <= ROUNDS[name]:
                    crops = folder / f"{name}.npz" if left == 1 else None
                    turns[name].append(contender.run(crops))
    finally:
        for contender in contenders.values():
            contender.close()
    return turns


def _own_mb(turns: list[Timing]) -> float:
    return turns[-1].peak_mb - turns[-1].imported_mb


def _show(syntax: str, turns: dict[str, list[Timing]], stages: dict[str, float]) -> None:
    ours = turns["ours"]
    print_table(
        f"One study of 300 slices, {syntax}, 2 threads",
        (
            "contender",
            "turns",
            "s",
            "CPU s",
            "x ours",
            "x ours (CPU)",
            "peak MB",
            "above imports",
            "MB written",
        ),
        [
            (
                name,
                len(taken),
                median_of(taken),
                median_of(taken, "cpu_seconds"),
                median_ratio(taken, ours),
                median_ratio(taken, ours, "cpu_seconds"),
                round(taken[-1].peak_mb),
                round(_own_mb(taken)),
                round(taken[-1].written_mb),
            )
            for name, taken in turns.items()
        ],
    )
    print(f"ours / floor: {median_ratio(ours, turns['floor']):.2f}; the floor's last turn, seconds:", end=" ")
    print(", ".join(f"{name} {seconds:.3f}" for name, seconds in stages.items()))


def _assert_same_crops(ours: Path, other: Path) -> None:
    """Nobody does less: the same vertebrae, the same block, about the same HU where there is tissue."""
    expected, found = np.load(ours), np.load(other)
    for level in expected.files:
        tissue = expected[level] > -500
        assert _median_apart(expected[level][tissue], found[level][tissue]) < 30, (other.stem, level)


def _median_apart(a: npt.NDArray[np.int16], b: npt.NDArray[np.int16]) -> float:
    return float(np.median(np.abs(a.astype(np.int32) - b)))
