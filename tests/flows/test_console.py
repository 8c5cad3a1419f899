"""The lines that a command prints, and what Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from flows.console import print_line, study_progress
from spine_etl.errors import SliceGap
from spine_etl.store.record import Record
from tests.flows.services import ROOT
from tests.store.tiny import RECIPE


def test_each_study_has_a_line_if_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    refused = Record.refused("1.2", RECIPE.fingerprint, "", SliceGap("a gap."))
    stored = Record(uid="[red]1.3[/red]", fingerprint=RECIPE.fingerprint, source_digest="", row=0)
    with study_progress(2) as on_record:
        on_record(refused)
        on_record(stored)
    print_line("the end")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "1/2 1.2 refused: SLICE_GAP\n2/2 [red]1.3[/red]\nthe end\n"


def test_an_interrupt_kills_the_process_and_its_children() -> None:
    code = (
        "import subprocess, sys\n"
        "from flows.console import exit_on_interrupt\n"
        "with exit_on_interrupt():\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "\nInterrupted. Studies stored so far are kept; run the same command again to resume.\n"
    assert psutil.wait_procs([child], timeout=30)[1] == []
