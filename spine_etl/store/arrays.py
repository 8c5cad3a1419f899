"""The four arrays of voxels: one object per row, checksums in each, and their metadata.

`image` and `mask` are sharded: a row's object holds one chunk per level, then the index of the chunks, so
that one crop can be read alone. A row of an overview is a single chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from spine_etl.recipe import Recipe
from spine_etl.store.schema import Json, metadata_json
from spine_etl.volume import AIR_HU

ARRAY_NAMES = ("image", "mask", "overview/image", "overview/mask")
"""The arrays with one object per row, in the order of a table's ``sha256`` column."""

CRC_BYTES = 4
_COMPRESSOR, _COMPRESSION_LEVEL = "lz4", 5
_CRC_RESIDUE = 0x48674BC7
"""CRC-32C of any bytes followed by their own CRC-32C: verifies a chunk without copying it."""
_BLOSC_HEADER_BYTES = 16
_INDEX = np.dtype("<u8")

Voxels = npt.NDArray[Any]


class NotCommitted(ValueError):
    """A chunk is intact, but has another checksum than the version's table."""


def checksum_matches(content: bytes) -> bool:
    """True if a chunk, or the index of a shard, ends with its own CRC-32C."""
    return len(content) > CRC_BYTES and google_crc32c.value(content) == _CRC_RESIDUE


