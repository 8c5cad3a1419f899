"""A zip archive, read in place (PKWARE APPNOTE 6.3.10; archives and members beyond 4 GB, ZIP64).

The central directory is read once. Where each member lies, its sizes and its CRC-32 travel with the folder,
so a worker opens the archive, seeks and reads. A member is given out only if its local header names it, and
if its bytes have the length and the CRC-32 that the directory promised: that finds damage, and an archive
that was replaced meanwhile.
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

_LARGEST = 2 << 30  # bytes of a member; a CT's slice or segmentation is nowhere near
_LOCAL = struct.Struct("<4s2xHH16xHH")  # signature, flags, method, lengths of name and of extra field
_UTF8, _ENCRYPTED = 0x800, 0x2041  # flags; encrypted, strongly encrypted, directory encrypted
_SAFE = re.compile(r"(?![A-Za-z]:)(?:(?!\.{1,2}/)[^/\\\0]+/){0,32}(?!\.{1,2}/?\Z)[^/\\\0]+/?")


class Archive(NamedTuple):
    """An archive as it was when it was listed."""

    path: Path
    size: int
    written_ns: int


@dataclass(frozen=True)
class ZipMember:
    """A member: ``path`` is its whole name, ``method`` 0 (stored) or 8 (deflated), the rest as listed."""

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
        """The member, unpacked and found to be what the directory promised.

        Raises
        ------
        SourceChanged
            If it is not, and the archive is no longer the one that was listed.
        OSError
            If it is not, or is packed in a way that is not read, or claims to be over 2 GiB.
        """
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            self._fail(f"its compression method is {self.method}; only stored (0) and deflated (8) are read")
        if max(self.size, self.packed) > _LARGEST:
            self._fail(f"it claims {self.size} bytes, more than {_LARGEST}")
        with self.archive.path.open("rb", buffering=0) as archive:
            try:
                return MemoryContent(self._unpacked(self._packed(archive)))
            except OSError as error:
                seen = os.fstat(archive.fileno())
                if (seen.st_size, seen.st_mtime_ns) == self.archive[1:]:
                    raise
                raise SourceChanged(f"{self.archive.path.name} changed since it was listed.") from error

    def modified_at(self) -> None:
        return None

    def change_token(self) -> object:
        return None

    def _packed(self, archive: io.FileIO) -> bytes:
        """The member's bytes in the archive, behind a local header that names it (4.3.7)."""
        header = os.pread(archive.fileno(), _LOCAL.size, self.offset)
        if len(header) < _LOCAL.size:
            self._fail("the archive ends before it")
        signature, flags, method, name_length, extra_length = _LOCAL.unpack(header)
        if signature != b"PK\3\4" or method != self.method or flags & _ENCRYPTED:
            self._fail("its local header is not what the directory says")
        begin = self.offset + _LOCAL.size
        name = os.pread(archive.fileno(), name_length, begin)
        if name != self.path.encode("utf-8" if flags & _UTF8 else "cp437", "replace"):
            self._fail("another member lies in its place")
        if self.offset + self.packed > self.archive.size:  # asked before there is room made for it
            self._fail("it ends beyond the archive")
        content = _read(archive, begin + name_length + extra_length, self.packed)
        if len(content) < self.packed:
            self._fail(f"the archive ends after {len(content)} of its {self.packed} bytes")
        return content

    def _unpacked(self, packed: bytes) -> bytes:
        from isal import isal_zlib

        content = packed
        if self.method == zipfile.ZIP_DEFLATED:
            stream = isal_zlib.decompressobj(wbits=-15)
            try:
                content = stream.decompress(packed, self.size + 1)  # a bomb goes off no further than that
            except isal_zlib.error:  # type: ignore[misc]  # its stub calls it a value
                self._fail("its deflate stream is damaged")
        if len(content) != self.size:
            self._fail(f"it does not hold the {self.size} bytes that the directory says")
        if isal_zlib.crc32(content) != self.crc:
            self._fail(f"its CRC-32 is not {self.crc:08x}, as the directory says")
        return content

    def _fail(self, fault: str) -> NoReturn:
        raise OSError(errno.EIO, fault)


