"""The commands of `flows`, run whole as their users run them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(module: str, source: Path, *more: str | Path) -> subprocess.Popen[str]:
    """``python -m flows.<module> --recipe quick --json`` in a process group of its own, which Ctrl-C ends."""
    command = [sys.executable, "-m", f"flows.{module}", "--source", source, "--recipe", "quick", "--json"]
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def ended(running: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit status, the line for machines, and what was told on standard error: never a traceback."""
    out, told = running.communicate(timeout=600)
    assert "Traceback" not in told, told
    lines = out.strip().splitlines()
    return running.returncode, json.loads(lines[-1]) if lines else {}, told


def run(module: str, source: Path, *more: str | Path) -> tuple[int, dict[str, Any], str]:
    return ended(start(module, source, *more))


def build(source: Path, store: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return run("build_dataset", source, "--store", store, *more)
