"""Archives: what is refused before any work, and members that are not what the directory says."""

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


def of_first_slice(path: Path) -> zipfile.ZipInfo:
    """The directory's entry of a slice of the first study."""
    with zipfile.ZipFile(path) as archive:
        return sorted(
            (m for m in archive.infolist() if m.filename.endswith(".dcm")), key=lambda m: m.filename
        )[3]


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """In place: neither another file nor another size."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def data_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def names_are_safe(name: str) -> bool:
    """What is a plain path below the top, on any system, in the words of the specification (4.4.17)."""
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


WRONG = [
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


@pytest.mark.parametrize("name", [*WRONG, "a/" * 40 + "b"])
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveInvalid, match="no safe path"):
        open_source(archive_of(tmp_path, "train_images/1/1.dcm", name))


def test_a_name_that_hides_its_end_refuses_the_archive(tmp_path: Path) -> None:
    path = archive_of(tmp_path, "train_images/1/1.dcmX../x")
    path.write_bytes(path.read_bytes().replace(b"dcmX", b"dcm\0"))
    with pytest.raises(ArchiveInvalid, match="no safe path"):
        open_source(path)


PARTS = st.sampled_from(
    ["..", ".", "", "a", "b.dcm", "C:", "c:d", "\\", "a\\b", "é", "...", "a:b", "1.2", " "]
)


@given(
    parts=st.lists(
        PARTS | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), min_size=1
    )
)
def test_every_name_is_safe_or_refused(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    name = "/".join(parts)
    if not name:
        return
    path = archive_of(tmp_path_factory.mktemp("names"), name)
    if not names_are_safe(name):
        with pytest.raises(ArchiveInvalid):
            open_source(path)
        return
    folder = open_source(path)
    for part in name.removesuffix("/").split("/")[: None if name.endswith("/") else -1]:
        (folder,) = folder.folders()
        assert folder.name == part
    assert [file.name for file in folder.files()] == ([] if name.endswith("/") else [name.split("/")[-1]])


def test_a_name_twice_refuses_the_archive(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = archive_of(tmp_path, "a/1.dcm", "a/2.dcm", "a/1.dcm")
    with pytest.raises(ArchiveInvalid, match=r"1\.dcm twice"):
        open_source(path)
    with pytest.raises(ArchiveInvalid, match="as a file and as a folder"):
        open_source(archive_of(tmp_path, "a/1.dcm", "a"))


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_an_encrypted_member_refuses_the_archive(pack, flag: int) -> None:
    def encrypt(archive: zipfile.ZipFile) -> None:
        archive.filelist[-1].flag_bits |= flag

    with pytest.raises(ArchiveInvalid, match="encrypted"):
        open_source(pack(change=encrypt))


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_archive(pack, share: float) -> None:
    path = pack()
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ArchiveInvalid, match="cut short"):
        open_source(path)


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "words.zip").write_text("words " * 1000)
    with pytest.raises(ArchiveInvalid):
        open_source(tmp_path / "words.zip")
    with pytest.raises(SourceNotFound, match=r"no\.zip"):
        open_source(tmp_path / "no.zip")


def test_damage_of_the_directory_is_refused_or_harmless(pack) -> None:
    """Bytes of it flipped, one after the other: a refusal of ours, or an archive."""
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
def test_a_flipped_byte_costs_its_study_alone(pack, method: int) -> None:
    path = pack(method)
    member = of_first_slice(path)
    where = data_of(path, member) + member.compress_size // 2
    overwrite(path, where, bytes([path.read_bytes()[where] ^ 0x10]))
    first, *others = studies(path)
    with pytest.raises(
        DicomUnreadable, match=Path(member.filename).name.replace(".", r"\.") + " cannot be read"
    ):
        read_series(first.folder)
    for study in others:
        read_series(study.folder)


def test_a_damaged_segmentation(pack) -> None:
    path = pack()
    mask = next(study.mask for study in studies(path) if study.mask)
    overwrite(path, mask.offset + 400, b"\xff\xff\xff\xff")
    with pytest.raises(MaskUnreadable, match="CRC-32"):
        read_label_map(next(study.mask for study in studies(path) if study.mask))


def announce(**entries: int) -> Callable[[zipfile.ZipFile], None]:
    """Lets the directory say something else of one slice than is true."""

    def change(archive: zipfile.ZipFile) -> None:
        member = sorted(
            (m for m in archive.filelist if m.filename.endswith(".dcm")), key=lambda m: m.filename
        )[3]
        for name, value in entries.items():
            setattr(member, name, value)

    return change


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"file_size": 3 << 30}, "claims 3221225472 bytes"),
        ({"compress_size": 3 << 30}, "claims"),
        ({"file_size": 1000}, "the 1000 bytes"),  # as of a bomb, which unpacks to more than it says
        ({"file_size": 30_000}, "the 30000 bytes"),
        ({"compress_size": 100}, "the .* bytes|damaged"),
        ({"compress_size": 1 << 30}, "beyond the archive"),
        ({"compress_type": 12}, "compression method is 12"),
        ({"CRC": 1}, "CRC-32 is not 00000001"),
        ({"header_offset": 0}, "another member|local header"),
        ({"header_offset": 5}, "local header"),
        ({"header_offset": 1 << 40}, "archive ends before"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_is_not_as_announced(pack, method: int, entries: dict[str, int], said: str) -> None:
    first, second, _ = studies(pack(method, change=announce(**entries)))
    with pytest.raises(DicomUnreadable, match=said):
        read_series(first.folder)
    read_series(second.folder)


def test_a_bomb_goes_off_no_further_than_it_says(phantom: Path, tmp_path: Path) -> None:
    folder = sorted((phantom / "train_images").iterdir())[0]
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.dcm", bytes(200_000_000))
        archive.filelist[0].file_size = len((folder / "1.dcm").read_bytes())
    (member,) = open_source(tmp_path / "bomb.zip").files()
    tracemalloc.start()
    with pytest.raises(OSError, match="does not hold"):
        member.open()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_sizes_that_no_file_has(pack) -> None:
    with pytest.raises(ArchiveInvalid, match="no file has"):
        open_source(pack(change=announce(file_size=1 << 63)))


def test_the_directory_is_not_read_again(pack) -> None:
    path = pack()
    first = studies(path)[0]
    expected = read_series(first.folder).voxels
    overwrite(path, path.read_bytes().index(b"PK\1\2"), b"gone")
    np.testing.assert_array_equal(read_series(first.folder).voxels, expected)


def test_an_archive_that_is_replaced_meanwhile(pack) -> None:
    path = pack()
    first = studies(path)[0]
    with zipfile.ZipFile(path) as archive:
        where = data_of(path, of_first_slice(path)) + 20_000
        assert archive.testzip() is None
    content = bytearray(path.read_bytes())
    content[where] ^= 1  # one voxel of a slice; names, sizes and places are the same
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


def test_a_single_series_in_an_archive(phantom: Path, tmp_path: Path) -> None:
    folder = sorted((phantom / "train_images").iterdir())[0]
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    np.testing.assert_array_equal(read_series(tmp_path / "series.zip").voxels, read_series(folder).voxels)
