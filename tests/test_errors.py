"""The tree of errors, its codes, that errors can be pickled, and that docs/errors.md is up to date."""

from __future__ import annotations

import ast
import importlib.util
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from spine_etl import errors
from spine_etl.errors import WARNINGS, SliceGap, SpineError, StudyWarning


def classes(parent: type[SpineError] = SpineError) -> Iterator[type[SpineError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from classes(child)


def leaves() -> list[type[SpineError]]:
    return [kind for kind in classes() if "code" in vars(kind) and kind is not SpineError]


def test_codes_differ() -> None:
    codes = [kind.code for kind in leaves()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_every_code_is_in_the_tree_and_has_a_remedy_and_a_builtin(kind: type[SpineError]) -> None:
    assert re.search(rf"\b{kind.__name__}\s+{kind.code}\b", errors.__doc__ or "")
    assert kind.default_action != SpineError.default_action
    builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    assert any(base not in (Exception, BaseException, object) for base in builtin), "catchable as a builtin"


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[SpineError]) -> None:
    error = kind("a reason.", study="1.2.3", action="do this.")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert (copy.reason, copy.study, copy.action, str(copy)) == (
        "a reason.",
        "1.2.3",
        "do this.",
        f"[{kind.code}] study 1.2.3: a reason. do this.",
    )


def test_the_line_that_is_printed() -> None:
    error = SliceGap("slices 4.dcm and 5.dcm are 9.0 mm apart.")
    assert str(error).startswith("[SLICE_GAP] slices 4.dcm and 5.dcm are 9.0 mm apart. Add the missing")
    assert error.as_dict() == {"code": "SLICE_GAP", "reason": error.reason, "action": error.action}


def warning_codes_in(path: Path) -> Iterator[str]:
    """The first argument of each `StudyWarning` that a module makes; empty if it is not a literal."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "StudyWarning":
            code = node.args[0] if node.args else None
            yield str(code.value) if isinstance(code, ast.Constant) else ""


def test_each_warning_has_a_documented_code() -> None:
    root = Path(__file__).parents[1]
    made = {
        code
        for package in ("spine_etl", "flows", "model")
        for path in (root / package).rglob("*.py")
        for code in warning_codes_in(path)
    }
    assert made == set(WARNINGS)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code) for code in WARNINGS)


def test_warning_as_text() -> None:
    warning = StudyWarning("SINGLE_SLICE", "There is only one slice.")
    assert str(warning) == "[SINGLE_SLICE] There is only one slice."


def test_the_page_of_errors_is_up_to_date() -> None:
    docs = Path(__file__).parents[1] / "docs"
    spec = importlib.util.spec_from_file_location("make_errors", docs / "make_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    assert (docs / "errors.md").read_text(encoding="utf-8") == page, "run: make errors"
    assert [code for code in (kind.code for kind in leaves()) if f"| `{code}` |" not in page] == []
