"""The log of a run: a live line on the terminal, a line per epoch, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from model.output import write_errors, write_file

METRICS = "metrics.jsonl"


class RunLog:
    """The log of one run; ``enabled`` on rank 0 alone, so the other ranks log nothing.

    Resuming at an epoch of a stage drops the lines from there on, since they are written again. TensorBoard's
    files can only be appended to, so they are rebuilt from the remaining lines.

    Parameters
    ----------
    run
        Folder of the run.
    first_epoch
        Stage and epoch, both from 0, that training starts or resumes at.
    """

    def __init__(self, run: Path, *, enabled: bool, first_epoch: tuple[int, int]) -> None:
        self.enabled = enabled
        if not enabled:
            return
        from rich.console import Console
        from rich.live import Live
        from torch.utils.tensorboard import SummaryWriter

        self._path = run / METRICS
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _stage_and_epoch(line) < first_epoch]
        write_file(self._path, "".join(f"{line}\n" for line in kept).encode())
        self._tensorboard = run / "tensorboard"
        with write_errors(self._tensorboard):
            if self._tensorboard.exists():
                shutil.rmtree(self._tensorboard)
            self._writer: Any = SummaryWriter(str(self._tensorboard))
        for line in kept:
            self._add_scalars(json.loads(line))
        console = Console(stderr=True)
        # Standard output keeps its own lines, also where it is redirected to a file.
        self._live = Live(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)

    def step(self, text: str) -> None:
        """Replace the live line; only on a terminal."""
        if self.enabled and self._live.console.is_terminal:
            from rich.text import Text

            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
            self._live.start()

    def epoch(self, values: dict[str, Any]) -> None:
        """Record an epoch's figures: ``stage`` and ``epoch`` (both from 0), ``step``, and more."""
        if not self.enabled:
            return
        with write_errors(self._path), self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        self._add_scalars(values)

    def _add_scalars(self, values: dict[str, Any]) -> None:
        with write_errors(self._tensorboard):
            for name, value in values.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"stage{values['stage']}/{name}", value, values["step"])

    def message(self, text: str) -> None:
        """Print a line on standard output, in place of the live line."""
        if self.enabled:
            self._live.stop()
            print(text, flush=True)

    def close(self) -> None:
        if self.enabled:
            self._live.stop()
            with write_errors(self._tensorboard):
                self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stage_and_epoch(line: str) -> tuple[int, int]:
    """Stage and epoch of a line; a line that a killed process left half written sorts last."""
    try:
        values = json.loads(line)
        return int(values["stage"]), int(values["epoch"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize, 0
