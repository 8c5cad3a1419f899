"""The log of a run: what a resumed run keeps of it, and the live line, which only a terminal gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.training.runlog import METRICS, RunLog


def line(stage: int, epoch: int) -> dict[str, object]:
    return {"stage": stage, "epoch": epoch, "step": 1, "train_loss": 0.5}


def logged(run: Path) -> list[tuple[int, int]]:
    lines = [json.loads(text) for text in (run / METRICS).read_text().splitlines()]
    return [(values["stage"], values["epoch"]) for values in lines]


def test_resuming_drops_the_lines_from_its_first_epoch_on(tmp_path: Path) -> None:
    with RunLog(tmp_path, enabled=True, first_epoch=(0, 0)) as log:
        for stage, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
            log.epoch(line(stage, epoch))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"stage": 1, "ep')  # the process was killed here
    with RunLog(tmp_path, enabled=True, first_epoch=(1, 0)) as log:
        assert logged(tmp_path) == [(0, 0), (0, 1)]
        log.epoch(line(1, 0))
    assert logged(tmp_path) == [(0, 0), (0, 1), (1, 0)]


def test_without_a_terminal_there_is_no_live_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, enabled=True, first_epoch=(0, 0)) as log:
        log.step("step 1")
        log.message("epoch 1")
    assert capsys.readouterr() == ("epoch 1\n", "")


def test_live_line_is_erased_before_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with RunLog(tmp_path, enabled=True, first_epoch=(0, 0)) as log:
        log.step("step [1]")
        log.message("epoch 1")
    shown = capsys.readouterr()
    assert shown.out == "epoch 1\n"
    assert "step [1]" in shown.err
    assert shown.err.rstrip().endswith("\x1b[2K")  # erase the whole line


def test_other_ranks_log_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, enabled=False, first_epoch=(0, 0)) as log:
        log.step("step")
        log.epoch(line(0, 0))
        log.message("epoch 1")
    assert capsys.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
