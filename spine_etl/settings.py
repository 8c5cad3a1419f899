"""Settings files: strict pydantic models, read from TOML files that ship with the package or a user's own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from spine_etl.errors import RecipeInvalid


class StrictModel(BaseModel):
    """The base of every settings and record model: immutable, and no unknown key is accepted."""

    # The text under an attribute becomes its description in the JSON schema, and so in Prefect's forms.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Settings = TypeVar("Settings", bound=StrictModel)


def shipped_names(folder: Path) -> list[str]:
    """Names of the settings files that ship in ``folder``, without their suffix."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_settings(name: str | Path, model: type[Settings], shipped: Path) -> Settings:
    """Read a settings file that ships in the folder ``shipped``, by name, or any TOML file by its path.

    Raises
    ------
    RecipeInvalid
        If there is no such file, it is not TOML, or a key or value in it is not accepted.
    """
    names = ", ".join(shipped_names(shipped))
    own = shipped / f"{name}.toml"
    path = own if str(name) in shipped_names(shipped) else Path(name)
    action = f"Pass the name of a recipe that ships ({names}) or the path of a TOML file."
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeInvalid(f"There is no recipe {name}.", action=action) from error
    except OSError as error:
        raise RecipeInvalid(f"{path} cannot be read: {error.strerror}.", action=action) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"{path} is not a TOML file: {_first_line(error)}.", action=action) from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise RecipeInvalid(f"{path}: {validation_faults(error)}.") from error


def _first_line(error: Exception) -> str:
    return (
        str(error).splitlines()[0].rstrip(".") if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8"
    )


def validation_faults(error: ValidationError) -> str:
    """The faults in one line, each with the key it belongs to.

    pydantic also reports a list that lost an invalid item as too short; only the innermost fault is kept.
    """
    faults = error.errors(include_url=False, include_input=False)
    keys = [_key(fault) for fault in faults]
    inner = [
        fault
        for fault, key in zip(faults, keys, strict=True)
        if not any(other[: len(key)] == key and len(other) > len(key) for other in keys)
    ]
    return "; ".join(f"{'.'.join(_key(fault)) or 'recipe'}: {fault['msg']}" for fault in inner)


def _key(fault: Any) -> tuple[str, ...]:
    return tuple(map(str, fault["loc"]))
