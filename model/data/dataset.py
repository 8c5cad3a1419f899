"""Studies of a store as a map-style torch dataset, for any trainer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from model.data.targets import TARGET_FIELDS, Indices, Targets
from spine_etl.store import Store


class StudyDataset(Dataset[dict[str, torch.Tensor]]):
    """Studies of a store as a map-style dataset; torch's default collation makes batches of its items.

    An item has ``image`` (int16 HU) and ``mask`` (uint8 source labels), both (level, z, y, x); ``labels``,
    ``known``, ``located``, ``slice_fracture`` and ``slice_box`` as in `Targets`; and ``study``, the index in
    the store. The dataset can be pickled, and works in a `DataLoader` with any number of workers (for a
    store on S3 with ``multiprocessing_context="forkserver"``). `model.data.loader.Batches` is faster.

    Parameters
    ----------
    store
        An open store.
    studies
        Indices of the studies, as `model.data.targets.split` returns them.
    """

    def __init__(self, store: Store, studies: Sequence[int] | Indices) -> None:
        self.store = store
        self.studies = np.asarray(studies, np.int64)
        self.targets = Targets(store)

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Read one item. Raises ChunkMissing or ChunkCorrupt as `Store.image` does."""
        study = int(self.studies[index])
        fields = {
            name: torch.from_numpy(np.array(getattr(self.targets, name)[study])) for name in TARGET_FIELDS
        }
        return {
            "image": torch.from_numpy(self.store.image(study)),
            "mask": torch.from_numpy(self.store.mask(study)),
            "study": torch.tensor(study),
            **fields,
        }
