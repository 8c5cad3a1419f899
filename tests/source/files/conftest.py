"""A synthetic source, and the same source as a zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spine_etl.phantom import write_phantom

Pack = Callable[..., Path]


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 3, 3, size=96, slices=40, masked_share=0.5)
    return source


@pytest.fixture
def pack(phantom: Path, tmp_path: Path) -> Pack:
    """Writes the source as an archive with the standard library; ``change`` can alter its directory."""

    def packed(
        method: int = zipfile.ZIP_STORED,
        top: str = "",
        zip64: bool = False,
        change: Callable[[zipfile.ZipFile], None] = lambda archive: None,
        name: str = "source.zip",
    ) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            for path in sorted(phantom.rglob("*")):
                if path.is_dir():
                    archive.write(path, top + path.relative_to(phantom).as_posix())
                    continue
                member = zipfile.ZipInfo(top + path.relative_to(phantom).as_posix())
                member.compress_type = method
                with archive.open(member, "w", force_zip64=zip64) as file:
                    file.write(path.read_bytes())
            change(archive)
        return tmp_path / name

    return packed
