"""The store: a plain zarr v3 group of vertebra crops, with atomic versions and checksums verified on read."""

from spine_etl.store.reader import Store, dataset_in, open_store

__all__ = ["Store", "dataset_in", "open_store"]
