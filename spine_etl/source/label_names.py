"""Label names: which number, class file or DICOM segment of a segmentation from elsewhere is which vertebra.

They and the recipe share the levels' names (``C1``, ``T1``, ...). Segmentations are translated while they are
read, so a stored mask always has the recipe's numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spine_etl.errors import LabelNamesInvalid
from spine_etl.recipe import Recipe
from spine_etl.settings import StrictModel, load_settings

_SHIPPED = Path(__file__).parent / "numberings"
_ALIASES = {"totalsegmentator": "totalsegmentator-v2"}

_ANATOMY = re.compile(r"C[1-7]|T(?:[1-9]|1[0-3])|L[1-6]|S[1-5]?|sacrum|coccyx")
_LOOKS_LIKE_LEVEL = re.compile(
    r"(?:\A|[^A-Za-z])(?:C[1-7]|Th?(?:[1-9]|1[0-3]))(?![0-9A-Za-z])", re.IGNORECASE
)
_RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")

_Level = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,15}$")]
_Number = Annotated[int, Field(ge=1, le=255)]
_AllOthers = Literal["all others"]


class LabelNames(StrictModel):
    """The names of the labels and classes of one segmentation tool or data set."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Stored with each study as ``mask_name``."""

    labels: Annotated[dict[_Level, _Number], Field(min_length=1)]
    """Level name to number in a multi-label file, or SegmentNumber in a DICOM segmentation without names."""

    ignore: _AllOthers | tuple[_Number | str, ...] = ()
    """Other numbers, or ranges such as ``"51-117"``, that become background."""

    ignore_classes: _AllOthers | tuple[str, ...] = ()
    """Other class files and segments that become background; all of them if ``ignore`` is "all others"."""

    class_names: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "vertebrae_{level}",
        "vertebra_{level}",
        "{level} vertebra",
        "{level}",
    )
    """How a class file (without its suffix) or a segment is named, in any case."""

    @model_validator(mode="after")
    def _check(self) -> LabelNames:
        for kind, values in (("number", self.labels.values()), ("name", map(str.casefold, self.labels))):
            if len(set(values)) != len(self.labels):
                raise ValueError(f"labels contain a {kind} twice")
        both = sorted(set(self.labels.values()) & set(self._ignored_numbers()))
        if both:
            raise ValueError(f"{both} are labels and ignored")
        if any(pattern.count("{level}") != 1 for pattern in self.class_names):
            raise ValueError("each of class_names contains {level} once")
        return self

    @property
    def digest(self) -> str:
        """SHA-256, 64 hex digits: another whenever a study could be read differently."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def check(self, recipe: Recipe) -> None:
        """Refuse names that cannot be joined with a recipe.

        Raises
        ------
        LabelNamesInvalid
            If they name none of the recipe's levels, or a level that neither the recipe nor anatomy knows.
        """
        known = {*recipe.levels, *recipe.other_labels}
        unknown = sorted(name for name in self.labels if name not in known and not _ANATOMY.fullmatch(name))
        if unknown:
            raise LabelNamesInvalid(
                f"{self.name} names {unknown}, which are neither levels of the recipe {recipe.name} nor"
                " vertebrae from C1 to coccyx.",
                action="Correct the names, or list their numbers under ignore.",
            )
        if not set(self.labels) & set(recipe.levels):
            raise LabelNamesInvalid(f"{self.name} names none of the levels of the recipe {recipe.name}.")

    def missing_levels(self, recipe: Recipe) -> list[str]:
        """Levels of the recipe without a number: no NIfTI file with these names can show them."""
        return [level for level in recipe.levels if level not in self.labels]

    def level_of(self, class_name: str) -> str | None:
        """The level that a class file or a segment with this name shows; None if it is not a named level."""
        return _levels_by_class(self.class_names, tuple(self.labels)).get(class_name.strip().casefold())

    def ignores_number(self, number: int) -> bool:
        return self.ignore == "all others" or number in self._ignored_numbers()

    def ignores_class(self, class_name: str) -> bool:
        if "all others" in (self.ignore, self.ignore_classes):
            return True
        return class_name.strip().casefold() in map(str.casefold, self.ignore_classes)

    def _ignored_numbers(self) -> Iterator[int]:
        for entry in () if self.ignore == "all others" else self.ignore:
            if isinstance(entry, int):
                yield entry
                continue
            match = _RANGE.fullmatch(entry)
            if not match or not 1 <= int(match[1]) <= int(match[2]) <= 255:
                raise ValueError(
                    f"ignore contains {entry!r}, which is neither a number nor a range of 1 to 255"
                )
            yield from range(int(match[1]), int(match[2]) + 1)


def load_label_names(name: str | Path) -> LabelNames:
    """Read shipped label names (``rsna``, ``verse``, ``totalsegmentator-v1``, ...), or a TOML file by path.

    ``totalsegmentator`` is ``totalsegmentator-v2``.

    Raises
    ------
    LabelNamesInvalid
        If there are no such names, the file is not TOML, or it has an unknown key or an invalid value.
    """
    name = _ALIASES.get(str(name), name)
    return load_settings(name, LabelNames, _SHIPPED, kind="set of label names", invalid=LabelNamesInvalid)


@lru_cache(maxsize=16)
def _levels_by_class(class_names: tuple[str, ...], levels: tuple[str, ...]) -> Mapping[str, str]:
    """The level of each class name, casefolded; an earlier pattern has precedence."""
    return {
        pattern.replace("{level}", level).casefold(): level
        for pattern in reversed(class_names)
        for level in levels
    }


def looks_like_level(class_name: str) -> bool:
    """True if a part of the name is that of a cervical or thoracic vertebra, as in ``vert-C1``."""
    return bool(_LOOKS_LIKE_LEVEL.search(class_name))
