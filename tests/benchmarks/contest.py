"""Contenders side by side in one run: they take turns, and are compared turn by turn.

Seconds say little on a machine that does other things too; what holds are ratios of neighbouring turns, so
a contender's figure is the median of such ratios. CPU seconds, of all threads together, stand beside.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Turn:
    """What one turn took: wall and CPU seconds of the work; of the process so far, its memory."""

    seconds: float
    cpu: float
    imported_mb: float = 0.0
    peak_mb: float = 0.0
    written_mb: float = 0.0


class Contender:
    """A contender of `tests.benchmarks.peers` in a process of its own."""

    def __init__(self, name: str, source: Path, recipe: Path, out: Path) -> None:
        self.name, self.out = name, out
        command = [sys.executable, "-m", "tests.benchmarks.peers.turns", name, source, recipe, out]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )

    def turn(self, crops: Path | None = None) -> Turn:
        """Work once; ``crops`` names an .npz file to put the crops in, off the clock."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{crops or ''}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{self.name} died"
        return Turn(**json.loads(answer))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def take_turns(jobs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Turn]]:
    """Run small jobs of this process in turn: once to warm up, then ``rounds`` times."""
    turns: dict[str, list[Turn]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            cpu, began = time.process_time(), time.perf_counter()
            job()
            turns[name].append(Turn(time.perf_counter() - began, time.process_time() - cpu))
    return {name: taken[1:] for name, taken in turns.items()}


def ratio(turns: Sequence[Turn], base: Sequence[Turn], field: str = "seconds") -> float:
    """Median of the ratios of the turns that were taken in the same rounds, the last ones."""
    rounds = min(len(turns), len(base))
    pairs = zip(turns[-rounds:], base[-rounds:], strict=True)
    return median(getattr(turn, field) / getattr(other, field) for turn, other in pairs)


def typical(turns: Sequence[Turn], field: str = "seconds") -> float:
    return median(getattr(turn, field) for turn in turns)


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, figures to three digits."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(f"\n\n{title}")
    for line in (columns, ["-" * width for width in widths], *cells):
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
