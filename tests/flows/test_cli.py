"""The options that the commands share."""

from __future__ import annotations

import argparse

import pytest

from flows.cli import build_parser, build_request
from spine_etl.recipe import load_recipe


def parse(*more: str) -> argparse.Namespace:
    parser = build_parser("flows.command", "A command.")
    parser.set_defaults(localizer=None)
    return parser.parse_args(["--source", "folder", "--recipe", "quick", *more])


def test_options_become_a_request() -> None:
    request = build_request(parse("--store", "store", "--workers", "3", "--settle", "1.5"))
    assert (request.source, request.store, request.recipe) == ("folder", "store", load_recipe("quick"))
    assert (request.workers, request.dask, request.localizer, request.settle_s) == (3, None, None, 90.0)


def test_defaults() -> None:
    request = build_request(parse("--store", "store"))
    assert request.workers >= 1
    assert request.settle_s == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--settle", "soon"], "not a number of minutes"),
        (["--settle", "-1"], "not a number of minutes"),
        (["--settle", "nan"], "not a number of minutes"),
        (["--workers", "0"], "not a whole number above 0"),
        (["--workers", "2", "--dask", "tcp://host:8786"], "not allowed with"),
        (["--datasets", "root"], "not allowed with"),
    ],
)
def test_invalid_options_exit_with_status_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse("--store", "store", *options)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
