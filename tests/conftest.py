"""What many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; tests that need it skip, saying so, where it is absent."""
    folder = Path(os.environ.get("SPINE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real files are absent ({folder.name}); set SPINE_REAL_DATA to their folder")
    return folder
