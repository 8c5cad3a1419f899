"""Break the code on purpose and see whether the nearest tests notice: python tests/mutants/run.py [PATTERN].

Each mutant of the TOML files in this folder replaces one piece of text in a scratch copy of the project; the
tests named beside it are run, and the text is restored. A mutant that no test notices has survived. Without
PATTERN the table in docs/testing.md is written again; with it, only mutants whose name contains it are run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PAGE = ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"
PROCESSES = 2
LONGEST_S = 600


@dataclass(frozen=True)
class Mutant:
    """One change: ``find`` occurs once in ``file``; ``survives`` is the reason why no test can notice."""

    name: str
    kind: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    survives: str = ""

    def applied(self, text: str) -> str:
        if text.count(self.find) != 1:
            raise ValueError(
                f"{self.name}: {self.find!r} occurs {text.count(self.find)} times in {self.file}"
            )
        return text.replace(self.find, self.replace)


@dataclass(frozen=True)
class Outcome:
    """``killed_by`` is the first failing test, empty if all passed."""

    mutant: Mutant
    killed_by: str
    seconds: float


def read_mutants() -> list[Mutant]:
    """The mutants of all files, in the order of the files' names."""
    files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.toml"))]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for file in files for entry in file["mutant"]]


def run(mutant: Mutant, copy: Path) -> Outcome:
    """Apply the mutant in a scratch copy, run its tests, restore the file."""
    path = copy / mutant.file
    original = path.read_text(encoding="utf-8")
    began = time.monotonic()
    try:
        path.write_text(mutant.applied(original), encoding="utf-8")
        killed_by = first_failure(copy, mutant.tests)
    finally:
        path.write_text(original, encoding="utf-8")
    return Outcome(mutant, killed_by, time.monotonic() - began)


def first_failure(copy: Path, tests: tuple[str, ...]) -> str:
    """Name of the first failing test, empty if none fails."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / ".numba")}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    shutil.rmtree(copy / ".numba", ignore_errors=True)  # compiled before this mutant
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "--hypothesis-profile=no-shrinking",
        *tests,
    ]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode == 0:
        return ""
    if done.returncode not in (1, 2):  # 1: tests failed, 2: a module could not be imported
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split()[1] if lines else "error"


def run_all(mutants: list[Mutant]) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(PROCESSES):
            copies.put(scratch_copy(Path(folder) / str(number)))

        def in_free_copy(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                outcome = run(mutant, copy)
            finally:
                copies.put(copy)
            print(f"{outcome.seconds:6.1f} s  {mutant.name}: {outcome.killed_by or 'SURVIVED'}", flush=True)
            return outcome

        with ThreadPoolExecutor(PROCESSES) as pool:
            return list(pool.map(in_free_copy, mutants))


def scratch_copy(folder: Path) -> Path:
    """The tracked and the new files, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return folder


def table(outcomes: list[Outcome]) -> str:
    killed = sum(bool(outcome.killed_by) for outcome in outcomes)
    lines = [
        f"{killed} of {len(outcomes)} mutants are killed by their nearest tests.",
        "",
        "| kind | change | file | killed by |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        mutant, test = outcome.mutant, outcome.killed_by.rpartition("::")[2].split("[")[0]
        verdict = f"`{test}`" if test else f"**survives**: {mutant.survives}"
        lines.append(f"| {mutant.kind} | {mutant.name} | `{mutant.file}` | {verdict} |")
    return "\n".join(lines)


def main(pattern: str = "") -> int:
    mutants = [mutant for mutant in read_mutants() if pattern in mutant.name]
    outcomes = run_all(mutants)
    survivors = [o for o in outcomes if not o.killed_by]
    if not pattern:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table(outcomes)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} killed")
    return int(any(not o.mutant.survives for o in survivors))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
