"""Decoding one slice from file to HU: our decoder and those of pydicom and SimpleITK."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless

from spine_etl.dicom import series_files
from spine_etl.dicom.decode import read_slice
from spine_etl.source.layout import Study
from spine_etl.volume import AIR_HU
from tests.benchmarks.comparison import median_of, median_ratio, print_table, time_in_rounds
from tests.benchmarks.peers import THREADS

pytestmark = pytest.mark.benchmark

SLICES, ROUNDS = 24, 7
Decoder = Callable[[Path], npt.NDArray[Any]]


@pytest.mark.parametrize("kind", ["raw", "JPEG Lossless", "JPEG-LS"])
def test_decode_slice(kind: str, study: Callable[[Any], Study], tmp_path: Path) -> None:
    folder = study("explicit" if kind == "raw" else "jpeg-lossless").folder
    files = [file.path for file in series_files(folder)[100 : 100 + SLICES]]
    if kind == "JPEG-LS":
        files = [_as_jpeg_ls(path, tmp_path) for path in files]
    decoders = _decoders(kind)
    _assert_equal_hu(files[0], decoders)
    one_thread, two_threads = (
        time_in_rounds({name: _job(files, decoder, threads) for name, decoder in decoders.items()}, ROUNDS)
        for threads in (1, THREADS)
    )
    print_table(
        f"One slice of 512x512, {kind}: header, pixels, HU",
        ("decoder", "ms per slice", "x ours", "speedup of a second thread"),
        [
            (
                name,
                1e3 * median_of(one_thread[name]) / SLICES,
                median_ratio(one_thread[name], one_thread["ours"]),
                median_of(one_thread[name]) / median_of(two_threads[name]),
            )
            for name in decoders
        ],
    )
    for name in decoders:
        assert median_ratio(one_thread[name], one_thread["ours"]) > 0.8, name


def _decoders(kind: str) -> dict[str, Decoder]:
    buffer = np.empty((512, 512), np.int16)
    plugins = (
        {"pydicom": ""} if kind == "raw" else {"pydicom, pylibjpeg": "pylibjpeg", "pydicom, GDCM": "gdcm"}
    )
    decoders: dict[str, Decoder] = {"ours": lambda path: read_slice(path, buffer).hu}
    for name, plugin in plugins.items():
        decoders[name] = lambda path, plugin=plugin: _decode_with_pydicom(path, plugin)
    return decoders | {"SimpleITK": _decode_with_simpleitk}


def _decode_with_pydicom(path: Path, plugin: str) -> npt.NDArray[Any]:
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(decoding_plugin=plugin)
    hu = dataset.pixel_array * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
    return np.maximum(hu, AIR_HU, out=hu)


def _decode_with_simpleitk(path: Path) -> npt.NDArray[Any]:
    image = SimpleITK.ReadImage(str(path), SimpleITK.sitkInt16)
    return np.maximum(SimpleITK.GetArrayViewFromImage(image)[0], AIR_HU)


def _job(files: Sequence[Path], decoder: Decoder, threads: int) -> Callable[[], Any]:
    if threads == 1:
        return lambda: [decoder(path) for path in files]

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decoder, files))

    return run


def _assert_equal_hu(path: Path, decoders: dict[str, Decoder]) -> None:
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    expected = decoders["ours"](path).copy()
    for name, decoder in decoders.items():
        np.testing.assert_array_equal(decoder(path), expected, err_msg=name)


def _as_jpeg_ls(path: Path, folder: Path) -> Path:
    dataset = pydicom.dcmread(path)
    stream = imagecodecs.jpegls_encode(dataset.pixel_array.view(np.uint16))
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([stream])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the headers lack attributes that the standard requires
        dataset.save_as(folder / path.name, enforce_file_format=False)
    return folder / path.name
