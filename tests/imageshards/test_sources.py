"""A night without news: the source is asked once and not downloaded; whatever is doubtful is downloaded."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from imageshards import sources
from imageshards.errors import ObjectMissingError, StoreError
from imageshards.fetch import Fetched, FetchPolicy, Source, fetch
from imageshards.index import index_key
from imageshards.manifest import ArchiveSource
from imageshards.oxford_pets import DATASET
from imageshards.sources import Unchanged, record_key, remember_sources, sources_of
from imageshards.store import Store
from imageshards.upload import upload
from tests.imageshards.http_site import (
    MODIFIED,
    Handler,
    Route,
    Site,
    digest,
    ranged,
    running_site,
    status,
    whole,
)
from tests.imageshards.small_dataset import annotation_members, image_members, tree, write_archive

QUICK = FetchPolicy(attempts=1, connect_timeout_seconds=5, read_timeout_seconds=5)
SECRET = "hunter2"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_site() as site:
        yield site


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Both archives of a small dataset."""
    folder = tmp_path_factory.mktemp("archives")
    members = {"images": image_members(), "annotations": annotation_members()}
    return {what: write_archive(folder / f"{what}.tar.gz", of).path.read_bytes() for what, of in members.items()}


class Night:
    """The two sources on a site, what a first night made of them, and what `look` says the night after."""

    def __init__(self, site: Site, bodies: Mapping[str, bytes], store: Store, folder: Path) -> None:
        self.site, self.bodies, self.store = site, bodies, store
        self._folder = folder
        self.images = Source(site.put("/images.tar.gz", ranged(bodies["images"])))
        self.annotations = Source(site.put("/annotations.tar.gz", ranged(bodies["annotations"])))
        self.found: dict[str, str] = {}

    def run(self) -> dict[str, Fetched]:
        """The first night: download, upload, remember."""
        archives = {"images": self.images, "annotations": self.annotations}
        fetched = {what: fetch(source, self._folder / "cache", policy=QUICK) for what, source in archives.items()}
        upload(fetched["images"], fetched["annotations"], self.store, dataset=DATASET)
        remember_sources(self.store, DATASET, fetched)
        self.site.asked.clear()
        return fetched

    def images_answer(self, *steps: Route) -> None:
        """What the server says from now on when it is asked for the images."""
        self.site.put("/images.tar.gz", *steps)

    def look(self, images: Source | None = None, annotations: Source | None = None) -> Unchanged | None:
        """The night after, on a machine that has nothing but the store."""
        self.found.clear()
        return sources.look(
            images or self.images,
            annotations or self.annotations,
            self.store,
            dataset=DATASET,
            policy=QUICK,
            on_finding=self.found.__setitem__,
        )


@pytest.fixture
def night(site: Site, bodies: Mapping[str, bytes], folder_store: Store, tmp_path: Path) -> Night:
    return Night(site, bodies, folder_store, tmp_path)


@pytest.fixture
def second_night(night: Night) -> Night:
    night.run()
    return night


def test_an_unchanged_source_is_found_by_one_request_each(
    site: Site, bodies: Mapping[str, bytes], store: Store, tmp_path: Path
) -> None:
    night = Night(site, bodies, store, tmp_path)
    fetched = night.run()
    found = night.look()
    assert found is not None
    assert found.sources == sources_of(fetched)
    assert found.sources["images"] == ArchiveSource(
        url=night.images.url, sha256=digest(bodies["images"]), size_bytes=len(bodies["images"])
    )
    assert found.info.images == 4
    assert found.info.key == index_key(DATASET, fetched["images"].sha256, fetched["annotations"].sha256)
    assert [path for path, _ in site.asked] == ["/images.tar.gz", "/annotations.tar.gz"]
    assert site.headers_asked("If-None-Match") == ['"v1"', '"v1"']
    assert "HTTP 304" in night.found["images"]


def test_the_first_night_asks_no_server(night: Night) -> None:
    assert night.look() is None
    assert not night.site.asked
    assert "not seen before" in night.found["images"]


