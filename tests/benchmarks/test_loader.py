"""Throughput of our loaders and of other training file formats, in one run over the same rows.

Every contender returns shuffled batches of complete studies (image int16, mask uint8, labels) and may use two
threads or two worker processes. The other formats are read with torch's `DataLoader`, as their documentation
recommends; nnU-Net's workers are replaced by it. All files are in the page cache, which favours those that
are not compressed. Compare ratios, not seconds: every round measures each contender once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from monai.data import DataLoader as MonaiLoader
from monai.data import PersistentDataset
from monai.transforms import Transform
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader, Dataset

from model.data.dataset import StudyDataset
from model.data.loader import Batches
from spine_etl.recipe import Recipe, load_recipe
from spine_etl.store import Store
from spine_etl.store.record import LevelRecord, Record
from spine_etl.store.writer import StoreWriter

THREADS, ROUNDS = 2, 3
Item = dict[str, torch.Tensor]
Epoch = Callable[[], Iterable[Any]]


def voxels(recipe: Recipe, number: int) -> dict[str, np.ndarray]:
    """CT-like crops: smooth anatomy between air and bone, with quantum noise, and vertebrae in the mask."""
    random = np.random.default_rng(number)
    smooth = gaussian_filter(random.normal(size=recipe.crop.shape), 3, mode="wrap")
    anatomy = np.clip(smooth / smooth.std() * 350 + 50, -1024, 1600)
    levels = [np.roll(anatomy, 7 * level, axis=-1) for level in range(len(recipe.levels))]
    image = np.stack([level + random.normal(0, 20, level.shape) for level in levels]).astype(np.int16)
    labels = np.array(list(recipe.levels.values()), np.uint8)[:, None, None, None]
    overview = tuple(recipe.overview.shape)
    return {
        "image": image,
        "mask": np.where(np.stack(levels) > 400, labels, 0).astype(np.uint8),
        "overview/image": np.zeros(overview, np.int16),
        "overview/mask": np.zeros(overview, np.uint8),
    }


def build(path: Path, recipe: Recipe, studies: int) -> Store:
    writer = StoreWriter(path, recipe)
    located = LevelRecord(status="located", origin_mm=(0.0, 0.0, 0.0))
    records = []
    for number in range(studies):
        row, objects = writer.write_row(number, voxels(recipe, number))
        records.append(
            Record(
                uid=f"1.{number:03d}",
                fingerprint=recipe.fingerprint,
                source_digest=f"{number:064x}",
                row=row,
                objects=objects,
                levels=dict.fromkeys(recipe.levels, located),
                fracture=dict.fromkeys([*recipe.levels, "patient_overall"], number % 2),
            )
        )
    return writer.commit(records)


class Files(Dataset[Item]):
    """A folder with one file for each study and array, read with ``read``."""

    def __init__(self, folder: Path, suffix: str, labels: torch.Tensor, read: Callable[[Path], Any]) -> None:
        self.folder, self.suffix, self.labels, self.read = folder, suffix, labels, read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, study: int) -> Item:
        fields = {
            name: torch.from_numpy(self.read(self.folder / f"{study}.{name}.{self.suffix}"))
            for name in ("image", "mask")
        }
        return {**fields, "labels": self.labels[study]}


def read_memmap(path: Path) -> np.ndarray:
    return np.array(np.load(path, mmap_mode="r"))


def read_blosc2(path: Path) -> np.ndarray:
    blosc2.set_nthreads(1)
    opened = blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    return np.asarray(opened[:])


def write_blosc2(path: Path, values: np.ndarray) -> None:
    """Zstandard at level 8, as nnU-Net saves a case; one chunk for each crop, the unit that is read."""
    blosc2.asarray(
        np.ascontiguousarray(values), urlpath=str(path), chunks=(1, *values.shape[1:]),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 8, "nthreads": THREADS},
    )  # fmt: skip


class FromStore(Transform):
    """The deterministic part of a MONAI pipeline: `PersistentDataset` caches its result."""

    def __init__(self, dataset: StudyDataset) -> None:
        self.dataset = dataset

    def __call__(self, entry: dict[str, int]) -> Item:
        item = self.dataset[entry["study"]]
        return {name: item[name] for name in ("image", "mask", "labels")}


def contenders(store: Store, folder: Path, batch_size: int) -> Iterator[tuple[str, Epoch, float]]:
    """Yield each contender's name, a function that returns the batches of an epoch, and megabytes on disk."""
    dataset = StudyDataset(store, range(len(store)))
    labels = torch.from_numpy(dataset.targets.labels)
    workers: dict[str, Any] = {
        "batch_size": batch_size, "shuffle": True, "num_workers": THREADS, "persistent_workers": True,
    }  # fmt: skip

    batches = Batches(store, range(len(store)), batch_size=batch_size, threads=THREADS)
    ours = megabytes(Path(str(store.location)) / "image") + megabytes(Path(str(store.location)) / "mask")
    yield "Batches", lambda: without_prefetched(batches), ours
    # forkserver, since only this dataset decodes with a library that has its own threads.
    loader = DataLoader(dataset, **workers, multiprocessing_context="forkserver")
    yield "StudyDataset in DataLoader", lambda: loader, ours

    memmap = folder / "npy"
    save(store, memmap, "npy", lambda path, values: np.save(path, values))
    plain = DataLoader(Files(memmap, "npy", labels, read_memmap), **workers)
    yield ".npy memmap in DataLoader", lambda: plain, megabytes(memmap)

    packed = folder / "blosc2"
    save(store, packed, "b2nd", write_blosc2)
    cases = DataLoader(Files(packed, "b2nd", labels, read_blosc2), **workers)
    yield "blosc2 as in nnU-Net, DataLoader", lambda: cases, megabytes(packed)

    cache = folder / "monai"
    entries = [{"study": study} for study in range(len(store))]
    cached = PersistentDataset(entries, FromStore(dataset), cache_dir=cache)
    for study in range(len(store)):
        _ = cached[study]
    assert len(list(cache.iterdir())) == len(store)
    persistent = MonaiLoader(cached, **workers)
    yield "MONAI PersistentDataset", lambda: persistent, megabytes(cache)


