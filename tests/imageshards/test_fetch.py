"""Downloads from a real server on the loopback interface that can misbehave in every way seen in the field."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
import re
import resource
import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from imageshards.download_cache import url_id
from imageshards.errors import ConfigError, SourceError, StoreError, TransientError
from imageshards.fetch import Fetched, FetchPolicy, Source, fetch, redact_url
from tests.imageshards.http_site import (
    BODY,
    MODIFIED,
    OTHER,
    Handler,
    Route,
    Site,
    answer,
    digest,
    ranged,
    running_site,
    status,
    whole,
)

QUICK = FetchPolicy(
    attempts=4, base_delay_seconds=0.001, max_delay_seconds=0.002, max_retry_after_seconds=0.05, read_timeout_seconds=5
)
ONCE = FetchPolicy(attempts=1, read_timeout_seconds=5)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_site() as site:
        yield site


def files_of(directory: Path, ending: str) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.endswith(ending)]


def check(fetched: Fetched, body: bytes, fetched_how: str) -> None:
    assert fetched.path.read_bytes() == body
    assert (fetched.sha256, fetched.size_bytes, fetched.status) == (digest(body), len(body), fetched_how)


# --- the plain way ---------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_under_a_readable_name_and_nothing_else_stays(site: Site, tmp_path: Path) -> None:
    url = site.put("/pets/images.tar.gz", ranged())
    fetched = fetch(Source(url), tmp_path / "new" / "cache")
    check(fetched, BODY, "downloaded")
    assert fetched.url == url
    assert re.fullmatch("[0-9a-f]{12}-images.tar.gz", fetched.path.name)
    names = {path.name.removeprefix(fetched.path.name) for path in fetched.path.parent.iterdir()}
    assert names == {"", ".json", ".lock"}
    record = json.loads(fetched.path.with_name(fetched.path.name + ".json").read_text())
    assert record["etag"] == '"v1"'
    assert (record["url"], record["sha256"], record["size_bytes"]) == (url, digest(BODY), len(BODY))


def test_progress_counts_up_to_the_total(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(Source(site.put("/a", ranged())), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)


def test_an_error_of_the_progress_callback_stops_the_download_and_keeps_the_part(site: Site, tmp_path: Path) -> None:
    def cancel(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    url = site.put("/a", ranged())
    with pytest.raises(KeyboardInterrupt):
        fetch(Source(url), tmp_path, on_progress=cancel)
    check(fetch(Source(url), tmp_path), BODY, "resumed")


def test_urls_that_end_alike_do_not_collide(site: Site, tmp_path: Path) -> None:
    first = fetch(Source(site.put("/one/images.tar.gz", whole(BODY))), tmp_path)
    second = fetch(Source(site.put("/two/images.tar.gz", whole(OTHER))), tmp_path)
    third = fetch(Source(site.url + "/two/images.tar.gz?version=2"), tmp_path)
    assert len({first.path, second.path, third.path}) == 3
    check(first, BODY, "downloaded")
    check(second, OTHER, "downloaded")


@pytest.mark.parametrize("path", ["/", "/a%2F..%2F..%2Fb", "/..", "/%00%0A", "/" + "n" * 300 + ".tar", "/..%5Cevil"])
def test_no_url_leads_out_of_the_cache_folder(site: Site, tmp_path: Path, path: str) -> None:
    site.routes = dict.fromkeys([path, "/", "/..", "/%00%0A"], whole())
    fetched = fetch(Source(site.url + path), tmp_path)
    assert fetched.path.parent == tmp_path
    assert len(fetched.path.name) < 120


def test_redirects_are_followed(site: Site, tmp_path: Path) -> None:
    site.put("/new", whole())
    check(fetch(Source(site.put("/old", status(302, Location="/new"))), tmp_path), BODY, "downloaded")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_redirects_to_anything_but_http_are_refused(site: Site, tmp_path: Path, target: str) -> None:
    with pytest.raises(SourceError, match="neither http nor https"):
        fetch(Source(site.put("/a", status(302, Location=target))), tmp_path, policy=QUICK)


def test_redirects_without_end_are_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="redirects without end"):
        fetch(Source(site.put("/a", status(302, Location="/a"))), tmp_path, policy=QUICK)


def test_a_content_encoding_is_not_decoded(site: Site, tmp_path: Path) -> None:
    packed = gzip.compress(b"a tar archive" * 1000)
    url = site.put("/a.tar.gz", lambda handler: answer(handler, 200, {"Content-Encoding": "gzip"}, packed))
    check(fetch(Source(url, digest(packed)), tmp_path), packed, "downloaded")
    assert site.headers_asked("Accept-Encoding") == ["identity"]


def test_a_body_of_unknown_length_is_downloaded(site: Site, tmp_path: Path) -> None:
    seen: list[int | None] = []
    fetched = fetch(Source(site.put("/a", chunked())), tmp_path, on_progress=lambda _done, total: seen.append(total))
    check(fetched, BODY, "downloaded")
    assert set(seen) == {None}


def chunked(*, send: int | None = None) -> Route:
    framed = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (1000, BODY[:1000], len(BODY) - 1000, BODY[1000:])
    return lambda handler: answer(handler, 200, {"Transfer-Encoding": "chunked"}, framed, send)


@pytest.mark.parametrize("send", [500, 1007, 1500])
def test_a_body_of_unknown_length_that_breaks_off_is_noticed(site: Site, tmp_path: Path, send: int) -> None:
    url = site.put("/a", chunked(send=send), chunked())
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "downloaded")
    assert len(site.asked) == 2


def test_an_empty_body_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="empty file"):
        fetch(Source(site.put("/a", whole(b""))), tmp_path)
    assert not files_of(tmp_path, ".part")


def test_an_empty_body_is_fine_if_its_digest_was_asked_for(site: Site, tmp_path: Path) -> None:
    check(fetch(Source(site.put("/a", whole(b"")), digest(b"")), tmp_path), b"", "downloaded")


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_file_of_the_expected_digest_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged()), digest(BODY).upper())
    fetch(source, tmp_path)
    check(fetch(source, tmp_path), BODY, "cached")
    assert len(site.asked) == 1


def test_a_file_that_lost_its_expected_digest_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged()), digest(BODY))
    fetch(source, tmp_path).path.write_bytes(b"damaged")
    check(fetch(source, tmp_path), BODY, "downloaded")


def test_a_record_of_another_file_says_nothing_of_this_ones_version(site: Site, tmp_path: Path) -> None:
    """As a crash leaves it that comes between the new file and its record."""
    url = site.put("/a", ranged())
    fetched = fetch(Source(url), tmp_path)
    fetched.path.write_bytes(OTHER)
    again = fetch(Source(url, digest(OTHER)), tmp_path)
    check(again, OTHER, "cached")
    assert (again.etag, again.last_modified) == (None, None)


def test_a_time_that_was_not_over_yet_names_no_version(site: Site, tmp_path: Path) -> None:
    """The file may have changed within the same second, after it was sent."""
    last = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    url = site.put("/a", ranged(etag=None, modified=last), ranged(OTHER, etag=None, modified=last))
    fetched = fetch(Source(url), tmp_path)
    assert fetched.last_modified is None
    check(fetch(Source(url), tmp_path), OTHER, "downloaded")


@pytest.mark.parametrize("validators", [{"etag": '"v1"'}, {"etag": 'W/"v1"'}, {"etag": None, "modified": MODIFIED}])
def test_an_unchanged_file_is_cached(site: Site, tmp_path: Path, validators: dict[str, str]) -> None:
    source = Source(site.put("/a", ranged(**validators)))
    first = fetch(source, tmp_path)
    again = fetch(source, tmp_path)
    check(again, BODY, "cached")
    for fetched in (first, again):
        assert fetched.url_id == url_id(source.url)
        assert (fetched.etag, fetched.last_modified) == (validators["etag"], validators.get("modified"))


def test_a_changed_file_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged(), ranged(OTHER, etag='"v2"')))
    fetch(source, tmp_path)
    check(fetch(source, tmp_path), OTHER, "downloaded")
    check(fetch(source, tmp_path), OTHER, "cached")


def test_a_file_without_validators_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", whole()))
    fetch(source, tmp_path)
    check(fetch(source, tmp_path), BODY, "downloaded")


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"url": 1}', "\x00", None])
def test_a_record_that_makes_no_sense_is_not_trusted(site: Site, tmp_path: Path, record: str | None) -> None:
    source = Source(site.put("/a", ranged()))
    path = fetch(source, tmp_path).path
    record_path = path.with_name(path.name + ".json")
    record_path.unlink() if record is None else record_path.write_text(record)
    check(fetch(source, tmp_path), BODY, "downloaded")


def test_a_damaged_file_is_not_trusted_though_the_server_knows_no_change(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged()))
    fetch(source, tmp_path).path.write_bytes(OTHER)
    check(fetch(source, tmp_path), BODY, "downloaded")


def test_the_validators_of_a_mirror_are_not_shown_to_the_first_server(site: Site, tmp_path: Path) -> None:
    mirror = site.put("/mirror", ranged())
    source = Source(site.put("/a", status(404), ranged(OTHER)), mirrors=(mirror,))
    check(fetch(source, tmp_path), BODY, "downloaded")
    check(fetch(source, tmp_path), OTHER, "downloaded")


# --- interruptions ---------------------------------------------------------------------------------------------------


def test_a_download_that_stops_in_the_middle_twice_is_resumed(site: Site, tmp_path: Path) -> None:
    url = site.put("/a", ranged(send=100_000), ranged(send=50_000), ranged())
    seen: list[tuple[int, int | None]] = []
    fetched = fetch(
        Source(url, digest(BODY)),
        tmp_path,
        policy=QUICK,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    check(fetched, BODY, "resumed")
    assert site.headers_asked("Range") == [None, "bytes=100000-", "bytes=150000-"]
    assert site.headers_asked("If-Range") == [None, '"v1"', '"v1"']
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert not files_of(tmp_path, ".part") + files_of(tmp_path, ".part.json")


def test_the_next_call_resumes_what_the_last_one_left(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged(etag=None, modified=MODIFIED, send=100_000), ranged(modified=MODIFIED)))
    with pytest.raises(TransientError, match="interrupted"):
        fetch(source, tmp_path, policy=ONCE)
    assert not fetch_targets(tmp_path)
    check(fetch(source, tmp_path, policy=ONCE), BODY, "resumed")
    assert site.headers_asked("If-Range") == [None, MODIFIED]


def fetch_targets(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.suffix not in (".part", ".json", ".lock")]


def test_a_server_without_ranges_starts_anew(site: Site, tmp_path: Path) -> None:
    url = site.put("/a", whole(etag='"v1"', send=100_000), whole(etag='"v1"'))
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "downloaded")
    assert site.headers_asked("Range") == [None, "bytes=100000-"]


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_without_a_strong_validator_nothing_is_resumed(site: Site, tmp_path: Path, etag: str | None) -> None:
    url = site.put("/a", ranged(etag=etag, send=100_000), ranged(etag=etag))
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "downloaded")
    assert site.headers_asked("Range") == [None, None]


def test_a_file_that_changed_in_between_is_not_spliced(site: Site, tmp_path: Path) -> None:
    url = site.put("/a", ranged(send=100_000), ranged(OTHER, etag='"v2"'))
    check(fetch(Source(url), tmp_path, policy=QUICK), OTHER, "downloaded")


def part_of(body: bytes, start: int, end: int, total: str, etag: str) -> Route:
    headers = {"ETag": etag, "Content-Range": f"bytes {start}-{end - 1}/{total}"}
    return lambda handler: answer(handler, 206, headers, body[start:end])


@pytest.mark.parametrize(
    "wrong",
    [
        part_of(OTHER, 100_000, 300_000, "300000", '"v2"'),
        part_of(BODY, 0, 300_000, "300000", '"v1"'),
        part_of(BODY, 100_001, 300_000, "300000", '"v1"'),
        status(206, ETag='"v1"'),
        status(416, ETag='"v1"', Content_Range="bytes */50000"),
        status(416, ETag='"v2"', Content_Range="bytes */100000"),
        status(416),
    ],
    ids=["other-version", "from-start", "gap", "no-range", "shrunk", "shrunk-other", "bare-416"],
)
def test_an_answer_that_does_not_continue_the_part_is_thrown_away(site: Site, tmp_path: Path, wrong: Route) -> None:
    url = site.put("/a", ranged(send=100_000), wrong, ranged())
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "downloaded")
    assert site.headers_asked("Range") == [None, "bytes=100000-", None]


def test_a_range_that_ends_early_without_an_error_is_noticed(site: Site, tmp_path: Path) -> None:
    early = part_of(BODY, 100_000, 200_000, "300000", '"v1"')
    url = site.put("/a", ranged(send=100_000), early, ranged())
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "resumed")
    assert site.headers_asked("Range")[-1] == "bytes=200000-"


def test_a_range_of_unknown_total_is_taken(site: Site, tmp_path: Path) -> None:
    url = site.put("/a", ranged(send=100_000), part_of(BODY, 100_000, 300_000, "*", '"v1"'))
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "resumed")


def test_a_part_that_is_whole_already_is_finished_without_its_bytes(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", ranged()))
    path = fetch(source, tmp_path).path
    path.rename(path.with_name(path.name + ".part"))  # as if the process had died just before it renamed the part
    path.with_name(path.name + ".json").rename(path.with_name(path.name + ".part.json"))
    check(fetch(source, tmp_path), BODY, "resumed")
    assert len(site.asked) == 2


def test_a_spliced_file_of_wrong_digest_is_fetched_once_more_from_its_start(site: Site, tmp_path: Path) -> None:
    lies = '"always-the-same"'
    url = site.put("/a", ranged(OTHER, etag=lies, send=100_000), ranged(etag=lies))
    check(fetch(Source(url, digest(BODY)), tmp_path, policy=QUICK), BODY, "downloaded")
    assert site.headers_asked("Range") == [None, "bytes=100000-", None]


def test_a_part_of_a_mirror_is_not_continued_elsewhere(site: Site, tmp_path: Path) -> None:
    mirror = site.put("/mirror", ranged(OTHER, send=100_000))
    source = Source(site.put("/a", status(404), ranged()), mirrors=(mirror,))
    with pytest.raises(TransientError):
        fetch(source, tmp_path, policy=ONCE)
    check(fetch(source, tmp_path, policy=ONCE), BODY, "downloaded")


# --- refusals and retries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(site: Site, tmp_path: Path, code: int) -> None:
    url = site.put("/a", status(code))
    with pytest.raises(SourceError, match=f"HTTP {code}") as caught:
        fetch(Source(url), tmp_path, policy=QUICK)
    assert url in str(caught.value)
    assert len(site.asked) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(site: Site, tmp_path: Path, code: int) -> None:
    url = site.put("/a", status(code), status(code), ranged())
    check(fetch(Source(url), tmp_path, policy=QUICK), BODY, "downloaded")
    assert len(site.asked) == 3


def test_what_never_passes_is_transient_in_the_end(site: Site, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="HTTP 500"):
        fetch(Source(site.put("/a", status(500))), tmp_path, policy=QUICK)
    assert len(site.asked) == QUICK.attempts


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize(
    ("value", "waits"), [("3600", True), ("date", True), ("0", False), ("soon", False), ("-1", False)]
)
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured_within_bounds(site: Site, tmp_path: Path, code: int, value: str, waits: bool) -> None:
    url = site.put("/a", status(code, Retry_After=in_an_hour() if value == "date" else value), ranged())
    bound_seconds = 0.05 if waits else 60.0
    began = time.monotonic()
    fetch(Source(url), tmp_path, policy=replace(QUICK, max_retry_after_seconds=bound_seconds))
    took_seconds = time.monotonic() - began
    assert (took_seconds >= bound_seconds) is waits


def test_a_server_that_stalls_is_given_up_in_time(site: Site, tmp_path: Path) -> None:
    over = threading.Event()

    def stall_in_the_middle(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"x" * 50)
        over.wait(5)

    def stall_before(handler: Handler) -> None:
        over.wait(5)
        handler.close_connection = True

    policy = FetchPolicy(attempts=2, base_delay_seconds=0, read_timeout_seconds=0.1)
    for route in (stall_before, stall_in_the_middle):
        with pytest.raises(TransientError, match="timed out"):
            fetch(Source(site.put("/a", route)), tmp_path, policy=policy)
    over.set()


def test_a_refused_connection_is_transient(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a"
        with pytest.raises(TransientError, match="Connection refused"):
            fetch(Source(url), tmp_path, policy=QUICK)


def test_a_wrong_digest_is_refused_and_removed(site: Site, tmp_path: Path) -> None:
    url = site.put("/a", ranged(OTHER), ranged(BODY))
    source = Source(url, digest(BODY))
    with pytest.raises(SourceError) as caught:
        fetch(source, tmp_path, policy=QUICK)
    for part in (url, digest(BODY), digest(OTHER), "300,000 bytes", "removed", "check the URL"):
        assert part in str(caught.value)
    assert len(site.asked) == 1
    assert not fetch_targets(tmp_path) + files_of(tmp_path, ".part")
    check(fetch(source, tmp_path), BODY, "downloaded")


# --- mirrors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [whole(OTHER), status(404), status(500), ranged(send=1000)])
def test_a_mirror_takes_over(site: Site, tmp_path: Path, first: Route) -> None:
    mirror = site.put("/mirror", ranged())
    fetched = fetch(Source(site.put("/a", first), digest(BODY), (mirror,)), tmp_path, policy=QUICK)
    check(fetched, BODY, "downloaded")
    assert (fetched.url, fetched.url_id) == (mirror, url_id(mirror))


def test_if_every_mirror_fails_each_is_named_with_its_reason(site: Site, tmp_path: Path) -> None:
    gone, wrong, down = site.put("/gone", status(410)), site.put("/wrong", whole(OTHER)), site.put("/down", status(503))
    with pytest.raises(SourceError) as caught:
        fetch(Source(gone, digest(BODY), (wrong, str(tmp_path / "missing"))), tmp_path, policy=QUICK)
    text = str(caught.value)
    assert f"{gone}: HTTP 410" in text
    assert f"{wrong}: wrong checksum" in text
    assert f"{tmp_path}/missing: No such file" in text
    with pytest.raises(TransientError, match=r"HTTP 410.*HTTP 503"):
        fetch(Source(gone, mirrors=(down,)), tmp_path, policy=QUICK)


def test_a_mirror_can_be_a_local_file(site: Site, tmp_path: Path) -> None:
    local = tmp_path / "images.tar.gz"
    local.write_bytes(BODY)
    source = Source(site.put("/a", status(404)), mirrors=(local.as_uri(),))
    check(fetch(source, tmp_path / "cache"), BODY, "local")


# --- local files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [str, Path.as_uri, lambda path: path.as_uri().replace("file://", "FILE://localhost")])
def test_local_files_are_used_where_they_lie(tmp_path: Path, form: Callable[[Path], str]) -> None:
    path = tmp_path / "a räther odd?#%20name.tar"
    path.write_bytes(BODY)
    fetched = fetch(Source(form(path), digest(BODY)), tmp_path / "cache")
    check(fetched, BODY, "local")
    assert fetched.url_id is None
    assert fetched.path == path
    assert not (tmp_path / "cache").exists()


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    assert fetch(Source("a.tar"), tmp_path).path == tmp_path / "a.tar"


def test_a_path_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(BODY)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(Source("~/a.tar"), tmp_path).path == tmp_path / "a.tar"
    with pytest.raises(SourceError, match="home directory"):
        fetch(Source("~no-such-user/a.tar"), tmp_path)


def test_a_local_file_of_wrong_digest_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(OTHER)
    with pytest.raises(SourceError, match="wrong checksum"):
        fetch(Source(str(path), digest(BODY)), tmp_path)
    assert path.read_bytes() == OTHER


def test_local_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        fetch(Source(str(tmp_path / "missing.tar")), tmp_path)
    with pytest.raises(SourceError, match="not a file"):
        fetch(Source(tmp_path.as_uri()), tmp_path)
    with pytest.raises(SourceError, match="null byte"):
        fetch(Source(str(tmp_path / "a\0.tar")), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_local_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(BODY)
    path.chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        fetch(Source(str(path)), tmp_path)


@pytest.mark.parametrize("url", ["s3://bucket/a.tar", "ftp://host/a.tar", "file://elsewhere/a.tar", "data://x"])
def test_unsupported_urls_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError, match="unsupported URL"):
        fetch(Source(url), tmp_path)


@pytest.mark.parametrize("url", ["http://", "http://host:port/a", "http://[::1/a", "https:///a"])
def test_malformed_urls_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceError):
        fetch(Source(url), tmp_path, policy=QUICK)


# --- arguments, secrets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "a" * 63, "a" * 65, "sha256:" + "a" * 64, "a" * 64 + "\n"])
def test_a_digest_that_is_none_is_a_configuration_error(sha256: str) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        Source("https://example.org/a", sha256)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"read_timeout_seconds": 0}, {"base_delay_seconds": -1}, {"max_retry_after_seconds": -1}]
)
def test_a_policy_out_of_range_is_a_configuration_error(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        FetchPolicy(**wrong)


REDACTED = {
    "https://host/a.tar?X-Amz-Signature=SECRET&v=SECRET": "https://host/a.tar?X-Amz-Signature=***&v=***",
    "https://user:SECRET@host:8080/a": "https://***@host:8080/a",
    "https://SECRET@host/a": "https://***@host/a",
    "https://user:SEC@RET@host/a": "https://***@host/a",
    "https://user:SE/CRET@host/a": "https://***",
    "https://user:SE?CRET@host/a": "https://***",
    "https://host/a?SECRET": "https://host/a?***",
    "https://host/a#SECRET": "https://host/a",
    "https://[::1]:80/a": "https://[::1]:80/a",
    "https://host:8080": "https://host:8080",
    "/a/path?with=question": "/a/path?with=question",
}


@pytest.mark.parametrize(("url", "shown"), REDACTED.items())
def test_secrets_of_a_url_are_not_shown(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert repr(Source(url, mirrors=(url,))).count(shown) == 2


def test_no_error_shows_a_secret(site: Site, tmp_path: Path) -> None:
    site.put("/wrong", whole(OTHER))
    site.put("/cut", whole(send=10))
    site.put("/loop", status(302, Location="/loop?again=SECRET"))
    site.put("/elsewhere", status(302, Location="ftp://user:SECRET@host/?SECRET"))
    site.put("/refused", status(302, Location="http://user:SECRET@127.0.0.1:1/?key=SECRET"))
    host = site.url.removeprefix("http://")
    for path in ("/missing", "/wrong", "/cut", "/loop", "/elsewhere", "/refused"):
        source = Source(f"http://user:SECRET@{host}{path}?key=SECRET", digest(BODY))
        with pytest.raises((SourceError, TransientError)) as caught:
            fetch(source, tmp_path, policy=QUICK)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.context)
        assert "SECRET" not in shown
        assert f"***@{host}{path}?key=***" in shown
        assert b"SECRET" not in pickle.dumps(caught.value)


def test_secrets_reach_the_server_and_nothing_on_the_disk(site: Site, tmp_path: Path) -> None:
    site.put("/a", ranged(send=1000), ranged())
    host = site.url.removeprefix("http://")
    fetched = fetch(Source(f"http://user:SECRET@{host}/a?key=SECRET"), tmp_path, policy=QUICK)
    assert site.asked[0][0] == "/a?key=SECRET"
    assert site.headers_asked("Authorization")[0] is not None
    assert fetched.url == f"http://***@{host}/a?key=***"
    for path in tmp_path.iterdir():
        assert "SECRET" not in path.name
        assert b"SECRET" not in path.read_bytes()


# --- disk, processes, memory -----------------------------------------------------------------------------------------


def test_a_full_disk_is_a_store_error(site: Site, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"File too large; free space.*"):
            fetch(Source(site.put("/a", ranged())), tmp_path, policy=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(site.asked) == 1


def test_a_cache_folder_that_is_a_file_is_a_store_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(StoreError, match="cannot use cache file"):
        fetch(Source(site.put("/a", ranged())), tmp_path / "cache")


def test_processes_that_want_the_same_file_at_once_download_it_once(site: Site, tmp_path: Path) -> None:
    source = Source(site.put("/a", slowly(BODY)), digest(BODY))
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [future.result() for future in [pool.submit(fetch, source, tmp_path) for _ in range(3)]]
    assert sorted(result.status for result in results) == ["cached", "cached", "downloaded"]
    assert {result.path.read_bytes() for result in results} == {BODY}
    assert len(site.asked) == 1


def slowly(body: bytes) -> Route:
    def route(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for start in range(0, len(body), 50_000):
            handler.wfile.write(body[start : start + 50_000])
            time.sleep(0.02)

    return route


def test_threads_that_want_the_same_file_at_once_download_it_once(site: Site, tmp_path: Path) -> None:
    source, statuses = Source(site.put("/a", slowly(BODY)), digest(BODY)), []
    threads = [threading.Thread(target=lambda: statuses.append(fetch(source, tmp_path).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == ["cached"] * 3 + ["downloaded"]


def test_memory_stays_flat_over_a_big_file(site: Site, tmp_path: Path) -> None:
    piece, pieces = bytes(1 << 20), 300

    def big(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(piece) * pieces))
        handler.end_headers()
        for _ in range(pieces):
            handler.wfile.write(piece)

    url = site.put("/big", big)
    tracemalloc.start()
    try:
        fetched = fetch(Source(url), tmp_path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    fetched.path.unlink()
    assert fetched.size_bytes == len(piece) * pieces
    assert peak_bytes < 16 << 20
