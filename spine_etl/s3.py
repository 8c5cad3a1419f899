"""S3: a bucket by its URL, and requests that are tried again where trying again can help.

Endpoint, region and credentials are the usual AWS variables, read in the process that makes the request:
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN;
AWS_SKIP_SIGNATURE=true reads a public bucket without any.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

TRIES = 10
"""Requests made in vain before it is given up: some two minutes."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_REFUSED = re.compile(r"status code: (401|403)\b")
_FINAL = re.compile(r"status code: 4(?!08|09|29)\d\d\b|builder error")
_Result = TypeVar("_Result")
_at_home = 0
"""The process whose client's threads are running; they do not come along when it forks."""


def is_s3(address: object) -> bool:
    """Whether an address is a URL of S3."""
    return str(address).startswith("s3://")


def open_bucket(url: str) -> Any:
    """obstore's client of the bucket that ``s3://bucket[/prefix]`` names; its keys are below the prefix.

    Make it in the process that uses it: it has threads, and holds credentials.

    Raises
    ------
    ValueError
        If the URL names no bucket, or the environment's settings contradict each other.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    global _at_home
    _at_home = _at_home or os.getpid()
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url} is no s3://bucket/prefix")
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options={
                "timeout": "120s",
                "connect_timeout": "10s",
                "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
            },
            retry_config={"max_retries": 0},  # `tried` decides: it must know of every request that was made
        )
    except BaseError as error:
        raise ValueError("the AWS variables make no client") from error


def tried(operation: Callable[[int], _Result]) -> _Result:
    """What the operation gives, tried again after 5xx, 429, timeouts and lost connections.

    It is handed the number of tries before. Pauses are drawn between 0 and a bound that doubles (full
    jitter), so that many workers do not come back together.

    Raises
    ------
    FileNotFoundError, FileExistsError
        As the operation does; never tried again.
    PermissionError
        If the credentials do not allow it (401, 403).
    ConnectionError
        If no try of `TRIES` came through, or the server finds fault with the request itself.
    """
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    if _at_home not in (0, os.getpid()):  # the request would wait for ever
        raise ConnectionError("this process was forked from one that has used S3: use spawn or forkserver")
    for past in range(TRIES):
        try:
            return operation(past)
        except FileNotFoundError:
            raise
        except AlreadyExistsError as error:
            raise FileExistsError("there is one already") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError("the credentials do not allow it") from error
        except PreconditionError:
            raise
        except BaseError as error:
            text = str(error)  # the only place where obstore names the status of such a failure
            if _REFUSED.search(text):
                raise PermissionError("the credentials do not allow it") from error
            if past + 1 == TRIES or _FINAL.search(text):
                raise ConnectionError(_in_short(text, past + 1)) from error
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**past)))  # noqa: S311
    raise AssertionError("unreachable")


def _in_short(text: str, tries: int) -> str:
    """The failure without the server's own text, which may be pages long."""
    status = re.search(r"status code: (\d{3})", text)
    kind = f"status {status[1]}" if status else "no answer"
    return f"{kind} after {tries} {'try' if tries == 1 else 'tries'}"
