"""Settings files: strict pydantic models, read from TOML files of the package or of the user."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spine_etl.errors import RecipeInvalid, SpineError


class StrictModel(BaseModel):
    """Base of all settings and record models: immutable, and unknown keys are errors."""

    # Attribute docstrings become descriptions in the JSON schema, and therefore in Prefect's forms.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Settings = TypeVar("Settings", bound=StrictModel)


def shipped_names(folder: Path) -> list[str]:
    """Sorted names of the settings files in ``folder``, without their suffix."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_settings(
    name: str | Path,
    model: type[Settings],
    shipped: Path,
    *,
    kind: str = "recipe",
    invalid: type[SpineError] = RecipeInvalid,
) -> Settings:
    """Read a settings file by its name in the folder ``shipped``, or any TOML file by its path.

    A shipped name takes precedence over a file with the same path. ``kind`` is what the file contains, for
    messages.

    Raises
    ------
    SpineError
        Of the class ``invalid``, if there is no such file, it is not TOML, or it has an unknown key or an
        invalid value.
    """
    names = shipped_names(shipped)
    path = shipped / f"{name}.toml" if str(name) in names else Path(name)
    action = f"Pass the name of a shipped {kind} ({', '.join(names)}) or the path of a TOML file."
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise invalid(f"There is no {kind} {name}.", action=action) from error
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}.", action=action) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"{path} is not a TOML file: {_first_line(error)}.", action=action) from error
    try:
        # Strict: neither "0.5" nor true is a number. From JSON, because there an array may still be a tuple;
        # a date, which JSON lacks and no setting is, becomes an array.
        text = json.dumps(content, default=lambda date: [str(date)])
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise invalid(f"{path}: {validation_faults(error, kind)}.") from error


def _first_line(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(error).splitlines()[0].rstrip(".")


def validation_faults(error: ValidationError, kind: str = "recipe") -> str:
    """The faults on one line, each with its key.

    Only the innermost fault of a key is listed: pydantic also reports a list as too short if it dropped an
    invalid item from it.
    """
    faults = error.errors(include_url=False, include_input=False)
    keys = [_key(fault) for fault in faults]
    inner = [
        fault
        for fault, key in zip(faults, keys, strict=True)
        if not any(other[: len(key)] == key and len(other) > len(key) for other in keys)
    ]
    return "; ".join(f"{'.'.join(_key(fault)) or kind}: {fault['msg']}" for fault in inner)


def _key(fault: Any) -> tuple[str, ...]:
    return tuple(map(str, fault["loc"]))
