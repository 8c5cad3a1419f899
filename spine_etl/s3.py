"""Access to S3: a client for the bucket of an s3:// URL, and retries for its requests.

Endpoint, region and credentials come from the usual AWS variables, which are read in the process that makes
the request: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.
AWS_SKIP_SIGNATURE=true reads a public bucket without credentials.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

MAX_TRIES = 10
"""Tries of a request before it fails; with the pauses between them, about two minutes at most."""

FIRST_PAUSE_S = 0.1
"""Upper bound of the first pause; it doubles up to `LONGEST_PAUSE_S`."""

LONGEST_PAUSE_S = 30.0
_ACCESS_DENIED = re.compile(r"status code: (401|403)\b")
_PERMANENT = re.compile(r"status code: 4(?!08|09|29)\d\d\b|builder error")
_Result = TypeVar("_Result")
_client_process = 0
"""The process that made the first client, 0 before that. A client's threads do not survive a fork."""


def is_s3(address: object) -> bool:
    """True if an address is an s3:// URL."""
    return str(address).startswith("s3://")


def open_bucket(url: str) -> Any:
    """The obstore client for ``s3://bucket[/prefix]``; its keys are relative to the prefix.

    A client has threads and credentials, so make it in the process that uses it.

    Raises
    ------
    ValueError
        If the URL has no bucket, or the AWS variables contradict each other.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    global _client_process
    _client_process = _client_process or os.getpid()
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{url} is not of the form s3://bucket/prefix")
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options={
                "timeout": "120s",
                "connect_timeout": "10s",
                "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
            },
            # `with_retries` retries instead: operations need the number of requests already sent.
            retry_config={"max_retries": 0},
        )
    except BaseError as error:
        raise ValueError("the AWS variables are inconsistent") from error


def with_retries(
    operation: Callable[[int], _Result],
    *,
    tries: int = MAX_TRIES,
    first_pause_s: float = FIRST_PAUSE_S,
    sleep: Callable[[float], object] = time.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> _Result:
    """Call ``operation``, retrying after 5xx, 408, 409, 429, timeouts and lost connections.

    The operation gets the number of tries already made. The pause before each retry is random between 0 and a
    bound that doubles (full jitter), so that many workers do not all return at the same moment.

    Parameters
    ----------
    tries, first_pause_s
        The most tries, and the bound of the first pause in seconds.
    sleep, uniform
        The pause and its random length, which tests replace.

    Raises
    ------
    FileNotFoundError, FileExistsError, obstore.exceptions.PreconditionError
        If the operation raises it, or obstore's equivalent; never retried.
    PermissionError
        If the credentials do not allow the request (401, 403).
    ConnectionError
        If no try succeeded, or the server rejects the request as invalid.
    """
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    if _client_process not in (0, os.getpid()):  # the request would never return
        raise ConnectionError("this process was forked from one that has used S3: use spawn or forkserver")
    for earlier_tries in range(tries):
        try:
            return operation(earlier_tries)
        except (FileNotFoundError, PreconditionError):
            raise
        except AlreadyExistsError as error:
            raise FileExistsError("the object already exists") from error
        except BaseError as error:
            text = str(error)  # obstore gives the status code of most errors only here
            denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
            if denied or _ACCESS_DENIED.search(text):
                raise PermissionError("the credentials do not allow it") from error
            if earlier_tries + 1 == tries or _PERMANENT.search(text):
                raise ConnectionError(_summary(text, earlier_tries + 1)) from error
        sleep(uniform(0, min(LONGEST_PAUSE_S, first_pause_s * 2**earlier_tries)))
    raise AssertionError("unreachable")


def _summary(text: str, tries: int) -> str:
    """The failure without the server's own text, which can be pages long."""
    status = re.search(r"status code: (\d{3})", text)
    kind = f"status {status[1]}" if status else "no answer"
    return f"{kind} after {tries} {'try' if tries == 1 else 'tries'}"
