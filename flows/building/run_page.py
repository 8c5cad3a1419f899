"""The page that a run leaves with Prefect: its figures, and every study that somebody should look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from flows.building.summary import Summary
from spine_etl.store.record import Record

_STUDIES = 2000
"""Studies on a page; browsers do not bear many more."""


def publish(summary: Summary, worked: Sequence[Record]) -> None:
    """Leave the page with the run; call inside a flow."""
    create_markdown_artifact(
        markdown=page(summary, worked),
        key="build-dataset",
        description=f"Version {summary.version}: {summary.processed} processed, {summary.refused} refused.",
    )


def page(summary: Summary, worked: Sequence[Record]) -> str:
    """Markdown: figures, then studies refused, left for the next run, or stored with warnings.

    Lists, not tables: a UID may have 64 digits, and what follows it shall not lie beyond the page's edge.
    """
    refused = [
        f"{_link(summary.store, refusal['uid'])} `{refusal['code']}` {refusal['reason']} {refusal['action']}"
        for refusal in summary.refusals
    ]
    left = [f"{uid} changed {seconds:.0f} s ago." for uid, seconds in summary.left.items()]
    warned = [
        f"{_link(summary.store, record.uid)} {' '.join(record.warnings)}"
        for record in sorted(worked, key=lambda record: record.uid)
        if record.warnings and not record.refusal
    ]
    parts, room = [_figures(summary)], _STUDIES
    for title, studies in (
        ("Refused", refused),
        ("Still being copied, left for the next run", left),
        ("Stored with warnings", warned),
    ):
        if studies:
            parts.append(_section(title, studies, room))
            room -= min(room, len(studies))
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
        f"Version **{summary.version}** of `{summary.store}`, root digest `{summary.root_digest}`.\n\n{table}"
    )


def _section(title: str, studies: list[str], room: int) -> str:
    shown = studies[:room]
    title = f"## {title}: {len(studies)}" + (f", the first {len(shown)}" if len(shown) < len(studies) else "")
    return "\n".join([title, "", *(f"* {_plain(study)}" for study in shown)]).strip()


def _plain(text: str) -> str:
    """Text that stays one line of a list."""
    return " ".join(text.split()).replace("<", "&lt;")


def _link(address: str, uid: str) -> str:
    root = address if "://" in address else Path(address).as_uri()
    return f"[{uid}]({root}/{Record.key(uid)})"
