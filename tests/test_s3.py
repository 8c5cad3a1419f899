"""Retries of S3 requests: the pauses between them, and the errors after which there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from obstore.exceptions import GenericError, PreconditionError

from spine_etl.s3 import is_s3, open_bucket, with_retries


def test_s3_urls_are_recognised() -> None:
    assert is_s3("s3://bucket/prefix")
    assert not is_s3("/data/s3://bucket")


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "https://bucket/a", "s3://bucket/a?b=c"])
def test_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_bucket(url)


def failing(text: str, tries: list[int]) -> Callable[[int], None]:
    """An operation that always fails with this message, and notes the tries before each call."""

    def fail(earlier_tries: int) -> None:
        tries.append(earlier_tries)
        raise GenericError(text)

    return fail


def test_pauses_are_random_up_to_a_bound_that_doubles() -> None:
    intervals: list[tuple[float, float]] = []
    pauses: list[float] = []
    tries: list[int] = []

    def uniform(low: float, high: float) -> float:
        intervals.append((low, high))
        return high / 3

    with pytest.raises(ConnectionError, match="status 503 after 10 tries"):
        with_retries(failing("status code: 503", tries), sleep=pauses.append, uniform=uniform)
    assert tries == list(range(10))
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6]
    assert [low for low, _ in intervals] == [0] * 9
    assert [high for _, high in intervals] == pytest.approx(bounds)
    assert pauses == pytest.approx([bound / 3 for bound in bounds])


def test_pauses_never_exceed_thirty_seconds() -> None:
    pauses: list[float] = []
    with pytest.raises(ConnectionError, match="no answer after 12 tries"):
        with_retries(
            failing("connection reset", []), tries=12, sleep=pauses.append, uniform=lambda low, high: high
        )
    assert pauses[-3:] == [25.6, 30.0, 30.0]
    assert len(pauses) == 11


def test_each_call_draws_other_pauses() -> None:
    """Workers that fail together must not return together."""
    pauses: list[float] = []
    for _ in range(20):
        with pytest.raises(ConnectionError):
            with_retries(failing("connection reset", []), tries=2, sleep=pauses.append)
    assert len(set(pauses)) == 20
    assert 0 <= min(pauses) < max(pauses) <= 0.1


@pytest.mark.parametrize(
    ("text", "error", "tries"),
    [
        *((f"status code: {status}", ConnectionError, 2) for status in (408, 409, 429, 500, 502, 503, 504)),
        *((f"status code: {status}", ConnectionError, 1) for status in (400, 404, 405, 407, 410, 411, 428)),
        *((f"status code: {status}", ConnectionError, 1) for status in (430, 499)),
        *((f"status code: {status}", PermissionError, 1) for status in (401, 403)),
        ("builder error", ConnectionError, 1),
        ("operation timed out", ConnectionError, 2),
    ],
)
def test_only_transient_failures_are_retried(text: str, error: type[Exception], tries: int) -> None:
    counted: list[int] = []
    with pytest.raises(error):
        with_retries(failing(text, counted), tries=2, first_pause_s=0)
    assert len(counted) == tries


@pytest.mark.parametrize("tries", [1, 2])
def test_last_try_is_not_followed_by_a_pause(tries: int) -> None:
    pauses: list[float] = []
    with pytest.raises(ConnectionError, match=f"after {tries} {'try' if tries == 1 else 'tries'}$"):
        with_retries(failing("connection reset", []), tries=tries, sleep=pauses.append)
    assert len(pauses) == tries - 1


def test_failed_condition_is_not_retried() -> None:
    def fail(_: int) -> None:
        raise PreconditionError("If-Match")

    with pytest.raises(PreconditionError):
        with_retries(fail)


def test_result_is_returned_after_a_retry() -> None:
    def fail_once(earlier_tries: int) -> str:
        if not earlier_tries:
            raise GenericError("status code: 500")
        return "content"

    assert with_retries(fail_once, first_pause_s=0) == "content"
