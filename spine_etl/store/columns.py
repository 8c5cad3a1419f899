"""The columns of a version's table as they are stored: one zarr array each, by row.

A reader ignores columns that it does not know, and fills an optional column that is missing with the value
that means "unknown". So later releases can add columns without a new schema version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import zstd

from spine_etl.store.arrays import CRC_BYTES, checksum_matches
from spine_etl.store.schema import LEVEL_STATUS, MASK_SOURCE, Json, json_bytes, metadata_json

UID_LENGTH = 64
"""DICOM PS3.5 9.1: a UID has at most 64 characters."""
SHA256_BYTES = 32
TEXT = "string"
"""Data type of text: zarr's variable-length UTF-8 strings."""

_ZSTD_LEVEL = 3

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """How a column is stored.

    Attributes
    ----------
    data_type
        The zarr data type: a numpy name, or `TEXT`.
    dimensions
        The names of its axes; the first is ``row``, ``box`` or ``run``, except in a coordinate.
    meaning
        Its ``description`` attribute.
    fill
        The value in rows that the version does not contain, and in every row if the column is missing.
    is_optional
        True if a table without it can be read.
    attributes
        Further attributes: units and codes.
    """

    data_type: str
    dimensions: tuple[str, ...]
    meaning: str
    fill: Any = 0
    is_optional: bool = True
    attributes: Json = field(default_factory=dict)

    def array(self, *shape: int) -> Values:
        """An array of this type in which nothing is known."""
        return np.full(shape, self.fill, object if self.data_type == TEXT else self.data_type)


def _required(
    data_type: str,
    dimensions: tuple[str, ...],
    meaning: str,
    fill: Any = 0,
    attributes: Json | None = None,
) -> Column:
    return Column(data_type, dimensions, meaning, fill, is_optional=False, attributes=attributes or {})


_MM, _NAN = {"units": "mm"}, float("nan")

COLUMNS: dict[str, Column] = {
    "row": Column("int32", ("row",), "the row's index: a coordinate"),
    "in_version": _required("bool", ("row",), "the version contains the study of this row", False),
    "study_uid": Column(TEXT, ("row",), "StudyInstanceUID, or empty", ""),
    "study_uid_ascii": _required(
        "uint8", ("row", "character"), "the same as ASCII, padded with zeros, for clients without text"
    ),
    "fold": _required("int16", ("row",), "cross-validation fold from 0, or -1", -1),
    "patient_overall": _required("int8", ("row",), "1 if any level is fractured, 0 if none, -1 unknown", -1),
    "fracture": _required("int8", ("row", "level"), "1 if the level is fractured, 0 if not, -1 unknown", -1),
    "level_status": _required(
        "uint8", ("row", "level"), "whether the level has a crop", attributes={"codes": list(LEVEL_STATUS)}
    ),
    "mask_source": _required(
        "uint8", ("row",), "where the mask comes from", attributes={"codes": list(MASK_SOURCE)}
    ),
    "mask_name": Column(
        "uint16", ("row",), "which localizer made the mask, or which scheme of labels it has"
    ),
    "coverage": Column("float32", ("row", "level"), "share of the crop inside the CT's field of view"),
    "label_share": Column("float32", ("row", "level"), "share of the vertebra's voxels inside its crop"),
    "volume_mm3": Column(
        "float32", ("row", "level"), "volume of the vertebra in the mask", attributes={"units": "mm3"}
    ),
    "level_confidence": Column("float32", ("row", "level"), "1 for a given mask, else the localizer's"),
    "level_slices": Column(
        "int32", ("row", "level", "end"), "file numbers of the level's lowest and highest slice, or -1", -1
    ),
    "island_voxels": Column("int32", ("row", "level"), "voxels of the label that were cleared"),
    "island_distance_mm": Column(
        "float32", ("row", "level"), "largest distance of these from the vertebra", attributes=_MM
    ),
    "crop_origin_mm": _required(
        "float64", ("row", "level", "axis"), "L, P, S of the crop's voxel (0, 0, 0)", _NAN, attributes=_MM
    ),
    "overview_origin_mm": _required(
        "float64", ("row", "axis"), "L, P, S of the overview's voxel (0, 0, 0)", _NAN, attributes=_MM
    ),
    "straightened": Column("bool", ("row",), "a curved series was resampled along its arc", False),
    "slices": Column("int32", ("row",), "slices of the series that were used"),
    "source_spacing_mm": Column(
        "float32", ("row", "source_axis"), "distance of slices, rows, columns of the CT", _NAN, attributes=_MM
    ),
    "warnings": Column("uint16", ("row", "warning"), "number of the study's warnings with each code"),
    "source_digest": _required("uint8", ("row", "byte"), "digest of the study's files and table rows"),
    "sha256": _required(
        "uint8", ("row", "object", "byte"), "SHA-256 of image, mask, overview/image, overview/mask"
    ),
    "image_crc32c": _required("uint32", ("row", "level"), "CRC-32C at the end of each chunk of image"),
    "mask_crc32c": _required("uint32", ("row", "level"), "CRC-32C at the end of each chunk of mask"),
    "overview_image_crc32c": _required("uint32", ("row",), "CRC-32C at the end of the row of overview/image"),
    "overview_mask_crc32c": _required("uint32", ("row",), "CRC-32C at the end of the row of overview/mask"),
    "box_row": _required("int32", ("box",), "row of the box's study"),
    "box_slice_number": _required("int32", ("box",), "number in the file name of the box's slice"),
    "box_source": _required("float64", ("box", "pixel"), "x, y, width, height in pixels of the slice"),
    "box_level": _required("int8", ("box",), "index of the box's level, or -1", -1),
    "box_crop": _required(
        "float32", ("box", "level", "corner"), "z0, y0, x0, z1, y1, x1 in the level's crop, or NaN", _NAN
    ),
    "run_row": Column("int32", ("run",), "row of the study of a run of slices that show a label"),
    "run_label": Column("uint8", ("run",), "the label: a number in the masks"),
    "run_slices": Column(
        "int32", ("run", "end"), "first and last file number of the run; all files between show the label"
    ),
}  # fmt: skip
"""The columns of a version's table, in the order of docs/store-format.md."""

