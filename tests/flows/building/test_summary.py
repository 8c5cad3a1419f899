"""The line of JSON at the end of a build."""

from __future__ import annotations

import json

from flows.building.summary import Summary


def test_the_line_has_the_counts_and_no_study() -> None:
    summary = Summary(
        store="/store", processed=1, unchanged=2, refused=3, version=4, root_digest="ab", seconds=5.5,
        refusals=[{"uid": "1.1", "code": "A", "reason": "b", "action": "c"}], warnings={"1.2": ("d",)},
        without_images=["1.3"], left={"1.4": 1.0, "1.5": 2.0},
    )  # fmt: skip
    assert json.loads(json.dumps(summary.line())) == {
        "store": "/store", "processed": 1, "unchanged": 2, "refused": 3, "left": 2, "version": 4,
        "root_digest": "ab", "seconds": 5.5, "unused_masks": [],
        "unnamed_levels": [],
    }  # fmt: skip
