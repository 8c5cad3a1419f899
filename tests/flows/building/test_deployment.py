"""The ID that a store has in Prefect."""

from __future__ import annotations

import pytest

from flows.building.deployment import resource_id
from tests.flows.services import ROOT


def test_every_spelling_of_a_store_has_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert resource_id("demo/store") == resource_id(str(ROOT / "demo/store/"))
    assert resource_id("s3://bucket/a/") == resource_id("s3://bucket/a") != resource_id("s3://bucket/b")
