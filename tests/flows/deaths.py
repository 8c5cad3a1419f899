"""Deaths of Dask workers at a chosen moment: killing from outside would race with the study's end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin


class DeathOfWorkers(WorkerPlugin):
    """Kills each of the first ``times`` workers that start to execute a task whose key starts with ``uid``.

    ``folder`` is shared by all workers; it gets a file for each death.
    """

    def __init__(self, uid: str, times: int, folder: Path) -> None:
        self.uid, self.times, self.folder = uid, times, folder
        folder.mkdir()

    def setup(self, worker: Worker) -> None:
        """Nothing to prepare."""

    def transition(self, key: object, start: str, finish: str, **_: object) -> None:
        if finish == "executing" and str(key).startswith(self.uid) and self.count() < self.times:
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def count(self) -> int:
        return len(list(self.folder.iterdir()))


def die(folder: Path, times: int) -> int:
    """A task that kills its worker the first ``times`` times; returns how often it did."""
    count = len(list(folder.iterdir()))
    if count < times:
        (folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return count
