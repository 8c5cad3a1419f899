"""File content that is already in memory."""

from __future__ import annotations

import io


class MemoryContent(io.BytesIO):
    """Bytes with the interface of an open source file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.size = len(content)
