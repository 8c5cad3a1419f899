"""Output files of the commands: written atomically, and a failed write becomes OutputUnwritable."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spine_etl.atomic import replace_file
from spine_etl.errors import OutputUnwritable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise OutputUnwritable for ``path`` if the block raises OSError."""
    try:
        yield
    except OSError as error:
        raise OutputUnwritable(f"{path} cannot be written: {error.strerror or error}.") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, replacing any file at ``path`` and creating its folder if needed.

    Raises OutputUnwritable; an existing file is then unchanged.
    """
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with write_errors(path):
        replace_file(path, content)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG. Raises OutputUnwritable, also if the path does not end in .png."""
    if path.suffix.lower() != ".png":
        raise OutputUnwritable(f"{path.name}: pictures are PNG.", action="Pass a path that ends in .png.")
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_file(path, content.getvalue())
