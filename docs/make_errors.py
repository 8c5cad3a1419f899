"""Write docs/errors.md from the error classes: python docs/make_errors.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spine_etl import errors
from spine_etl.errors import WARNINGS, SpineError

HEADING = """# Errors

Every error is printed as one line: `[CODE] study UID: reason. remedy.` Codes are stable, so scripts can test
for them. The reason names what was found and where. Each error is also an instance of the built-in exception
in the last column; `spine_etl.errors` shows the whole tree. A specific case may give a more precise remedy.

This page is generated from `spine_etl/errors`; run `make errors` after changing them.
"""

WARNINGS_HEADING = """## Warnings

A warning does not prevent the use of a study. It is in the study's record, in the column `warnings` of a
version's table, and on the run's page.
"""

SECTIONS = {
    errors.SourceError: "Sources",
    errors.DicomError: "DICOM series",
    errors.MaskError: "Segmentations",
    errors.RecipeInvalid: "Recipes",
    errors.StoreError: "Stores",
    errors.RunError: "Runs",
    errors.TrainingError: "Training and prediction",
}


def page() -> str:
    """The page as Markdown: a section for each branch of the tree and one for warnings."""
    sections = [_section(title, branch) for branch, title in SECTIONS.items()]
    return "\n".join([HEADING, *sections, _warnings()])


def _section(title: str, branch: type[SpineError]) -> str:
    rows = [
        f"## {title}",
        "",
        "| code | cause | remedy | also a |",
        "|---|---|---|---|",
        *map(_row, _codes(branch)),
    ]
    return "\n".join(rows) + "\n"


def _warnings() -> str:
    rows = [f"| `{code}` | {meaning} |" for code, meaning in WARNINGS.items()]
    return "\n".join([WARNINGS_HEADING, "| code | meaning |", "|---|---|", *rows]) + "\n"


def _codes(kind: type[SpineError]) -> Iterator[type[SpineError]]:
    if "code" in vars(kind):
        yield kind
    for child in kind.__subclasses__():
        yield from _codes(child)


def _summary(kind: type[SpineError]) -> str:
    return " ".join((kind.__doc__ or "").split()).rstrip(".")


def _row(kind: type[SpineError]) -> str:
    builtin = next(base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")
    action = kind.default_action.replace("|", "\\|")
    return f"| `{kind.code}` | {_summary(kind)}. | {action} | `{builtin}` |"


if __name__ == "__main__":
    Path(errors.__file__).parents[2].joinpath("docs/errors.md").write_text(page(), encoding="utf-8")
