"""The ID that a store has in Prefect, and the error that a failed run reports."""

from __future__ import annotations

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Crashed, Failed

from flows.building.deployment import error_of, resource_id
from spine_etl.errors import StoreFingerprintDiffers
from tests.flows.services import ROOT


def test_every_spelling_of_a_store_has_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert resource_id("demo/store") == resource_id(str(ROOT / "demo/store/"))
    assert resource_id("s3://bucket/a/") == resource_id("s3://bucket/a") != resource_id("s3://bucket/b")


@pytest.mark.parametrize(
    ("state", "code", "reason"),
    [
        (
            Failed(data=StoreFingerprintDiffers("another recipe.")),
            "STORE_FINGERPRINT_DIFFERS",
            "another recipe.",
        ),
        (Failed(name="TimedOut", message="exceeded"), "UNEXPECTED", "The run took too long."),
        (Failed(name="TimedOut", data=TimeoutError("x")), "UNEXPECTED", "The run took too long."),
        (Failed(data=ValueError("DOE^JOHN")), "UNEXPECTED", "The run was killed or lost its server."),
        (Crashed(message="SIGKILL"), "UNEXPECTED", "The run was killed or lost its server."),
    ],
)
def test_error_of_a_failed_run(state: State[None], code: str, reason: str) -> None:
    error = error_of(state)
    assert (error.code, error.reason) == (code, reason)
    assert "DOE" not in str(error.as_dict())
