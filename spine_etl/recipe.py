"""The recipe: all that shapes the numbers of a dataset, and the fingerprint that names it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from spine_etl.settings import StrictModel, load_settings

SCHEMA_VERSION = 2
"""Raised when the layout of the store changes."""

NUMBERS_VERSION = 2
"""Raised by hand when code changes any stored number; a golden test fails where that was forgotten."""

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
    """What a dataset is made by."""

    name: str
    """For people; it is not part of the fingerprint."""

    levels: Annotated[dict[_Name, _Label], Field(min_length=1, max_length=32)]
    """Level name to label number in the segmentations, from head to foot: the crops of each study."""

    other_labels: dict[_Name, _Label] = Field(default={})
    """Further labels the segmentations may hold; kept in the masks, never cropped."""

    crop: Block
    """The block cut around each level."""

    overview: Block
    """The coarse block that shows the whole neck."""

    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Number of cross-validation folds."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Recipe:
        numbers = [*self.levels.values(), *self.other_labels.values()]
        if len(set(numbers)) != len(numbers) or set(self.levels) & set(self.other_labels):
            raise ValueError("levels and other_labels name a level or a label number twice")
        return self

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the recipe (less its name), the schema and the numbers' version."""
        # Level order is part of the dataset (it is the store's level axis), so keys are not sorted.
        content = [SCHEMA_VERSION, NUMBERS_VERSION, self.model_dump(mode="json", exclude={"name"})]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_recipe(name: str | Path) -> Recipe:
    """A recipe that ships, by its name (``quick``, ``rsna2022``), or a TOML file by its path.

    Raises
    ------
    RecipeInvalid
        If there is no such recipe, the file is not TOML, or a key or value in it is not accepted.
    """
    return load_settings(name, Recipe, _SHIPPED)
