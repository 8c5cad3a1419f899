"""Zip archives: refusals when one is opened, and members that differ from the central directory."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine_etl.dicom import read_series
from spine_etl.errors import ArchiveInvalid, DicomUnreadable, MaskUnreadable, SourceChanged, SourceNotFound
from spine_etl.nifti import read_label_map
from spine_etl.source.files import open_source
from spine_etl.source.layout import Study, discover_studies

LEVELS = [f"C{n}" for n in range(1, 8)]


def studies(path: Path) -> list[Study]:
    return discover_studies(path, LEVELS)


def slice_entry(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The directory entry of a slice of the first study."""
    return sorted((m for m in archive.filelist if m.filename.endswith(".dcm")), key=lambda m: m.filename)[3]


def slice_member(path: Path) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return slice_entry(archive)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes in place: the file and its size stay the same."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Offset of a member's first byte."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def is_safe(name: str) -> bool:
    """True for a relative path that stays below the top folder on any system (APPNOTE 4.4.17)."""
    parts = name.removesuffix("/").split("/")
    windows = PureWindowsPath(name)
    return (
        len(parts) <= 33
        and not {"", ".", ".."} & set(parts)
        and not {"\\", "\0"} & set(name)
        and not (windows.drive and windows.drive[0].isascii() and windows.drive[0].isalpha())
    )


def archive_of(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "names.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo("placeholder")
            member.filename = member.orig_filename = name
            archive.writestr(member, b"")
    return path


UNSAFE = [
    "../a",
    "a/../../b",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    "a/..",
    "..",
    "C:/a",
    "c:a",
    "a\\b",
    "\\\\h\\s",
    "/",
]


@pytest.mark.parametrize("name", [*UNSAFE, "a/" * 40 + "b"])
def test_member_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveInvalid, match="unsafe path"):
        open_source(archive_of(tmp_path, "train_images/1/1.dcm", name))


def test_member_name_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path, "train_images/1/1.dcmX../x")
    path.write_bytes(path.read_bytes().replace(b"dcmX", b"dcm\0"))
    with pytest.raises(ArchiveInvalid, match="unsafe path"):
        open_source(path)


PARTS = st.sampled_from(
    ["..", ".", "", "a", "b.dcm", "C:", "c:d", "\\", "a\\b", "é", "...", "a:b", "1.2", " "]
)


@given(
    parts=st.lists(
        PARTS | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), min_size=1
    )
)
def test_every_name_is_read_or_refused(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    name = "/".join(parts)
    if not name:
        return
    path = archive_of(tmp_path_factory.mktemp("names"), name)
    if not is_safe(name):
        with pytest.raises(ArchiveInvalid):
            open_source(path)
        return
    folder = open_source(path)
    for part in name.removesuffix("/").split("/")[: None if name.endswith("/") else -1]:
        (folder,) = folder.folders()
        assert folder.name == part
    assert [file.name for file in folder.files()] == ([] if name.endswith("/") else [name.split("/")[-1]])


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive_of(tmp_path, "a/1.dcm", "a/2.dcm", "a/1.dcm")
    with pytest.raises(ArchiveInvalid, match=r"1\.dcm twice"):
        open_source(path)
    with pytest.raises(ArchiveInvalid, match="as a file and as a folder"):
        open_source(archive_of(tmp_path, "a/1.dcm", "a"))


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_encrypted_member_is_refused(pack, flag: int) -> None:
    def encrypt(archive: zipfile.ZipFile) -> None:
        archive.filelist[-1].flag_bits |= flag

    with pytest.raises(ArchiveInvalid, match="encrypted"):
        open_source(pack(change=encrypt))


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_archive_is_refused(pack, share: float) -> None:
    path = pack()
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ArchiveInvalid, match="truncated"):
        open_source(path)


def test_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.zip").write_text("words " * 1000)
    with pytest.raises(ArchiveInvalid):
        open_source(tmp_path / "words.zip")
    with pytest.raises(SourceNotFound, match=r"no\.zip"):
        open_source(tmp_path / "no.zip")


