"""Members of a zip archive as files, read in place (PKWARE APPNOTE 6.3.10, including ZIP64).

The central directory is read once. Offset, sizes and CRC-32 of each member are kept in its folder, so a
worker only opens the archive, seeks and reads. A member is returned only if its local header has its name and
its bytes have the length and CRC-32 in the directory. This detects damage, and an archive that was replaced
in the meantime.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from spine_etl.errors import ArchiveInvalid, SourceChanged, SourceNotFound
from spine_etl.source.files.memory import MemoryContent

_MAX_MEMBER_SIZE = 2 << 30  # bytes; far more than a CT slice or a segmentation needs
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")  # signature, flags, method, lengths of name and extra field
_UTF8, _ENCRYPTED = 0x800, 0x2041  # flags; encrypted, strongly encrypted, directory encrypted
_SAFE_PATH = re.compile(r"(?![A-Za-z]:)(?:(?!\.{1,2}/)[^/\\\0]+/){0,32}(?!\.{1,2}/?\Z)[^/\\\0]+/?")


class Archive(NamedTuple):
    """An archive as it was when it was listed."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class ZipMember:
    """A member as it is listed in the central directory.

    ``path`` is its full name, ``packed`` its compressed and ``size`` its uncompressed size in bytes, and
    ``method`` its compression: 0 (stored) or 8 (deflated).
    """

    archive: Archive
    path: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def listed_digest(self) -> str:
        return f"crc32:{self.crc:08x}:{self.size}"

    def open(self) -> MemoryContent:
        """Read and uncompress the member, and verify it against the directory.

        Raises
        ------
        SourceChanged
            If it differs from the directory and the archive has changed since it was listed.
        OSError
            If it differs from the directory, has an unsupported compression method, or exceeds 2 GiB.
        """
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            self._fail(f"its compression method is {self.method}, neither 0 (stored) nor 8 (deflated)")
        if (size := max(self.size, self.packed)) > _MAX_MEMBER_SIZE:
            self._fail(f"its listed size is {size} bytes, more than {_MAX_MEMBER_SIZE}")
        with self.archive.path.open("rb", buffering=0) as archive:
            try:
                return MemoryContent(self._uncompress(self._read_packed(archive)))
            except OSError as error:
                status = os.fstat(archive.fileno())
                if (status.st_size, status.st_mtime_ns) == (self.archive.size, self.archive.mtime_ns):
                    raise
                raise SourceChanged(f"{self.archive.path.name} changed since it was listed.") from error

    def modified_at(self) -> None:
        return None

    def change_token(self) -> None:
        return None

    def _read_packed(self, archive: io.FileIO) -> bytes:
        """The member's compressed bytes, after a check of its local header (APPNOTE 4.3.7)."""
        header = os.pread(archive.fileno(), _LOCAL_HEADER.size, self.offset)
        if len(header) < _LOCAL_HEADER.size:
            self._fail("the archive ends before its local header")
        signature, flags, method, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\3\4" or method != self.method or flags & _ENCRYPTED:
            self._fail("its local header differs from the directory")
        name_offset = self.offset + _LOCAL_HEADER.size
        name = os.pread(archive.fileno(), name_length, name_offset)
        if name != self.path.encode("utf-8" if flags & _UTF8 else "cp437", "replace"):
            self._fail("its local header has the name of another member")
        if self.offset + self.packed > self.archive.size:  # checked before memory is allocated for it
            self._fail("it extends past the end of the archive")
        content = _read(archive, name_offset + name_length + extra_length, self.packed)
        if len(content) < self.packed:
            self._fail(f"the archive ends after {len(content)} of its {self.packed} bytes")
        return content

    def _uncompress(self, packed: bytes) -> bytes:
        from isal import isal_zlib

        content = packed
        if self.method == zipfile.ZIP_DEFLATED:
            stream = isal_zlib.decompressobj(wbits=-15)
            try:
                # The limit stops a zip bomb: no more than one byte over the listed size is produced.
                content = stream.decompress(packed, self.size + 1)
            except isal_zlib.error:  # type: ignore[misc]  # its stub calls it a value
                self._fail("its deflate stream is damaged")
        if len(content) != self.size:
            self._fail(f"its uncompressed size is not {self.size} bytes, as listed in the directory")
        if isal_zlib.crc32(content) != self.crc:
            self._fail(f"its CRC-32 is not {self.crc:08x}, as listed in the directory")
        return content

    def _fail(self, fault: str) -> NoReturn:
        raise OSError(errno.EIO, fault)


