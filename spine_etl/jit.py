"""How every numba kernel of the package is compiled, and how it gets its arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_Value = TypeVar("_Value", bound=np.generic)


def compiled(kernel: _Kernel) -> _Kernel:
    """Compile a kernel with numba on its first call, and cache the machine code on disk.

    Kernels release the GIL, so threads can work on one volume; they never use numba's own threads, because
    the workers of a build share the cores. Without fast-math, so that results are reproducible.

    A kernel takes its constants as arguments and calls only kernels of its own file: numba's cache depends on
    that file alone, so a changed value from another module would leave the old machine code in use.
    """
    return cast(_Kernel, njit(nogil=True, cache=True, error_model="numpy")(kernel))


def read_only(array: npt.NDArray[_Value]) -> npt.NDArray[_Value]:
    """The array as a C-contiguous view that cannot be written to; copied only if it is not contiguous.

    numba compiles a kernel again for writeable arrays, so all kernels get their input like this.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
