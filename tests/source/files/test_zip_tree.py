"""The folders and files of an archive against Python's zipfile, and the limits of its members."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.errors import ArchiveInvalid
from spine_etl.source.files import Folder, open_source
from spine_etl.source.files.zip import Archive, ZipMember

NAME = st.sampled_from(["a", "b", "c d", "é", "1.dcm", "a.nii.gz", ".hidden"])
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
MEMBERS = st.dictionaries(
    PATH, st.tuples(st.binary(max_size=300), st.sampled_from([0, 8]), st.booleans()), max_size=8
)


def contents(folder: Folder, path: str = "") -> dict[str, bytes | None]:
    """The bytes of each file by its path; None for a folder."""
    found: dict[str, bytes | None] = {}
    for file in folder.files():
        with file.open() as content:
            found[path + file.name] = content.read()
    for below in folder.folders():
        found[f"{path}{below.name}/"] = None
        found |= contents(below, f"{path}{below.name}/")
    return found


def parents(path: str) -> set[str]:
    parts = path.rstrip("/").split("/")
    return {"/".join(parts[:count]) + "/" for count in range(1, len(parts))}


@given(members=MEMBERS, folders=st.sets(PATH, max_size=3))
@settings(deadline=None)
def test_tree_is_that_of_zipfile(members: dict[str, tuple[bytes, int, bool]], folders: set[str]) -> None:
    """Folders with and without entries of their own; each file stored or deflated, with or without ZIP64."""
    taken = {path[:-1] for name in [*members, *folders] for path in parents(name)} | folders
    files = {name: member for name, member in members.items() if name not in taken}
    folders = {name for name in folders if not any(parent[:-1] in files for parent in parents(name))}
    files = {name: f for name, f in files.items() if not any(p[:-1] in files for p in parents(name))}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "source.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in folders:
                archive.writestr(f"{name}/", b"")
            for name, (content, method, zip64) in files.items():
                entry = zipfile.ZipInfo(name)
                entry.compress_type = method
                with archive.open(entry, "w", force_zip64=zip64) as file:
                    file.write(content)
        with zipfile.ZipFile(path) as archive:
            expected: dict[str, bytes | None] = {
                name: None if name.endswith("/") else archive.read(name) for name in archive.namelist()
            }
        expected |= {parent: None for name in expected for parent in parents(name)}
        assert contents(open_source(path)) == expected


def member(tmp_path: Path, **sizes: int) -> ZipMember:
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.dcm", b"content")
    status = path.stat()
    fields = {"offset": 0, "packed": 7, "size": 7, "crc": 0, "method": 0, **sizes}
    return ZipMember(Archive(path, status.st_size, status.st_mtime_ns), "1.dcm", **fields)


@pytest.mark.parametrize("field", ["size", "packed"])
@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (2147483648, "uncompressed size is not 2147483648|past the end"),
        (2147483649, "listed size is 2147483649 bytes, more than 2147483648"),
    ],
)
def test_member_of_more_than_two_gib_is_not_read(tmp_path: Path, field: str, size: int, reason: str) -> None:
    """Two GiB are within the limit: the member is then compared with the archive, which is smaller."""
    with pytest.raises(OSError, match=reason):
        member(tmp_path, **{field: size}).open()


def test_content_has_the_listed_crc(tmp_path: Path) -> None:
    crc = zlib.crc32(b"content")
    with member(tmp_path, crc=crc).open() as content:
        assert content.read() == b"content"
    for wrong in (0, crc ^ 1, crc ^ 1 << 31):
        with pytest.raises(OSError, match=f"CRC-32 is not {wrong:08x}"):
            member(tmp_path, crc=wrong).open()


def test_folders_are_32_deep_at_most(tmp_path: Path) -> None:
    for depth in (32, 33):
        with zipfile.ZipFile(tmp_path / f"{depth}.zip", "w") as archive:
            archive.writestr("a/" * depth + "1.dcm", b"")
    assert "a/" * 32 + "1.dcm" in contents(open_source(tmp_path / "32.zip"))
    with pytest.raises(ArchiveInvalid, match="unsafe path"):
        open_source(tmp_path / "33.zip")


def test_names_without_the_utf8_flag_are_cp437(tmp_path: Path) -> None:
    """As Windows writes them: byte 0x82 is é, 0xE1 is ß."""
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a?b!/1.dcm", b"content")
    path.write_bytes(path.read_bytes().replace(b"a?b!/", b"a\x82b\xe1/"))
    assert contents(open_source(path)) == {"aébß/": None, "aébß/1.dcm": b"content"}


@pytest.mark.parametrize("content", [b"", b"1", bytes(1000)])
def test_member_is_as_long_as_listed_to_the_byte(tmp_path: Path, content: bytes) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("1.dcm", content)
        (file,) = open_source(path).files()
        with file.open() as opened:
            assert (opened.size, opened.read()) == (len(content), content)
        for wrong in (len(content) - 1, len(content) + 1):
            if wrong >= 0:
                with zipfile.ZipFile(path, "w", method) as archive:
                    archive.writestr("1.dcm", content)
                    archive.filelist[0].file_size = wrong
                (file,) = open_source(path).files()
                with pytest.raises(OSError, match=f"uncompressed size is not {wrong} bytes"):
                    file.open()
