"""The page that a run publishes in Prefect: its figures, and every study that needs attention."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact

from flows.building.summary import Summary
from spine_etl.store.record import Record

_MAX_STUDIES = 2000
"""Studies listed on a page; browsers struggle with many more."""


def publish(summary: Summary) -> None:
    """Publish the page as an artifact of the current flow run."""
    create_markdown_artifact(
        markdown=page(summary),
        key="build-dataset",
        description=f"Version {summary.version}: {summary.processed} processed, {summary.refused} refused.",
    )


def page(summary: Summary) -> str:
    """Markdown: figures, studies refused, left for the next run or stored with warnings, and unused masks.

    Studies are lists, not tables: a UID can have 64 digits, which would push the other columns off the page.
    """
    refused = [
        f"{_link(summary.store, refusal['uid'])} `{refusal['code']}` "
        + _escaped(f"{refusal['reason']} {refusal['action']}")
        for refusal in summary.refusals
    ]
    left = [_escaped(f"{uid} changed {seconds:.0f} s ago.") for uid, seconds in summary.left.items()]
    warned = [
        f"{_link(summary.store, uid)} "
        + " ".join(f"`{warning.code}` {_escaped(warning.text)}" for warning in warnings)
        for uid, warnings in sorted(summary.warnings.items())
    ]
    parts, remaining = [_figures(summary)], _MAX_STUDIES
    for title, studies in (
        ("Refused", refused),
        ("Still being copied, left for the next run", left),
        ("Stored with warnings", warned),
        ("Masks that were not used", [f"{mask.path}: {mask.reason}." for mask in summary.unused_masks]),
    ):
        if studies:
            parts.append(_section(title, studies, remaining))
            remaining -= min(remaining, len(studies))
    return "\n\n".join(parts) + "\n"


def _figures(summary: Summary) -> str:
    counts = {
        "processed": summary.processed,
        "unchanged": summary.unchanged,
        "refused": summary.refused,
        "left for the next run": len(summary.left),
        "without images": len(summary.without_images),
        "seconds": summary.seconds,
    }
    rows = [list(counts), ["---"] * len(counts), [str(count) for count in counts.values()]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"Version **{summary.version}** of {_code(summary.store)}, root digest `{summary.root_digest}`."
        f"\n\n{table}"
    )


def _section(title: str, studies: list[str], limit: int) -> str:
    shown = studies[:limit]
    title = f"## {title}: {len(studies)}" + (f", the first {len(shown)}" if len(shown) < len(studies) else "")
    return "\n".join([title, "", *(f"* {study}" for study in shown)]).strip()


def _escaped(text: str) -> str:
    """Markdown that shows this text on one line: reasons quote names of files, which can be anything."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"([\\`*_\[\]|~])", r"\\\1", line)
    return re.sub(r"^(\d+)\.(?= |$)", r"\1\\.", line)  # a UID such as "1." would start a numbered list


def _code(text: str) -> str:
    """A code span of this text, on one line."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _link(store: str, uid: str) -> str:
    root = quote(store, safe=":/") if "://" in store else Path(store).as_uri()
    return f"[{_escaped(uid)}]({root}/{Record.key(uid)})"
