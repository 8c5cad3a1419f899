"""Writing and reading a row of seven crops: codecs, chunk layouts and readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from spine_etl.dicom import read_series
from spine_etl.geometry import Grid
from spine_etl.pipeline import crop_study, process_study
from spine_etl.recipe import Recipe
from spine_etl.resample import sample_image
from spine_etl.source.layout import Study
from spine_etl.store import Store
from spine_etl.store.writer import StoreWriter
from tests.benchmarks.comparison import median_of, median_ratio, print_table, time_in_rounds
from tests.benchmarks.peers import THREADS

pytestmark = pytest.mark.benchmark

ROUNDS, ROWS = 7, 4
CODECS = {
    "lz4, byte shuffle": ("lz4", 5, blosc.SHUFFLE),
    "lz4, bit shuffle": ("lz4", 5, blosc.BITSHUFFLE),
    "zstd 1, byte shuffle": ("zstd", 1, blosc.SHUFFLE),
    "zstd 1, bit shuffle": ("zstd", 1, blosc.BITSHUFFLE),
    "zstd 5, bit shuffle": ("zstd", 5, blosc.BITSHUFFLE),
    "zstd 1, plain": ("zstd", 1, blosc.NOSHUFFLE),
}
Voxels = npt.NDArray[Any]
Reader = Callable[[int], Voxels]
OURS, CROP = "crops in a row's shard", 2
CRC_RESIDUE = 0x48674BC7  # CRC-32C of any bytes followed by their own CRC-32C


def test_codecs_on_phantom_crops(study: Callable[[Any], Study], recipe: Recipe) -> None:
    crops = crop_study(study("explicit"), recipe, threads=THREADS).voxels["image"]
    _compare_codecs("Seven phantom crops", crops)


@pytest.mark.real_data
def test_codecs_on_real_head(real_data: Path, recipe: Recipe) -> None:
    volume = read_series(real_data / "ct_head_gantry_tilt")
    target = Grid.canonical(volume.grid.center_mm, recipe.crop.shape, recipe.crop.spacing_mm)
    _compare_codecs("One crop of a real head", sample_image(volume, target, threads=THREADS))


def _compare_codecs(title: str, crops: Voxels) -> None:
    packed = {name: _pack(crops, *codec) for name, codec in CODECS.items()}
    buffer = np.empty_like(crops)
    writing = time_in_rounds({n: lambda c=c: _pack(crops, *c) for n, c in CODECS.items()}, ROUNDS)
    reading = time_in_rounds({n: lambda p=p: blosc.decompress(p, buffer) for n, p in packed.items()}, ROUNDS)
    mb = crops.nbytes / 1e6
    print_table(
        f"{title}, {mb:.1f} MB of int16 HU, {THREADS} threads",
        ("codec", "smaller by", "writes MB/s", "reads MB/s"),
        [
            (
                name,
                crops.nbytes / len(packed[name]),
                mb / median_of(writing[name]),
                mb / median_of(reading[name]),
            )
            for name in CODECS
        ],
    )
    fastest = min(CODECS, key=lambda name: median_of(reading[name]))
    assert median_ratio(reading["lz4, byte shuffle"], reading[fastest]) < 1.6


def _pack(crops: Voxels, name: str, level: int, shuffle: int) -> bytes:
    blosc.set_nthreads(THREADS)
    packed: bytes = blosc.compress(crops, name.encode(), level, shuffle, 0, crops.itemsize)
    return packed


def test_layouts_and_readers(study: Callable[[Any], Study], recipe: Recipe, tmp_path: Path) -> None:
    store = _build_store(study("explicit"), recipe, tmp_path / "ours")
    rows = np.stack([store.image(row) for row in range(ROWS)])
    block = recipe.crop.shape
    layouts = {
        OURS: tmp_path / "ours" / "image",
        "one row": _write_array(rows, tmp_path / "rows", chunks=(1, len(recipe.levels), *block)),
        "one crop": _write_array(rows, tmp_path / "crops", chunks=(1, 1, *block)),
    }
    readers = _readers(store, layouts)
    for name, (read_row, read_crop) in readers.items():
        np.testing.assert_array_equal(read_row(1), rows[1], err_msg=str(name))
        np.testing.assert_array_equal(read_crop(1), rows[1, CROP], err_msg=str(name))
    timings = time_in_rounds(
        {
            (*name, unit): lambda read=read: [read(row) for row in range(ROWS)]
            for name, pair in readers.items()
            for unit, read in zip(("row", "crop"), pair, strict=True)
        },
        ROUNDS,
    )
    print_table(
        f"Reading seven crops ({rows[0].nbytes / 1e6:.0f} MB) or one of them, checksums verified",
        ("chunk", "reader", "ms per row", "x ours", "ms per crop", "objects per row", "MB per row"),
        [
            (
                chunk,
                reader,
                1e3 * median_of(timings[chunk, reader, "row"]) / ROWS,
                median_ratio(timings[chunk, reader, "row"], timings[OURS, "ours", "row"]),
                1e3 * median_of(timings[chunk, reader, "crop"]) / ROWS,
                len(objects := [path for path in layouts[chunk].rglob("c/1/**/*") if path.is_file()]),
                sum(path.stat().st_size for path in objects) / 1e6,
            )
            for chunk, reader in readers
        ],
    )
    assert median_ratio(timings[OURS, "zarr-python", "row"], timings[OURS, "ours", "row"]) > 0.9


def _build_store(study: Study, recipe: Recipe, folder: Path) -> Store:
    writer = StoreWriter(folder, recipe)
    studies = [replace(study, uid=f"{study.uid}.{row}") for row in range(ROWS)]
    records = [process_study(copy, writer, row, threads=THREADS) for row, copy in enumerate(studies)]
    return writer.commit(records)


def _write_array(rows: Voxels, folder: Path, **chunking: Any) -> Path:
    codec = BloscCodec(typesize=2, cname="lz4", clevel=5, shuffle="shuffle")
    array = zarr.create_array(
        folder, shape=rows.shape, dtype=rows.dtype, compressors=[codec, Crc32cCodec()], **chunking
    )
    array[...] = rows
    return folder


def _readers(store: Store, layouts: dict[str, Path]) -> dict[tuple[str, str], tuple[Reader, Reader]]:
    """By layout and client: functions that read a row, and one crop of it."""
    buffer = np.empty(store.arrays["image"].row_shape, np.int16)
    readers: dict[tuple[str, str], tuple[Reader, Reader]] = {
        (OURS, "ours"): (
            lambda row: store.image(row, buffer),
            lambda row: store.read_crop("image", row, CROP, buffer[CROP]),
        ),
        ("one row", "ours"): _read_with_numcodecs(layouts["one row"], buffer),
    }
    for chunk, folder in layouts.items():
        readers[chunk, "zarr-python"] = _read_with_zarr(folder)
        readers[chunk, "zarr-python, zarrs"] = _read_with_zarrs(folder)
        readers[chunk, "tensorstore"] = _read_with_tensorstore(folder)
    return readers


def _read_with_numcodecs(folder: Path, buffer: Voxels) -> tuple[Reader, Reader]:
    """What our reader did when a row was one chunk."""

    def read(row: int) -> Voxels:
        content = (folder / f"c/{row}/0/0/0/0").read_bytes()
        assert google_crc32c.value(content) == CRC_RESIDUE
        blosc.decompress(memoryview(content)[:-4], buffer)
        return buffer

    return read, lambda row: read(row)[CROP]


def _read_with_zarr(folder: Path) -> tuple[Reader, Reader]:
    array = zarr.open_array(folder, mode="r")
    return lambda row: np.asarray(array[row]), lambda row: np.asarray(array[row, CROP])


def _read_with_zarrs(folder: Path) -> tuple[Reader, Reader]:
    with zarr.config.set(
        {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": THREADS}
    ):
        array = zarr.open_array(folder, mode="r")
    return lambda row: np.asarray(array[row]), lambda row: np.asarray(array[row, CROP])


def _read_with_tensorstore(folder: Path) -> tuple[Reader, Reader]:
    settings = {"data_copy_concurrency": {"limit": THREADS}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}, "context": settings}
    array = tensorstore.open(spec, open=True, read=True).result()
    return (
        lambda row: np.asarray(array[row].read().result()),
        lambda row: np.asarray(array[row, CROP].read().result()),
    )