def test_flipped_byte_in_the_directory_is_refused_or_harmless(pack) -> None:
    """Each flipped byte leaves a readable archive or raises ArchiveInvalid, never another error."""
    path = pack()
    content = path.read_bytes()
    begin = content.index(b"PK\1\2")
    refused = 0
    for position in [*range(begin, begin + 120), *range(len(content) - 22, len(content))]:
        overwrite(path, position, bytes([content[position] ^ 0xFF]))
        try:
            open_source(path)
        except ArchiveInvalid:
            refused += 1
        overwrite(path, position, content[position : position + 1])
    assert refused > 20


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_flipped_byte_in_a_slice_fails_only_its_study(pack, method: int) -> None:
    path = pack(method)
    member = slice_member(path)
    offset = data_offset(path, member) + member.compress_size // 2
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 0x10]))
    first, *others = studies(path)
    with pytest.raises(
        DicomUnreadable, match=Path(member.filename).name.replace(".", r"\.") + " cannot be read"
    ):
        read_series(first.folder)
    for study in others:
        read_series(study.folder)


def test_damaged_segmentation_is_refused(pack) -> None:
    path = pack()
    mask = next(study.mask for study in studies(path) if study.mask)
    overwrite(path, mask.offset + 400, b"\xff\xff\xff\xff")
    with pytest.raises(MaskUnreadable, match="CRC-32"):
        read_label_map(next(study.mask for study in studies(path) if study.mask))


def falsify(**fields: int) -> Callable[[zipfile.ZipFile], None]:
    """A change that makes the directory entry of one slice wrong."""

    def change(archive: zipfile.ZipFile) -> None:
        for name, value in fields.items():
            setattr(slice_entry(archive), name, value)

    return change


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"file_size": 3 << 30}, "listed size is 3221225472 bytes"),
        ({"compress_size": 3 << 30}, "listed size is"),
        ({"file_size": 1000}, "size is not 1000 bytes"),  # as in a zip bomb, which is larger than listed
        ({"file_size": 30_000}, "size is not 30000 bytes"),
        ({"compress_size": 100}, "size is not .* bytes|damaged"),
        ({"compress_size": 1 << 30}, "past the end of the archive"),
        ({"compress_type": 12}, "compression method is 12"),
        ({"CRC": 1}, "CRC-32 is not 00000001"),
        ({"header_offset": 0}, "another member|local header"),
        ({"header_offset": 5}, "local header"),
        ({"header_offset": 1 << 40}, "archive ends before"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_member_that_differs_from_the_directory_is_refused(
    pack, method: int, fields: dict[str, int], reason: str
) -> None:
    first, second, _ = studies(pack(method, change=falsify(**fields)))
    with pytest.raises(DicomUnreadable, match=reason):
        read_series(first.folder)
    read_series(second.folder)


def test_zip_bomb_is_uncompressed_only_to_its_listed_size(phantom: Path, tmp_path: Path) -> None:
    folder = sorted((phantom / "train_images").iterdir())[0]
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.dcm", bytes(200_000_000))
        archive.filelist[0].file_size = len((folder / "1.dcm").read_bytes())
    (member,) = open_source(tmp_path / "bomb.zip").files()
    tracemalloc.start()
    with pytest.raises(OSError, match="uncompressed size is not"):
        member.open()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_size_beyond_int64_is_refused(pack) -> None:
    with pytest.raises(ArchiveInvalid, match=r"above 2\^63 - 1"):
        open_source(pack(change=falsify(file_size=1 << 63)))


def test_directory_is_read_only_once(pack) -> None:
    path = pack()
    first = studies(path)[0]
    expected = read_series(first.folder).voxels
    overwrite(path, path.read_bytes().index(b"PK\1\2"), b"gone")
    np.testing.assert_array_equal(read_series(first.folder).voxels, expected)


def test_replaced_archive_is_detected(pack) -> None:
    path = pack()
    first = studies(path)[0]
    with zipfile.ZipFile(path) as archive:
        offset = data_offset(path, slice_member(path)) + 20_000
        assert archive.testzip() is None
    content = bytearray(path.read_bytes())
    content[offset] ^= 1  # one voxel of a slice; names, sizes and offsets are the same
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(SourceChanged, match=r"source\.zip changed"):
        read_series(first.folder)
    pack(top="other/")
    with pytest.raises(SourceChanged):
        read_series(first.folder)
    path.write_bytes(b"")
    with pytest.raises(SourceChanged):
        read_series(first.folder)


def test_archive_of_a_single_series(phantom: Path, tmp_path: Path) -> None:
    folder = sorted((phantom / "train_images").iterdir())[0]
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    np.testing.assert_array_equal(read_series(tmp_path / "series.zip").voxels, read_series(folder).voxels)
