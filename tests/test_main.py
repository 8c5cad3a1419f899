"""The parser of the command line, the exit statuses, and the modules that --help imports."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from spine_etl.__main__ import main
from spine_etl.phantom import write_phantom

COMMANDS = ("phantom", "read", "inspect", "show", "check")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_takes_under_half_a_second(command: str) -> None:
    line = [sys.executable, "-m", "spine_etl", *command.split(), "--help"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # CPU time, because other tests may run at the same time.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom spine_etl.__main__ import main\n"
        "try: main(['show', '--help'])\nexcept SystemExit: pass\n"
        "print({'numpy', 'zarr', 'pydantic', 'matplotlib', 'numba', 'pydicom'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "phantom --out x --studies 0 --seed 1",
        "phantom --out x --studies 1 --seed 1 --masked-share 1.5",
        "read folder --out x.nii --isotropic 0",
        "show --study 1 --out x",
        "show --source a --store b --study 1 --out x",
        "show --store b --study 1 --out x --window header",
        "show --store b --study 1 --out x --start 3",
        "show --store b --study 1 --out x --recipe quick",
    ],
)
def test_wrong_command_line_exits_2(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage:")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("inspect nowhere", "DICOM_UNREADABLE"),
        ("inspect nowhere.nii", "SOURCE_NOT_FOUND"),
        ("read nowhere --out x.nii", "SOURCE_NOT_FOUND"),
        ("read nowhere.zip --out x.nii", "SOURCE_NOT_FOUND"),
        ("check nowhere", "STORE_NOT_FOUND"),
        ("show --source nowhere --study 1 --out pictures", "SOURCE_NOT_FOUND"),
        ("show --source nowhere --study 1 --out pictures --recipe nowhere.toml", "RECIPE_INVALID"),
    ],
)
def test_error_is_one_line_and_exits_1(
    line: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: [{code}] ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spine_etl.store.open_store", interrupted)
    assert main(["check", "x"]) == 130


def test_closed_pipe_prints_no_error(tmp_path: Path) -> None:
    (study,) = write_phantom(tmp_path, 1, 3, slices=24, size=64)
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'spine_etl', 'inspect', sys.argv[1]],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "child.stdout.close()\n"
        "sys.stderr.buffer.write(child.stderr.read())"
    )
    folder = tmp_path / "train_images" / study.uid
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stderr == ""
