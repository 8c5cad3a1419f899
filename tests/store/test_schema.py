"""The format of the arrays: zarr-python, tensorstore and xarray are the references."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import google_crc32c
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


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


OUTPUTS: dict[str, Callable[[], np.ndarray]] = {
    "Fortran order": lambda: np.zeros((2, 4, 6, 8), np.int16, order="F"),
    "strided": lambda: np.zeros((4, 4, 6, 8), np.int16)[::2],
    "reversed": lambda: np.zeros((2, 4, 6, 8), np.int16)[::-1],
    "unsigned": lambda: np.zeros((2, 4, 6, 8), np.uint16),
    "float16": lambda: np.zeros((2, 4, 6, 8), np.float16),
    "big-endian": lambda: np.zeros((2, 4, 6, 8), ">i2"),
    "axes reversed": lambda: np.zeros((8, 6, 4, 2), np.int16),
    "flat": lambda: np.zeros(2 * 4 * 6 * 8, np.int16),
    "a study too many": lambda: np.zeros((1, 2, 4, 6, 8), np.int16),
    "read-only": lambda: read_only(np.zeros((2, 4, 6, 8), np.int16)),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_output_that_would_hold_other_numbers_is_refused(output: Callable[[], np.ndarray]) -> None:
    """All of them have as many bytes as the row, so blosc would fill them with numbers in another order."""
    array, out = row_arrays(RECIPE)["image"], output()
    content = array.encode(voxels(1)["image"])
    with pytest.raises(TypeError, match=r"image needs a C-contiguous int16 \(2, 4, 6, 8\)"):
        array.decode(content, out)
    assert (out == 0).all()


def test_part_of_a_batch_is_a_valid_output(store: Store) -> None:
    batch = np.zeros((3, 2, 4, 6, 8), np.int16)
    store.image(0, out=batch[1])
    np.testing.assert_array_equal(batch[1], voxels(1)["image"])
    assert not batch[[0, 2]].any()
    with pytest.raises(TypeError, match="needs a C-contiguous int16"):  # not a fault of the store
        store.image(0, out=batch[1].astype(np.float32))


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda v: v[::-1].copy()[::-1], lambda v: np.repeat(v, 2, axis=0)[::2]]
)
def test_memory_layout_of_the_voxels_does_not_change_the_object(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    array, row = row_arrays(RECIPE)["image"], voxels(1)["image"]
    assert array.encode(change(row)) == array.encode(row)


@pytest.mark.parametrize(("size", "valid"), [(15, False), (16, True), (17, True)])
def test_shortest_object_is_a_blosc_header_and_its_checksum(size: int, valid: bool) -> None:
    """A blosc header has 16 bytes; a CRC-32C of nothing at all would match too."""
    packed = bytes(range(size))
    assert checksum_matches(packed + google_crc32c.value(packed).to_bytes(4, "little")) == valid
    assert not checksum_matches(packed + google_crc32c.value(packed).to_bytes(4, "big"))
    assert not checksum_matches(b"")
    assert not checksum_matches(bytes(4))


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
