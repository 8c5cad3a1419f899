"""A missing package ends a command in one line, with the extra that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("model.train --store none --out run", "tyro", "[model]"),
        ("model.predict --store none --checkpoint run --out table.csv", "torch", "[model]"),
        ("model.localize apply --store none --checkpoint run --evaluate", "tyro", "[model]"),
        ("flows.build_dataset --source none --store none", "numba", "[build,model]"),
        ("flows.bootstrap --source none --store none --localizer run", "prefect", "[build,model]"),
    ],
)
def test_missing_package_is_reported_with_its_extra(command: str, missing: str, extra: str) -> None:
    module, *options = command.split()
    code = (
        f"import sys, runpy; sys.modules[{missing!r}] = None; sys.argv = {[module, *options]!r};"
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == 1
    assert completed.stderr == f"error: {missing} is not installed: pip install 'spine-etl{extra}'.\n"
