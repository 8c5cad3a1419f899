"""Facts about a file, a series or a store, ready to print or to write as JSON; never patient data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spine_etl.dicom import Header
    from spine_etl.geometry import FloatArray, Grid
    from spine_etl.recipe import Recipe
    from spine_etl.store import Store
    from spine_etl.volume import LabelMap, Volume

Facts = dict[str, Any]

_KEYWORDS = {
    "transfer_syntax": "TransferSyntaxUID",
    "series_instance_uid": "SeriesInstanceUID",
    "signed": "PixelRepresentation",
}
_DIRECTIONS = {"L": "Left", "R": "Right", "P": "Posterior", "A": "Anterior", "S": "Superior", "I": "Inferior"}


def label_names(recipe: Recipe) -> dict[int, str]:
    """Name of each label number: the recipe's levels and its other labels."""
    return {label: name for name, label in {**recipe.levels, **recipe.other_labels}.items()}


def describe_header(header: Header) -> Facts:
    """The header of one slice as the reader understood it, by DICOM attribute name."""
    values = asdict(header) | {"signed": int(header.signed)}
    return {_keyword(name): value for name, value in values.items()}


def _keyword(name: str) -> str:
    return _KEYWORDS.get(name) or name.title().replace("_", "")


def describe_series(volume: Volume) -> Facts:
    """Geometry and voxel values of a series, and the reader's warnings."""
    numbers = volume.file_numbers
    steps = volume.grid.spacing_mm[0] * np.diff(volume.slice_positions)
    return {
        "slices": volume.grid.shape[0],
        "file_numbers": None if numbers is None else [int(numbers[0]), int(numbers[-1])],
        **_grid_facts(volume.grid),
        "gantry_tilt_degrees": _rounded(volume.grid.tilt_degrees),
        "oblique_degrees": _rounded(volume.grid.oblique_degrees),
        "uneven": volume.slice_coordinates is not None,
        "slice_steps_mm": [_rounded(step) for step in (steps.min(), steps.max())] if len(steps) else [],
        "hu": [float(volume.voxels.min()), float(volume.voxels.max())],
        "voxel_type": str(volume.voxels.dtype),
        **{name: fact for name, fact in volume.facts.items() if name != "spacing"},
        "warnings": [asdict(warning) for warning in volume.warnings],
        "source_digest": volume.source_digest,
    }


def describe_label_map(label_map: LabelMap) -> Facts:
    """Geometry of a segmentation; voxels, volume and centroid of each label.

    ``name_in_rsna2022`` is the label's name in that data set, None where it has no such label.
    """
    from spine_etl.recipe import load_recipe
    from spine_etl.segmentation import label_regions

    names = label_names(load_recipe("rsna2022"))
    labels = {
        str(label): {
            "name_in_rsna2022": names.get(label),
            "voxels": region.voxel_count,
            "volume_mm3": round(region.volume_mm3, 1),
            "centre_lps_mm": _point(region.centroid_mm),
        }
        for label, region in sorted(label_regions(label_map).items())
    }
    return {**_grid_facts(label_map.grid), "labels": labels, "source_digest": label_map.source_digest}


def describe_store(store: Store) -> Facts:
    """Versions, studies, refusals, recipe and fingerprint of a store."""
    from spine_etl.store.reader import read_commit

    versions = {n: read_commit(store.location, n) for n in range(1, store.version + 1)}
    overall = store.table["patient_overall"]
    return {
        "version": store.version,
        "versions": {str(n): commit["root_digest"] for n, commit in versions.items() if commit},
        "studies": len(store),
        "fractured": int((overall == 1).sum()),
        "crops": int(store.located().sum()),
        "study_uids": store.study_uids,
        "refused": {entry["uid"]: f"[{entry['code']}] {entry['reason']}" for entry in store.refused},
        "recipe": store.recipe.model_dump(mode="json"),
        "fingerprint": store.fingerprint,
    }


def _grid_facts(grid: Grid) -> Facts:
    codes = grid.axis_codes
    return {
        "shape": list(grid.shape),
        "spacing_mm": [_rounded(step) for step in grid.spacing_mm],
        "field_of_view_mm": [_rounded(n * step) for n, step in zip(grid.shape, grid.spacing_mm, strict=True)],
        "axis_codes_zyx": codes,
        "axes": {axis: f"to {_DIRECTIONS[code]}" for axis, code in zip("zyx", codes, strict=True)},
        "first_voxel_lps_mm": _point(grid.affine[:3, 3]),
        "last_voxel_lps_mm": _point(grid.to_mm(np.array(grid.shape) - 1)),
        "corners_lps_mm": [_point(corner) for corner in grid.corners_mm()],
    }


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _point(values: FloatArray) -> list[float]:
    return [round(float(value), 3) + 0.0 for value in values]  # + 0.0 turns -0.0 into 0.0
