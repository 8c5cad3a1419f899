"""Turn folders of cervical-spine CT into a verified, versioned zarr dataset of vertebra crops.

The main functions are importable from here. Each is loaded at first use, so that reading a store does not
import the dependencies of building one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spine_etl.dicom import read_series
    from spine_etl.nifti import read_label_map
    from spine_etl.pipeline import process_study
    from spine_etl.store import open_store

__version__ = "0.1.0"
__all__ = ["open_store", "process_study", "read_label_map", "read_series"]

_MODULES = {
    "open_store": "spine_etl.store",
    "process_study": "spine_etl.pipeline",
    "read_label_map": "spine_etl.nifti",
    "read_series": "spine_etl.dicom",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
