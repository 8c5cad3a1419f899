"""The store: a plain zarr v3 group of vertebra crops, versioned, committed whole, verified on read."""

from spine_etl.store.reader import Store, dataset_in, open_store

__all__ = ["Store", "dataset_in", "open_store"]
