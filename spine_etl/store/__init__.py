"""The store: a plain zarr v3 group of vertebra crops, versioned, committed whole, verified on read."""

from spine_etl.store.reader import Store, open_store

__all__ = ["Store", "open_store"]
