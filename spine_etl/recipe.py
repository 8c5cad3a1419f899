"""The recipe: all settings that determine a dataset's numbers, and the fingerprint that identifies them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from spine_etl.settings import StrictModel, load_settings

SCHEMA_VERSION = 3
"""Incremented when the layout of the store changes."""

NUMBERS_VERSION = 4
"""Incremented by hand when code changes any stored number; a golden test fails if this is forgotten."""

_SHIPPED = Path(__file__).parent / "recipes"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,15}$")]
_Label = Annotated[int, Field(ge=1, le=255)]
_Axis = Annotated[int, Field(ge=4, le=1024)]


class Block(StrictModel):
    """An isotropic block of voxels."""

    spacing_mm: Annotated[float, Field(gt=0, le=20)]
    """Edge of a voxel in millimetres."""

    shape: tuple[_Axis, _Axis, _Axis]
    """Voxels along z, y and x."""


class Recipe(StrictModel):
    """The settings of a dataset."""

    name: str
    """Display name; not part of the fingerprint."""

    levels: Annotated[dict[_Name, _Label], Field(min_length=1, max_length=32)]
    """Levels to crop, from head to foot: name to label number in the segmentations."""

    other_labels: dict[_Name, _Label] = Field(default={})
    """Other labels in the segmentations; kept in the masks, but not cropped."""

    crop: Block
    """The crop around each level."""

    overview: Block
    """The coarse block that covers the whole neck."""

    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Number of cross-validation folds."""

    @model_validator(mode="after")
    def _require_distinct_labels(self) -> Recipe:
        numbers = [*self.levels.values(), *self.other_labels.values()]
        if len(set(numbers)) != len(numbers) or set(self.levels) & set(self.other_labels):
            raise ValueError("levels and other_labels contain a level or a label number twice")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the recipe without name and folds, `SCHEMA_VERSION`, `NUMBERS_VERSION`.

        Folds are part of a version: a store can have versions with other folds. Settings at their default are
        left out, so a setting that a later release adds does not change the fingerprint of older recipes.
        """
        return self.fingerprint_of(SCHEMA_VERSION, NUMBERS_VERSION)

    def fingerprint_of(self, schema_version: int, numbers_version: int) -> str:
        """The fingerprint under these versions of layout and numbers."""
        # The order of the levels is that of the store's level axis, so keys are not sorted.
        settings = self.model_dump(mode="json", exclude={"name", "folds"}, exclude_defaults=True)
        content = [schema_version, numbers_version, settings]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_recipe(name: str | Path) -> Recipe:
    """Read a shipped recipe by its name (``quick``, ``rsna2022``), or a TOML file by its path.

    Raises
    ------
    RecipeInvalid
        If there is no such recipe, the file is not TOML, or it has an unknown key or an invalid value.
    """
    return load_settings(name, Recipe, _SHIPPED)