def without_prefetched(batches: Batches) -> Batches:
    """Discard batches read ahead during other contenders' turns: a `DataLoader` has none either."""
    batches.load_state_dict(batches.state_dict())
    return batches


def save(store: Store, folder: Path, suffix: str, write: Callable[[Path, np.ndarray], None]) -> None:
    folder.mkdir()
    for study in range(len(store)):
        write(folder / f"{study}.image.{suffix}", store.image(study))
        write(folder / f"{study}.mask.{suffix}", store.mask(study))


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def total(batch: Any) -> int:
    """The sum of all voxels of the images, which also forces them to be read."""
    image = batch.image if hasattr(batch, "image") else batch["image"]
    return int(image.sum(dtype=torch.int64))


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "studies", "batch_size"), [("quick", 24, 4), ("rsna2022", 4, 2)])
def test_throughput(tmp_path: Path, name: str, studies: int, batch_size: int) -> None:
    torch.set_num_threads(1)
    store = build(tmp_path / "store", load_recipe(name), studies)
    expected = sum(int(store.image(study).sum(dtype=np.int64)) for study in range(studies))
    competing = list(contenders(store, tmp_path, batch_size))
    for label, epoch, _ in competing:  # warm up, and check that all return the same voxels
        assert sum(total(batch) for batch in epoch()) == expected, label
    rates = [[_rate(epoch(), studies) for _, epoch, _ in competing] for _ in range(ROUNDS)]
    _print(name, [label for label, _, _ in competing], rates, [size for _, _, size in competing])
    best = np.max(rates, axis=0)
    assert best[0] >= 1.2 * best[-1], "Batches is less than 1.2 times as fast as MONAI's cache files"


def _rate(epoch: Iterable[Any], studies: int) -> float:
    start = time.perf_counter()
    count = sum(1 for _ in epoch)
    assert count > 0
    return studies / (time.perf_counter() - start)


def _print(name: str, labels: Sequence[str], rates: list[list[float]], sizes: Sequence[float]) -> None:
    best, ratios = np.max(rates, axis=0), np.median(np.array(rates)[:, :1] / rates, axis=0)
    print(f"\n{name}: samples per second (best of {ROUNDS}), relative speed of Batches (median), MB on disk")
    for label, rate, ratio, size in zip(labels, best, ratios, sizes, strict=True):
        print(f"  {label:34} {rate:8.1f}   {ratio:5.2f}x {size:8.0f}")
