"""Nights: a source that changes from one to the next, each uploaded, built, validated and published, without Ray."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from imageshards.draft import draft_manifest
from imageshards.executor import Backend
from imageshards.job import JobResult, JobSpec
from imageshards.manifest import SHARDS_INLINE, ArchiveSource, Manifest, publish_manifest
from imageshards.oxford_pets import DATASET
from imageshards.plan import version_prefix
from imageshards.recipe import Recipe
from imageshards.run_job import run_job
from imageshards.store import Store
from imageshards.upload import upload
from imageshards.validate import Subject, validate_version
from tests.imageshards.in_process import InProcess
from tests.imageshards.small_dataset import PLAIN, Drawn, write_archive

LISTS = tuple(f"annotations/{name}.txt" for name in ("list", "trainval", "test"))


@dataclass(frozen=True)
class Night:
    """What was built from a source, in a store that other nights share."""

    source: Drawn
    spec: JobSpec
    store: Store
    result: JobResult

    def key(self, name: str, resolution: int) -> str:
        """Key of a file of a version."""
        (version,) = (version for version in self.result.versions if version.resolution == resolution)
        return version_prefix(DATASET, resolution, version.fingerprint) + name

    def files(self) -> dict[str, bytes]:
        """Everything in the folders of the versions but what publishing puts there."""
        prefixes = [version_prefix(DATASET, each.resolution, each.fingerprint) for each in self.result.versions]
        keys = [info.key for prefix in prefixes for info in self.store.list(prefix)]
        return {key: self.store.get(key) for key in keys if key.endswith(".parquet")}

    def built(self) -> set[tuple[int, str]]:
        """Resolution and name of the shards that were not reused."""
        return {
            (shard.resolution, shard.name) for each in self.result.versions for shard in each.shards if not shard.reused
        }

    def publish(self, *, shards_inline: int = SHARDS_INLINE) -> list[Manifest]:
        """Validate and publish every version."""
        return [self._publish(subject, shards_inline) for subject in self._subjects()]

    def _subjects(self) -> Iterable[Subject]:
        return (Subject(DATASET, self.source.info, self.spec.recipe, version) for version in self.result.versions)

    def _publish(self, subject: Subject, shards_inline: int) -> Manifest:
        findings = validate_version(subject, raw_store=self.source.store, store=self.store)
        assert [check.sentence() for check in findings.checks if not check.passed] == []
        manifest = draft_manifest(
            subject,
            findings,
            archives={
                what: ArchiveSource(url=archive.url, sha256=archive.sha256, size_bytes=archive.size_bytes)
                for what, archive in self.source.archives.items()
            },
            raw_store_url=self.source.store.url,
            built=self.result,
            created_at=datetime.now(UTC),
        )
        return publish_manifest(self.store, manifest, shards_inline=shards_inline)


def spec_of(source: Drawn, store: Store, *, recipe: Recipe = PLAIN, resolutions: Sequence[int] = (16, 32)) -> JobSpec:
    """The job that builds a source."""
    return JobSpec(
        dataset=DATASET,
        index_key=source.info.key,
        raw_store=source.store.spec,
        store=store.spec,
        resolutions=tuple(resolutions),
        recipe=recipe,
        result_key="result.json",
    )


def night(source: Drawn, store: Store, *, backend: Backend | None = None, **what: Any) -> Night:
    """Run the job; nothing is published yet."""
    spec = spec_of(source, store, **what)
    return Night(source, spec, store, run_job(spec, backend or InProcess()))


def next_source(
    source: Drawn,
    folder: Path,
    *,
    changed: Sequence[str] = (),
    added: Mapping[str, str] = MappingProxyType({}),
    removed: Sequence[str] = (),
) -> Drawn:
    """The same source a day later, uploaded beside what is there.

    Args:
        source: As it was.
        folder: For the archives.
        changed: Images that are mirrored.
        added: New images, each with one of the same split whose picture and annotations it takes.
        removed: Images that are gone from pictures and lists.
    """
    images, annotations = (_members(source.archives[what].path) for what in ("images", "annotations"))
    for image_id in changed:
        images[f"images/{image_id}.jpg"] = _mirrored(images[f"images/{image_id}.jpg"])
    for new, old in added.items():
        images[f"images/{new}.jpg"] = images[f"images/{old}.jpg"]
        annotations[f"annotations/trimaps/{new}.png"] = annotations[f"annotations/trimaps/{old}.png"]
    for gone in removed:
        del images[f"images/{gone}.jpg"], annotations[f"annotations/trimaps/{gone}.png"]
        annotations.pop(f"annotations/xmls/{gone}.xml", None)
    for name in LISTS:
        lines = [line for line in annotations[name].decode().splitlines() if line.split()[0] not in removed]
        lines += [line.replace(old, new) for new, old in added.items() for line in lines if line.split()[0] == old]
        annotations[name] = "".join(f"{line}\n" for line in lines).encode()
    folder.mkdir()
    archives = {
        "images": write_archive(folder / "images.tar.gz", images.items()),
        "annotations": write_archive(folder / "annotations.tar.gz", annotations.items()),
    }
    info = upload(archives["images"], archives["annotations"], source.store, dataset=DATASET).index
    return replace(source, info=info, archives=archives)


def _mirrored(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "JPEG")
    return buffer.getvalue()


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
