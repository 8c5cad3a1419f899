"""The layout of a store, and the JSON of its groups and arrays. docs/store-format.md is the specification.

    <store>/zarr.json            attributes: schema version, recipe, fingerprint, latest version; and the
                                 metadata of all that a reader of the latest version needs (consolidated)
      image                      int16 (row, level, z, y, x)   HU, one object per row, one chunk per level
      mask                       uint8 (row, level, z, y, x)   source labels
      level                      the names along the level axis
      overview/image             int16 (row, overview_z, overview_y, overview_x)
      overview/mask              uint8 (row, overview_z, overview_y, overview_x)
      studies/<uid>/record.json  the outcome of the study: its row, or why it was refused
      versions/<n>/zarr.json     the commit; a version exists once this object does
      versions/<n>/<digest>/...  the version's table, one array per column, by row; never changed

A row belongs to one study and is written once. Index i of an array and of every column is the same study.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spine_etl.recipe import SCHEMA_VERSION, Recipe

ATTRIBUTES = "spine_etl"
"""The key of our attributes in the root's ``zarr.json``."""

LEVEL_STATUS = ("unlocated", "located", "absent", "ambiguous")
"""Codes of ``level_status``, from 0: no usable mask; cropped; not in the mask; twice in the mask."""
STATUS_LOCATED = LEVEL_STATUS.index("located")
MASK_SOURCE = ("none", "given", "predicted", "external")
"""Codes of ``mask_source``, from 0."""

AXES = (
    "Crops and overviews are (z, y, x): z + 1 is a step to Superior, y + 1 to Posterior, x + 1 to Left. "
    "Positions are LPS millimetres (DICOM's patient coordinates) of voxel centres."
)
JOIN = (
    "Index i along 'row' is the same study in every array and in every column of a version's table. "
    "Use only rows where in_version is true: the others belong to other versions, or to no study."
)

Json = dict[str, Any]


def json_bytes(content: Json) -> bytes:
    """JSON as it is stored."""
    return (json.dumps(content, indent=1) + "\n").encode()


def metadata_json(
    *,
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    data_type: str,
    fill: Any,
    codecs: list[Json],
    dimensions: Sequence[str],
    attributes: Json,
) -> Json:
    """The metadata of a zarr v3 array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": list(dimensions),
        "attributes": attributes,
    }


def group_json(attributes: Json) -> Json:
    """The metadata of a zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def root_json(recipe: Recipe, latest: Json | None, members: Mapping[str, Json]) -> Json:
    """The metadata of a store's root.

    Parameters
    ----------
    recipe
        The recipe of the store.
    latest
        Number, path, root digest, number of studies and rows of the newest committed version, if any.
    members
        The metadata of the groups and arrays that a reader of that version needs, by path. zarr-python,
        xarray and zarrita read them from here, in one request, without listing the store.
    """
    attributes = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.model_dump(mode="json"),
        "levels": list(recipe.levels),
        "axes": AXES,
        "join": JOIN,
        "latest": latest,
    }
    return {
        **group_json({ATTRIBUTES: attributes}),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(members)},
    }