@pytest.mark.parametrize(
    "validators", [{"etag": None, "modified": MODIFIED}, {"etag": 'W/"1"'}, {"modified": MODIFIED}]
)
def test_whatever_validator_there_is_will_do(night: Night, validators: dict[str, str | None]) -> None:
    night.images_answer(ranged(night.bodies["images"], **validators))
    night.run()
    assert night.look() is not None
    since = f" since {MODIFIED}" if "modified" in validators else ""
    assert night.found["images"] == f"unchanged{since} (HTTP 304)"


def unending(headers: Mapping[str, str], over: threading.Event) -> Route:
    """An answer whose body begins and never ends."""

    def route(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.close_connection = True
        over.wait(5)

    return route


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"'])
def test_a_server_that_knows_no_conditions_is_told_by_its_etag_without_the_body(night: Night, etag: str) -> None:
    night.images_answer(whole(night.bodies["images"], etag=etag))
    night.run()
    over = threading.Event()
    length = str(len(night.bodies["images"]))
    night.images_answer(unending({"ETag": etag, "Content-Length": length}, over))
    assert night.look() is not None
    assert night.found["images"] == "unchanged (HTTP 200)"
    assert len(night.site.asked) == 2
    over.set()


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"etag": '"v1"'}, {"ETag": '"v2"'}),
        ({"etag": '"v1"'}, {}),
        ({"etag": 'W/"v1"'}, {"ETag": 'W/"v1"', "Content-Length": "1"}),
        ({"etag": 'W/"v1"'}, {"ETag": 'W/"v1"'}),
        ({"etag": None, "modified": MODIFIED}, {"Last-Modified": MODIFIED}),
        ({"etag": '"v1"', "modified": MODIFIED}, {"ETag": '"v2"', "Last-Modified": MODIFIED}),
    ],
    ids=["other-etag", "no-etag", "weak-other-length", "weak-no-length", "time-alone", "same-time"],
)
def test_what_may_have_changed_is_downloaded(night: Night, first: dict[str, str | None], then: dict[str, str]) -> None:
    night.images_answer(ranged(night.bodies["images"], **first))
    night.run()
    over = threading.Event()
    night.images_answer(unending(then, over))
    assert night.look() is None
    assert night.found == {"images": "changed (HTTP 200)"}
    over.set()


def test_a_304_of_another_version_is_not_believed(second_night: Night) -> None:
    def mistaken(handler: Handler) -> None:
        handler.send_response(304)
        handler.send_header("ETag", '"v2"')
        handler.end_headers()

    second_night.images_answer(mistaken)
    assert second_night.look() is None


def test_a_304_may_make_the_etag_weak(second_night: Night) -> None:
    def weakened(handler: Handler) -> None:
        handler.send_response(304)
        handler.send_header("ETag", 'W/"v1"')
        handler.end_headers()

    second_night.images_answer(weakened)
    assert second_night.look() is not None


def test_changed_annotations_are_found_too(second_night: Night) -> None:
    second_night.site.put("/annotations.tar.gz", ranged(b"others", etag='"v2"'))
    assert second_night.look() is None
    assert set(second_night.found) == {"images", "annotations"}


def test_a_server_that_names_no_version_is_not_asked(night: Night) -> None:
    night.images_answer(whole(night.bodies["images"]))
    night.run()
    assert night.look() is None
    assert not night.site.asked
    assert "names no version" in night.found["images"]


@pytest.mark.parametrize("code", [403, 404, 429, 500, 503])
def test_a_server_that_refuses_is_left_to_the_download(second_night: Night, code: int) -> None:
    second_night.images_answer(status(code))
    assert second_night.look() is None
    assert f"{second_night.images.url}: HTTP {code}" in second_night.found["images"]
    assert len(second_night.site.asked) == 1


def test_a_server_out_of_reach_is_left_to_the_download(night: Night) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        night.images = Source(f"http://127.0.0.1:{held.getsockname()[1]}/images.tar.gz", mirrors=(night.images.url,))
        mirrored = night.run()
        assert night.look(images=Source(night.images.url)) is None
        assert "not seen before" in night.found["images"]
        found = night.look()
    assert found is not None
    assert found.sources["images"].url == mirrored["images"].url == night.images.mirrors[0]


