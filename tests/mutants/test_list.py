"""The list of mutants stays true to the code: each piece of text that is replaced exists, exactly once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants_run", Path(__file__).with_name("run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_mutant_can_be_applied() -> None:
    faults = []
    mutants = runner().read_mutants()
    for mutant in mutants:
        count = (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.find)
        if count != 1 or mutant.find == mutant.replace:
            faults.append(f"{mutant.name}: found {count} times in {mutant.file}")
        missing = [test for test in mutant.tests if not (ROOT / test.split("::")[0]).exists()]
        faults += [f"{mutant.name}: there is no {test}" for test in missing]
    assert faults == []
    assert len({mutant.name for mutant in mutants}) == len(mutants)
