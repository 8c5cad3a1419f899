"""Run the commands of `flows` as separate processes, as users do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(module: str, source: Path, *more: str | Path) -> subprocess.Popen[str]:
    """Start ``python -m flows.<module> --recipe quick --json`` in its own process group."""
    command = [sys.executable, "-m", f"flows.{module}", "--source", source, "--recipe", "quick", "--json"]
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Wait for a command: its exit status, its line of JSON, and its standard error without a traceback."""
    stdout, stderr = process.communicate(timeout=600)
    assert "Traceback" not in stderr, stderr
    lines = stdout.strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, stderr


def run(module: str, source: Path, *more: str | Path) -> tuple[int, dict[str, Any], str]:
    return wait(start(module, source, *more))


def build(source: Path, store: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    return run("build_dataset", source, "--store", store, *more)
