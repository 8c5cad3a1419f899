"""The implementations that are compared, one per module; each runs in its own process (see `worker`).

A module defines ``prepare(study, recipe, out)``, which returns a job. The job processes the study once: it
reads the series and the mask, cuts the crops of the recipe and writes them under ``out``. Only the job is
timed. It returns a function that gives the crops by level, as int16 HU on the canonical grid, so that they
can be compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

THREADS = 2
"""Number of threads that each implementation may use."""

Crops = Callable[[], dict[str, npt.NDArray[np.int16]]]
