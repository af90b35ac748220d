"""What a run says of itself: its return value, and the artifacts that the Prefect UI shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from imageshards.manifest import Manifest
from imageshards.store import Store


def result_of(manifest: Manifest, store: Store, *, status: str, seconds: float) -> dict[str, Any]:
    """One resolution's part of the summary."""
    return {
        "resolution": manifest.resolution,
        "manifest": store.uri(manifest.key),
        "rows": manifest.rows,
        "splits": dict(manifest.splits),
        "rejects": dict(manifest.rejects),
        "left_out": dict(manifest.left_out),
        "repairs": dict(manifest.repairs),
        "status": status,
        "seconds": round(seconds, 2),
    }


def create_artifacts(summary: Mapping[str, Any], manifests: Sequence[Manifest]) -> None:
    """A markdown summary, a table of rows by split and class, a table of rejects by reason."""
    create_markdown_artifact(_markdown(summary, manifests), key="summary", description=f"{summary['dataset']}: summary")
    manifest = manifests[0]
    rows = [
        {"class": name, **{split: counts.get(name, 0) for split, counts in manifest.classes.items()}}
        for name in manifest.class_names
    ]
    create_table_artifact(rows, key="rows-by-class", description=f"Rows by split and class at {manifest.resolution} px")
    rejects = [
        {"resolution": each.resolution, "reason": reason, "images": count}
        for each in manifests
        for reason, count in each.rejects.items()
    ]
    create_table_artifact(
        rejects or [{"resolution": "all", "reason": "none", "images": 0}],
        key="rejects",
        description="Rejected images by reason",
    )


def _markdown(summary: Mapping[str, Any], manifests: Sequence[Manifest]) -> str:
    first = manifests[0]
    lines = [
        f"# {summary['dataset']}",
        "",
        f"{first.images:,} images in the archive. Every one of them is a row, a reject, or left out by a rule.",
        "",
        "| resolution | status | rows | rejects | left out | repaired | seconds |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in summary["results"]:
        counts = (sum(result[name].values()) for name in ("rejects", "left_out", "repairs"))
        numbers = " | ".join(f"{count:,}" for count in (result["rows"], *counts))
        lines.append(f"| {result['resolution']} | {result['status']} | {numbers} | {result['seconds']} |")
    lines += ["", "| repaired or refused | images |", "| --- | ---: |"]
    lines += [f"| repaired: {name} | {count:,} |" for name, count in first.repairs.items()]
    lines += [f"| rejected: {name} | {count:,} |" for name, count in first.rejects.items()]
    lines += [f"| left out: {name} | {count:,} |" for name, count in first.left_out.items()]
    lines += ["", *(f"- {result['resolution']} px: `{result['manifest']}`" for result in summary["results"])]
    return "\n".join(lines) + "\n"
