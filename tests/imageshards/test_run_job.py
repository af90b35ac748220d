"""The job: shards that did not change since the version before are copied, and nobody can tell from the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from imageshards import plan, run_job, shards, worker
from imageshards.errors import StoreError
from imageshards.executor import Executor, WorkerLostError
from imageshards.index import IndexRow, index_rows, read_index, sample_hash
from imageshards.job import parse_driver_line
from imageshards.manifest import manifest_key
from imageshards.oxford_pets import DATASET
from imageshards.plan import bucket_of, shard_name
from imageshards.pointer import latest_key
from imageshards.recipe import Augment, Recipe
from imageshards.sample import SampleSpec
from imageshards.store import Store, open_store
from tests.conftest import BACKENDS
from tests.imageshards.in_process import KILLED, InProcess
from tests.imageshards.nights import Night, next_source, night
from tests.imageshards.small_dataset import Drawn, copy_of_raw, upload_drawn

SHARDS = {16: 2, 32: 8}
"""Of each split, by resolution."""

TRAINED, TESTED = "pug_96", "beagle_97"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 10)


@pytest.fixture(scope="module")
def two_of_each(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Two images of each class in each split: a class may lose one."""
    spec = SampleSpec(per_class=4, median_long_side_px=60, faults=False)
    return upload_drawn(tmp_path_factory.mktemp("two-of-each"), spec)


@pytest.fixture
def source(two_of_each: Drawn, tmp_path: Path) -> Drawn:
    """The drawn sample in a raw store of the test's own."""
    return replace(two_of_each, store=copy_of_raw(two_of_each, tmp_path / "raw"))


