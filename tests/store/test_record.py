"""Records: written and read again, and turned into the columns of a version."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine_etl.errors import SliceGap
from spine_etl.store import open_store
from spine_etl.store.record import Record
from spine_etl.store.writer import StoreWriter
from tests.store.tiny import RECIPE, no_objects, refused_record

LEVELS = ("C1", "C2")
OBJECTS = ("image", "mask", "overview/image", "overview/mask")
STATUS = {"unlocated": 0, "located": 1, "absent": 2, "ambiguous": 3}
MASK_SOURCE = {"none": 0, "given": 1, "predicted": 2, "external": 3}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
INT32 = st.integers(0, 2**31 - 1)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
POINT = st.tuples(FLOAT, FLOAT, FLOAT)
UID = st.text("0123456789.abzABZ_-", max_size=63).map("1".__add__)
LEVEL = st.fixed_dictionaries(
    {
        "status": st.sampled_from(list(STATUS)),
        "origin_mm": st.none() | POINT,
        "coverage": FLOAT32,
        "volume_mm3": FLOAT32,
        "confidence": FLOAT32,
        "slices": st.none() | st.tuples(INT32, INT32),
        "label_share": FLOAT32,
        "island_voxels": INT32,
        "island_distance_mm": FLOAT32,
    }
)
BOX = st.fixed_dictionaries(
    {
        "x": FLOAT, "y": FLOAT, "width": FLOAT, "height": FLOAT, "slice_number": INT32,
        "level": st.none() | st.sampled_from(LEVELS),
        "in_crops": st.dictionaries(st.sampled_from(LEVELS), st.tuples(*[FLOAT32] * 6)),
    }
)  # fmt: skip
UINT32 = st.integers(0, 2**32 - 1)
STORED = {
    name: st.fixed_dictionaries({"sha256": HEX, "crc32c": st.tuples(*[UINT32] * (1 if "/" in name else 2))})
    for name in OBJECTS
}
RECORD = st.fixed_dictionaries(
    {
        "uid": UID,
        "fingerprint": st.just(RECIPE.fingerprint),
        "source_digest": HEX,
        "row": st.integers(0, 40),
        "objects": st.fixed_dictionaries(STORED),
        "mask_name": st.sampled_from(["", "VerSe", "a"]),
        "straightened": st.booleans(),
        "mask_source": st.sampled_from(list(MASK_SOURCE)),
        "levels": st.fixed_dictionaries(dict.fromkeys(LEVELS, LEVEL)),
        "overview_origin_mm": POINT,
        "fracture": st.dictionaries(st.sampled_from([*LEVELS, "patient_overall"]), st.integers(0, 1)),
        "boxes": st.lists(BOX, max_size=3),
        "warnings": st.lists(
            st.fixed_dictionaries({"code": st.sampled_from("ABC"), "text": st.text(max_size=5)}), max_size=3
        ),
        "facts": st.fixed_dictionaries(
            {"slices": INT32, "spacing": st.lists(FLOAT32, min_size=3, max_size=3)}
        ),
    }
)


def expected_columns(record: dict[str, Any]) -> dict[str, Any]:
    """A study's columns from the description of the table."""
    levels = [record["levels"][level] for level in LEVELS]
    return {
        "row": record["row"],
        "patient_overall": record["fracture"].get("patient_overall", -1),
        "fracture": [record["fracture"].get(level, -1) for level in LEVELS],
        "level_status": [STATUS[level["status"]] for level in levels],
        "mask_source": MASK_SOURCE[record["mask_source"]],
        "coverage": [level["coverage"] for level in levels],
        "volume_mm3": [level["volume_mm3"] for level in levels],
        "level_confidence": [level["confidence"] for level in levels],
        "level_slices": [(-1, -1) if level["slices"] is None else level["slices"] for level in levels],
        "crop_origin_mm": [level["origin_mm"] or [np.nan] * 3 for level in levels],
        "overview_origin_mm": record["overview_origin_mm"],
        "source_digest": list(bytes.fromhex(record["source_digest"])),
        "sha256": [list(bytes.fromhex(record["objects"][name]["sha256"])) for name in OBJECTS],
        "image_crc32c": record["objects"]["image"]["crc32c"],
        "mask_crc32c": record["objects"]["mask"]["crc32c"],
        "overview_image_crc32c": record["objects"]["overview/image"]["crc32c"][0],
        "overview_mask_crc32c": record["objects"]["overview/mask"]["crc32c"][0],
        "label_share": [level["label_share"] for level in levels],
        "island_voxels": [level["island_voxels"] for level in levels],
        "island_distance_mm": [level["island_distance_mm"] for level in levels],
        "straightened": record["straightened"],
        "slices": record["facts"]["slices"],
        "source_spacing_mm": record["facts"]["spacing"],
    }


