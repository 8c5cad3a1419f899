"""Content that is in memory already."""

from __future__ import annotations

import io


class MemoryContent(io.BytesIO):
    """Bytes as a file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.size = len(content)
