"""Retries of S3 requests: the pauses between them, and the errors after which there are none."""

from __future__ import annotations

import itertools

import pytest
from obstore.exceptions import GenericError, PreconditionError

import spine_etl.s3
from spine_etl.s3 import MAX_TRIES, is_s3, open_bucket, with_retries


def test_s3_urls_are_recognised() -> None:
    assert is_s3("s3://bucket/prefix")
    assert not is_s3("/data/s3://bucket")


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "https://bucket/a", "s3://bucket/a?b=c"])
def test_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_bucket(url)


def test_pauses_are_random_up_to_a_bound_that_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    intervals: list[tuple[float, float]] = []
    pauses: list[float] = []

    def uniform(low: float, high: float) -> float:
        intervals.append((low, high))
        return high

    monkeypatch.setattr(spine_etl.s3.random, "uniform", uniform)
    monkeypatch.setattr(spine_etl.s3.time, "sleep", pauses.append)
    earlier_tries: list[int] = []

    def fail(tries: int) -> None:
        earlier_tries.append(tries)
        raise GenericError("status code: 503")

    with pytest.raises(ConnectionError, match="status 503 after 10 tries"):
        with_retries(fail)
    assert earlier_tries == list(range(MAX_TRIES))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6])
    assert intervals == [(0, pause) for pause in pauses]


def test_pauses_never_exceed_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spine_etl.s3, "MAX_TRIES", 12)
    monkeypatch.setattr(spine_etl.s3.random, "uniform", lambda low, high: high)
    pauses: list[float] = []
    monkeypatch.setattr(spine_etl.s3.time, "sleep", pauses.append)

    def fail(tries: int) -> None:
        raise GenericError("connection reset")

    with pytest.raises(ConnectionError, match="no answer after 12 tries"):
        with_retries(fail)
    assert pauses[-2:] == [30.0, 30.0]


@pytest.mark.parametrize(
    ("text", "error", "tries"),
    [
        *((f"status code: {status}", ConnectionError, 2) for status in (408, 409, 429, 500, 502, 503, 504)),
        *((f"status code: {status}", ConnectionError, 1) for status in (400, 404, 405, 411)),
        *((f"status code: {status}", PermissionError, 1) for status in (401, 403)),
        ("builder error", ConnectionError, 1),
        ("operation timed out", ConnectionError, 2),
    ],
)
def test_only_transient_failures_are_retried(
    monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], tries: int
) -> None:
    monkeypatch.setattr(spine_etl.s3, "MAX_TRIES", 2)
    monkeypatch.setattr(spine_etl.s3, "_FIRST_PAUSE_S", 0)
    counter = itertools.count(1)

    def fail(_: int) -> None:
        next(counter)
        raise GenericError(text)

    with pytest.raises(error):
        with_retries(fail)
    assert next(counter) == tries + 1


def test_failed_condition_is_not_retried() -> None:
    def fail(_: int) -> None:
        raise PreconditionError("If-Match")

    with pytest.raises(PreconditionError):
        with_retries(fail)


def test_result_is_returned_after_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spine_etl.s3, "_FIRST_PAUSE_S", 0)

    def fail_once(earlier_tries: int) -> str:
        if not earlier_tries:
            raise GenericError("status code: 500")
        return "content"

    assert with_retries(fail_once) == "content"
