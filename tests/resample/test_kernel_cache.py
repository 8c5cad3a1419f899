"""Machine code that one process left on disk computes with the constants of the next process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys
import numpy as np
from spine_etl.resample import kernels
from spine_etl.resample.kernels import AxisTaps, HuRange, SourceAxis

air, lowest, highest, tie = map(float, sys.argv[1:])
limits = HuRange(np.float32(air), np.float32(lowest), np.float32(highest))
voxels = np.array([-900, 0, 500, 900], np.int16).reshape(4, 1, 1)
voxels.flags.writeable = False

def axis(samples):
    positions = np.arange(-6.0, samples + 6)
    return SourceAxis(positions, np.ones(positions.size), 6, 1.0, 2, even=True)

axes, separable = (axis(4), axis(1), axis(1)), np.zeros((4, 1, 1), np.int16)
z, y, x = (AxisTaps(*kernels.axis_taps(np.arange(float(n)) + first, a))
           for n, first, a in zip((4, 1, 1), (1, 0, 0), axes))
x = x._replace(weights=np.ascontiguousarray(x.weights.T))
kernels.sample_separable(voxels, z, y, x, limits, separable, 0, 4)
labels = np.arange(1, 5, dtype=np.uint8).reshape(4, 1, 1)
labels.flags.writeable = False
shift = np.eye(4)
shift[0, 3] = 0.5
nearest = np.zeros((4, 1, 1), np.uint8)
kernels.nearest_general(labels, shift, np.full(3, tie), nearest, 0, 4)
used = (kernels.sample_separable, kernels.nearest_general, kernels.axis_taps)
print(json.dumps({
    "separable": separable.ravel().tolist(), "nearest": nearest.ravel().tolist(),
    "loaded": sum(sum(k.stats.cache_hits.values()) for k in used),
    "compiled": sum(sum(k.stats.cache_misses.values()) for k in used),
}))
"""


def result(cache: Path, *constants: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, constants)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.integration
def test_constants_of_a_process_apply_to_kernels_compiled_by_another(tmp_path: Path) -> None:
    """Voxels 0, 500 and 900 and one of air; labels half way between two voxels."""
    first = result(tmp_path, -1024, -32768, 32767, 1e-6)
    assert first["compiled"] == 3
    assert first["separable"] == [0, 500, 900, -1024]
    assert first["nearest"] == [2, 3, 4, 0]
    second = result(tmp_path, 7, 100, 600, -1e-6)
    assert (second["loaded"], second["compiled"]) == (3, 0)
    assert second["separable"] == [100, 500, 600, 100]
    assert second["nearest"] == [1, 2, 3, 4]
