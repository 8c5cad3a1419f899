"""Fractures: planes through a vertebra along which bone is lucent, displaced or torn off.

The sites are the common ones (dens and hangman's fractures of C2, Jefferson's of C1, teardrops, split bodies,
laminae, the clay-shoveler's spinous process). The frequency of the levels is about that of RSNA 2022: mostly
C2 and C5 to C7. A displaced fragment keeps the label of its vertebra in the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_etl.geometry import FloatArray
from spine_etl.phantom.anatomy import CERVICAL
from spine_etl.phantom.shapes import CUT_SIZE

_FREQUENCY = dict(zip(CERVICAL, (0.08, 0.21, 0.05, 0.08, 0.15, 0.19, 0.24), strict=True))
_EVERYWHERE_MM = 60.0
_POSITIVE_SHARE = 0.47
_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class _Site:
    """A plane through ``centre`` in the frame of the vertebra (mm at scale 1).

    ``kind`` is ``line`` (lucent within ``radius_mm``, nothing moves), ``step`` (bone beyond the plane slides
    along ``move``) or ``fragment`` (bone beyond the plane is torn off along the normal and slides along
    ``move``).
    """

    kind: str
    centre: tuple[float, float, float]
    normal: tuple[float, float, float]
    move: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius_mm: float = _EVERYWHERE_MM


_ATLAS = (
    _Site("fragment", (5.5, 9.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.3, 0.0)),
    _Site("line", (9.0, 26.0, 0.0), (0.93, -0.35, 0.1), radius_mm=9.0),
    _Site("line", (4.5, -10.6, 0.0), (1.0, 0.1, 0.15), radius_mm=8.0),
)
_AXIS = (
    _Site("line", (0.0, -1.0, 12.5), (0.15, 0.5, 0.85), radius_mm=10.0),
    _Site("step", (0.0, -1.0, 14.0), (0.0, 0.22, 0.97), (0.0, 1.0, -0.2)),
    _Site("fragment", (0.0, 8.6, 0.0), (0.0, 0.97, 0.22), (0.0, 0.0, -0.3)),
    _Site("line", (1.5, 0.0, 1.0), (0.85, 0.5, 0.2), radius_mm=13.0),
)
_SUBAXIAL = (
    _Site("line", (1.5, 0.0, 0.0), (0.95, 0.25, 0.15), radius_mm=13.0),
    _Site("line", (0.0, -0.5, 0.0), (0.2, 0.93, 0.3), radius_mm=13.0),
    _Site("step", (2.0, 0.0, 0.0), (1.0, 0.1, 0.1), (0.0, -1.0, 0.0)),
    _Site("fragment", (0.0, -3.4, -2.2), (0.0, -0.78, -0.62), (0.0, -0.4, 0.0)),
    _Site("line", (9.0, 18.5, -2.0), (0.86, -0.45, 0.2), radius_mm=11.0),
)
_SPINOUS = _Site("fragment", (0.0, 29.0, -7.0), (0.0, 0.93, -0.36), (0.0, 0.2, -0.4))
_LOWER = (*_SUBAXIAL, _SPINOUS)
_SITES = dict(zip(CERVICAL, (_ATLAS, _AXIS, _SUBAXIAL, _SUBAXIAL, _SUBAXIAL, _LOWER, _LOWER), strict=True))


def choose_levels(
    rng: np.random.Generator, seed: int, index: int, allowed: tuple[str, ...]
) -> tuple[str, ...]:
    """Fractured levels from head to foot: one to three of ``allowed``, none in 53 % of the studies.

    Positive studies are distributed evenly over the indices, so that a few studies already include both
    kinds.
    """
    start = np.random.default_rng([seed]).random()
    if (start + index * _GOLDEN_RATIO) % 1 >= _POSITIVE_SHARE:
        return ()
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    weights = np.array([_FREQUENCY[level] for level in allowed])
    chosen = rng.choice(len(allowed), size=min(count, len(allowed)), replace=False, p=weights / weights.sum())
    return tuple(allowed[i] for i in sorted(chosen))


def make_cut(rng: np.random.Generator, level: str, scale: float) -> FloatArray:
    """A random fracture of a level, as a row of `CUT_SIZE` numbers (see `shapes`)."""
    sites = _SITES[level]
    site = sites[int(rng.integers(len(sites)))]
    side = float(rng.choice([-1.0, 1.0]))
    flip = np.array([side, 1.0, 1.0])
    normal = np.array(site.normal) * flip + rng.uniform(-0.05, 0.05, 3)
    normal /= np.linalg.norm(normal)
    centre = (np.array(site.centre) * flip + rng.uniform(-0.8, 0.8, 3)) * scale
    slide = np.array(site.move) * flip
    slide -= normal * (slide @ normal)
    cut = np.zeros(CUT_SIZE)
    cut[0], cut[1:4], cut[4] = 1.0, normal, normal @ centre
    cut[10:13], cut[13] = centre, site.radius_mm * scale
    if site.kind == "line":
        cut[9] = rng.uniform(0.9, 1.3)
    elif site.kind == "step":
        cut[5:8], cut[9] = slide / np.linalg.norm(slide) * rng.uniform(3.0, 4.2), rng.uniform(0.6, 0.9)
    else:
        cut[8] = rng.uniform(2.4, 3.6)
        cut[5:8] = normal * cut[8] + slide * rng.uniform(3.0, 5.0)
    return cut
