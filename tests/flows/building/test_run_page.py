"""The page that a run publishes."""

from __future__ import annotations

from dataclasses import replace

from flows.building.run_page import page
from flows.building.summary import Summary
from spine_etl.errors import StudyWarning
from spine_etl.source.masks import NOT_NAMED, UnusedMask


def summary(
    refused: int = 0,
    left: int = 0,
    warnings: dict[str, tuple[StudyWarning, ...]] | None = None,
    store: str = "/store",
) -> Summary:
    refusals = [
        {"uid": f"1.{n}", "code": "SLICE_GAP", "reason": "2\nslices <b>.", "action": "Add them."}
        for n in range(refused)
    ]
    return Summary(
        store=store, processed=2, unchanged=3, refused=refused, version=4, root_digest="ab" * 32, seconds=1.5,
        refusals=refusals, warnings=warnings or {}, left={f"2.{n}": 12.0 for n in range(left)},
    )  # fmt: skip


def test_figures_and_studies_that_need_attention() -> None:
    warnings = (StudyWarning("SLICES_UNEVEN", "a\nwarning."), StudyWarning("SINGLE_SLICE", "another."))
    shown = page(summary(1, 1, {"3.1": warnings}, "s3://bucket/store"))
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

* [3.1](s3://bucket/store/studies/3.1/record.json) `SLICES_UNEVEN` a warning. `SINGLE_SLICE` another.
"""
    )


def test_unused_masks_are_listed() -> None:
    shown = page(replace(summary(), unused_masks=[UnusedMask("a/1.2.nii.gz", NOT_NAMED)]))
    assert shown.endswith(f"## Masks that were not used: 1\n\n* a/1.2.nii.gz {NOT_NAMED}.\n")


def test_the_number_of_listed_studies_is_limited() -> None:
    warnings = {f"3.{n}": (StudyWarning("SINGLE_SLICE", "a warning"),) for n in range(10)}
    shown = page(summary(1500, 499, warnings, "/stores/neck & spine"))
    items = [line for line in shown.splitlines() if line.startswith("* ")]
    assert len(items) == 2000
    assert items[0].startswith(
        "* [1.0](file:///stores/neck%20%26%20spine/studies/1.0/record.json) `SLICE_GAP`"
    )
    assert "## Stored with warnings: 10, the first 1\n" in shown
    assert "## Refused: 1500\n" in shown
    shown = page(summary(2100, warnings=warnings))
    assert "## Refused: 2100, the first 2000\n" in shown
    assert shown.endswith("## Stored with warnings: 10, the first 0\n")
