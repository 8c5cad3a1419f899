"""What is measured side by side: one contender a module, each run in a process of its own.

A module has ``prepare(study, recipe, out)``. What it returns does the work of one study once: it reads the
folder and the mask, cuts the recipe's crops, and writes them under ``out``. Only that call is timed. It
returns a function that gives the crops, by level, as int16 HU on the canonical grid, to be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

THREADS = 2
"""What every contender may use."""

Crops = Callable[[], dict[str, npt.NDArray[np.int16]]]
