"""What is measured on: the same images for every program, in a folder store, as files, and on S3."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.archives import replicate, sample_archives, without_trimaps
from imageshards.fetch import Source, fetch
from imageshards.index import IndexInfo
from imageshards.job import JobSpec
from imageshards.recipe import Recipe
from imageshards.store import Credentials, StoreSpec, open_store
from imageshards.upload import upload

DATASET = "bench"


@dataclass(frozen=True, slots=True)
class Material:
    """Images uploaded to a store.

    Attributes:
        raw_store: Where they are.
        info: Their index.
        images: The images archive they came from.
        annotations: The annotations archive.
    """

    raw_store: StoreSpec
    info: IndexInfo
    images: Path
    annotations: Path

    @property
    def files(self) -> Path:
        """The folder of the images, in a folder store."""
        return Path(self.raw_store.url) / "raw" / DATASET / "images"

    def job(
        self, store: StoreSpec, resolutions: Sequence[int] = (224,), *, raw_store: StoreSpec | None = None
    ) -> JobSpec:
        """A job that preprocesses them into a store."""
        return JobSpec(
            dataset=DATASET,
            index_key=self.info.key,
            raw_store=raw_store or self.raw_store,
            store=store,
            resolutions=tuple(resolutions),
            recipe=Recipe(),
            result_key="result.json",
        )


def make_material(count: int, folder: Path) -> Material:
    """So many images, out of the sample, in a folder store."""
    folder.mkdir(parents=True, exist_ok=True)
    archives = replicate(*sample_archives(folder / "sample"), count, folder)
    return upload_material(*archives, StoreSpec(url=str(folder / "store")))


def photographs_alone(material: Material) -> Material:
    """The same images of the same store, as a dataset that has classes, splits and head boxes, but no trimaps."""
    return upload_material(material.images, without_trimaps(material.annotations), material.raw_store)


def upload_material(
    images: Path, annotations: Path, raw_store: StoreSpec, *, credentials: Credentials | None = None
) -> Material:
    """Bring two archives into a store."""
    fetched_images, fetched_annotations = (fetch(Source(str(path)), images.parent) for path in (images, annotations))
    store = open_store(raw_store, credentials=credentials)
    uploaded = upload(fetched_images, fetched_annotations, store, dataset=DATASET)
    return Material(raw_store, uploaded.index, images, annotations)


def decodable(files: Path) -> list[Path]:
    """The files that Pillow can decode to the end."""
    verdicts: dict[bytes, bool] = {}
    kept = []
    for path in sorted(files.iterdir()):
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest not in verdicts:
            verdicts[digest] = _can_be_decoded(data)
        if verdicts[digest]:
            kept.append(path)
    return kept


def _can_be_decoded(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")
    except OSError:
        return False
    return True


def split_cpus(count: int) -> tuple[list[int], list[int]]:
    """The CPUs for what is measured, and those for servers: the others, or the same where there are no others."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[:count], allowed[count:] or allowed