def test_a_mirror_is_not_asked_while_the_first_answers(second_night: Night) -> None:
    """The mirror's file may be an old one: `fetch` would take the first, so it decides."""
    remembered = second_night.images.url
    first = second_night.site.put("/first.tar.gz", ranged(b"newer"))
    assert second_night.look(images=Source(first, mirrors=(remembered,))) is None
    assert [path for path, _ in second_night.site.asked] == ["/first.tar.gz"]
    assert second_night.found["images"] == "not downloaded from this address before"
    second_night.site.put("/first.tar.gz", status(503))
    assert second_night.look(images=Source(first, mirrors=(remembered,))) is not None


def test_redirects_are_followed(night: Night) -> None:
    night.site.put("/moved.tar.gz", ranged(night.bodies["images"]))
    night.images_answer(status(302, Location="/moved.tar.gz"))
    night.run()
    assert night.look() is not None
    assert [path for path, _ in night.site.asked][:2] == ["/images.tar.gz", "/moved.tar.gz"]


def test_redirects_without_end_are_left_to_the_download(second_night: Night) -> None:
    second_night.images_answer(status(302, Location="/images.tar.gz"))
    assert second_night.look() is None
    assert "redirects without end" in second_night.found["images"]


def test_a_known_digest_needs_no_request(second_night: Night) -> None:
    known = {
        what: Source(source.url, digest(second_night.bodies[what]))
        for what, source in (("images", second_night.images), ("annotations", second_night.annotations))
    }
    assert second_night.look(**known) is not None
    assert not second_night.site.asked


def test_another_digest_needs_no_request_either(second_night: Night) -> None:
    assert second_night.look(images=Source(second_night.images.url, "0" * 64)) is None
    assert not second_night.site.asked
    assert "0" * 64 in second_night.found["images"]


def test_local_archives_are_hashed(folder_store: Store, bodies: Mapping[str, bytes], tmp_path: Path) -> None:
    paths = {what: tmp_path / f"{what}.tar.gz" for what in bodies}
    for what, path in paths.items():
        path.write_bytes(bodies[what])
    local = {what: Source(str(path)) for what, path in paths.items()}
    assert sources.look(**local, store=folder_store, dataset=DATASET) is None
    fetched = {what: fetch(source, tmp_path / "cache") for what, source in local.items()}
    upload(fetched["images"], fetched["annotations"], folder_store, dataset=DATASET)
    remember_sources(folder_store, DATASET, fetched)
    assert not list(folder_store.list(f"raw/{DATASET}/sources"))
    found = sources.look(**local, store=folder_store, dataset=DATASET)
    assert found is not None
    assert found.sources == sources_of(fetched)
    paths["images"].write_bytes(b"others")
    assert sources.look(**local, store=folder_store, dataset=DATASET) is None
    paths["images"].unlink()
    assert sources.look(**local, store=folder_store, dataset=DATASET) is None


def test_nothing_is_unchanged_without_its_index(second_night: Night) -> None:
    known = {what: hashlib.sha256(body).hexdigest() for what, body in second_night.bodies.items()}
    key = index_key(DATASET, known["images"], known["annotations"])
    index = second_night.store.get(key)
    second_night.store.delete(key)
    assert second_night.look() is None
    assert second_night.found["index"] == "none of these archives yet"
    second_night.store.put(key, index[:-9])
    assert second_night.look() is None
    assert "no index" in second_night.found["index"]


