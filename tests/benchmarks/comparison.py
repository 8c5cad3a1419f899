"""Compare implementations side by side: they run in rounds, and each is compared with another round by round.

Absolute times depend on what else the machine does. Ratios within a round are stable, so the figure of an
implementation is the median of its ratios. CPU seconds (of all threads together) are reported too.
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
class Timing:
    """One run: wall and CPU seconds, and the memory of the process up to its end."""

    seconds: float
    cpu_seconds: float
    imported_mb: float = 0.0
    peak_mb: float = 0.0
    written_mb: float = 0.0


class PeerProcess:
    """A module of `tests.benchmarks.peers`, running in its own process."""

    def __init__(self, name: str, source: Path, recipe: Path, out: Path) -> None:
        self.name, self.out = name, out
        command = [sys.executable, "-m", "tests.benchmarks.peers.worker", name, source, recipe, out]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )

    def run(self, crops: Path | None = None) -> Timing:
        """Process the study once; the crops are saved as ``crops`` (.npz), outside the timing."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{crops or ''}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{self.name} died"
        return Timing(**json.loads(answer))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def time_in_rounds(jobs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Timing]]:
    """Time each job once per round, in this process; one more round before them warms up."""
    timings: dict[str, list[Timing]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            cpu_start, start = time.process_time(), time.perf_counter()
            job()
            timings[name].append(Timing(time.perf_counter() - start, time.process_time() - cpu_start))
    return {name: all_rounds[1:] for name, all_rounds in timings.items()}


def median_ratio(timings: Sequence[Timing], base: Sequence[Timing], field: str = "seconds") -> float:
    """Median of the ratios within the rounds that both took part in, which are the last ones."""
    rounds = min(len(timings), len(base))
    pairs = zip(timings[-rounds:], base[-rounds:], strict=True)
    return median(getattr(timing, field) / getattr(other, field) for timing, other in pairs)


def median_of(timings: Sequence[Timing], field: str = "seconds") -> float:
    return median(getattr(timing, field) for timing in timings)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, with numbers to three significant digits."""
    cells = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(f"\n\n{title}")
    for line in (columns, ["-" * width for width in widths], *cells):
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
