"""The parser of the command line, the exit statuses, and the modules that --help imports."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
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
        ("inspect nowhere", "SOURCE_NOT_FOUND"),
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


def test_interrupt_exits_130(tmp_path: Path) -> None:
    """The command waits for a pipe that has no writer, until the signal arrives."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "spine_etl", "inspect", str(pipe)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        writer = _open_when_read(pipe, process)
        try:
            process.send_signal(signal.SIGINT)
            printed = process.communicate(timeout=60)
        finally:
            os.close(writer)
    assert (process.returncode, printed) == (130, (b"", b""))


def _open_when_read(pipe: Path, process: subprocess.Popen[bytes]) -> int:
    """Open a pipe for writing as soon as the process has opened it for reading."""
    while process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no reader yet
                raise
            time.sleep(0.05)
    raise AssertionError(f"ended with {process.returncode}")


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
