"""Kernels may depend only on their arguments and their own file, which is all that numba's cache checks."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest

from spine_etl.resample import kernels
from spine_etl.segmentation import bone, lattice, regions, runs, slices, structure, translation

MODULES = (kernels, regions, runs, slices, structure, lattice, bone, translation)


def kernels_of(module: ModuleType) -> dict[str, numba.core.dispatcher.Dispatcher]:
    members = inspect.getmembers(module, lambda member: isinstance(member, numba.core.dispatcher.Dispatcher))
    assert members
    return dict(members)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_kernels_read_no_global_but_numpy_and_kernels_of_their_own_file(module: ModuleType) -> None:
    for name, kernel in kernels_of(module).items():
        for used, value in inspect.getclosurevars(kernel.py_func).globals.items():
            if value is not np:
                assert Path(inspect.getfile(value.py_func)) == Path(module.__file__ or ""), (name, used)


def test_kernels_release_the_gil_and_are_cached_on_disk() -> None:
    assert kernels.axis_taps.targetoptions["nogil"]
    assert isinstance(kernels.axis_taps._cache, numba.core.caching.FunctionCache)
