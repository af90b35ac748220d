"""The same archives into a folder, into S3, and by way of a Ray cluster: every image accounted for, the same bytes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from imageshards.sample import SampleArchives
from imageshards.store import Store, open_store
from tests.conftest import RayHead, S3Server
from tests.e2e.conftest import CliRun, Pets, archives

REAL_RESOLUTIONS = ("224", "384")


def shard_digests(store: Store) -> dict[str, str]:
    """Digest of each Parquet file under `shards/`."""
    keys = [info.key for info in store.list("shards/") if info.key.endswith(".parquet")]
    return {key: hashlib.sha256(store.get(key)).hexdigest() for key in keys}


def published(store: Store) -> list[str]:
    """Keys of manifests and pointers."""
    return [info.key for info in store.list("shards/") if info.key.endswith(".json")]


def accounted(result: dict[str, object]) -> int:
    """Rows, rejects and left out of one resolution of a summary."""
    return result["rows"] + sum(result["rejects"].values()) + sum(result["left_out"].values())


@pytest.fixture(scope="module")
def real_run(pets: Pets, shared_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CliRun, Path]:
    """The real photographs, into a folder."""
    store = tmp_path_factory.mktemp("real")
    return pets(*real_archives(shared_sample), "--store", str(store)), store


def real_archives(sample: Path) -> list[str]:
    """The options that name the real photographs."""
    named = ["--images", str(sample / "images.tar.gz"), "--annotations", str(sample / "annotations.tar.gz")]
    return [*named, "--resolutions", *REAL_RESOLUTIONS]


@pytest.mark.sample
def test_real_photographs_give_the_same_shards_in_a_folder_on_ceph_and_on_a_ray_cluster(
    pets: Pets,
    real_run: tuple[CliRun, Path],
    shared_sample: Path,
    ceph: S3Server,
    ray_head: RayHead,
    tmp_path: Path,
) -> None:
    expected = json.loads((shared_sample / "expected.json").read_text())
    options = real_archives(shared_sample)
    finished, raw = ceph.new_bucket(), ceph.new_bucket()

    folder, folder_path = real_run
    s3 = pets(*options, "--store", f"s3://{finished}/data", "--raw-store", f"s3://{raw}/archive", env=ceph.environment)
    cluster = pets(*options, "--store", str(tmp_path / "cluster"), "--ray", ray_head.address)

    stores = [open_store(str(folder_path)), ceph.store(finished, "data"), open_store(str(tmp_path / "cluster"))]
    digests = [shard_digests(store) for store in stores]
    assert len(digests[0]) == 2 * 3  # two splits and the rejects of each resolution
    assert digests[0] == digests[1] == digests[2]
    for run in (folder, s3, cluster):
        for result in run.summary["results"]:
            assert result["status"] == "built"
            assert accounted(result) == expected["jpg_members"] == 225
            assert result["splits"] == {"test": 111, "trainval": 110}
            assert result["rejects"] == {"truncated": 1}
            assert result["left_out"] == {"no-split": 3}
    assert [key for key in published(stores[1]) if key.endswith("latest.json")]
    assert not [info.key for info in stores[1].list() if not info.key.startswith(("shards/", "locks/"))]
    assert not list(ceph.store(raw, "archive").list("shards/"))


@pytest.mark.sample
def test_odd_photographs_end_as_their_description_says(real_run: tuple[CliRun, Path], shared_sample: Path) -> None:
    """Those in no split are left out of the shards; the tests of decoding look at them."""
    expected = json.loads((shared_sample / "expected.json").read_text())
    version = Path(real_run[0].summary["results"][0]["manifest"].removeprefix("file://")).parent
    columns = ["image_id", "source_format", "source_mode", "exif_orientation", "repairs"]
    tables = [pq.read_table(shard, columns=columns) for shard in version.glob("*-0*.parquet")]
    rows = {row["image_id"]: row for table in tables for row in table.to_pylist()}
    rejects = {row["image_id"]: row["reason"] for row in pq.read_table(version / "rejects.parquet").to_pylist()}

    assert rejects == {"beagle_10": "truncated"}
    assert not set(expected["unlisted"]) & rows.keys()
    found = {name: set(row["repairs"]) for name, row in rows.items() if row["repairs"]}
    assert found == {
        "Abyssinian_101": {"misnamed", "alpha-composited"},
        "Egyptian_Mau_10": {"misnamed"},
        "chihuahua_107": {"jpeg-warning"},
        "pug_112": {"exif-orientation"},
        "shiba_inu_136": {"cmyk-to-rgb"},
    }
    assert {*found, *rejects, *expected["unlisted"]} == expected["odd_files"].keys()
    assert rows["pug_112"]["exif_orientation"] == 6
    assert {rows[name]["source_format"] for name in ("Abyssinian_101", "Egyptian_Mau_10")} == {"png"}


def test_drawn_archives_give_the_same_shards_on_s3_by_way_of_a_ray_cluster(
    pets: Pets, finished: tuple[CliRun, Path], drawn: SampleArchives, moto: S3Server, ray_head: RayHead
) -> None:
    bucket = moto.new_bucket()
    run = pets(*archives(drawn), "--store", f"s3://{bucket}", "--ray", ray_head.address, env=moto.environment)
    for each in (finished[0], run):
        assert accounted(each.summary["results"][0]) == drawn.expected["jpg_members"]
    stores = [open_store(str(finished[1])), moto.store(bucket)]
    first, second = (shard_digests(store) for store in stores)
    assert first
    assert first == second
    for store in stores:
        assert {info.key.split("/")[0] for info in store.list()} == {"raw", "shards", "locks"}


def test_a_second_run_is_unchanged_and_writes_nothing(
    pets: Pets, finished: tuple[CliRun, Path], drawn: SampleArchives
) -> None:
    first, store = finished
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    second = pets(*archives(drawn), "--store", str(store))

    assert second.summary["results"][0]["status"] == "unchanged"
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    told = [dict(run.summary["results"][0], status=None, changes=None, seconds=None) for run in (first, second)]
    assert told[0] == told[1]


def test_a_shard_opens_with_pyarrow_alone_and_without_a_copy(finished: tuple[CliRun, Path]) -> None:
    version = Path(finished[0].summary["results"][0]["manifest"].removeprefix("file://")).parent
    program = """
import sys, numpy as np, pyarrow.parquet as pq
table = pq.read_table(sys.argv[1], columns=["image", "label"])
column = table["image"].combine_chunks()
column = column.chunk(0) if hasattr(column, "num_chunks") else column
images = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, 224, 224, 3)
assert images.base is not None
assert not [name for name in sys.modules if name.startswith("imageshards")]
print(images.shape[0], table.num_rows, images.std() > 10)
"""
    shard = str(version / "trainval-00000.parquet")
    found = subprocess.run([sys.executable, "-c", program, shard], cwd="/", capture_output=True, text=True, check=True)
    count, rows, varied = found.stdout.split()
    assert count == rows
    assert varied == "True"