FIXED_SIZES = {
    "character": UID_LENGTH, "end": 2, "axis": 3, "source_axis": 3, "byte": SHA256_BYTES, "object": 4,
    "pixel": 4, "corner": 6,
}  # fmt: skip
"""Sizes of the dimensions that are the same in every store."""


def column_keys(name: str) -> tuple[str, str]:
    """Keys of a column's metadata and of its only chunk, which does not exist if the column is empty."""
    return f"{name}/zarr.json", f"{name}/c" + "/0" * len(COLUMNS[name].dimensions)


def encode_column(
    name: str, column: Column, values: Values, attributes: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The objects of a column, by key: its metadata and its only chunk."""
    is_text = column.data_type == TEXT
    serializer = {"name": "vlen-utf8"} if is_text else _bytes_codec(column.data_type)
    metadata = metadata_json(
        shape=values.shape,
        chunk_shape=[max(1, n) for n in values.shape],
        data_type=column.data_type,
        fill="NaN" if column.fill != column.fill else column.fill,
        codecs=[serializer, *_COMPRESSION],
        dimensions=column.dimensions,
        attributes={"description": column.meaning, **column.attributes, **(attributes or {})},
    )
    objects = {f"{name}/zarr.json": json_bytes(metadata)}
    if values.size:
        content = _encode_text(values) if is_text else _little_endian(values, column.data_type).tobytes()
        packed = zstd.compress(content, _ZSTD_LEVEL)
        checksum = google_crc32c.value(packed).to_bytes(CRC_BYTES, "little")
        objects[f"{name}/c" + "/0" * values.ndim] = packed + checksum
    return objects


_COMPRESSION: list[Json] = [
    {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
    {"name": "crc32c"},
]


def _bytes_codec(data_type: str) -> Json:
    if np.dtype(data_type).itemsize == 1:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _little_endian(values: Values, data_type: str) -> Values:
    return np.ascontiguousarray(values, np.dtype(data_type).newbyteorder("<"))


def _encode_text(values: Values) -> bytes:
    """The vlen-utf8 codec: the number of texts, then the length and the bytes of each."""
    texts = [str(text).encode() for text in values.ravel()]
    return struct.pack("<I", len(texts)) + b"".join(struct.pack("<I", len(text)) + text for text in texts)


def decode_column(name: str, objects: Mapping[str, bytes]) -> Values:
    """The values of a column that `encode_column` made. Texts are not decoded: no reader of ours needs them.

    Raises
    ------
    KeyError
        If one of its objects is missing.
    ValueError
        If it is damaged, or of another type than `COLUMNS` says.
    """
    column = COLUMNS[name]
    metadata_key, chunk_key = column_keys(name)
    metadata = json.loads(objects[metadata_key])
    shape = tuple(metadata["shape"])
    names = [codec["name"] for codec in metadata["codecs"]]
    stored = (metadata["data_type"], tuple(metadata["dimension_names"]), names)
    if stored != (column.data_type, column.dimensions, ["bytes", "zstd", "crc32c"]):
        raise ValueError(f"{name} is not stored as the format says")
    if 0 in shape:
        return np.empty(shape, column.data_type)
    content = objects[chunk_key]
    if not checksum_matches(content):
        raise ValueError(f"the checksum of {name} does not match")
    values = np.frombuffer(
        zstd.decompress(content[:-CRC_BYTES]), np.dtype(column.data_type).newbyteorder("<")
    )
    return values.reshape(shape).astype(column.data_type)
