"""Bad input, as a user gives it: a clear error, the right exit status, and nothing half-published."""

from __future__ import annotations

import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imageshards.sample import SampleArchives, SampleSpec, write_sample
from tests.conftest import S3Server
from tests.e2e.conftest import Pets, archives

ZEROS = "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def assert_nothing_published(store: Path) -> None:
    assert not list(store.rglob("manifest.json"))
    assert not list(store.rglob("latest.json"))


@pytest.fixture
def broken_server(drawn: SampleArchives) -> Iterator[str]:
    """Answers /404 and /500 with that, and /stops with the first half of the images archive, again and again."""
    body = drawn.images.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/stops"):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            else:
                self.send_error(int(self.path.strip("/")))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_wrong_checksum_names_both_digests(pets: Pets, drawn: SampleArchives, store: Path) -> None:
    run = pets(*archives(drawn), "--images-sha256", ZEROS, "--store", str(store))
    assert run.status == 1
    assert ZEROS in run.error
    assert drawn.expected["images_sha256"] in run.error
    assert_nothing_published(store)


@pytest.mark.parametrize(("path", "said"), [("404", "404"), ("500", "500"), ("stops", "bytes")])
def test_a_server_that_fails_is_named(
    pets: Pets, drawn: SampleArchives, store: Path, broken_server: str, path: str, said: str
) -> None:
    options = ["--images", f"{broken_server}/{path}", "--annotations", str(drawn.annotations), "--store", str(store)]
    run = pets(*options)
    assert run.status == 1
    assert broken_server in run.error
    assert said in run.error
    assert_nothing_published(store)


def test_a_file_that_is_no_archive_is_refused(pets: Pets, drawn: SampleArchives, store: Path, tmp_path: Path) -> None:
    text = tmp_path / "images.tar.gz"
    text.write_text("this is no archive\n" * 100)
    run = pets("--images", str(text), "--annotations", str(drawn.annotations), "--store", str(store))
    assert run.status == 1
    assert str(text) in run.error
    assert "tar" in run.error
    assert_nothing_published(store)


def test_an_archive_without_images_is_refused(pets: Pets, drawn: SampleArchives, store: Path, tmp_path: Path) -> None:
    readme = tmp_path / "readme.txt"
    readme.write_text("no images here")
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(readme, "images/readme.txt")
    run = pets("--images", str(archive), "--annotations", str(drawn.annotations), "--store", str(store))
    assert run.status == 1
    assert "holds no images" in run.error
    assert_nothing_published(store)


def test_the_annotations_archive_is_no_images_archive(pets: Pets, drawn: SampleArchives, store: Path) -> None:
    run = pets("--images", str(drawn.annotations), "--annotations", str(drawn.annotations), "--store", str(store))
    assert run.status == 1
    assert "annotations archive" in run.error
    assert_nothing_published(store)


def test_annotations_of_another_dataset_are_refused(
    pets: Pets, drawn: SampleArchives, store: Path, tmp_path: Path
) -> None:
    other = write_sample(tmp_path / "other", SampleSpec(per_class=6, median_long_side_px=60))
    run = pets("--images", str(drawn.images), "--annotations", str(other.annotations), "--store", str(store))
    assert run.status == 1
    assert "belong to the same dataset" in run.error
    assert_nothing_published(store)


def test_a_store_that_cannot_be_written_is_refused(pets: Pets, drawn: SampleArchives, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder was meant")
    run = pets(*archives(drawn), "--store", str(tmp_path / "file" / "store"))
    assert run.status == 1
    assert "is not a folder" in run.error


def test_a_missing_bucket_is_named(pets: Pets, drawn: SampleArchives, moto: S3Server) -> None:
    run = pets(*archives(drawn), "--store", "s3://there-is-no-such-bucket/data", env=moto.environment)
    assert run.status == 1
    assert "there-is-no-such-bucket" in run.error


@pytest.mark.ceph
def test_a_wrong_secret_is_denied_and_not_shown(pets: Pets, drawn: SampleArchives, ceph: S3Server) -> None:
    wrong = {**ceph.environment, "AWS_SECRET_ACCESS_KEY": "marker-of-a-secret"}
    run = pets(*archives(drawn), "--store", f"s3://{ceph.bucket}/denied", env=wrong)
    assert run.status == 1
    assert "denied" in run.error
    assert "marker-of-a-secret" not in run.stderr + run.stdout


def test_a_ray_address_where_nothing_listens_is_found_before_any_work(
    pets: Pets, drawn: SampleArchives, store: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    run = pets(*archives(drawn), "--store", str(store), "--ray", address)
    assert run.status == 1
    assert address in run.error
    assert not store.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resolutions", "0"], "0"),
        (["--recipe", "no-such-file.yaml"], "no-such-file.yaml"),
        (["--store", "gs://bucket"], "gs://bucket"),
        (["--store", "block:there-is-none"], "there-is-none"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    pets: Pets, drawn: SampleArchives, store: Path, options: list[str], said: str
) -> None:
    run = pets(*archives(drawn), "--store", str(store), *options)
    assert run.status == 2
    assert said in run.error
    assert_nothing_published(store)


def test_an_unknown_recipe_key_is_named(pets: Pets, drawn: SampleArchives, store: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("fit: letterbox\nsharpen: 3\n")
    run = pets(*archives(drawn), "--store", str(store), "--recipe", str(recipe))
    assert run.status == 2
    assert "sharpen" in run.error


def test_too_many_rejects_publish_nothing(pets: Pets, drawn: SampleArchives, store: Path) -> None:
    run = pets(*archives(drawn), "--max-reject-fraction", "0", "--store", str(store))
    assert run.status == 1
    assert "reject-fraction" in run.error
    assert "truncated" in run.error
    assert_nothing_published(store)
