"""Small datasets for tests: archives of a few made-up files, and versions built from a drawn sample without Ray."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.fetch import Fetched
from imageshards.index import IndexInfo
from imageshards.job import VersionResult, count_population
from imageshards.oxford_pets import DATASET
from imageshards.plan import Unit, fingerprint, plan_shards, plan_units, version_prefix
from imageshards.recipe import Recipe
from imageshards.sample import SampleSpec, write_sample
from imageshards.schema import REJECTS_SCHEMA
from imageshards.shard_file import REJECTS_NAME, Reject, ShardResult, concatenate_rejects
from imageshards.shard_inputs import Build, Version
from imageshards.shards import build_unit, measure_unit
from imageshards.statistics import PixelSums
from imageshards.store import Store, open_store
from imageshards.upload import upload
from imageshards.validate import Subject

LISTED = {
    "Abyssinian_1": ("trainval", 1, 1),
    "Abyssinian_2": ("test", 1, 1),
    "beagle_1": ("trainval", 2, 2),
    "beagle_2": ("test", 2, 2),
}
"""Image id → split, CLASS-ID, SPECIES."""

VOC = (
    "<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size><object><bndbox>"
    "<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object></annotation>"
)

PLAIN = Recipe()

Members = Sequence[tuple[str, bytes]]


def voc(box: tuple[float, float, float, float] = (10, 20, 30, 40), size: tuple[int, int] = (50, 60)) -> bytes:
    """A Pascal VOC file."""
    return VOC.format(box=box, size=size).encode()


def lists(listed: Mapping[str, tuple[str | None, int, int]] = LISTED) -> dict[str, bytes]:
    """list.txt and the two split lists."""
    lines = {image_id: f"{image_id} {class_id} {species} 1\n" for image_id, (_, class_id, species) in listed.items()}
    texts = {"list.txt": "# comment\n" + "".join(lines.values())}
    for split in ("trainval", "test"):
        texts[f"{split}.txt"] = "".join(lines[image_id] for image_id, (of, *_) in listed.items() if of == split)
    return {name: text.encode() for name, text in texts.items()}


def annotation_members(**others: bytes) -> Members:
    """Members of an annotations archive of the listed images, a trimap for each, a box for those to train on."""
    files = {f"annotations/{name}": data for name, data in lists().items()}
    files |= {f"annotations/trimaps/{image_id}.png": b"trimap of " + image_id.encode() for image_id in LISTED}
    files |= {f"annotations/xmls/{name}.xml": voc() for name, (split, *_) in LISTED.items() if split == "trainval"}
    return list((files | {f"annotations/{name}": data for name, data in others.items()}).items())


def image_members(**others: bytes) -> Members:
    """Members of an images archive: every listed image, whose content is its name."""
    files = {f"images/{image_id}.jpg": image_id.encode() for image_id in LISTED}
    return list((files | {f"images/{name}": data for name, data in others.items()}).items())


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> Fetched:
    """Write a zip where the name says so, else a tar.gz; members as they come, the same name twice too."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data)
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return fetched(path)


def fetched(path: Path) -> Fetched:
    """What `fetch` says of a local file."""
    data = path.read_bytes()
    return Fetched(path, hashlib.sha256(data).hexdigest(), len(data), f"https://example.org/{path.name}", "local")


@dataclass(frozen=True)
class Drawn:
    """The drawn sample, uploaded: what shards are built from. Tests only read it."""

    info: IndexInfo
    store: Store
    archives: Mapping[str, Fetched]
    expected: Mapping[str, Any]


def upload_drawn(folder: Path, spec: SampleSpec) -> Drawn:
    """Draw a sample and upload it into a store below the folder."""
    sample = write_sample(folder / "sample", spec)
    archives = {"images": fetched(sample.images), "annotations": fetched(sample.annotations)}
    store = open_store(str(folder / "raw"))
    info = upload(archives["images"], archives["annotations"], store, dataset=DATASET).index
    return Drawn(info, store, archives, sample.expected)


def copy_of_raw(drawn: Drawn, folder: Path) -> Store:
    """The raw store again, in a new folder, to be tampered with."""
    source = drawn.store.local_path("raw")
    assert source is not None
    shutil.copytree(source, folder / "raw")
    return open_store(str(folder))