@pytest.fixture
def out(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def first(source: Drawn, out: Store) -> Night:
    """A version of each resolution, published."""
    found = night(source, out)
    found.publish()
    return found


@pytest.fixture
def second_source(source: Drawn, tmp_path: Path) -> Drawn:
    """One training image changed."""
    return next_source(source, tmp_path / "second", changed=[TRAINED])


def shards_with(image_id: str, split: str, resolutions: Sequence[int] = (16, 32)) -> set[tuple[int, str]]:
    """The shard of each resolution that an image goes to."""
    return {(each, shard_name(split, bucket_of(sample_hash(image_id), SHARDS[each]))) for each in resolutions}


def said(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """What the driver logged since the last call, and its lines of progress."""
    lines = [line for text in capsys.readouterr().out.splitlines() if (line := parse_driver_line(text))]
    return [line["message"] for line in lines if line["kind"] == "log"], [
        line for line in lines if line["kind"] == "progress"
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_shards_of_images_that_changed_came_or_went_are_built(
    source: Drawn,
    tmp_path: Path,
    backend: str,
    s3_env: Callable[[str], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, empty = _store(backend, tmp_path, s3_env), open_store(str(tmp_path / "empty"))
    before = night(source, out)
    before.publish()
    changes: dict[str, Any] = {"changed": [TRAINED], "added": {"pug_500": "pug_97"}, "removed": [TESTED]}
    said(capsys)
    after = night(next_source(source, tmp_path / "second", **changes), out)
    concerned = shards_with(TRAINED, "trainval") | shards_with("pug_500", "test") | shards_with(TESTED, "test")
    assert after.built() == concerned
    assert (after.result.shards, after.result.reused) == (20, 20 - len(concerned))
    log, progress = said(capsys)
    assert log == [
        f"{2 * count - len([name for side, name in concerned if side == resolution])} of {2 * count} shards of "
        f"{resolution} px reused"
        for resolution, count in SHARDS.items()
    ]
    assert progress[-1]["done"] == progress[-1]["total"] == 2 * 148
    assert 0 < progress[-1]["reused"] < progress[-1]["done"]
    unchanged = {(shard.resolution, shard.name) for each in before.result.versions for shard in each.shards} - concerned
    for resolution, name in unchanged:
        assert out.get(after.key(name, resolution)) == out.get(before.key(name, resolution))
    from_nothing = night(after.source, empty)
    assert from_nothing.result.reused == 0
    assert from_nothing.files() == after.files()
    assert from_nothing.result.versions == after.result.versions
    after.publish()


def _store(backend: str, tmp_path: Path, s3_env: Callable[[str], Any]) -> Store:
    """An empty store that tasks reach by its spec alone."""
    if backend == "folder":
        return open_store(str(tmp_path / "out"))
    server, bucket = s3_env(backend)
    store: Store = server.store(bucket, "out")
    return store


def test_images_of_reused_shards_are_not_touched(first: Night, second_source: Drawn) -> None:
    concerned = {
        (row.split, bucket_of(row.sample_hash, SHARDS[16])) for row in rows_of(second_source) if row.image_id == TRAINED
    }
    for row in rows_of(second_source):
        if (row.split, bucket_of(row.sample_hash, SHARDS[16])) not in concerned:
            second_source.store.delete(row.source_key)
    assert night(second_source, first.store).built() == shards_with(TRAINED, "trainval")


def rows_of(source: Drawn) -> list[IndexRow]:
    return index_rows(read_index(source.store, source.info.key))


def test_an_image_is_made_only_for_the_resolutions_that_need_it(
    first: Night, second_source: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Sequence[int]] = {}
    read_samples = shards.read_samples

    def noting(rows: Sequence[IndexRow], *arguments: Any, **options: Any) -> Any:
        made.update({row.image_id: options["resolutions"] for row in rows})
        return read_samples(rows, *arguments, **options)

    monkeypatch.setattr(shards, "read_samples", noting)
    night(second_source, first.store)
    of_changed = {
        row.image_id: bucket_of(row.sample_hash, SHARDS[32]) == bucket_of(sample_hash(TRAINED), SHARDS[32])
        for row in rows_of(second_source)
        if row.split == "trainval"
        and bucket_of(row.sample_hash, SHARDS[16]) == bucket_of(sample_hash(TRAINED), SHARDS[16])
    }
    assert made == {image_id: (16, 32) if both else (16,) for image_id, both in of_changed.items()}
    assert set(made.values()) == {(16,), (16, 32)}


def test_what_did_not_change_at_all_is_the_same_version_and_is_not_touched(first: Night) -> None:
    again = night(first.source, first.store)
    assert again.result.versions == first.result.versions
    assert again.result.reused == 0


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "gone": None,
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-9],
    "another bit": lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
    "another shard": lambda data: b"PAR1 nothing of ours",
}


@pytest.mark.parametrize(
    ("backend", "damage"), [*(("folder", damage) for damage in DAMAGE), ("moto", "gone"), ("moto", "another bit")]
)
def test_an_old_shard_that_is_damaged_is_built_and_left_as_it_was(
    source: Drawn,
    second_source: Drawn,
    tmp_path: Path,
    backend: str,
    damage: str,
    s3_env: Callable[[str], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, empty = _store(backend, tmp_path, s3_env), open_store(str(tmp_path / "empty"))
    before = night(source, out)
    before.publish()
    name = "test-00001.parquet"
    key, change = before.key(name, 16), DAMAGE[damage]
    damaged = change(out.get(key)) if change else None
    if damaged is None:
        out.delete(key)
    else:
        out.put(key, damaged)
    said(capsys)
    after = night(second_source, out)
    assert after.built() == shards_with(TRAINED, "trainval") | {(16, name)}
    problems = [message for message in said(capsys)[0] if "built, not copied" in message]
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} of 16 px was built, not copied: ")
    assert out.uri(key) in problems[0]
    assert after.files() == night(second_source, empty).files()
    assert (out.get(key) if damaged is not None else None) == damaged
    after.publish()


def test_when_all_old_shards_are_gone_the_log_names_a_few(
    first: Night, second_source: Drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in first.files():
        first.store.delete(key)
    said(capsys)
    assert night(second_source, first.store).result.reused == 0
    log, _ = said(capsys)
    assert len([message for message in log if "built, not copied" in message]) == 5
    assert log[-1] == "18 shards in all were built because those of the version before could not be used"


UNUSABLE: dict[str, tuple[str | None, Any]] = {
    "pointer": (latest_key(DATASET, 16), b"{"),
    "pointer to no key": (latest_key(DATASET, 16), b'{"fingerprint": "../.."}'),
    "pointer to nowhere": (latest_key(DATASET, 16), b'{"fingerprint": "none"}'),
    "manifest": (None, b"[]"),
    "other format": (None, b'{"format_version": 99}'),
    "no digest": (None, lambda data: data.replace(b'"inputs": "', b'"inputs": "x')),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_damaged_pointer_or_manifest_means_that_nothing_of_its_resolution_is_reused(
    first: Night, second_source: Drawn, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where, damage = UNUSABLE[what]
    key = where or manifest_key(DATASET, 16, first.result.versions[0].fingerprint)
    first.store.put(key, damage(first.store.get(key)) if callable(damage) else damage)
    said(capsys)
    after = night(second_source, first.store)
    assert [version.reused for version in after.result.versions] == [0, 2 * SHARDS[32] - 1]
    log, _ = said(capsys)
    assert len([message for message in log if message.startswith("no shard of 16 px is reused: ")]) == 1
    after.publish()


def test_shards_that_other_software_made_are_not_reused(
    first: Night, second_source: Drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    found = first.result.software["pillow"]
    path = first.store.local_path(manifest_key(DATASET, 16, first.result.versions[0].fingerprint))
    assert path is not None
    path.write_text(path.read_text().replace(f'"pillow": "{found}"', '"pillow": "1.0"'))
    after = night(second_source, first.store)
    assert [version.reused for version in after.result.versions] == [0, 2 * SHARDS[32] - 1]
    assert f"was made by other software: pillow 1.0, now {found}" in "\n".join(said(capsys)[0])


def test_a_package_that_is_not_installed_is_not_missed_as_long_as_it_stays_so(
    source: Drawn, second_source: Drawn, out: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = run_job.package_version

    def without_torch(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(run_job, "package_version", without_torch)
    before = night(source, out)
    assert "torch" not in before.result.software
    before.publish()
    assert night(second_source, out).built() == shards_with(TRAINED, "trainval")


def test_another_recipe_or_resolution_reuses_nothing(first: Night) -> None:
    assert night(first.source, first.store, recipe=Recipe(fit="letterbox")).result.reused == 0
    assert night(first.source, first.store, resolutions=(24,)).result.reused == 0


def test_copies_outlive_the_version_they_came_from(first: Night, second_source: Drawn) -> None:
    after = night(second_source, first.store)
    files = after.files()
    for key in first.files():
        first.store.delete(key)
    assert after.files() == files


MEASURED = Recipe(normalize="dataset", dtype="float16")


def test_a_recipe_that_measures_reuses_what_the_measurement_leaves_as_it_was(
    source: Drawn, out: Store, tmp_path: Path
) -> None:
    what: dict[str, Any] = {"recipe": MEASURED, "resolutions": (16,)}
    before = night(source, out, **what)
    before.publish()
    tested = next_source(source, tmp_path / "tested", changed=[TESTED])
    after = night(tested, out, **what)
    assert len(after.built()) == 1
    assert after.files() == night(tested, open_store(str(tmp_path / "empty")), **what).files()
    after.publish()
    trained = next_source(tested, tmp_path / "trained", changed=[TRAINED])
    assert night(trained, out, **what).result.reused == 0, "other mean and deviation, hence other pixels everywhere"


def test_a_recipe_that_augments_reuses_shards_with_all_their_copies(source: Drawn, out: Store, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    recipe = Recipe(augment=Augment(copies=1, horizontal_flip=0.5, rotation_degrees=10))
    before = night(source, out, recipe=recipe)
    before.publish()
    changed = next_source(source, tmp_path / "second", changed=[TRAINED])
    after = night(changed, out, recipe=recipe)
    assert len(after.built()) == 2
    assert all(name.startswith("trainval") for _, name in after.built())
    assert after.files() == night(changed, open_store(str(tmp_path / "empty")), recipe=recipe).files()
    after.publish()


class Broken(InProcess):
    """Dies of the n-th task that builds."""

    def __init__(self, after: int) -> None:
        super().__init__(slots=1)
        self.left = after

    def fetch(self, handle: int) -> Any:
        if self.tasks[handle][0] is worker.run_build:
            self.left -= 1
            if self.left < 0:
                raise StoreError("the disk is full")
        return super().fetch(handle)


def test_a_run_that_was_interrupted_keeps_its_shards_built_or_copied(
    first: Night, second_source: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreError, match="disk is full"):
        night(second_source, first.store, backend=Broken(2))
    kept = {info.key for info in first.store.list("shards")} - first.files().keys()
    said(capsys)
    again = night(second_source, first.store)
    log, progress = said(capsys)
    assert "2 of 4 units were finished by an earlier run" in log
    assert progress[-1]["done"] == progress[-1]["total"]
    assert again.result.reused < again.result.shards - len(shards_with(TRAINED, "trainval"))
    assert kept & again.files().keys()
    assert again.files() == night(second_source, open_store(str(tmp_path / "empty"))).files()
    again.publish()


class Killing(InProcess):
    """Loses the process of every task that touches one image."""

    def __init__(self, source: Drawn, image_id: str) -> None:
        super().__init__()
        self.row = next(row for row in rows_of(source) if row.image_id == image_id)

    def fetch(self, handle: int) -> Any:
        function, arguments = self.tasks[handle]
        if function is worker.run_build:
            build, unit = arguments[:2]
            low, high = unit.hash_range
            here = unit.split == self.row.split and low <= self.row.sample_hash <= high
            deadly = here and self.row.image_id not in build.poison
        else:
            deadly = function is worker.run_probe and self.row in arguments[2]
        if deadly:
            del self.tasks[handle]
            raise WorkerLostError(KILLED)
        return super().fetch(handle)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_job, "Executor", partial(Executor, pauses_seconds=(0.0,)))


def test_an_image_that_killed_its_worker_gets_another_chance_in_the_next_version(
    no_pauses: None, source: Drawn, second_source: Drawn, out: Store
) -> None:
    before = night(source, out, backend=Killing(source, TESTED))
    assert crashed(before) == {TESTED}
    before.publish()
    after = night(second_source, out)
    assert crashed(after) == set()
    assert after.built() == shards_with(TRAINED, "trainval") | shards_with(TESTED, "test")


def test_an_image_that_kills_its_worker_again_is_found_again_and_its_shards_are_reused(
    no_pauses: None, source: Drawn, second_source: Drawn, out: Store
) -> None:
    night(source, out, backend=Killing(source, TESTED)).publish()
    after = night(second_source, out, backend=Killing(second_source, TESTED))
    assert crashed(after) == {TESTED}
    assert after.built() == shards_with(TRAINED, "trainval")
    after.publish()


def crashed(found: Night) -> set[str]:
    shards_found = [shard for version in found.result.versions for shard in version.shards]
    return {reject.image_id for shard in shards_found for reject in shard.rejects if reject.reason == "worker-crash"}
