"""publish: tells what changed, and commits nothing once the right to write is lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect import flow

from imageshards.errors import StoreError
from imageshards.job import JobResult, VersionResult, count_population
from imageshards.manifest import read_manifest
from imageshards.oxford_pets import DATASET
from imageshards.plan import fingerprint, plan_shards, plan_units, version_prefix
from imageshards.pointer import read_latest
from imageshards.recipe import Recipe
from imageshards.sample import SampleSpec
from imageshards.shard_inputs import Build, Version
from imageshards.shards import build_unit
from imageshards.sources import sources_of
from imageshards.store import Store
from imageshards.validate import Findings, Subject, validate_version
from tasks.publish import Published, find_published, publish
from tests.flows.runs import last_run
from tests.imageshards.built_version import put_rejects, uploaded_sample

RESOLUTION = 32


@dataclass(frozen=True)
class Uploaded:
    """A store with two versions in it that are built and validated, but not published."""

    store: Store
    archives: dict[str, object]
    versions: list[tuple[Subject, Findings]]

    def publish(self, number: int, **options: object) -> Published:
        subject, findings = self.versions[number]
        return publish(  # type: ignore[no-any-return]
            subject,
            findings,
            JobResult((subject.version,), 1.0, {}),
            self.archives,
            resolution=RESOLUTION,
            store=self.store.url,
            raw_store=self.store.url,
            **options,
        )


@pytest.fixture
def uploaded(tmp_path: Path) -> Uploaded:
    info, archives, store = uploaded_sample(tmp_path, SampleSpec(per_class=2, median_long_side_px=60, faults=False))
    population = count_population(store, info.key, keep_unlisted=False)
    versions = []
    for recipe in (Recipe(), Recipe(fit="letterbox")):
        name = fingerprint(info.digest, recipe, RESOLUTION, keep_unlisted=False)
        version = Version(RESOLUTION, name, plan_shards(population.splits, recipe, RESOLUTION))
        build = Build(DATASET, info.key, info.class_names, recipe, (version,), False)
        units = plan_units(population.splits, recipe, [RESOLUTION])
        shards = [shard for unit in units for shard in build_unit(build, unit, raw_store=store, store=store)]
        result = VersionResult(RESOLUTION, name, tuple(sorted(shards, key=lambda shard: shard.name)))
        put_rejects(store, version_prefix(DATASET, RESOLUTION, name), [])
        subject = Subject(DATASET, info, recipe, result)
        versions.append((subject, validate_version(subject, raw_store=store, store=store)))
    return Uploaded(store, dict(sources_of(archives)), versions)


def test_each_version_is_compared_with_the_one_that_was_current(prefect_api: str, uploaded: Uploaded) -> None:
    @flow
    def run() -> tuple[Published, Published]:
        return uploaded.publish(0), uploaded.publish(1)

    first, second = run()
    assert first.changes is not None
    assert first.changes.gist().startswith("first version: 74 images")
    assert second.changes is not None
    assert second.changes.old == first.manifest.fingerprint
    assert "recipe changed (" in second.changes.gist()
    assert read_latest(uploaded.store, DATASET, RESOLUTION) == second.manifest.fingerprint
    lines = last_run().messages()
    assert [line.partition(" seconds")[0] for line in lines if line.startswith("stage=")] == [
        "stage=publish outcome=done"
    ] * 2
    assert f"{RESOLUTION} px: {second.changes.gist()}" in lines


def test_a_run_that_lost_the_right_to_write_commits_nothing(prefect_api: str, uploaded: Uploaded) -> None:
    def lost() -> None:
        raise StoreError("run clever-bear writes now")

    @flow
    def run() -> None:
        uploaded.publish(0, check_writer=lost)

    with pytest.raises(StoreError, match="clever-bear"):
        run()
    subject, _ = uploaded.versions[0]
    assert read_manifest(uploaded.store, DATASET, RESOLUTION, subject.version.fingerprint) is None
    assert read_latest(uploaded.store, DATASET, RESOLUTION) is None


def test_a_version_published_before_becomes_current_again_and_that_is_told(
    prefect_api: str, uploaded: Uploaded
) -> None:
    @flow
    def run() -> tuple[Published, Published, dict[int, Published], dict[int, Published]]:
        first, second = uploaded.publish(0), uploaded.publish(1)
        wanted = {RESOLUTION: first.manifest.fingerprint, 2 * RESOLUTION: "0" * 32}
        url = uploaded.store.url
        return first, second, *(find_published(DATASET, wanted, url, raw_store=url) for _ in range(2))

    first, second, once, twice = run()
    assert set(once) == set(twice) == {RESOLUTION}
    assert once[RESOLUTION].manifest == twice[RESOLUTION].manifest == first.manifest
    assert once[RESOLUTION].changes is not None
    assert once[RESOLUTION].changes.old == second.manifest.fingerprint
    assert twice[RESOLUTION].changes is None
    assert read_latest(uploaded.store, DATASET, RESOLUTION) == first.manifest.fingerprint
    lines = last_run().messages()
    assert len([line for line in lines if "is current again" in line]) == 1
    assert len([line for line in lines if "stage=find-published" in line and "wanted=2 found=1" in line]) == 2


def test_a_run_that_lost_the_right_to_write_points_no_reader_back(prefect_api: str, uploaded: Uploaded) -> None:
    def lost() -> None:
        raise StoreError("run clever-bear writes now")

    @flow
    def run() -> tuple[Published, dict[int, Published]]:
        first, second = (uploaded.publish(number) for number in range(2))
        url, options = uploaded.store.url, {"raw_store": uploaded.store.url, "check_writer": lost}
        current = find_published(DATASET, {RESOLUTION: second.manifest.fingerprint}, url, **options)
        with pytest.raises(StoreError, match="clever-bear"):
            find_published(DATASET, {RESOLUTION: first.manifest.fingerprint}, url, **options)
        return second, current

    second, current = run()
    assert current[RESOLUTION].manifest == second.manifest
    assert read_latest(uploaded.store, DATASET, RESOLUTION) == second.manifest.fingerprint
