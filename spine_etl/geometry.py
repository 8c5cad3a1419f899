"""Space: a `Grid` gives the position of each voxel of an array; all affine arithmetic is here.

There is one convention. Arrays are C-ordered ``(z, y, x)``. An affine maps the homogeneous index
``(z, y, x, 1)`` to millimetres in **LPS**, the frame of DICOM (PS3.3 C.7.6.2): +x to the patient's Left,
+y to Posterior, +z to Superior. An index that is a whole number is the *centre* of a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Index order is (z, y, x), point order is (L, P, S): canonical axes swap first and last.
_CANONICAL_AXES = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])

_TIE_TOLERANCE = 1e-6
"""Voxels: an index this close to halfway between two voxels is a tie, whatever the round-off."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice in space.

    Parameters
    ----------
    shape
        Voxels along (z, y, x).
    affine
        float64 (4, 4): homogeneous index (z, y, x, 1) to LPS millimetres. Copied, then read-only.

    Raises
    ------
    ValueError
        If an axis of the shape is below 1, or if the affine is singular, not finite or not 4x4.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a grid needs three axes of at least one voxel, not {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
            raise ValueError("a grid needs a finite, invertible 4x4 affine")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @classmethod
    def canonical(cls, center_mm: npt.ArrayLike, shape: Sequence[int], spacing_mm: float) -> Grid:
        """An isotropic grid along the patient's axes: +z Superior, +y Posterior, +x Left.

        ``center_mm`` (L, P, S) is the middle of the voxel block: between two voxels if an axis is even.
        """
        middle = (np.asarray(shape, dtype=np.float64) - 1) / 2
        origin_mm = np.asarray(center_mm, dtype=np.float64) - _CANONICAL_AXES @ middle * spacing_mm
        return cls.from_origin(origin_mm, shape, spacing_mm)

    @classmethod
    def from_origin(cls, origin_mm: npt.ArrayLike, shape: Sequence[int], spacing_mm: float) -> Grid:
        """The canonical grid whose voxel (0, 0, 0) has its centre at ``origin_mm`` (L, P, S)."""
        affine = np.eye(4)
        affine[:3, :3] = _CANONICAL_AXES * spacing_mm
        affine[:3, 3] = np.asarray(origin_mm, dtype=np.float64)
        z, y, x = shape
        return cls((z, y, x), affine)

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """LPS of the centre of voxel (0, 0, 0)."""
        left, posterior, superior = self.affine[:3, 3].tolist()
        return left, posterior, superior

    @property
    def spacing_mm(self) -> FloatArray:
        """(3,): distance in millimetres between neighbours along z, y and x."""
        spacing: FloatArray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing

    @property
    def center_mm(self) -> FloatArray:
        """(3,): LPS of the middle of the voxel block."""
        return self.to_mm((np.asarray(self.shape) - 1) / 2)

    @property
    def axis_codes(self) -> str:
        """Directions of z, y and x, each as the nearest patient axis: ``SPL`` for a canonical grid."""
        cosines = self.affine[:3, :3] / self.spacing_mm
        axes = max(permutations(range(3)), key=lambda order: np.abs(cosines[list(order), range(3)]).prod())
        return "".join("LPS"[axis] if cosines[axis, k] > 0 else "RAI"[axis] for k, axis in enumerate(axes))

    @property
    def axis_signs(self) -> FloatArray:
        """(3,): for z, y and x, 1 if the axis runs mainly to Left, Posterior or Superior, else -1.

        Of components that are equal to within round-off, the first of S, P, L counts.
        """
        steps = self.affine[2::-1, :3]  # rows S, P, L
        sizes = np.abs(steps)
        main = (sizes >= sizes.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
        signs: FloatArray = np.sign(steps[main, range(3)])
        return signs

    @property
    def tilt_degrees(self) -> float:
        """The gantry tilt: the angle between the step from slice to slice and the slices' normal."""
        return _degrees_between(self.affine[:3, 0], self._normal)

    @property
    def oblique_degrees(self) -> float:
        """Angle between the slices' normal and the nearest patient axis."""
        return min(_degrees_between(axis, self._normal) for axis in np.eye(3))

    @property
    def _normal(self) -> FloatArray:
        return np.cross(self.affine[:3, 1], self.affine[:3, 2])

    def slice_at(self, z: float) -> Grid:
        """The grid of the single slice at z index ``z``, which need not be a whole number."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_mm((z, 0, 0))
        return Grid((1, *self.shape[1:]), affine)

    def to_mm(self, index: npt.ArrayLike) -> FloatArray:
        """Indices (..., 3) in (z, y, x) to LPS millimetres (..., 3)."""
        points: FloatArray = np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def to_index(self, points_mm: npt.ArrayLike) -> FloatArray:
        """LPS millimetres (..., 3) to indices (..., 3) in (z, y, x), fractions kept."""
        inverse = np.linalg.inv(self.affine)
        index: FloatArray = np.asarray(points_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return index

    def tie_shifts(self) -> FloatArray:
        """(3,): what is added to an index (z, y, x) so that its nearest voxel depends on the position only.

        Halfway between two voxels, whatever the round-off, the one further to the Left, Posterior or Superior
        is taken, along the main direction of the axis: the same voxel in any order and direction of the axes.
        """
        return self.axis_signs * _TIE_TOLERANCE

    def nearest_voxels(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """LPS millimetres (..., 3) to the nearest voxels (..., 3) in (z, y, x), also beyond the grid.

        For ties see `tie_shifts`.
        """
        voxels: npt.NDArray[np.int64] = np.floor(self.to_index(points_mm) + 0.5 + self.tie_shifts()).astype(
            np.int64
        )
        return voxels

    def index_map_to(self, other: Grid) -> FloatArray:
        """(4, 4): maps a homogeneous index of this grid to the index of the same point in ``other``."""
        product: FloatArray = np.linalg.inv(other.affine) @ self.affine
        return product

    def corners_mm(self) -> FloatArray:
        """(8, 3): LPS of the outer corners of the voxel block, half a voxel beyond the last centres."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return self.to_mm([(z, y, x) for z in ends[0] for y in ends[1] for x in ends[2]])

    def corner_distance_mm(self, other: Grid) -> float:
        """The largest distance from a corner of this block to the nearest corner of the other.

        0 if both are the same block, whatever the order and direction of their axes.
        """
        distances = np.linalg.norm(self.corners_mm()[:, None] - other.corners_mm()[None], axis=2)
        return float(distances.min(axis=1).max())

    def enclosing_canonical(self, spacing_mm: float) -> Grid:
        """The smallest canonical grid with that spacing that covers this grid's whole voxel block."""
        corners = self.corners_mm()
        extent = (corners.max(axis=0) - corners.min(axis=0))[::-1]
        shape = np.maximum(1, np.ceil(extent / spacing_mm - 1e-6)).astype(int)
        return Grid.canonical((corners.max(axis=0) + corners.min(axis=0)) / 2, shape.tolist(), spacing_mm)

    def matches(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """True if the shapes are equal and all corresponding corners agree to within the tolerance."""
        if self.shape != other.shape:
            return False
        distances = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1)
        return bool(distances.max() <= tolerance_mm)


def _degrees_between(a: FloatArray, b: FloatArray) -> float:
    """Angle between two lines, 0 to 90, accurate for small angles as well."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b))))
