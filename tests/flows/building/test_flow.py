"""The flow that a deployment runs: its form, its schedule, its page and its refusals."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from flows.building.deployment import resource_of
from flows.building.flow import build_dataset
from flows.building.run_page import page
from flows.building.summary import Summary
from spine_etl.store.record import Record
from tests.flows.services import ROOT


def test_the_form_describes_every_parameter() -> None:
    schema = build_dataset.parameters.model_dump()
    described = {**schema["properties"], **schema["definitions"]["Recipe"]["properties"]}
    assert set(schema["required"]) == {"source", "store", "recipe"}
    assert [name for name, field in described.items() if not field.get("description")] == []
    assert schema["definitions"]["Recipe"]["additionalProperties"] is False
    assert schema["properties"]["settle_minutes"]["default"] == 10


def test_the_nightly_deployment_has_the_shipped_recipe() -> None:
    (nightly,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    shipped = tomllib.loads((ROOT / "spine_etl/recipes/rsna2022.toml").read_text())
    assert nightly["parameters"]["recipe"] == shipped
    assert list(nightly["parameters"]["recipe"]["levels"]) == list(
        shipped["levels"]
    )  # an axis of the dataset
    assert nightly["parameters"].keys() <= build_dataset.parameters.model_dump()["properties"].keys()
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert nightly["schedules"] == [{"cron": "0 2 * * *", "timezone": "UTC"}]


def record(uid: str, *warnings: str) -> Record:
    return Record(uid=uid, fingerprint="f", source_digest="s", row=0, warnings=warnings)


def summary(refused: int = 0, left: int = 0, store: str = "/store") -> Summary:
    refusals = [
        {"uid": f"1.{n}", "code": "SLICE_GAP", "reason": "2\nslices <b>.", "action": "Add them."}
        for n in range(refused)
    ]
    return Summary(
        store=store, processed=2, unchanged=3, refused=refused, version=4, root_digest="ab" * 32, seconds=1.5,
        refusals=refusals, left={f"2.{n}": 12.0 for n in range(left)},
    )  # fmt: skip


def test_the_page_shows_all_that_somebody_should_look_at() -> None:
    shown = page(summary(1, 1, "s3://bucket/store"), [record("3.1", "a warning"), record("3.2")])
    assert (
        shown
        == f"""\
Version **4** of `s3://bucket/store`, root digest `{"ab" * 32}`.

| processed | unchanged | refused | left for the next run | without images | seconds |
| --- | --- | --- | --- | --- | --- |
| 2 | 3 | 1 | 1 | 0 | 1.5 |

## Refused: 1

* [1.0](s3://bucket/store/studies/1.0/record.json) `SLICE_GAP` 2 slices &lt;b>. Add them.

## Still being copied, left for the next run: 1

* 2.0 changed 12 s ago.

## Stored with warnings: 1

* [3.1](s3://bucket/store/studies/3.1/record.json) a warning
"""
    )


def test_a_page_has_an_end() -> None:
    warned = [record(f"3.{n}", "a warning") for n in range(10)]
    shown = page(summary(1500, 499, "/stores/neck & spine"), warned)
    rows = [line for line in shown.splitlines() if line.startswith("* ")]
    assert len(rows) == 2000
    assert rows[0].startswith(
        "* [1.0](file:///stores/neck%20%26%20spine/studies/1.0/record.json) `SLICE_GAP`"
    )
    assert "## Stored with warnings: 10, the first 1\n" in shown
    assert "## Refused: 1500\n" in shown
    shown = page(summary(2100), warned)
    assert "## Refused: 2100, the first 2000\n" in shown
    assert shown.endswith("## Stored with warnings: 10, the first 0\n")


def test_a_store_has_one_name_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert resource_of("demo/store") == resource_of(str(ROOT / "demo/store/"))
    assert resource_of("s3://bucket/a/") == resource_of("s3://bucket/a") != resource_of("s3://bucket/b")