def expected_boxes(record: dict[str, Any]) -> dict[str, Any]:
    boxes = record["boxes"]
    return {
        "box_slice_number": [box["slice_number"] for box in boxes],
        "box_source": [[box[side] for side in ("x", "y", "width", "height")] for box in boxes],
        "box_level": [-1 if box["level"] is None else LEVELS.index(box["level"]) for box in boxes],
        "box_crop": [[box["in_crops"].get(level, [np.nan] * 6) for level in LEVELS] for box in boxes],
    }


def check_version(contents: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="records-") as folder:
        writer = StoreWriter(folder, RECIPE)
        records = [Record.model_validate(content) for content in contents]
        for record in records:
            writer.write_record(record)
            assert writer.record(record.uid) == record
        writer.commit(records)
        store = open_store(folder)
    by_uid = {content["uid"]: content for content in contents}
    assert store.study_uids == sorted(by_uid)
    assert store.rows == max((content["row"] + 1 for content in contents), default=0)
    assert len(store.table["box_study"]) == sum(len(content["boxes"]) for content in contents)
    for index, uid in enumerate(store.study_uids):
        boxes = np.flatnonzero(store.table["box_study"] == index)
        codes = [warning["code"] for warning in by_uid[uid]["warnings"]]
        counts = zip(store.table.warning_codes, store.table["warnings"][index].tolist(), strict=True)
        assert {code: count for code, count in counts if count} == Counter(codes)
        assert store.table.mask_names[store.table["mask_name"][index]] == by_uid[uid]["mask_name"]
        for name, expected in expected_columns(by_uid[uid]).items():
            np.testing.assert_array_equal(store.table[name][index], expected, err_msg=name)
        for name, expected in expected_boxes(by_uid[uid]).items():
            np.testing.assert_array_equal(
                store.table[name][boxes], np.reshape(expected, store.table[name][boxes].shape), err_msg=name
            )


contents = st.lists(RECORD, max_size=4, unique_by=(itemgetter("uid"), itemgetter("row")))


@given(contents=contents)
@settings(max_examples=12, deadline=None)
def test_version_has_the_values_of_its_records(contents: list[dict[str, Any]]) -> None:
    check_version(contents)


@pytest.mark.soak
@given(contents=contents)
@settings(max_examples=500, deadline=None)
def test_version_has_the_values_of_many_records(contents: list[dict[str, Any]]) -> None:
    check_version(contents)


def test_uid_of_64_characters_is_stored(tmp_path: Path) -> None:
    """DICOM allows 64; the column is as wide, so such a UID has no zero at its end."""
    base = {"fingerprint": RECIPE.fingerprint, "source_digest": "00" * 32, "row": 0}
    base |= {"objects": no_objects()}
    base |= {"levels": {level: {"status": "absent"} for level in LEVELS}}
    writer = StoreWriter(tmp_path, RECIPE)
    uids = ["1" * 63, "1" * 64, "1" * 63 + "2"]
    writer.commit([Record.model_validate({**base, "uid": uid, "row": row}) for row, uid in enumerate(uids)])
    store = open_store(tmp_path)
    assert store.study_uids == uids
    assert [store.index(uid) for uid in uids] == [0, 1, 2]
    with pytest.raises(ValueError, match="reshape"):
        writer.commit([Record.model_validate({**base, "uid": "1" * 65})])
    assert open_store(tmp_path).version == 1


def test_key_is_in_the_folder_of_the_study() -> None:
    assert Record.key("1.2.3") == "studies/1.2.3/record.json"


def test_refused_record_has_the_error(tmp_path: Path) -> None:
    error = SliceGap("between 3.dcm and 5.dcm.", study="1.2")
    record = Record.refused("1.2", RECIPE.fingerprint, "ab", error, transient=True)
    assert record.refusal is not None
    assert (record.refusal.code, record.refusal.reason) == ("SLICE_GAP", "between 3.dcm and 5.dcm.")
    assert record.refusal.action == error.action != ""
    assert (record.refusal.transient, record.row, record.objects) == (True, None, {})
    writer = StoreWriter(tmp_path, RECIPE)
    writer.write_record(record)
    assert writer.record("1.2") == record


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"uid": "1.2"}'])
def test_unreadable_record_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    writer.write_record(refused_record("1.2"))
    assert writer.record("1.2") == refused_record("1.2")
    (tmp_path / "studies/1.2/record.json").write_bytes(content)
    assert writer.record("1.2") is None
    assert writer.record("1.3") is None


@pytest.mark.parametrize(("key", "value"), [("fingerprint", "0" * 64), ("uid", "1.3"), ("unknown", 1)])
def test_record_of_another_recipe_study_or_release_counts_as_missing(
    tmp_path: Path, key: str, value: object
) -> None:
    writer = StoreWriter(tmp_path, RECIPE)
    writer.write_record(refused_record("1.2"))
    path = tmp_path / "studies/1.2/record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert writer.record("1.2") is None
