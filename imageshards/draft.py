"""The manifest of a version that passed validation and is not published yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from imageshards.job import JobResult
from imageshards.manifest import (
    MAX_DUPLICATES,
    ArchiveSource,
    CheckEntry,
    DuplicateEntry,
    Manifest,
    PixelStatistics,
    ShardEntry,
)
from imageshards.plan import version_prefix
from imageshards.validate import Findings, Subject


def draft_manifest(
    subject: Subject,
    findings: Findings,
    *,
    archives: Mapping[str, ArchiveSource],
    raw_store_url: str,
    built: JobResult,
    created_at: datetime,
) -> Manifest:
    """Put together what a version consists of.

    Args:
        subject: What was validated.
        findings: What validation found; all its checks passed.
        archives: The source archives, `images` and `annotations`.
        raw_store_url: Address of the raw store.
        built: What the driver said; for the versions of its software.
        created_at: Time of publication, with a time zone.
    """
    version, recipe = subject.version, subject.recipe
    prefix = version_prefix(subject.dataset, version.resolution, version.fingerprint)
    return Manifest(
        dataset=subject.dataset,
        resolution=version.resolution,
        fingerprint=version.fingerprint,
        sources=archives,
        index=subject.info.key,
        index_digest=subject.info.digest,
        raw_store=raw_store_url,
        recipe=json.loads(recipe.canonical()),
        recipe_fingerprint=recipe.fingerprint(),
        dtype=recipe.dtype,
        channels=recipe.channels,
        encoding=recipe.encoding,
        class_names=subject.info.class_names,
        images=subject.info.images,
        samples=findings.samples,
        rows=findings.rows,
        splits=findings.splits,
        classes=findings.classes,
        rejects=findings.rejects,
        left_out=findings.left_out,
        repairs=findings.repairs,
        members=subject.info.members,
        duplicates=tuple(DuplicateEntry(**asdict(pair)) for pair in findings.duplicates[:MAX_DUPLICATES]),
        duplicate_pairs=findings.duplicate_pairs,
        pixels=findings.pixels or PixelStatistics(mean=(), std=()),
        normalization=PixelStatistics.model_validate(version.statistics) if version.statistics else None,
        shards=tuple(
            ShardEntry(
                path=prefix + shard.name,
                split=shard.split,
                rows=shard.rows,
                size_bytes=shard.size_bytes,
                sha256=shard.sha256,
                inputs=shard.inputs,
            )
            for shard in findings.shards
        ),
        checks=tuple(CheckEntry(**asdict(check)) for check in findings.checks),
        created_at=created_at.isoformat(timespec="seconds"),
        software=built.software,
    )
