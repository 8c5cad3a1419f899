"""The layout of a store, shared by writer, reader and check.

    <store>/zarr.json              attributes: schema version, recipe, fingerprint, latest version
      image            int16 (row, level, z, y, x)   HU, one object per row
      mask             uint8 (row, level, z, y, x)   source labels
      overview/image   int16 (row, z, y, x)
      overview/mask    uint8 (row, z, y, x)
      studies/<uid>/record.json     the outcome of the study: its row, or why it was refused
      versions/<n>/zarr.json        the commit; a version exists once this object does
      versions/<n>/<digest>/...     the version's table, one array per column; never changed

A row belongs to one study and is written once. Any zarr v3 client can read all arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from spine_etl.recipe import SCHEMA_VERSION, Recipe
from spine_etl.volume import AIR_HU

ATTRIBUTES = "spine_etl"
ARRAY_NAMES = ("image", "mask", "overview/image", "overview/mask")
"""The arrays with one object per row, in the order of a table's ``digest`` column."""

LEVEL_STATUS = ("unlocated", "located", "absent", "ambiguous")
"""Codes of ``level_status``, from 0: no usable mask; cropped; not in the mask; twice in the mask."""
STATUS_LOCATED = LEVEL_STATUS.index("located")
MASK_SOURCE = ("none", "given", "predicted", "external")
"""Codes of ``mask_source``, from 0."""
UID_LENGTH = 64
"""DICOM PS3.5 9.1: a UID has at most 64 characters."""

_COMPRESSOR, _COMPRESSION_LEVEL = "lz4", 5
_CRC_RESIDUE = 0x48674BC7
"""CRC-32C of any bytes followed by their own CRC-32C: verifies a whole object without copying it."""


def checksum_matches(content: bytes) -> bool:
    """True if a row's object ends with its own CRC-32C."""
    return len(content) >= 20 and google_crc32c.value(content) == _CRC_RESIDUE