@dataclass(frozen=True)
class Built:
    """Versions built from the drawn sample: their shards and rejects lie in a store."""

    build: Build
    units: tuple[Unit, ...]
    drawn: Drawn
    store: Store
    versions: Mapping[int, VersionResult]

    @property
    def version(self) -> VersionResult:
        """The only version."""
        (version,) = self.versions.values()
        return version

    @property
    def shards(self) -> tuple[ShardResult, ...]:
        """The shards of the only version."""
        return self.version.shards

    def key(self, name: str, resolution: int | None = None) -> str:
        """Key of a file of a version."""
        version = self.version if resolution is None else self.versions[resolution]
        return version_prefix(DATASET, version.resolution, version.fingerprint) + name

    def path(self, name: str, resolution: int | None = None) -> Path:
        """Path of a file of a version."""
        path = self.store.local_path(self.key(name, resolution))
        assert path is not None
        return path

    def files(self, resolution: int | None = None) -> dict[str, bytes]:
        """The shards of a version."""
        version = self.version if resolution is None else self.versions[resolution]
        return {shard.name: self.store.get(self.key(shard.name, resolution)) for shard in version.shards}

    def rows(self, resolution: int | None = None) -> pa.Table:
        """All rows of a version, in the order of shards and rows."""
        version = self.version if resolution is None else self.versions[resolution]
        return pa.concat_tables([pq.read_table(self.path(shard.name, resolution)) for shard in version.shards])

    def subject(self, **changes: Any) -> Subject:
        """What `validate_version` takes."""
        subject = Subject(DATASET, self.drawn.info, self.build.recipe, self.version, self.build.keep_unlisted)
        return replace(subject, **changes)

    def copied_to(self, folder: Path) -> Built:
        """The same in another store, to be tampered with."""
        assert self.store.local_path("x") is not None
        shutil.copytree(self.store.local_path("x").parent, folder)
        return replace(self, store=open_store(str(folder)))


def plan_drawn(
    drawn: Drawn, *, recipe: Recipe = PLAIN, resolutions: Sequence[int] = (32,), keep_unlisted: bool = False
) -> tuple[Build, tuple[Unit, ...]]:
    """What the driver plans for these versions."""
    population = count_population(drawn.store, drawn.info.key, keep_unlisted=keep_unlisted)
    versions = tuple(
        Version(
            resolution,
            fingerprint(drawn.info.digest, recipe, resolution, keep_unlisted=keep_unlisted),
            plan_shards(population.splits, recipe, resolution),
        )
        for resolution in resolutions
    )
    build = Build(DATASET, drawn.info.key, drawn.info.class_names, recipe, versions, keep_unlisted)
    return build, tuple(plan_units(population.splits, recipe, resolutions))


def build_drawn(drawn: Drawn, store: Store, *, poison: Mapping[str, str] | None = None, **plan: Any) -> Built:
    """Build versions as the driver does, unit after unit, without Ray."""
    build, units = plan_drawn(drawn, **plan)
    build = replace(build, poison=poison or {})
    if build.recipe.normalize == "dataset":
        build = measured(build, units, drawn)
    shards = [shard for unit in units for shard in build_unit(build, unit, raw_store=drawn.store, store=store)]
    results = {}
    for version in build.versions:
        ours = tuple(
            sorted((s for s in shards if s.resolution == version.resolution), key=lambda shard: str(shard.name))
        )
        put_rejects(store, version_prefix(DATASET, version.resolution, version.fingerprint), concatenate_rejects(ours))
        statistics = version.statistics
        measured_values = {"mean": list(statistics.mean), "std": list(statistics.std)} if statistics else None
        results[version.resolution] = VersionResult(version.resolution, version.fingerprint, ours, measured_values)
    return Built(build, units, drawn, store, results)


def measured(build: Build, units: Sequence[Unit], drawn: Drawn) -> Build:
    """The build with the statistics of its training images."""
    sums = {version.resolution: PixelSums.zero(build.recipe.channels) for version in build.versions}
    for unit in units:
        if unit.split == "trainval":
            for resolution, part in measure_unit(build, unit, raw_store=drawn.store).items():
                sums[resolution] = sums[resolution] + part
    versions = tuple(replace(version, statistics=sums[version.resolution].statistics()) for version in build.versions)
    return replace(build, versions=versions)


def put_rejects(store: Store, prefix: str, rejects: Sequence[Reject]) -> None:
    """Write a rejects.parquet."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=REJECTS_SCHEMA), buffer)
    store.put(prefix + REJECTS_NAME, buffer.getvalue())


def tree(store: Store) -> dict[str, bytes]:
    """Every object of a store."""
    return {info.key: store.get(info.key) for info in store.list()}
