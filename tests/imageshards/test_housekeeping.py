"""Cleaning on real stores: what goes is gone as a whole, what stays can be read, a broken pass is finished."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imageshards.errors import StoreError, TransientError
from imageshards.housekeeping import Cleaning, clean_dataset
from imageshards.manifest import Manifest, read_manifest
from imageshards.oxford_pets import DATASET
from imageshards.pointer import latest_key, point_latest, read_latest
from imageshards.retention import Kind, RetentionPolicy
from imageshards.store import Store
from imageshards.writer_lock import Holder, Lease, writer_lock
from tests.conftest import S3Server
from tests.imageshards.built_version import RESOLUTION, BuiltVersion
from tests.imageshards.published_versions import (
    DELETE_RAW,
    KEEP_ONE,
    NIGHTS,
    START,
    Dying,
    age_folder,
    clean,
    contents,
    copy_files,
    fingerprint_of,
    later,
    manifest_at,
    prefix_of,
    publish_copies,
    rows_of,
)


def versions_in(store: Store) -> set[int]:
    """Numbers of the versions of which anything is left."""
    keys = [info.key.split("/") for info in store.list(f"shards/{DATASET}/{RESOLUTION}")]
    return {int(parts[3], 16) for parts in keys if len(parts) > 4}


def shown(cleaning: Cleaning) -> set[tuple[str, str]]:
    return {(removal.kind.value, removal.name) for removal in cleaning.removals}


def test_versions_that_are_deleted_are_gone_as_a_whole_and_the_others_can_be_read(
    store: Store, built: BuiltVersion
) -> None:
    publish_copies(built, store, NIGHTS, images=3)
    expected = rows_of(store)
    old = {key: len(data) for key, data in contents(store).items() if key.startswith((prefix_of(0), prefix_of(1)))}
    raw = {key: data for key, data in contents(store).items() if key.startswith("raw/")}
    cleaning = clean(store)
    assert cleaning.problems == []
    assert shown(cleaning) == {("version", prefix_of(0)), ("version", prefix_of(1))}
    assert (cleaning.objects, cleaning.size_bytes) == (len(old), sum(old.values()))
    assert versions_in(store) == {2}
    assert rows_of(store).equals(expected)
    assert {key: data for key, data in contents(store).items() if key.startswith("raw/")} == raw
    if store.is_folder:
        assert not Path(str(store.local_path(prefix_of(0)[:-1]))).exists()


def test_a_second_pass_finds_nothing(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    clean(store, DELETE_RAW)
    before = contents(store)
    again = clean(store, DELETE_RAW)
    assert (again.removals, again.problems) == ([], [])
    assert contents(store) == before


def test_a_dry_run_tells_what_would_go_and_changes_nothing(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    store.put(f"{prefix_of(9)}trainval-00000.parquet", b"x")
    store.put("runs/one/spec.json", b"{}")
    store.put(f"raw/{DATASET}/images/unknown.jpg", b"x")
    before = contents(store)
    dry = clean(store, DELETE_RAW, dry_run=True)
    assert contents(store) == before
    done = clean(store, DELETE_RAW)
    assert dry.dry_run
    assert dry.removals == done.removals
    assert {kind for kind, _ in shown(dry)} == {"version", "abandoned version", "files of a run", "raw objects"}


def test_nothing_goes_within_the_grace_period(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    store.put(f"{prefix_of(9)}trainval-00000.parquet", b"x")
    store.put("runs/one/spec.json", b"{}")
    before = contents(store)
    cleaning = clean(store, RetentionPolicy(keep_versions=1, delete_raw=True), now=START + timedelta(days=16.9))
    assert cleaning.removals == []
    assert contents(store) == before
    assert shown(clean(store, now=START + timedelta(days=17.1))) == {("version", prefix_of(0))}


@pytest.mark.parametrize("deletions", range(7))
def test_a_pass_that_was_killed_anywhere_is_finished_by_a_later_one(
    folder_store: Store, built: BuiltVersion, deletions: int
) -> None:
    publish_copies(built, folder_store, NIGHTS)
    expected = rows_of(folder_store)
    dying: Any = Dying(folder_store, deletions)
    with pytest.raises(KeyboardInterrupt):
        clean_dataset(dying, dying, DATASET, KEEP_ONE, dry_run=False, now=later())
    for number in range(3):  # whoever finds a manifest finds all its shards
        if read_manifest(folder_store, DATASET, RESOLUTION, fingerprint_of(number)):
            assert rows_of(folder_store, number).num_rows == expected.num_rows
    left = versions_in(folder_store)
    assert left >= {1, 2} or left == {2}
    clean(folder_store)
    assert versions_in(folder_store) == {2}
    assert rows_of(folder_store).equals(expected)


def test_the_manifest_goes_first(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS)
    dying: Any = Dying(folder_store, 1)
    with pytest.raises(KeyboardInterrupt):
        clean_dataset(dying, dying, DATASET, KEEP_ONE, dry_run=False, now=later())
    assert not folder_store.exists(f"{prefix_of(0)}manifest.json")
    assert len(list(folder_store.list(prefix_of(0)))) > 1


def test_a_version_that_becomes_the_current_one_meanwhile_is_kept(folder_store: Store, built: BuiltVersion) -> None:
    first, *_ = publish_copies(built, folder_store, NIGHTS)

    class Repointed(Dying):
        def unfinished(self, prefix: str) -> Any:  # the last thing that is looked at
            point_latest(folder_store, first)
            return self._store.unfinished(prefix)

    racing: Any = Repointed(folder_store, 100)
    cleaning = clean_dataset(racing, racing, DATASET, DELETE_RAW, dry_run=False, now=later())
    assert shown(cleaning) == {("version", prefix_of(1))}
    assert "has become the current version meanwhile" in cleaning.problems[0]
    assert "no raw object is deleted" in cleaning.problems[1]
    assert rows_of(folder_store).num_rows > 0
    assert read_latest(folder_store, DATASET, RESOLUTION) == fingerprint_of(0)


def test_a_version_that_is_published_meanwhile_is_kept(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    copy_files(folder_store, prefix_of(0), prefix_of(9))
    late = manifest_at(built, folder_store, 9, 1.0)

    class Publishing(Dying):
        def unfinished(self, prefix: str) -> Any:  # the last thing that is looked at
            self._store.put(late.key, late.to_json())
            return self._store.unfinished(prefix)

    racing: Any = Publishing(folder_store, 100)
    cleaning = clean_dataset(racing, racing, DATASET, KEEP_ONE, dry_run=False, now=later())
    assert cleaning.removals == []
    assert "published meanwhile" in cleaning.problems[0]
    assert rows_of(folder_store, 9).num_rows > 0


def test_a_version_that_was_current_again_has_its_grace_from_then_on(store: Store, built: BuiltVersion) -> None:
    first, _, last = publish_copies(built, store, NIGHTS)
    point_latest(store, first)
    point_latest(store, last)  # today
    assert shown(clean(store, now=later(6))) == {("version", prefix_of(1))}
    assert shown(clean(store, now=later(8))) == {("version", prefix_of(0))}


def test_an_abandoned_folder_goes_a_day_after_something_was_put_there(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, [0.0])
    copy_files(store, prefix_of(0), prefix_of(9))
    assert shown(clean(store, now=later(0.9))) == set()
    assert shown(clean(store, now=later(1.1))) == {("abandoned version", prefix_of(9))}
    assert versions_in(store) == {0}
    assert rows_of(store).num_rows > 0


def test_a_copied_shard_does_not_make_a_folder_look_old(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    age_folder(folder_store, 50)
    copy_files(folder_store, prefix_of(0), prefix_of(9))  # hard links: as old as what they link to
    assert {info.modified_at < later(-40) for info in folder_store.list(prefix_of(9)) if info.modified_at} == {True}
    assert shown(clean(folder_store, now=later(0.5))) == set()
    assert shown(clean(folder_store, now=later(1.5))) == {("abandoned version", prefix_of(9))}


def test_what_no_version_of_ours_is_stays(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, [0.0])
    foreign = [
        f"shards/{DATASET}/README.md",
        f"shards/{DATASET}/224/notes/a.txt",
        f"shards/{DATASET}/notes/{'a' * 32}/a.txt",
        f"shards/{DATASET}/224/{'a' * 32}",
        "shards/cars/224/" + "a" * 32 + "/x.parquet",
        "runs/README.md",
        f"locks/{DATASET}/1.json",
        f"raw/{DATASET}/sources/a.json",
        f"raw/{DATASET}/annotations/xmls/unknown.xml",
        "other/x",
    ]
    for key in foreign:
        store.put(key, b"x")
    assert clean(store, DELETE_RAW).removals == []
    assert all(store.exists(key) for key in foreign)


def test_files_of_old_runs_of_the_dataset_go(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, [0.0])
    store.put("runs/ours/spec.json", json.dumps({"dataset": DATASET}).encode())
    store.put("runs/theirs/spec.json", b'{"dataset": "cars"}')
    store.put("runs/nobodys/result.json", b"{}")
    store.put("runs/damaged/spec.json", b"{")
    assert shown(clean(store, now=later(0.9))) == set()
    expected = {("files of a run", f"runs/{name}/") for name in ("ours", "nobodys", "damaged")}
    assert shown(clean(store, now=later(1.1))) == expected
    assert [info.key for info in store.list("runs")] == ["runs/theirs/spec.json"]


def test_uploads_that_were_not_finished_go(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, [0.0])
    outputs = [store.open_output(key) for key in (f"{prefix_of(0)}a.parquet", f"raw/{DATASET}/images/a.jpg", "other/a")]
    for output in outputs:
        output.target.write(bytes(9 << 20))
    if "moto" not in store.uri("x") and len({found.started_at.year for found in store.unfinished()} & {2010}) == 0:
        assert shown(clean(store, now=later(0.9))) == set()  # moto's uploads are all of 2010
    cleaning = clean(store, now=later(1.1))
    assert [removal.kind for removal in cleaning.removals] == [Kind.UNFINISHED] * 2
    assert [found.key for found in store.unfinished()] == ["other/a"]
    for output in outputs:
        output.discard()


def test_a_damaged_manifest_is_reported_and_its_version_stays(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    store.put(f"{prefix_of(0)}manifest.json", b"{")
    cleaning = clean(store, DELETE_RAW)
    assert shown(cleaning) == {("version", prefix_of(1))}
    assert versions_in(store) == {0, 2}
    assert "no manifest" in cleaning.problems[0]
    assert "no raw object is deleted" in cleaning.problems[1]


def test_a_manifest_with_an_impossible_date_keeps_its_version(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS, change=lambda each: each.model_copy(update={"created_at": "yesterday"}))
    cleaning = clean(folder_store)
    assert cleaning.removals == []
    assert len(cleaning.problems) == 3


def test_a_damaged_pointer_keeps_all_versions_of_its_resolution(store: Store, built: BuiltVersion) -> None:
    publish_copies(built, store, NIGHTS)
    store.put(f"{prefix_of(9)}trainval-00000.parquet", b"x")
    store.put(latest_key(DATASET, RESOLUTION), b"{")
    for dry_run in (True, False):
        cleaning = clean(store, dry_run=dry_run)
        assert cleaning.removals == []
        assert len(cleaning.problems) == 1
    assert versions_in(store) == {0, 1, 2, 9}
    assert "latest.json" in cleaning.problems[0]


def test_a_version_that_another_relies_on_stays(store: Store, built: BuiltVersion) -> None:
    def rely_on_the_first(manifest: Manifest) -> Manifest:
        if manifest.fingerprint != fingerprint_of(2):
            return manifest
        return manifest.model_copy(update={"shards": manifest_at(built, store, 0, 0).shards})

    publish_copies(built, store, NIGHTS, change=rely_on_the_first)
    assert shown(clean(store)) == {("version", prefix_of(1))}
    assert rows_of(store).num_rows > 0


# --- the right to write


def test_a_pass_that_slept_leaves_what_another_run_has_written_since(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS)
    abandoned = f"{prefix_of(9)}trainval-00000.parquet"
    folder_store.put(abandoned, b"old")
    other = Lease(holder=Holder(run_id="other", name="clever-bear", host="elsewhere"))

    class Slept(Dying):
        def unfinished(self, prefix: str) -> Any:  # the last thing that is looked at
            folder_store.put(f"locks/{DATASET}/000000000002.json", other.to_json())
            folder_store.put(abandoned, b"fresh")
            return self._store.unfinished(prefix)

    slept: Any = Slept(folder_store, 100)
    me = Holder(run_id="me", name="me")
    with writer_lock(folder_store, DATASET, holder=me) as lock, pytest.raises(StoreError, match="clever-bear"):
        clean_dataset(slept, slept, DATASET, KEEP_ONE, dry_run=False, now=later(), check_writer=lock.check)
    assert folder_store.get(abandoned) == b"fresh"
    assert versions_in(folder_store) == {0, 1, 2, 9}


def test_raw_objects_too_are_deleted_only_by_who_may_write(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, [0.0])
    folder_store.put(f"raw/{DATASET}/images/unknown.jpg", b"x")
    before = contents(folder_store)

    def lost() -> None:
        raise StoreError("run clever-bear writes now")

    cleaning = clean(folder_store, DELETE_RAW, check_writer=lost)
    assert (cleaning.removals, cleaning.problems) == ([], ["run clever-bear writes now"])
    assert contents(folder_store) == before
    assert clean(folder_store, DELETE_RAW, dry_run=True, check_writer=lost).objects == 1


# --- failures


class Refusing(Dying):
    """A real store that refuses to delete."""

    def __init__(self, store: Store, error: Exception) -> None:
        super().__init__(store, 0)
        self._error = error

    def delete(self, key: str) -> None:
        raise self._error


def test_a_store_that_refuses_is_told_and_nothing_is_called_deleted(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS)
    before = contents(folder_store)
    refusing: Any = Refusing(folder_store, StoreError("access denied"))
    cleaning = clean_dataset(refusing, refusing, DATASET, KEEP_ONE, dry_run=False, now=later())
    assert cleaning.removals == []
    assert cleaning.problems == ["access denied"] * 2
    assert cleaning.kept[prefix_of(0)] == "it could not be deleted"
    assert contents(folder_store) == before


def test_a_store_that_does_not_answer_ends_the_pass(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS)
    busy: Any = Refusing(folder_store, TransientError("busy"))
    with pytest.raises(TransientError):
        clean_dataset(busy, busy, DATASET, KEEP_ONE, dry_run=False, now=later())


def test_what_others_put_there_under_names_that_no_key_has_stops_nothing_else(
    moto: S3Server, built: BuiltVersion
) -> None:
    store = moto.store(bucket := moto.new_bucket())
    publish_copies(built, store, NIGHTS)
    client, strange = moto.client(), f"{prefix_of(0)}notes#1"
    client.put_object(Bucket=bucket, Key=strange, Body=b"x")
    upload = client.create_multipart_upload(Bucket=bucket, Key=f"raw/{DATASET}/images//a.jpg")
    cleaning = clean(store)
    assert shown(cleaning) == {("version", prefix_of(1))}
    assert len(cleaning.problems) == 1
    assert strange in cleaning.problems[0]
    assert client.list_multipart_uploads(Bucket=bucket)["Uploads"][0]["UploadId"] == upload["UploadId"]


def test_an_empty_store_is_clean(store: Store) -> None:
    cleaning = clean(store)
    assert (cleaning.removals, cleaning.kept, cleaning.problems) == ([], {}, [])


def test_a_pass_is_told_as_json(folder_store: Store, built: BuiltVersion) -> None:
    publish_copies(built, folder_store, NIGHTS)
    told = json.loads(json.dumps(clean(folder_store, dry_run=True).to_dict()))
    assert told["dry_run"] is True
    assert [each["kind"] for each in told["removals"]] == ["version", "version"]
    assert told["objects"] == sum(each["objects"] for each in told["removals"])
    assert set(told["kept"]) == {prefix_of(2)}
