"""What every store keeps, whichever backend is behind it."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imageshards.errors import ConfigError, ObjectExistsError, ObjectMissingError, StoreError
from imageshards.store import ObjectInfo, Store, StoreSpec, Unfinished, open_store

BIG_BYTES = 20 * 1024**2 + 7
"""Three parts of an upload, the last one odd."""

BAD_KEYS = ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb", "\x7f", "\x85", "a#1"]
BAD_KEYS += ["a/b#12", "\ud800", "\uffff", "/", "C:", "a/C|", "c:/a"]

segments = (
    st.text(
        st.one_of(
            st.sampled_from(" %#?+&=~'\"()[]{}<>|^`*:;,@!$-_.0123456789aA"),
            st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="/\\\ufffe\uffff"),
        ),
        min_size=1,
        max_size=20,
    )
    .filter(lambda name: name not in (".", ".."))
    .filter(lambda name: not re.fullmatch("[A-Za-z][:|]", name))
    .filter(lambda name: not (name.partition("#")[2].isascii() and name.partition("#")[2].isdigit()))
)
keys = st.lists(segments, min_size=1, max_size=3).map("/".join)


def keys_of(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def reopened(spec: StoreSpec, request: pytest.FixtureRequest) -> Store:
    """A store as another process would open it."""
    if spec.endpoint_url is None:
        return open_store(spec)
    return open_store(spec, credentials=request.getfixturevalue(request.node.callspec.params["new_store"]).credentials)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 400], ids=["empty", "one", "100kB"])
def test_what_was_put_is_read_back(store: Store, data: bytes) -> None:
    store.put("raw/a.jpg", data)
    assert store.get("raw/a.jpg") == data
    assert store.head("raw/a.jpg").size_bytes == len(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("create", [False, True])
def test_every_kind_of_buffer_is_written(store: Store, kind: Callable[[bytes], bytes], create: bool) -> None:
    store.put("a", kind(b"abc"), create=create)
    assert store.get("a") == b"abc"


def test_an_array_is_written_as_its_bytes(store: Store) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    store.put("a", memoryview(array))
    assert store.get("a") == array.tobytes()


def test_a_second_put_replaces_the_first(store: Store) -> None:
    store.put("a", b"long and old")
    store.put("a", b"new")
    assert store.get("a") == b"new"


def test_create_refuses_where_an_object_is_and_leaves_it_alone(store: Store) -> None:
    store.put("a/manifest.json", b"first", create=True)
    with pytest.raises(ObjectExistsError, match=r"a/manifest\.json"):
        store.put("a/manifest.json", b"second", create=True)
    assert store.get("a/manifest.json") == b"first"
    assert keys_of(store) == ["a/manifest.json"]


def test_of_many_creators_exactly_one_wins(store: Store) -> None:
    def create(number: int) -> bytes | None:
        data = b"%d" % number * 1000
        try:
            store.put("manifest.json", data, create=True)
        except ObjectExistsError:
            return None
        return data

    with ThreadPoolExecutor(8) as pool:
        winners = [data for data in pool.map(create, range(8)) if data is not None]
    assert winners == [store.get("manifest.json")]


def test_a_reader_never_sees_half_an_object(store: Store) -> None:
    versions = {bytes([letter]) * 2_000_000 for letter in b"ab"}
    store.put("a", min(versions))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for version in versions:
                store.put("a", version)

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        try:
            assert all(store.get("a") in versions for _ in range(30))
        finally:
            stop.set()
        for writer in writers:
            writer.result()
    assert keys_of(store) == ["a"]


@pytest.mark.parametrize("size_bytes", [0, 5, BIG_BYTES])
@pytest.mark.parametrize("create", [False, True])
def test_a_file_is_written_whole(store: Store, tmp_path: Path, size_bytes: int, create: bool) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(size_bytes))
    store.put_file("shards/a.parquet", source, create=create)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert store.download("shards/a.parquet", back) == digest
    assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size_bytes", [0, 5, BIG_BYTES])
def test_a_file_is_not_written_over_an_object_with_create(store: Store, tmp_path: Path, size_bytes: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size_bytes))
    store.put("a", b"first")
    with pytest.raises(ObjectExistsError):
        store.put_file("a", source, create=True)
    assert store.get("a") == b"first"
    store.put_file("a", source)
    assert store.head("a").size_bytes == size_bytes


def test_a_big_object_is_written_from_memory(store: Store) -> None:
    data = os.urandom(BIG_BYTES)
    store.put("a", data)
    assert store.get("a") == data


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_not_there_is_named(store: Store, tmp_path: Path, create: bool) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*absent.*No such file") as caught:
        store.put_file("a", tmp_path / "absent", create=create)
    assert not isinstance(caught.value, ObjectMissingError)
    assert not store.exists("a")


@pytest.mark.parametrize("size_bytes", [0, 5, BIG_BYTES])
def test_an_output_appears_when_it_is_committed(store: Store, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    store.put("shards/a.parquet", b"before")
    output = store.open_output("shards/a.parquet")
    for start in range(0, size_bytes, 3_000_000):
        output.target.write(data[start : start + 3_000_000])
    assert store.get("shards/a.parquet") == b"before"
    assert output.commit() == (size_bytes, hashlib.sha256(data).hexdigest())
    output.discard()
    assert store.get("shards/a.parquet") == data
    assert keys_of(store) == ["shards/a.parquet"]


@pytest.mark.parametrize("size_bytes", [0, 5, BIG_BYTES])
def test_an_output_that_is_discarded_leaves_nothing(store: Store, size_bytes: int) -> None:
    store.put("b", b"another")
    output = store.open_output("a")
    output.target.write(bytes(size_bytes))
    output.discard()
    output.discard()
    assert keys_of(store) == ["b"]
    if store.is_folder:
        assert [path.name for path in Path(store.url.removeprefix("file://")).iterdir()] == ["b"]


def test_two_outputs_of_one_object_do_not_meet(store: Store) -> None:
    first, second = store.open_output("a"), store.open_output("a")
    for output, data in ((first, b"first"), (second, b"second")):
        output.target.write(data)
    first.commit()
    assert store.get("a") == b"first"
    second.commit()
    assert store.get("a") == b"second"


def test_a_download_replaces_the_file_at_its_end(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out" / "a"
    target.parent.mkdir()
    target.write_bytes(b"older and longer")
    store.put("a", b"new")
    assert store.download("a", target) == hashlib.sha256(b"new").hexdigest()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_download_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissingError):
        store.download("absent", tmp_path / "a")
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_a_download_into_a_missing_folder_names_the_file(store: Store, tmp_path: Path) -> None:
    store.put("a", b"x")
    with pytest.raises(StoreError, match=r"cannot write .*no-folder/a.*No such file"):
        store.download("a", tmp_path / "no-folder" / "a")


def test_a_range_is_read(store: Store) -> None:
    store.put("a", b"0123456789")
    assert store.get_range("a", 0, 3) == b"012"
    assert store.get_range("a", 4, 2) == b"45"
    assert store.get_range("a", 8, 100) == b"89"


@pytest.mark.parametrize("start", [10, 11, 1000])
def test_a_range_behind_the_end_is_refused(store: Store, start: int) -> None:
    store.put("a", b"0123456789")
    with pytest.raises(StoreError, match="cannot read"):
        store.get_range("a", start, 1)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (0, -1)])
def test_a_range_that_is_none_is_refused(store: Store, start: int, length: int) -> None:
    store.put("a", b"0123456789")
    with pytest.raises(ConfigError):
        store.get_range("a", start, length)


def test_head_tells_key_and_size_and_a_tag_that_changes(store: Store) -> None:
    store.put("a/b", b"123")
    first = store.head("a/b")
    store.put("a/b", b"1234")
    second = store.head("a/b")
    assert (first.key, first.size_bytes, second.size_bytes) == ("a/b", 3, 4)
    assert first.etag
    assert first.etag != second.etag


def test_exists_tells_objects_from_nothing_and_from_prefixes(store: Store) -> None:
    store.put("a/b", b"")
    assert store.exists("a/b")
    assert not store.exists("a")
    assert not store.exists("b")
    assert not store.exists("a/b/c")


@pytest.mark.parametrize(
    "read",
    [
        lambda store, _: store.get("a/absent"),
        lambda store, _: store.get_range("a/absent", 0, 1),
        lambda store, _: store.head("a/absent"),
        lambda store, path: store.download("a/absent", path / "x"),
        lambda store, _: store.copy("a/absent", "b"),
        lambda store, _: store.copy("a/absent", "a/absent"),
        lambda store, _: store.content_matches(ObjectInfo("a/absent", 1, None), b"x"),
    ],
    ids=["get", "get_range", "head", "download", "copy", "copy on itself", "content_matches"],
)
def test_a_missing_object_is_named(store: Store, tmp_path: Path, read: Callable[[Store, Path], object]) -> None:
    store.put("a/there", b"x")
    with pytest.raises(ObjectMissingError) as caught:
        read(store, tmp_path)
    assert store.uri("a/absent") in caught.value.message
    assert caught.value.context["uri"] == store.uri("a/absent")
    assert "\n" not in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.message, again.context) == (
        ObjectMissingError,
        caught.value.message,
        caught.value.context,
    )


@pytest.mark.parametrize("key", ["a", "a/b", "a/b/c"])
def test_a_read_below_an_object_finds_nothing(store: Store, key: str) -> None:
    store.put("a/b", b"x")
    if key != "a/b":
        with pytest.raises(ObjectMissingError):
            store.get(key)
        store.delete(f"{key}/d")
    assert keys_of(store, f"{key}/d") == []
    assert store.get("a/b") == b"x"


def test_a_list_is_ordered_and_complete(store: Store) -> None:
    names = ["b", "a/b", "a-b", "a/c/d", "a.b", "B", "ä", "a b", "z/é", "z/日本", "z/🐱", "z/\uffe0"]
    for name in names:
        store.put(name, name.encode())
    found = list(store.list())
    assert [info.key for info in found] == sorted(names)
    assert all(info.size_bytes == len(info.key.encode()) for info in found)
    assert found == [store.head(info.key) for info in found]


def test_a_list_goes_by_whole_segments(store: Store) -> None:
    for key in ["raw/pets/a", "raw/pets/b/c", "raw/pets2/a", "raw/pe", "rawer", "shards/a"]:
        store.put(key, b"")
    assert keys_of(store, "raw/pets") == keys_of(store, "raw/pets/") == ["raw/pets/a", "raw/pets/b/c"]
    assert keys_of(store, "raw/p") == []
    assert keys_of(store, "raw/pe") == []
    assert keys_of(store, "raw/pets/a") == []
    assert len(keys_of(store)) == 6


def test_a_list_of_what_is_not_there_is_empty(new_store: Callable[[], Store]) -> None:
    store = new_store()
    assert keys_of(store) == []
    assert keys_of(store, "absent/") == []
    store.put("a/b", b"")
    assert keys_of(store, "absent/at/all") == []


def test_a_list_goes_beyond_one_page(store: Store) -> None:
    names = [f"many/{number:05d}" for number in range(1203)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), names))
    store.put("other", b"x")
    assert keys_of(store, "many") == names


@pytest.mark.parametrize("prefix", ["/", "/a", "a//", "..", "a/..", "a\\", "a\n"])
def test_a_prefix_that_is_no_path_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(ConfigError):
        store.list(prefix)


def test_stores_side_by_side_do_not_see_each_other(new_store: Callable[[], Store]) -> None:
    first, second = new_store(), new_store()
    first.put("a", b"1")
    assert not second.exists("a")
    assert keys_of(second) == []


def test_a_copy_has_the_same_bytes_and_a_life_of_its_own(store: Store) -> None:
    store.put("v1/a", b"old")
    store.put("v2/a", b"to be replaced")
    store.copy("v1/a", "v2/a")
    store.copy("v1/a", "v2/a")
    assert store.get("v2/a") == b"old"
    store.put("v1/a", b"new")
    assert store.get("v2/a") == b"old"
    store.delete("v2/a")
    assert store.get("v1/a") == b"new"
    assert keys_of(store) == ["v1/a"]


def test_a_copy_on_itself_changes_nothing(store: Store) -> None:
    store.put("a", b"x")
    store.copy("a", "a")
    assert store.get("a") == b"x"
    assert keys_of(store) == ["a"]


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    assert not store.exists("a/b")
    store.delete("a/b")
    store.delete("never/there")
    assert keys_of(store) == []


def test_many_objects_are_deleted_and_others_stay(store: Store) -> None:
    gone = [f"a/{number}/x" for number in range(30)]
    for key in [*gone, "a/30/y", "b"]:
        store.put(key, b"x")
    store.delete_many(iter([*gone, "never/there"]))
    store.delete_many(gone)
    store.delete_many([])
    assert keys_of(store) == ["a/30/y", "b"]
    with pytest.raises(ConfigError):
        store.delete_many(["b", "../b"])


def test_more_objects_are_deleted_than_fit_into_a_batch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imageshards.store.DELETE_BATCH", 3)
    names = [f"a/{number}" for number in range(10)]
    for key in names:
        store.put(key, b"x")
    store.delete_many(names)
    assert keys_of(store) == []


def test_an_object_tells_when_it_was_written(store: Store) -> None:
    store.put("a", b"x")
    [listed] = store.list()
    for info in (listed, store.head("a")):
        assert info.modified_at is not None
        assert abs(datetime.now(UTC) - info.modified_at) < timedelta(hours=1)


def test_what_was_begun_and_not_finished_is_found_and_discarded(store: Store) -> None:
    store.put("shards/pets/done", b"x")
    outputs = {key: store.open_output(key) for key in ("shards/pets/a b", "shards/pets/224/b", "shards/pets2/c")}
    for output in outputs.values():
        output.target.write(bytes(BIG_BYTES))
    found = {each.key: each for each in store.unfinished("shards/pets/")}
    assert set(found) == {"shards/pets/a b", "shards/pets/224/b"}
    assert {each.key for each in store.unfinished()} == set(outputs)
    assert len({each.token for each in found.values()}) == len(found)
    assert keys_of(store) == ["shards/pets/done"]
    for each in found.values():
        if store.is_folder:  # what lies on the disk so far: blocks are on their way
            assert 0 <= (each.size_bytes or 0) <= BIG_BYTES
        else:
            assert each.size_bytes is None
        store.discard(each)
        store.discard(each)
    assert [each.key for each in store.unfinished()] == ["shards/pets2/c"]
    assert list(store.unfinished("absent")) == []
    with pytest.raises((StoreError, ConfigError)):  # it has nothing left to commit
        outputs["shards/pets/224/b"].commit()
    outputs["shards/pets2/c"].commit()
    assert list(store.unfinished()) == []
    assert keys_of(store) == ["shards/pets/done", "shards/pets2/c"]


def test_two_unfinished_outputs_of_one_object_are_told_apart(store: Store) -> None:
    first, second = store.open_output("a"), store.open_output("a")
    for output in (first, second):
        output.target.write(bytes(BIG_BYTES))
    tokens = {each.token for each in store.unfinished()}
    assert len(tokens) == 2
    first.commit()
    [left] = store.unfinished()
    store.discard(left)
    assert list(store.unfinished()) == []
    assert store.head("a").size_bytes == BIG_BYTES
    second.discard()


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_a_key_that_some_backend_cannot_hold_is_refused_everywhere(store: Store, tmp_path: Path, key: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.uri(key),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.put(key, b""),
        lambda: store.put(key, b"", create=True),
        lambda: store.put_file(key, tmp_path / "absent"),
        lambda: store.download(key, tmp_path / "x"),
        lambda: store.head(key),
        lambda: store.exists(key),
        lambda: store.copy(key, "a"),
        lambda: store.copy("a", key),
        lambda: store.delete(key),
        lambda: store.delete_many([key]),
        lambda: store.discard(Unfinished(key, "1", datetime.now(UTC), None)),
        lambda: store.local_path(key),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match="not a possible key"):
            attempt()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys)
@example("a b+c%20%2F%/d#e?f=g&h")
@example("..a/...")
@example(" leading/trailing ")
@example("~/$HOME/*")
@example("é:/aa:/1|")
@example("a#1.jpg/b#1#2")
@example("a#1/b")
@example("e\u0301/\u00e9")
def test_keys_round_trip(new_store: Callable[[], Store], key: str) -> None:
    store = new_store()
    store.put(key, key.encode())
    assert keys_of(store) == [key]
    assert store.get(key) == key.encode()
    assert store.head(key).key == key
    store.copy(key, "copy/" + key)
    assert keys_of(store, "copy") == ["copy/" + key]
    store.delete(key)
    assert keys_of(store) == ["copy/" + key]


def test_content_is_compared_byte_by_byte(store: Store) -> None:
    store.put("a", b"some bytes")
    info = store.head("a")
    assert store.content_matches(info, b"some bytes")
    assert store.content_matches(info, memoryview(b"some bytes"))
    assert not store.content_matches(info, b"same bytes")
    assert not store.content_matches(info, b"some byte")


def test_content_of_an_upload_in_parts_is_compared(store: Store) -> None:
    data = os.urandom(BIG_BYTES)
    store.put("a", data)
    info = store.head("a")
    assert store.content_matches(info, data)
    assert not store.content_matches(info, data[:-1] + bytes([data[-1] ^ 1]))


def test_access_to_an_empty_store_is_fine(store: Store) -> None:
    store.check_access()
    assert keys_of(store) == []


def test_the_spec_opens_the_same_store(new_store: Callable[[], Store], request: pytest.FixtureRequest) -> None:
    store = new_store()
    store.put("a b/ü%#", b"x")
    spec = StoreSpec.model_validate_json(store.spec.model_dump_json())
    assert spec == store.spec
    again = reopened(spec, request)
    assert again.url == store.url
    assert again.get("a b/ü%#") == b"x"


def test_the_url_of_a_prefix_opens_what_is_below(
    new_store: Callable[[], Store], request: pytest.FixtureRequest
) -> None:
    store = new_store()
    store.put("a b/ü%#/c", b"x")
    below = store.spec.model_copy(update={"url": store.uri("a b/ü%#")})
    assert reopened(below, request).get("c") == b"x"


def test_a_local_path_is_the_object_itself_or_none(store: Store) -> None:
    store.put("a/b c", b"x")
    path = store.local_path("a/b c")
    assert (path is None) == store.url.startswith("s3://")
    if path is not None:
        assert path.read_bytes() == b"x"
        assert path.as_uri() == store.uri("a/b c")


def test_many_threads_share_a_store(store: Store) -> None:
    def work(number: int) -> bool:
        key, data = f"{number % 7}/{number}", uuid.uuid4().bytes * 100
        store.put(key, data)
        info = store.head(key)
        return store.get(key) == data and store.content_matches(info, data) and key in keys_of(store, str(number % 7))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(64)))


def test_a_store_is_not_pickled(store: Store) -> None:
    with pytest.raises(TypeError, match=r"send store\.spec"):
        pickle.dumps(store)
    assert pickle.loads(pickle.dumps(store.spec)) == store.spec