@dataclass(frozen=True)
class RowArray:
    """One of the `ARRAY_NAMES`: a zarr array with one chunk per row."""

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    dimensions: tuple[str, ...]
    fill: int

    def key(self, row: int) -> str:
        """Key of a row's object."""
        return f"{self.name}/c/{row}" + "/0" * len(self.row_shape)

    def encode(self, voxels: npt.NDArray[Any]) -> bytes:
        """Encode a row as the metadata says: blosc (lz4, byte shuffle), then CRC-32C."""
        if voxels.shape != self.row_shape or voxels.dtype != self.dtype:
            fault = f"needs {self.dtype} {self.row_shape}, not {voxels.dtype} {voxels.shape}"
            raise ValueError(f"{self.name} {fault}")
        voxels = np.ascontiguousarray(voxels)
        packed = blosc.compress(
            voxels, _COMPRESSOR.encode(), _COMPRESSION_LEVEL, blosc.SHUFFLE, 0, voxels.itemsize
        )
        checksum: int = google_crc32c.value(packed)
        return bytes(packed) + checksum.to_bytes(4, "little")

    def decode(self, content: bytes, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Verify and decode a row's object, into ``out`` if given.

        Raises
        ------
        ValueError
            If the checksum does not match, or the number of voxels is wrong.
        TypeError
            If ``out`` is not a writable C-contiguous array of the row's type and shape: blosc would fill its
            memory all the same.
        """
        if not checksum_matches(content):
            raise ValueError("its checksum does not match")
        voxels = np.empty(self.row_shape, self.dtype) if out is None else out
        is_row = voxels.shape == self.row_shape and voxels.dtype == self.dtype
        if not is_row or not voxels.flags.carray:
            fault = f"needs a C-contiguous {self.dtype} {self.row_shape}, not {voxels.dtype} {voxels.shape}"
            raise TypeError(f"{self.name} {fault}")
        if (size := int.from_bytes(content[4:8], "little")) != voxels.nbytes:
            raise ValueError(f"its size is {size} bytes, not {voxels.nbytes}")
        blosc.decompress(memoryview(content)[:-4], voxels)
        return voxels

    def metadata(self, rows: int) -> bytes:
        """The array's ``zarr.json`` for this number of rows.

        zarr-python would write the same metadata in another form, without the byte order of one-byte types
        and with an empty ``storage_transformers``. The writer compares these bytes with those in the store,
        so they must not depend on the installed zarr-python.
        """
        blosc_settings = {
            "cname": _COMPRESSOR, "clevel": _COMPRESSION_LEVEL, "shuffle": "shuffle", "blocksize": 0,
            "typesize": np.dtype(self.dtype).itemsize,
        }  # fmt: skip
        return _json(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": [rows, *self.row_shape],
                "data_type": self.dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *self.row_shape]}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": self.fill,
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "blosc", "configuration": blosc_settings},
                    {"name": "crc32c"},
                ],
                "dimension_names": list(self.dimensions),
                "attributes": {"unit": "HU"} if self.dtype == "int16" else {},
            }
        )


def row_arrays(recipe: Recipe) -> dict[str, RowArray]:
    """The four arrays of a store with this recipe, by name."""
    crop = (len(recipe.levels), *recipe.crop.shape)
    overview = tuple(recipe.overview.shape)
    crop_axes, overview_axes = ("row", "level", "z", "y", "x"), ("row", "z", "y", "x")
    return {
        "image": RowArray("image", "int16", crop, crop_axes, AIR_HU),
        "mask": RowArray("mask", "uint8", crop, crop_axes, 0),
        "overview/image": RowArray("overview/image", "int16", overview, overview_axes, AIR_HU),
        "overview/mask": RowArray("overview/mask", "uint8", overview, overview_axes, 0),
    }


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """A group's ``zarr.json``."""
    return _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def root_attributes(recipe: Recipe, latest: dict[str, Any] | None) -> dict[str, Any]:
    """The attributes of a store's root; ``latest`` describes the newest committed version."""
    return {
        ATTRIBUTES: {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": recipe.fingerprint,
            "recipe": recipe.model_dump(mode="json"),
            "levels": list(recipe.levels),
            "axes": "arrays are (z, y, x): +z Superior, +y Posterior, +x Left; origins are LPS millimetres",
            "latest": latest,
        }
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def encode_group(
    attributes: dict[str, Any], columns: dict[str, tuple[npt.NDArray[Any], tuple[str, ...]]]
) -> dict[str, bytes]:
    """The objects, by key, of a zarr group with one array per column, as zarr-python writes it."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(objects), mode="w", zarr_format=3, attributes=attributes)
    for name, (values, dimensions) in columns.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(1, n) for n in values.shape),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            dimension_names=dimensions,
            config={"write_empty_chunks": True},  # a missing chunk is an error, never fill values
        )
        if values.size:
            array[...] = values
    return {key: bytes(buffer.to_bytes()) for key, buffer in objects.items()}


def decode_group(
    objects: dict[str, bytes], names: Iterable[str]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The attributes and the named arrays of a group that `encode_group` made.

    Raises
    ------
    FileNotFoundError, KeyError
        If the group or one of the arrays is not among the objects.
    ValueError, RuntimeError
        If an object is damaged.
    """
    import zarr
    from zarr.buffer import cpu
    from zarr.storage import MemoryStore

    buffers: dict[str, Any] = {key: cpu.Buffer.from_bytes(content) for key, content in objects.items()}
    group: Any = zarr.open_group(MemoryStore(buffers), mode="r", zarr_format=3)
    return dict(group.attrs), {name: np.asarray(group[name][...]) for name in names}


def column_keys(name: str, axes: int) -> tuple[str, str]:
    """Keys of a column's metadata and of its only chunk, which does not exist if the column is empty."""
    return f"{name}/zarr.json", f"{name}/c" + "/0" * axes