@dataclass(frozen=True, eq=False)
class ZipFolder:
    """A folder of an archive; ``path`` ends with a slash, or is empty at the top.

    ``members`` is (file, 5) int64: offset, compressed size, size, CRC-32 and method of each of ``names``.
    That is about a hundred bytes per file, so the 711,601 files of the RSNA set fit in memory.
    """

    archive: Archive
    path: str
    names: tuple[str, ...]
    members: npt.NDArray[np.int64]
    subfolders: tuple[ZipFolder, ...] = ()
    concurrent_reads = 1

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2] or self.archive.path.name

    def files(self) -> list[ZipMember]:
        return [
            ZipMember(self.archive, self.path + name, *row)
            for name, row in zip(self.names, self.members.tolist(), strict=True)
        ]

    def folders(self) -> list[ZipFolder]:
        return list(self.subfolders)

    def modified_at(self) -> None:
        return None

    def change_token(self) -> None:
        return None


@dataclass
class _FolderEntries:
    """The contents of a folder, collected while the directory is read."""

    names: list[str] = field(default_factory=list)
    members: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    subfolders: dict[str, _FolderEntries] = field(default_factory=lambda: defaultdict(_FolderEntries))


def open_archive(path: Path) -> ZipFolder:
    """The top folder of an archive.

    Raises
    ------
    SourceNotFound
        If there is no such file.
    ArchiveInvalid
        If the directory is damaged, or a member is encrypted, has the name of another member, or has an
        unsafe name: absolute, with a drive, a backslash, an empty part, . or ..
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            status = os.fstat(file.fileno())
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise ArchiveInvalid(f"{path.name} is not a zip archive, or is truncated.") from error
    except OSError as error:
        raise SourceNotFound(f"{path.name} cannot be read: {error.strerror}.") from error
    top = _collect_folders(path.name, members)
    return _zip_folder(Archive(path.absolute(), status.st_size, status.st_mtime_ns), "", top)


def _collect_folders(archive: str, members: Iterable[zipfile.ZipInfo]) -> _FolderEntries:
    """The tree of all members, after a check of each."""
    folders: dict[str, _FolderEntries] = {"": _FolderEntries()}
    names: set[str] = set()
    for member in members:
        name = member.orig_filename
        if not _SAFE_PATH.fullmatch(name):
            raise ArchiveInvalid(f"{archive} contains a member with an unsafe path: {name[:120]!r}.")
        if member.flag_bits & _ENCRYPTED:
            raise ArchiveInvalid(f"{archive}: {name} is encrypted.")
        if name in names:
            raise ArchiveInvalid(f"{archive} contains {name} twice.")
        names.add(name)
        parent, _, own_name = name.rstrip("/").rpartition("/")
        if name.endswith("/"):
            _folder_entries(folders, name[:-1])
            continue
        entries = _folder_entries(folders, parent)
        entries.names.append(own_name)
        entries.members.append(
            (member.header_offset, member.compress_size, member.file_size, member.CRC, member.compress_type)
        )
    ambiguous = names.intersection(folders)
    if ambiguous:
        raise ArchiveInvalid(f"{archive} contains {min(ambiguous)} as a file and as a folder.")
    return folders[""]


def _folder_entries(folders: dict[str, _FolderEntries], path: str) -> _FolderEntries:
    """The entries of a folder; it and its parents are created if they are new."""
    if path not in folders:
        parent, _, own_name = path.rpartition("/")
        folders[path] = _folder_entries(folders, parent).subfolders[own_name]
    return folders[path]


def _zip_folder(archive: Archive, path: str, entries: _FolderEntries) -> ZipFolder:
    try:
        members = np.array(entries.members, np.int64).reshape(-1, 5)
    except OverflowError as error:
        raise ArchiveInvalid(f"{archive.path.name} lists a size or an offset above 2^63 - 1.") from error
    subfolders = [_zip_folder(archive, f"{path}{name}/", below) for name, below in entries.subfolders.items()]
    return ZipFolder(archive, path, tuple(entries.names), members, tuple(subfolders))


def _read(archive: io.FileIO, offset: int, count: int) -> bytes:
    """``count`` bytes from ``offset``, or fewer at the end of the file."""
    content = os.pread(archive.fileno(), count, offset)
    while len(content) < count:  # a read returns less than 2 GiB, and on a network share possibly much less
        more = os.pread(archive.fileno(), count - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content
