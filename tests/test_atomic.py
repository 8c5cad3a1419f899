"""Atomic writes: afterwards there is the old file or the new one, and no temporary file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spine_etl.atomic import TEMPORARY_SUFFIX, create_file, replace_file

MEGABYTE = 1 << 20


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code with the two functions imported; the arguments are in ``sys.argv[1:]``."""
    imports = "import os, signal, sys\nfrom pathlib import Path\n"
    imports += "from spine_etl.atomic import create_file, replace_file\n"
    command = [sys.executable, "-c", imports + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("durable", [True, False])
def test_replace_file_creates_the_folder_and_replaces_a_file(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    replace_file(path, b"old", durable=durable)
    replace_file(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("write", [replace_file, create_file])
@pytest.mark.parametrize("size", [0, 1, 3 * MEGABYTE + 1])
def test_content_of_any_size_is_complete(write: type, size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    write(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content


def test_create_file_does_not_replace_a_file(tmp_path: Path) -> None:
    create_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("key", ["file/below", "file/below/deeper"])
def test_file_in_the_place_of_a_folder_is_not_taken_for_the_target(tmp_path: Path, key: str) -> None:
    """FileExistsError would mean that the target exists: a search for a free name would never end."""
    (tmp_path / "file").write_bytes(b"old")
    for write in (create_file, replace_file):
        with pytest.raises(NotADirectoryError):
            write(tmp_path / key, b"new")
    assert names(tmp_path) == ["file"]


def test_only_one_of_several_concurrent_create_file_calls_succeeds(tmp_path: Path) -> None:
    path, succeeded = tmp_path / "file", []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        try:
            create_file(path, str(number).encode() * 100_000)
        except FileExistsError:
            return
        succeeded.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(succeeded) == 1
    assert path.read_bytes() == str(succeeded[0]).encode() * 100_000
    assert names(tmp_path) == ["file"]


KILLED_AT = """
event, call, path = sys.argv[1:]
def kill(name, arguments):
    if name == event:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
{"replace": replace_file, "create": create_file}[call](Path(path), b"new" * 1000)
"""


@pytest.mark.parametrize(("event", "call"), [("os.rename", "replace"), ("os.link", "create")])
def test_process_killed_between_write_and_rename_leaves_the_old_state(
    event: str, call: str, tmp_path: Path
) -> None:
    """The audit event of the rename or link comes just before it. What remains is the temporary file."""
    path = tmp_path / "file"
    if call == "replace":
        path.write_bytes(b"old")
    assert run(KILLED_AT, event, call, path).returncode == -signal.SIGKILL
    *existing, temporary = sorted(tmp_path.iterdir(), key=lambda file: file.name.endswith(".writing"))
    assert [file.read_bytes() for file in existing] == ([b"old"] if call == "replace" else [])
    assert TEMPORARY_SUFFIX == ".writing"
    assert temporary.name.startswith(".file.")
    assert temporary.read_bytes() == b"new" * 1000
    replace_file(path, b"next")
    assert path.read_bytes() == b"next"


TOO_LARGE = """
import resource
call, path = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    {"replace": replace_file, "create": create_file}[call](Path(path), bytes(3 << 20))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("call", ["replace", "create"])
def test_write_that_fails_in_the_middle_keeps_the_old_file_and_no_temporary_file(
    call: str, tmp_path: Path
) -> None:
    """The system refuses to write more than one of three megabytes."""
    path = tmp_path / "file"
    if call == "replace":
        path.write_bytes(b"old")
    done = run(TOO_LARGE, call, path)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == (
        {"file": b"old"} if call == "replace" else {}
    )


@pytest.mark.parametrize("durable", [True, False])
def test_file_is_flushed_before_the_rename_and_its_folder_after(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each flush of the operating system is recorded with what a reader would find at that moment."""
    path, flushes = tmp_path / "file", []
    path.write_bytes(b"old")
    flush = os.fsync

    def record(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushes.append((target.suffix, os.fstat(descriptor).st_size, path.read_bytes()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    replace_file(path, b"newer", durable=durable)
    if not durable:
        assert flushes == []
        return
    (suffix, size, content), (folder_suffix, _, content_after) = flushes
    assert (suffix, size, content) == (".writing", 5, b"old")
    assert (folder_suffix, content_after) == ("", b"newer")


def test_replace_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match=r"Is a directory|not empty|exists"):
        replace_file(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]
