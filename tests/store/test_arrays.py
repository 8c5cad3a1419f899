"""The arrays of voxels: their format, with zarr-python as the reference, and their checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore

from spine_etl.recipe import Recipe
from spine_etl.store import Store
from spine_etl.store.arrays import ARRAY_NAMES, NotCommitted, RowArray, checksum_matches, row_arrays
from tests.store.tiny import RECIPE, voxels

CROP, OVERVIEW = (2, 4, 6, 8), (8, 4, 4)
SHAPES = {"image": CROP, "mask": CROP, "overview/image": OVERVIEW, "overview/mask": OVERVIEW}
AXES = {"": ["level", "z", "y", "x"], "overview": ["overview_z", "overview_y", "overview_x"]}


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_metadata_is_that_of_zarr_python(name: str) -> None:
    is_image, is_overview = name.endswith("image"), "/" in name
    row = (1, *SHAPES[name])
    expected = zarr.create_array(
        MemoryStore(),
        shape=(3, *SHAPES[name]),
        chunks=row if is_overview else (1, 1, *CROP[1:]),
        shards=None if is_overview else row,
        dtype="int16" if is_image else "uint8",
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", blocksize=0, typesize=2 if is_image else 1),
            Crc32cCodec(),
        ],
        fill_value=-1024 if is_image else 0,
        dimension_names=("row", *AXES["overview" if is_overview else ""]),
        attributes={"units": "HU"} if is_image else {},
    ).metadata
    assert ArrayV3Metadata.from_dict(row_arrays(RECIPE)[name].metadata(3)) == expected


def encoded(name: str, seed: int = 1) -> tuple[RowArray, bytes, Any]:
    array = row_arrays(RECIPE)[name]
    content, checksums = array.encode(voxels(seed)[name])
    return array, content, np.array(checksums, np.uint32)


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_row_is_decoded_as_it_was_encoded(name: str) -> None:
    array, content, checksums = encoded(name)
    assert len(checksums) == (1 if "/" in name else 2)
    assert array.is_intact(content, checksums)
    np.testing.assert_array_equal(array.decode(content, checksums), voxels(1)[name])


@pytest.mark.parametrize("name", ["image", "mask"])
def test_each_crop_of_a_row_can_be_decoded_alone(name: str) -> None:
    array, content, checksums = encoded(name)
    for level, (start, size) in enumerate(array.chunk_ranges(content[-array.index_bytes :])):
        crop = array.decode_chunk(content[start : start + size], int(checksums[level]))
        np.testing.assert_array_equal(crop, voxels(1)[name][level])


def test_checksum_is_that_of_the_chunk_before_it() -> None:
    """Castagnoli's CRC-32C: RFC 3720 gives 0x8a9136aa for 32 zeros."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
    _, content, checksums = encoded("overview/mask")
    assert content[-4:] == int(checksums[0]).to_bytes(4, "little")
    assert google_crc32c.value(content[:-4]) == int(checksums[0])
    assert checksum_matches(content)
    assert not checksum_matches(content[:-1])


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_object_of_another_row_is_refused(name: str) -> None:
    """It is intact, so only the table's checksums can tell."""
    array, _, checksums = encoded(name, 1)
    _, other, _ = encoded(name, 2)
    assert not array.is_intact(other, checksums)
    with pytest.raises(NotCommitted):
        array.decode(other, checksums)


def test_exchanged_crops_of_one_row_are_refused() -> None:
    """The index is rewritten with the two ranges exchanged, and has a correct checksum."""
    array, content, checksums = encoded("image")
    index = np.frombuffer(content[-array.index_bytes : -4], "<u8").reshape(2, 2)[::-1].tobytes()
    exchanged = content[: -array.index_bytes] + index + google_crc32c.value(index).to_bytes(4, "little")
    with pytest.raises(NotCommitted):
        array.decode(exchanged, checksums)


def changed_bytes(content: bytes) -> Iterator[bytes]:
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        yield bytes(changed)


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_every_flipped_bit_and_every_truncation_is_refused(name: str) -> None:
    array, content, checksums = encoded(name)
    faults = [*changed_bytes(content), *(content[:size] for size in range(0, len(content), 5))]
    for fault in faults:
        assert not array.is_intact(fault, checksums)
        with pytest.raises(ValueError, match=r"checksum|committed"):
            array.decode(fault, checksums)


def test_row_of_another_shape_or_type_is_refused() -> None:
    array = row_arrays(RECIPE)["image"]
    with pytest.raises(ValueError, match="needs int16"):
        array.encode(voxels(1)["mask"])
    with pytest.raises(ValueError, match=r"needs int16 \(2, 4, 6, 8\)"):
        array.encode(voxels(1)["overview/image"])
    _, content, checksums = encoded("overview/mask")  # 1 byte a voxel
    with pytest.raises(ValueError, match="its size is 128 bytes, not 256"):
        row_arrays(RECIPE)["overview/image"].decode(content, checksums)


def test_recipe_of_one_level_is_sharded_too() -> None:
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "levels": {"C1": 1}})
    array = row_arrays(recipe)["image"]
    content, checksums = array.encode(voxels(1)["image"][:1])
    assert array.metadata(1)["codecs"][0]["name"] == "sharding_indexed"
    np.testing.assert_array_equal(
        array.decode(content, np.array(checksums, np.uint32)), voxels(1)["image"][:1]
    )


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
    array, content, checksums = encoded("image")
    out = output()
    with pytest.raises(TypeError, match=r"image needs a C-contiguous int16 \(2, 4, 6, 8\)"):
        array.decode(content, checksums, out)
    assert (out == 0).all()


def test_part_of_a_batch_is_a_valid_output(store: Store) -> None:
    batch = np.zeros((3, 2, 4, 6, 8), np.int16)
    store.image(0, out=batch[1])
    np.testing.assert_array_equal(batch[1], voxels(1)["image"])
    assert not batch[[0, 2]].any()
    store.read_crop("image", 1, 0, out=batch[2, 1])
    np.testing.assert_array_equal(batch[2, 1], voxels(2)["image"][0])
    with pytest.raises(TypeError, match="needs a C-contiguous int16"):  # not a fault of the store
        store.image(0, out=batch[1].astype(np.float32))
    with pytest.raises(TypeError, match=r"needs a C-contiguous int16 \(4, 6, 8\)"):
        store.read_crop("image", 0, 0, out=batch[1])


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda v: v[::-1].copy()[::-1], lambda v: np.repeat(v, 2, axis=0)[::2]]
)
def test_memory_layout_of_the_voxels_does_not_change_the_object(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    array, row = row_arrays(RECIPE)["image"], voxels(1)["image"]
    assert array.encode(change(row)) == array.encode(row)


@pytest.mark.parametrize(("size", "valid"), [(15, False), (16, True), (17, True)])
def test_shortest_chunk_is_a_blosc_header_and_its_checksum(size: int, valid: bool) -> None:
    """A blosc header has 16 bytes; a CRC-32C of nothing at all would match too."""
    array, packed = row_arrays(RECIPE)["overview/mask"], bytes(range(size))
    checksum = google_crc32c.value(packed)
    checksums = np.array([checksum], np.uint32)
    assert array.is_intact(packed + checksum.to_bytes(4, "little"), checksums) == valid
    assert not array.is_intact(packed + checksum.to_bytes(4, "big"), checksums)
    assert not array.is_intact(b"", np.zeros(1, np.uint32))
    assert not array.is_intact(bytes(4), np.zeros(1, np.uint32))
