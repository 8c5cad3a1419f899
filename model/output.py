"""What the commands leave behind: each file whole or not there at all, or a refusal that says which."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spine_etl.errors import OutputUnwritable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the system answers to a write of ``path`` becomes OutputUnwritable."""
    try:
        yield
    except OSError as error:
        raise OutputUnwritable(f"{path} cannot be written: {error.strerror or error}.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place of any other of its name: readers, and a machine that stops, see one of the two.

    Its folder is made where there is none. Raises OutputUnwritable.
    """
    temporary = path.with_name(f".{path.name}.writing")
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # of a full disk half a file would take the rest
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG. Raises OutputUnwritable, also if the path does not end in .png."""
    if path.suffix.lower() != ".png":
        raise OutputUnwritable(f"{path.name}: pictures are PNG.", action="Name a file that ends in .png.")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_atomically(path, content.getvalue())
