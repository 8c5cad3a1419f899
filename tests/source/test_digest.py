"""Digests of file contents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash

from spine_etl.source.digest import HashingReader, combine_digests, file_digest
from spine_etl.source.files import LocalFile, MemoryContent

CONTENT = bytes(range(256)) * 5000  # more than one block


@dataclass(frozen=True)
class ListedFile(LocalFile):
    """A file whose source lists a digest."""

    listed_digest: str = "etag:1:2"

    def open(self):
        raise AssertionError("a file with a listed digest must not be read")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def test_file_digest_is_xxh3_of_the_content(path: Path) -> None:
    expected = xxhash.xxh3_128_hexdigest(CONTENT)
    assert file_digest(path) == file_digest(str(path)) == file_digest(LocalFile(str(path))) == expected


def test_listed_digest_is_used_without_reading(path: Path) -> None:
    assert file_digest(ListedFile(str(path))) == "etag:1:2"


def test_hashing_reader_hashes_all_bytes_it_reads() -> None:
    reader = HashingReader(MemoryContent(CONTENT))
    buffer = bytearray(1000)
    assert reader.read(10) == CONTENT[:10]
    assert reader.read_into(memoryview(buffer)) == 1000
    assert buffer == CONTENT[10:1010]
    assert reader.read() == CONTENT[1010:]
    assert reader.read_into(memoryview(buffer)) == 0
    assert (reader.size, reader.digest) == (len(CONTENT), xxhash.xxh3_128_hexdigest(CONTENT))
    assert HashingReader(MemoryContent(CONTENT), "etag:1:2").digest == "etag:1:2"


def test_combined_digest_does_not_depend_on_the_order() -> None:
    pairs = [("b", "2"), ("a", "1")]
    assert combine_digests(pairs) == combine_digests(reversed(pairs))
    assert combine_digests(pairs) == hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()
