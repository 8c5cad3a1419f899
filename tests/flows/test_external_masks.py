"""Builds with masks from elsewhere: whole commands, and the commands of docs/masks.md as typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spine_etl.phantom import write_phantom
from spine_etl.source.label_names import load_label_names
from spine_etl.source.masks import NOT_A_MASK, NOT_NAMED, OWN_MASK
from spine_etl.store import open_store
from spine_etl.store.check import check_store
from spine_etl.store.schema import MASK_SOURCE
from tests.external_masks import LEVELS, phantom_masks, write_classes, write_multi_label
from tests.flows.commands import build
from tests.flows.services import ROOT

pytestmark = pytest.mark.integration
NAMES = load_label_names("totalsegmentator-v2")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("phantom")
    write_phantom(source, 4, 5, size=96, slices=60, masked_share=1)
    return source


def sources(store: Path) -> dict[str, str]:
    table = open_store(store).table
    return dict(
        zip(open_store(store).study_uids, (MASK_SOURCE[code] for code in table["mask_source"]), strict=True)
    )


def test_external_masks_from_build_to_build(phantom: Path, tmp_path: Path) -> None:
    source, masks, store = tmp_path / "source", tmp_path / "masks", tmp_path / "store"
    shutil.copytree(phantom, source)
    own, multi, classes, none = phantom_masks(source)
    write_multi_label(phantom_masks(source)[own], masks / f"{own}.nii.gz", NAMES)
    write_multi_label(phantom_masks(source)[multi], masks / "batch" / f"{multi}_seg.nii.gz", NAMES)
    write_classes(phantom_masks(source)[classes], masks / classes)
    (masks / "README.md").write_text("masks")
    (masks / f"{none}x.nii.gz").write_bytes(b"")
    for uid in (multi, classes, none):
        phantom_masks(source)[uid].unlink()

    options = ("--masks", str(masks), "--masks-from", "totalsegmentator")
    code, line, stderr = build(source, store, *options)
    assert (code, line["processed"], line["refused"]) == (0, 4, 0)
    expected = {own: "given", multi: "external", classes: "external", none: "none"}
    assert sources(store) == expected
    assert {(unused["path"], unused["reason"]) for unused in line["unused_masks"]} == {
        (f"{own}.nii.gz", OWN_MASK),
        ("README.md", NOT_A_MASK),
        (f"{none}x.nii.gz", NOT_NAMED),
    }
    for name, reason in ((own, OWN_MASK), ("README.md", NOT_A_MASK), (f"{none}x.nii.gz", NOT_NAMED)):
        assert re.search(rf"masks: .*{re.escape(name)}.*{re.escape(reason)}", stderr)
    assert list(check_store(open_store(store))) == []

    code, line, _ = build(source, store, *options)
    assert (code, line["processed"], line["unchanged"]) == (0, 0, 4)

    # Other label names, even with the same numbers, build the external studies again, and only those.
    code, line, _ = build(source, store, *options[:-1], "totalsegmentator-v3")
    assert (code, line["processed"], line["unchanged"]) == (0, 2, 2)
    assert sources(store) == expected


def test_masks_and_their_names_are_needed_together(phantom: Path, tmp_path: Path) -> None:
    for options in (("--masks", str(tmp_path)), ("--masks-from", "rsna")):
        code, line, stderr = build(phantom, tmp_path / "store", *options)
        assert (code, line) == (2, {})
        assert "--masks and --masks-from need each other" in stderr


def test_levels_without_a_label_are_named(phantom: Path, tmp_path: Path) -> None:
    """A forgotten level would be absent in every study with such a mask."""
    source, masks = tmp_path / "source", tmp_path / "masks"
    shutil.copytree(phantom, source)
    uid = next(iter(phantom_masks(source)))
    phantom_masks(source)[uid].rename(source / "moved.nii")
    for other in phantom_masks(source):
        shutil.rmtree(source / "train_images" / other)
    (masks).mkdir()
    (source / "moved.nii").rename(masks / f"{uid}.nii")
    names = tmp_path / "own.toml"
    labels = "".join(f"{level} = {number}\n" for number, level in LEVELS.items() if level != "C4")
    names.write_text(f'name = "own"\nignore = "all others"\n[labels]\n{labels}')
    options = ("--masks", str(masks), "--masks-from", str(names))
    code, line, stderr = build(source, tmp_path / "store", *options)
    assert (code, line["processed"], line["unnamed_levels"]) == (0, 1, ["C4"])
    assert "The label names of the masks contain no C4" in stderr


def test_commands_of_the_documentation_run_as_typed(phantom: Path, tmp_path: Path) -> None:
    """With a stand-in for TotalSegmentator that writes the phantom's own vertebrae as class files."""
    shutil.copytree(phantom, tmp_path / "SOURCE")
    kept, *others = phantom_masks(tmp_path / "SOURCE")
    for uid in others:
        write_classes(phantom_masks(tmp_path / "SOURCE")[uid], tmp_path / "results" / uid)
        phantom_masks(tmp_path / "SOURCE")[uid].unlink()
    tool = tmp_path / "bin" / "TotalSegmentator"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec cp -r "{tmp_path}/results/$(basename "$2")" "$4"\n')
    tool.chmod(0o755)
    (commands,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/masks.md").read_text(), re.DOTALL)
    assert ".venv/bin/python -m flows.build_dataset" in commands
    commands = commands.replace(".venv/bin/python", sys.executable).rstrip() + " --recipe quick --json\n"
    environment = os.environ | {
        "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for processed in (4, 0):
        done = subprocess.run(
            ["bash", "-e", "-u", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["processed"] == processed
    assert sources(tmp_path / "STORE") == {kept: "given"} | dict.fromkeys(others, "external")
