"""The format of the arrays: zarr-python, tensorstore and xarray are the references."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore

from spine_etl.store import Store
from spine_etl.store.schema import ARRAY_NAMES, checksum_matches, row_arrays
from tests.store.tiny import RECIPE, voxels

CROP, OVERVIEW = (2, 4, 6, 8), (8, 4, 4)
SHAPES = {"image": CROP, "mask": CROP, "overview/image": OVERVIEW, "overview/mask": OVERVIEW}


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_metadata_is_that_of_zarr_python(name: str) -> None:
    is_image = name.endswith("image")
    expected = zarr.create_array(
        MemoryStore(),
        shape=(3, *SHAPES[name]),
        chunks=(1, *SHAPES[name]),
        dtype="int16" if is_image else "uint8",
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", blocksize=0, typesize=2 if is_image else 1),
            Crc32cCodec(),
        ],
        fill_value=-1024 if is_image else 0,
        dimension_names=("row", *(["level"] if "/" not in name else []), "z", "y", "x"),
        attributes={"unit": "HU"} if is_image else {},
    ).metadata
    assert ArrayV3Metadata.from_dict(json.loads(row_arrays(RECIPE)[name].metadata(3))) == expected


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_row_is_decoded_as_it_was_encoded(name: str) -> None:
    array = row_arrays(RECIPE)[name]
    content = array.encode(voxels(1)[name])
    assert checksum_matches(content)
    assert not checksum_matches(content[:-1])
    np.testing.assert_array_equal(array.decode(content), voxels(1)[name])


def test_row_of_another_shape_or_type_is_refused() -> None:
    array = row_arrays(RECIPE)["image"]
    with pytest.raises(ValueError, match="needs int16"):
        array.encode(voxels(1)["mask"])
    with pytest.raises(ValueError, match=r"needs int16 \(2, 4, 6, 8\)"):
        array.encode(voxels(1)["overview/image"])
    with pytest.raises(ValueError, match="its size is 256 bytes, not 768"):  # 2 bytes a voxel
        array.decode(row_arrays(RECIPE)["overview/image"].encode(voxels(1)["overview/image"]))


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_other_zarr_clients_read_the_same_voxels(store: Store, name: str) -> None:
    index = store.index("1.2")
    row, expected = int(store.table["row"][index]), voxels(2)[name]
    path = str(store.location)
    np.testing.assert_array_equal(zarr.open_array(f"{path}/{name}", mode="r")[row], expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{name}/"}}
    np.testing.assert_array_equal(tensorstore.open(spec).result()[row].read().result(), expected)
    group, _, variable = name.rpartition("/")
    dataset = xarray.open_zarr(path, group=group or None, consolidated=False)
    np.testing.assert_array_equal(dataset[variable].isel(row=row).to_numpy(), expected)


def test_other_zarr_clients_read_the_table(store: Store) -> None:
    root = zarr.open_group(str(store.location), mode="r")
    path = root.attrs["spine_etl"]["latest"]["path"]
    table = xarray.open_zarr(str(store.location), group=path, consolidated=False)
    assert table["fracture"].sizes == {"study": 2, "level": 2}
    kvstore = {"driver": "file", "path": f"{Path(str(store.location))}/{path}/row/"}
    rows = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    assert rows.tolist() == store.table["row"].tolist()
