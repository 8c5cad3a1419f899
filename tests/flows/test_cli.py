"""The options that the commands share."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest

from flows.building.request import BuildRequest
from flows.building.summary import Summary
from flows.cli import build_parser, build_request, run
from spine_etl.errors import SourceNotFound
from spine_etl.recipe import load_recipe


def parse(*more: str) -> argparse.Namespace:
    parser = build_parser("flows.command", "A command.")
    parser.set_defaults(localizer=None)
    return parser.parse_args(["--source", "folder", "--recipe", "quick", *more])


def test_options_become_a_request() -> None:
    request = build_request(parse("--store", "store", "--workers", "3", "--settle", "1.5"))
    assert (request.source, request.store, request.recipe) == ("folder", "store", load_recipe("quick"))
    assert (request.workers, request.dask, request.localizer, request.settle_s) == (3, None, None, 90.0)


@pytest.mark.parametrize(
    ("minutes", "seconds"), [("0", 0), ("-0", 0), ("0.5", 30), ("10", 600), ("999999.5", 59_999_970)]
)
def test_settle_is_in_minutes(minutes: str, seconds: float) -> None:
    assert build_request(parse("--store", "store", "--settle", minutes)).settle_s == seconds


@pytest.mark.parametrize(("text", "workers"), [("1", 1), ("64", 64)])
def test_workers_are_at_least_one(text: str, workers: int) -> None:
    assert build_request(parse("--store", "store", "--workers", text)).workers == workers


def summary(*, processed: int = 0, unchanged: int = 0, refused: int = 0) -> Summary:
    return Summary("store", processed, unchanged, refused, version=1, root_digest="ab" * 32, seconds=1.0)


@pytest.mark.parametrize(
    ("processed", "unchanged", "refused", "status"),
    [
        (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (2, 3, 0, 0),
        (1, 0, 1, 3), (0, 1, 1, 3), (1, 1, 9, 3),
        (0, 0, 1, 1), (0, 0, 9, 1),
    ],
)  # fmt: skip
def test_status_of_a_summary(processed: int, unchanged: int, refused: int, status: int) -> None:
    made = summary(processed=processed, unchanged=unchanged, refused=refused)
    assert run(parse("--store", "store"), lambda request: made) == status


def test_studies_that_differ_from_the_table_of_folds_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    only_in_table = [f"9.{number}" for number in range(11)]
    made = replace(
        summary(processed=1), folds_without_study=only_in_table, studies_without_fold=["1.1", "1.2"]
    )
    assert run(parse("--store", "store", "--folds", "folds.csv"), lambda request: made) == 0
    printed = capsys.readouterr().err
    assert "folds: in the table, but neither stored nor refused (11): 9.0, 9.1, " in printed
    assert "9.9 and 1 more.\n" in printed
    assert "folds: not in the table, so assigned as without one (2): 1.1, 1.2.\n" in printed
    assert build_request(parse("--store", "store", "--folds", "folds.csv")).folds == "folds.csv"


def test_status_and_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def build(request: BuildRequest) -> Summary:
        raise SourceNotFound("there is nothing.")

    assert run(parse("--store", "store", "--json"), build) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: [SOURCE_NOT_FOUND] there is nothing. ")
    error = json.loads(output.out)["error"]
    assert (error["code"], error["reason"]) == ("SOURCE_NOT_FOUND", "there is nothing.")


def test_a_package_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def build(request: BuildRequest) -> Summary:
        raise ModuleNotFoundError("No module named 'dask'", name="dask")

    assert run(parse("--store", "store"), build) == 1
    assert capsys.readouterr().err == (
        "error: dask is not installed: pip install 'spine-etl[build,model]'.\n"
    )


def test_an_interrupt_has_status_130() -> None:
    def build(request: BuildRequest) -> Summary:
        raise KeyboardInterrupt

    assert run(parse("--store", "store"), build) == 130


def test_defaults() -> None:
    request = build_request(parse("--store", "store"))
    assert request.workers >= 1
    assert request.settle_s == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--settle", "soon"], "not a number of minutes"),
        (["--settle", "-0.001"], "not a number of minutes"),
        (["--settle", "1000000"], "not a number of minutes"),
        (["--settle", "inf"], "not a number of minutes"),
        (["--settle", "nan"], "not a number of minutes"),
        (["--settle", ""], "not a number of minutes"),
        (["--workers", "0"], "not a whole number above 0"),
        (["--workers", "-1"], "not a whole number above 0"),
        (["--workers", "1.0"], "not a whole number above 0"),
        (["--workers", "²"], "not a whole number above 0"),
        (["--store", "\t"], "the value is empty"),
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
