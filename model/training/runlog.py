"""What a run tells while it goes on: a line that moves, a line an epoch, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from model.output import write_atomically, writing

METRICS = "metrics.jsonl"


class RunLog:
    """The log of one run; a rank other than the first has one that keeps silent.

    Resuming at an epoch of a stage drops the lines from there on: they are written anew. TensorBoard's files
    can only be added to, so they are made anew from the lines that stay.
    """

    def __init__(self, run: Path, *, speaks: bool, since: tuple[int, int]) -> None:
        self.speaks = speaks
        if not speaks:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._path = run / METRICS
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _place(line) < since]
        write_atomically(self._path, "".join(f"{line}\n" for line in kept).encode())
        self._boards = run / "tensorboard"
        with writing(self._boards):
            if self._boards.exists():
                shutil.rmtree(self._boards)
            self._board: Any = SummaryWriter(str(self._boards))
        for line in kept:
            self._draw(json.loads(line))
        self._live = sys.stderr.isatty()

    def step(self, text: str) -> None:
        """The line that moves; only where a person watches."""
        if self.speaks and self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def epoch(self, values: dict[str, Any]) -> None:
        """An epoch's figures. ``values`` holds ``stage`` and ``epoch`` (both from 0) and ``step``."""
        if not self.speaks:
            return
        self.step("")
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        self._draw(values)

    def _draw(self, values: dict[str, Any]) -> None:
        with writing(self._boards):
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(f"stage{values['stage']}/{name}", value, values["step"])

    def say(self, text: str) -> None:
        if self.speaks:
            self.step("")
            print(text, flush=True)

    def close(self) -> None:
        if self.speaks:
            with writing(self._boards):
                self._board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(line: str) -> tuple[int, int]:
    """Stage and epoch of a line; a line that a killed process left half written comes after all."""
    try:
        values = json.loads(line)
        return int(values["stage"]), int(values["epoch"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize, 0