@dataclass(frozen=True)
class RowArray:
    """One of the `ARRAY_NAMES`; if it is sharded, each index of a row's first axis is a chunk."""

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    is_sharded: bool
    dimensions: tuple[str, ...]
    fill: int

    @property
    def chunks(self) -> int:
        """Chunks of a row: one per level, or one."""
        return self.row_shape[0] if self.is_sharded else 1

    @property
    def index_bytes(self) -> int:
        """Size of the index at the end of a row's object: offset and size of each chunk, then a CRC-32C."""
        return 2 * self.chunks * _INDEX.itemsize + CRC_BYTES if self.is_sharded else 0

    def key(self, row: int) -> str:
        """Key of a row's object."""
        return f"{self.name}/c/{row}" + "/0" * len(self.row_shape)

    def encode(self, voxels: Voxels) -> tuple[bytes, tuple[int, ...]]:
        """Encode a row as the metadata says; returns the object and the CRC-32C of each chunk."""
        if voxels.shape != self.row_shape or voxels.dtype != self.dtype:
            fault = f"needs {self.dtype} {self.row_shape}, not {voxels.dtype} {voxels.shape}"
            raise ValueError(f"{self.name} {fault}")
        parts: list[bytes] = []
        checksums: list[int] = []
        for chunk in np.split(np.ascontiguousarray(voxels), self.chunks):
            packed = blosc.compress(
                chunk, _COMPRESSOR.encode(), _COMPRESSION_LEVEL, blosc.SHUFFLE, 0, chunk.itemsize
            )
            checksums.append(google_crc32c.value(packed))
            parts += [packed, checksums[-1].to_bytes(CRC_BYTES, "little")]
        if self.is_sharded:
            parts += self._encode_index([len(packed) + CRC_BYTES for packed in parts[::2]])
        return b"".join(parts), tuple(checksums)

    @staticmethod
    def _encode_index(sizes: list[int]) -> list[bytes]:
        offsets = np.cumsum([0, *sizes[:-1]])
        index = np.stack([offsets, sizes], axis=1).astype(_INDEX).tobytes()
        return [index, google_crc32c.value(index).to_bytes(CRC_BYTES, "little")]

    def decode(self, content: bytes, checksums: Voxels, out: Voxels | None = None) -> Voxels:
        """Verify and decode a row's object, into ``out`` if given.

        Parameters
        ----------
        content
            The object.
        checksums
            The CRC-32C of each chunk, from the version's table.
        out
            An array of the row's shape and type.

        Raises
        ------
        NotCommitted
            If it is the object of another row.
        ValueError
            If it is damaged.
        TypeError
            If ``out`` is not a writable C-contiguous array of the row's type and shape: blosc would fill its
            memory all the same.
        """
        return self.decode_chunks(self._split(content), checksums, out)

    def decode_chunks(self, chunks: Iterable[bytes], checksums: Voxels, out: Voxels | None = None) -> Voxels:
        """Verify and decode the chunks of a row one by one; as `decode` otherwise."""
        voxels = self._output(self.row_shape, out)
        targets = voxels if self.is_sharded else [voxels]
        for chunk, checksum, target in zip(chunks, checksums.tolist(), targets, strict=True):
            self._decode(chunk, checksum, target)
        return voxels

    def is_intact(self, content: bytes, checksums: Voxels) -> bool:
        """True if `decode` would accept the object, which it does not decode."""
        try:
            for chunk, checksum in zip(self._split(content), checksums.tolist(), strict=True):
                self._verify(chunk, checksum)
        except ValueError:
            return False
        return True

    def _split(self, content: bytes) -> Iterator[bytes]:
        """The chunks of a row's object, in order."""
        if not self.is_sharded:
            yield content
            return
        for start, size in self.chunk_ranges(content[-self.index_bytes :]):
            yield content[start : start + size]

    def chunk_ranges(self, index: bytes) -> list[tuple[int, int]]:
        """Offset and size of each chunk in a row's object, from the object's last `index_bytes`.

        Raises
        ------
        ValueError
            If the index is damaged.
        """
        if len(index) != self.index_bytes or not checksum_matches(index):
            raise ValueError("the checksum of its index does not match")
        ranges = np.frombuffer(index[:-CRC_BYTES], _INDEX).reshape(self.chunks, 2)
        return [(start, size) for start, size in ranges.tolist()]

    def decode_chunk(self, content: bytes, checksum: int, out: Voxels | None = None) -> Voxels:
        """Verify and decode one chunk of a sharded row; ``out`` has the shape of a crop."""
        voxels = self._output(self.row_shape[1:], out)
        self._decode(content, checksum, voxels)
        return voxels

    def _output(self, shape: tuple[int, ...], out: Voxels | None) -> Voxels:
        voxels: Voxels = np.empty(shape, self.dtype) if out is None else out
        if voxels.shape != shape or voxels.dtype != self.dtype or not voxels.flags.carray:
            fault = f"needs a C-contiguous {self.dtype} {shape}, not {voxels.dtype} {voxels.shape}"
            raise TypeError(f"{self.name} {fault}")
        return voxels

    @staticmethod
    def _verify(content: bytes, checksum: int) -> None:
        if len(content) < _BLOSC_HEADER_BYTES + CRC_BYTES or not checksum_matches(content):
            raise ValueError("its checksum does not match")
        if int.from_bytes(content[-CRC_BYTES:], "little") != checksum:
            raise NotCommitted("it is not the object that was committed")

    @classmethod
    def _decode(cls, content: bytes, checksum: int, out: Voxels) -> None:
        cls._verify(content, checksum)
        if (size := int.from_bytes(content[4:8], "little")) != out.nbytes:
            raise ValueError(f"its size is {size} bytes, not {out.nbytes}")
        blosc.decompress(memoryview(content)[:-CRC_BYTES], out)

    def metadata(self, rows: int) -> Json:
        """The content of the array's ``zarr.json`` for this number of rows.

        zarr-python would write the same metadata in another form, without the byte order of one-byte types
        and with an empty ``storage_transformers``. The writer compares these bytes with those in the store,
        so they must not depend on the installed zarr-python.
        """
        blosc_settings = {
            "cname": _COMPRESSOR, "clevel": _COMPRESSION_LEVEL, "shuffle": "shuffle", "blocksize": 0,
            "typesize": np.dtype(self.dtype).itemsize,
        }  # fmt: skip
        little_endian: Json = {"name": "bytes", "configuration": {"endian": "little"}}
        codecs: list[Json] = [
            little_endian,
            {"name": "blosc", "configuration": blosc_settings},
            {"name": "crc32c"},
        ]
        if self.is_sharded:
            sharding = {
                "chunk_shape": [1, 1, *self.row_shape[1:]],
                "codecs": codecs,
                "index_codecs": [little_endian, {"name": "crc32c"}],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return metadata_json(
            shape=(rows, *self.row_shape),
            chunk_shape=(1, *self.row_shape),
            data_type=self.dtype,
            fill=self.fill,
            codecs=codecs,
            dimensions=self.dimensions,
            attributes={"units": "HU"} if self.dtype == "int16" else {},
        )


def row_arrays(recipe: Recipe) -> dict[str, RowArray]:
    """The four arrays of a store with this recipe, by name."""
    crop, overview = tuple(recipe.crop.shape), tuple(recipe.overview.shape)
    crops = (len(recipe.levels), *crop)
    crop_axes = ("row", "level", "z", "y", "x")
    overview_axes = ("row", "overview_z", "overview_y", "overview_x")
    return {
        "image": RowArray("image", "int16", crops, True, crop_axes, AIR_HU),
        "mask": RowArray("mask", "uint8", crops, True, crop_axes, 0),
        "overview/image": RowArray("overview/image", "int16", overview, False, overview_axes, AIR_HU),
        "overview/mask": RowArray("overview/mask", "uint8", overview, False, overview_axes, 0),
    }
