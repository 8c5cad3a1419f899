"""The page that a run publishes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flows.building.run_page import page
from flows.building.summary import Summary
from spine_etl.errors import StudyWarning


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


def warned(*texts: str) -> tuple[StudyWarning, ...]:
    return tuple(StudyWarning("SINGLE_SLICE", text) for text in texts)


def test_warnings_are_sorted_and_refusals_keep_their_order() -> None:
    warnings = {"3.9": warned("z"), "3.1": warned("b", "a"), "3.10": warned("y")}
    lines = page(summary(3, 2, warnings)).splitlines()
    items = [line.split()[1].split("]")[0].strip("[") for line in lines if line.startswith("* ")]
    assert items == ["1.0", "1.1", "1.2", "2.0", "2.1", "3.1", "3.10", "3.9"]
    assert "* [3.1](file:///store/studies/3.1/record.json) `SINGLE_SLICE` b `SINGLE_SLICE` a" in lines


@pytest.mark.parametrize(
    ("counts", "listed", "titles"),
    [
        ((1999, 0, 0), 1999, ["Refused: 1999"]),
        ((2000, 0, 0), 2000, ["Refused: 2000"]),
        ((2001, 0, 0), 2000, ["Refused: 2001, the first 2000"]),
        ((0, 2000, 0), 2000, ["Still being copied, left for the next run: 2000"]),
        ((0, 2001, 0), 2000, ["Still being copied, left for the next run: 2001, the first 2000"]),
        ((0, 0, 2000), 2000, ["Stored with warnings: 2000"]),
        ((0, 0, 2001), 2000, ["Stored with warnings: 2001, the first 2000"]),
        ((1500, 499, 1), 2000,
         ["Refused: 1500", "Still being copied, left for the next run: 499", "Stored with warnings: 1"]),
        ((1500, 499, 2), 2000,
         ["Refused: 1500", "Still being copied, left for the next run: 499",
          "Stored with warnings: 2, the first 1"]),
        ((1999, 2, 1), 2000,
         ["Refused: 1999", "Still being copied, left for the next run: 2, the first 1",
          "Stored with warnings: 1, the first 0"]),
        ((2100, 0, 10), 2000, ["Refused: 2100, the first 2000", "Stored with warnings: 10, the first 0"]),
    ],
)  # fmt: skip
def test_at_most_2000_studies_are_listed(
    counts: tuple[int, int, int], listed: int, titles: list[str]
) -> None:
    refused, left, stored = counts
    warnings = {f"3.{n}": warned("a warning") for n in range(stored)}
    lines = page(summary(refused, left, warnings)).splitlines()
    assert len([line for line in lines if line.startswith("* ")]) == listed
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == titles


READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
READER.validateLink = lambda address: True  # its default shows links to local files as text
SHOWN = {"text", "softbreak", "link_open", "link_close", "code_inline", "strong_open", "strong_close"}
# Names of files are any text; NUL and surrogates are not in them, and Markdown replaces other controls.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40) | st.text(
    "\\`*_[]()<>&!|~#+-=.:/ 1a\n", max_size=40
)
UIDS = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{0,20}", fullmatch=True)


def shown(tokens: list[Token]) -> str:
    """The text that a reader sees; nothing but text, code and links may be there."""
    assert {token.type for token in tokens} <= SHOWN, tokens
    return "".join(token.content for token in tokens)


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@settings(max_examples=100, deadline=None)
@given(uids=st.tuples(UIDS, UIDS, UIDS), reason=NAMES, warning=NAMES, store=NAMES)
@example(uids=("1_a_", "1.", "1-"), reason="*a* [b](c)", warning="<b>&lt;", store="`a``b")
@example(uids=("1", "1", "1"), reason="![a](b) `c`", warning="a\n\n# b\n* c", store=" `a` ")
@example(uids=("1", "1", "1"), reason="~~a~~ \\* &amp;", warning="__a__", store="(a) [b]")
def test_names_are_shown_as_they_are(
    uids: tuple[str, str, str], reason: str, warning: str, store: str
) -> None:
    refused, left, stored = uids
    made = Summary(
        store=f"/stores/{store}", processed=2, unchanged=3, refused=1, version=4, root_digest="ab" * 32,
        seconds=1.5, refusals=[{"uid": refused, "code": "SLICE_GAP", "reason": reason, "action": "Do."}],
        warnings={stored: warned(warning)}, left={left: 12.0},
    )  # fmt: skip
    tokens = READER.parse(page(made))
    blocks = [token.type for token in tokens if token.level == 0 and token.nesting >= 0]
    assert blocks == ["paragraph_open", "table_open", *["heading_open", "bullet_list_open"] * 3]
    inline = [token.children for token in tokens if token.type == "inline" and token.children]
    figures, refusal, unsettled, warnings = inline[0], inline[-5], inline[-3], inline[-1]
    assert shown(figures).startswith(f"Version 4 of {in_one_line(f'/stores/{store}')}, root digest ")
    assert shown(refusal) == in_one_line(f"{refused} SLICE_GAP {reason} Do.")
    assert shown(unsettled) == f"{left} changed 12 s ago."
    assert shown(warnings) == in_one_line(f"{stored} SINGLE_SLICE {warning}")
    (link,) = [token for token in refusal if token.type == "link_open"]
    scheme, _, path = unquote(str(link.attrs["href"])).partition("://")
    assert (scheme, Path(path)) == ("file", Path(f"/stores/{store}/studies/{refused}/record.json"))


def test_a_link_into_a_bucket_is_quoted() -> None:
    text = page(summary(1, store="s3://bucket/neck (1) & spine"))
    assert "](s3://bucket/neck%20%281%29%20%26%20spine/studies/1.0/record.json) `SLICE_GAP`" in text


def test_a_store_whose_path_is_not_utf8_can_be_published() -> None:
    assert "`/st\\udce4re`" in page(summary(store="/st\udce4re"))
    page(summary(1, store="/st\udce4re")).encode()