@dataclass(frozen=True, eq=False)
class ZipFolder:
    """A folder of an archive: ``path`` with its slash at the end, empty at the top.

    ``members`` holds offset, packed size, size, CRC-32 and method, a row for each of ``names``: some hundred
    bytes a file, so that the 711,601 of the RSNA set fit.
    """

    archive: Archive
    path: str
    names: tuple[str, ...]
    members: npt.NDArray[np.int64]
    inner: tuple[ZipFolder, ...] = ()
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
        return list(self.inner)

    def modified_at(self) -> None:
        return None

    def change_token(self) -> object:
        return None


@dataclass
class _Branch:
    """A folder while the directory is read."""

    names: list[str] = field(default_factory=list)
    members: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    inner: dict[str, _Branch] = field(default_factory=lambda: defaultdict(_Branch))


def open_archive(path: Path) -> ZipFolder:
    """The top of an archive.

    Raises
    ------
    SourceNotFound
        If there is no such file.
    ArchiveInvalid
        If the directory is damaged, or a member is encrypted, or has a name that is no plain path below the
        top (absolute, with a drive, a backslash, an empty part, . or ..), or that another one has.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            seen = os.fstat(file.fileno())
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise ArchiveInvalid(f"{path.name} is no zip archive, or is cut short.") from error
    except OSError as error:
        raise SourceNotFound(f"{path.name} cannot be read: {error.strerror}.") from error
    top = _tree(path.name, members)
    return _folder(Archive(path.absolute(), seen.st_size, seen.st_mtime_ns), "", top)


def _tree(archive: str, members: Iterable[zipfile.ZipInfo]) -> _Branch:
    """The tree of all members, each of them checked."""
    folders: dict[str, _Branch] = {"": _Branch()}
    taken: set[str] = set()
    for member in members:
        name = member.orig_filename
        if not _SAFE.fullmatch(name):
            raise ArchiveInvalid(f"{archive} holds a member named {name[:120]!r}, which is no safe path.")
        if member.flag_bits & _ENCRYPTED:
            raise ArchiveInvalid(f"{archive}: {name} is encrypted.")
        if name in taken:
            raise ArchiveInvalid(f"{archive} holds {name} twice.")
        taken.add(name)
        parent, _, own = name.rstrip("/").rpartition("/")
        if name.endswith("/"):
            _grow(folders, name[:-1])
            continue
        branch = _grow(folders, parent)
        branch.names.append(own)
        branch.members.append(
            (member.header_offset, member.compress_size, member.file_size, member.CRC, member.compress_type)
        )
    both = taken.intersection(folders)
    if both:
        raise ArchiveInvalid(f"{archive} holds {min(both)} as a file and as a folder.")
    return folders[""]


def _grow(folders: dict[str, _Branch], path: str) -> _Branch:
    """The branch of a folder, made where it is new, and those above it."""
    if path not in folders:
        parent, _, own = path.rpartition("/")
        folders[path] = _grow(folders, parent).inner[own]
    return folders[path]


def _folder(archive: Archive, path: str, branch: _Branch) -> ZipFolder:
    try:
        members = np.array(branch.members, np.int64).reshape(-1, 5)
    except OverflowError as error:
        raise ArchiveInvalid(f"{archive.path.name} holds sizes that no file has.") from error
    inner = [_folder(archive, f"{path}{name}/", below) for name, below in branch.inner.items()]
    return ZipFolder(archive, path, tuple(branch.names), members, tuple(inner))


def _read(archive: io.FileIO, begin: int, count: int) -> bytes:
    """That many bytes from there on, or as many as there are."""
    content = os.pread(archive.fileno(), count, begin)
    while len(content) < count:  # one read gives less than 2 GiB, and on a share maybe much less
        more = os.pread(archive.fileno(), count - len(content), begin + len(content))
        if not more:
            break
        content += more
    return content
