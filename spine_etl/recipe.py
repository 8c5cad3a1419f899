"""The recipe: all that shapes the numbers of a dataset, and the fingerprint that names it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spine_etl.errors import RecipeInvalid

SCHEMA_VERSION = 2
"""Raised when the layout of the store changes."""

NUMBERS_VERSION = 2
"""Raised by hand when code changes any stored number; a golden test fails where that was forgotten."""

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,15}$")]
_Label = Annotated[int, Field(ge=1, le=255)]
_Axis = Annotated[int, Field(ge=4, le=1024)]


class _Frozen(BaseModel):
    # The words under an attribute become its description in the JSON schema, and so in forms.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Block(_Frozen):
    """An isotropic block of voxels."""

    spacing_mm: Annotated[float, Field(gt=0, le=20)]
    """Edge of a voxel in millimetres."""

    shape: tuple[_Axis, _Axis, _Axis]
    """Voxels along z, y and x."""


class Recipe(_Frozen):
    """What a dataset is made by."""

    name: str
    """For people; it is not part of the fingerprint."""

    levels: Annotated[dict[_Name, _Label], Field(min_length=1, max_length=32)]
    """Level name to label number in the segmentations, from head to foot: the crops of each study."""

    other_labels: dict[_Name, _Label] = {}
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


def load_recipe(path: str | Path) -> Recipe:
    """Read a YAML recipe.

    Raises
    ------
    RecipeInvalid
        If the file cannot be read, is no YAML, or holds a key or value that the recipe does not know.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return Recipe.model_validate(content)
    except OSError as error:
        raise RecipeInvalid(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"{path} is no YAML file.") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise RecipeInvalid(f"{path}: {faults}.") from error