DAMAGED: list[Callable[[dict[str, object]], object]] = [
    lambda record: "",
    lambda record: [],
    lambda record: {},
    lambda record: record | {"format_version": 2},
    lambda record: record | {"url_id": "0" * 12},
    lambda record: record | {"sha256": "0" * 63},
    lambda record: record | {"size_bytes": -1},
    lambda record: record | {"etag": 'a"\r\nX-Injected: yes'},
    lambda record: record | {"etag": '"\u4e2d"'},
    lambda record: record | {"surprise": 1},
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_none(second_night: Night, damage: Callable[[dict[str, object]], object]) -> None:
    key = record_key(DATASET, second_night.images.url)
    record = json.loads(second_night.store.get(key))
    second_night.store.put(key, json.dumps(damage(record)).encode())
    assert second_night.look() is None
    assert not second_night.site.asked
    second_night.store.put(key, b"\xff\x00")
    assert second_night.look() is None


def test_a_damaged_record_is_mended_by_the_next_run(second_night: Night) -> None:
    second_night.store.put(record_key(DATASET, second_night.images.url), b"{}")
    second_night.run()
    assert second_night.look() is not None


def test_what_is_remembered_already_is_not_written_again(second_night: Night) -> None:
    before = {key: second_night.store.local_path(key).stat().st_mtime_ns for key in tree(second_night.store)}
    second_night.run()
    assert {key: second_night.store.local_path(key).stat().st_mtime_ns for key in tree(second_night.store)} == before


def test_a_file_without_validators_does_not_displace_those_that_are_known(second_night: Night, tmp_path: Path) -> None:
    fetched = second_night.run()["images"]
    bare = Fetched(fetched.path, fetched.sha256, fetched.size_bytes, fetched.url, "cached", fetched.url_id)
    remember_sources(second_night.store, DATASET, {"images": bare})
    assert second_night.look() is not None


def test_a_changed_source_is_remembered_anew(second_night: Night, tmp_path: Path) -> None:
    newer = write_archive(tmp_path / "newer.tar.gz", image_members(Abyssinian_9=b"new")).path.read_bytes()
    second_night.images_answer(ranged(newer, etag='"v2"'))
    assert second_night.look() is None
    second_night.run()
    found = second_night.look()
    assert found is not None
    assert found.sources["images"].sha256 == digest(newer)


def test_an_odd_etag_is_not_remembered(folder_store: Store, tmp_path: Path) -> None:
    odd = Fetched(tmp_path, "0" * 64, 1, "http://example.org/a", "downloaded", "0" * 12, "\x07", "soon")
    remember_sources(folder_store, DATASET, {"images": odd})
    (record,) = (json.loads(data) for data in tree(folder_store).values())
    assert (record["etag"], record["last_modified"]) == (None, "soon")


def test_no_secret_of_a_url_is_kept_or_told(night: Night) -> None:
    host = night.site.url.removeprefix("http://")
    night.images = Source(f"http://user:{SECRET}@{host}/images.tar.gz?token={SECRET}")
    night.run()
    assert night.look() is not None
    assert night.site.asked[0][0] == f"/images.tar.gz?token={SECRET}"
    assert night.site.headers_asked("Authorization")[0] is not None
    stored = b"".join(data for key, data in tree(night.store).items() if "/sources/" in key)
    assert stored
    assert SECRET.encode() not in stored
    night.images_answer(status(500))
    assert night.look() is None
    assert SECRET not in str(night.found)
    other_token = Source(night.images.url.replace(f"token={SECRET}", "token=other"))
    assert night.look(images=other_token) is None
    assert "not seen before" in night.found["images"]


@pytest.mark.parametrize("url", ["ftp://example.org/a", "http://[bad", "http://example.invalid:99999/a", "~nobody-9/a"])
def test_an_impossible_url_is_left_to_the_download(second_night: Night, url: str) -> None:
    assert second_night.look(images=Source(url)) is None
    assert second_night.found["images"]


def test_a_record_that_the_store_does_not_give_is_as_good_as_none(second_night: Night) -> None:
    key = record_key(DATASET, second_night.images.url)
    path = second_night.store.local_path(key)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(path.parent)  # a loop
    with pytest.raises(StoreError) as refused:
        second_night.store.get(key)
    assert not isinstance(refused.value, ObjectMissingError)
    assert second_night.look() is None


def test_the_record_is_small_plain_json(second_night: Night) -> None:
    record = json.loads(second_night.store.get(record_key(DATASET, second_night.images.url)))
    assert re.fullmatch("[0-9a-f]{12}", record["url_id"])
    assert record == {
        "format_version": 1,
        "url": second_night.images.url,
        "url_id": record["url_id"],
        "etag": '"v1"',
        "last_modified": None,
        "sha256": digest(second_night.bodies["images"]),
        "size_bytes": len(second_night.bodies["images"]),
    }


def test_a_stalling_server_is_given_up_in_time(second_night: Night) -> None:
    over = threading.Event()

    def stall(handler: Handler) -> None:
        over.wait(5)
        handler.close_connection = True

    second_night.images_answer(stall)
    policy = FetchPolicy(read_timeout_seconds=0.1)
    looked = sources.look(
        second_night.images, second_night.annotations, second_night.store, dataset=DATASET, policy=policy
    )
    over.set()
    assert looked is None
    assert len(second_night.site.asked) == 1
