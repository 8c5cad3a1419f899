"""A command ends in one line and a status, whatever stops it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "absent", "extra"),
    [
        ("model.train --store none --out run", "tyro", "[model]"),
        ("model.predict --store none --checkpoint run --out table.csv", "torch", "[model]"),
        ("model.localize apply --store none --checkpoint run --evaluate", "tyro", "[model]"),
        ("flows.build_dataset --source none --store none", "numba", "[build,model]"),
        ("flows.bootstrap --source none --store none --localizer run", "prefect", "[build,model]"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(command: str, absent: str, extra: str) -> None:
    module, *options = command.split()
    code = (
        f"import sys, runpy; sys.modules[{absent!r}] = None; sys.argv = {[module, *options]!r};"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {absent} is not installed: pip install 'spine-etl{extra}'.\n"
