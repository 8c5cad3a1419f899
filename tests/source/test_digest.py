"""Digests of file contents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.source.digest import HashingReader, combine_digests, file_digest
from spine_etl.source.files import LocalFile, MemoryContent

CONTENT = bytes(range(251)) * 5000  # more than one block


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


CHUNKS = st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=12)


@given(content=st.binary(max_size=1000), chunks=CHUNKS)
@settings(deadline=None)
def test_chunks_of_any_size_give_the_content_and_its_digest(
    content: bytes, chunks: list[tuple[bool, int]]
) -> None:
    reader, parts = HashingReader(MemoryContent(content)), b""
    for into, size in chunks:
        if into:
            buffer = bytearray(b"x" * size)
            count = reader.read_into(memoryview(buffer))
            assert count == min(size, len(content) - len(parts))
            assert buffer[count:] == b"x" * (size - count)  # nothing is written behind the end
            parts += buffer[:count]
        else:
            parts += reader.read(size)
        assert reader.digest == xxhash.xxh3_128_hexdigest(content[: len(parts)])
    assert parts + reader.read() == content
    assert reader.digest == xxhash.xxh3_128_hexdigest(content)


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1])
def test_digest_of_files_around_the_block_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:size])
    assert file_digest(tmp_path / "file") == xxhash.xxh3_128_hexdigest(CONTENT[:size])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a", "bc")], [("ab", "c")]),
        ([("a", "1"), ("b", "2")], [("a", "2"), ("b", "1")]),
        ([("a", "1"), ("b", "1")], [("b", "1")]),
        ([("a", "1")], [("a", "1"), ("a", "1")]),
        ([("a", "1"), ("b", "2")], [("a", "1b2")]),
        ([("a", "")], [("", "a")]),
        ([("a\n", "1")], [("a", "1")]),
        ([("A", "1")], [("a", "1")]),
        ([], [("", "")]),
    ],
)
def test_other_pairs_have_another_digest(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    """Also if their names and digests, one after the other, are the same text."""
    assert combine_digests(one) != combine_digests(other)


NAMES = st.text(st.sampled_from("ab1\n"), max_size=3)  # a file name cannot contain a null character
PAIRS = st.lists(st.tuples(NAMES, st.text("ab1", max_size=3)), max_size=3)


@given(one=PAIRS, other=PAIRS)
@settings(max_examples=500, deadline=None)
def test_digests_are_equal_for_the_same_pairs_only(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    assert (combine_digests(one) == combine_digests(other)) == (sorted(one) == sorted(other))


def test_combined_digest_does_not_depend_on_the_order() -> None:
    pairs = [("b", "2"), ("a", "1")]
    assert combine_digests(pairs) == combine_digests(reversed(pairs))
    assert combine_digests(pairs) == hashlib.sha256(b"a\x001\nb\x002\n").hexdigest()
