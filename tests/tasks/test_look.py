"""look: a run in a fresh container finds by the store alone that there is nothing new, and says how it knows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow

from imageshards.fetch import Source, fetch
from imageshards.oxford_pets import DATASET
from imageshards.sources import Unchanged
from tasks.look import look
from tasks.upload import upload
from tests.conftest import S3Server
from tests.imageshards.http_site import Site, ranged, running_site, status
from tests.imageshards.small_dataset import annotation_members, image_members, write_archive


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_site() as site:
        yield site


@flow
def uploading(images: str, annotations: str, raw_store: str, cache: Path) -> None:
    """The night before."""
    upload(fetch(Source(images), cache), fetch(Source(annotations), cache), raw_store, DATASET)


@flow
def looking(images: str, annotations: str, raw_store: str) -> Unchanged | None:
    """A flow that does nothing else."""
    return look(Source(images), Source(annotations), raw_store, DATASET)


def test_a_night_without_news_is_told_by_the_store_alone(
    prefect_api: str,
    moto: S3Server,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)
    raw_store = f"s3://{moto.new_bucket()}/raw"
    members = {"images": image_members(), "annotations": annotation_members()}
    bodies = {what: write_archive(tmp_path / f"{what}.zip", of).path.read_bytes() for what, of in members.items()}
    urls = [site.put(f"/{what}.zip", ranged(body)) for what, body in bodies.items()]
    with caplog.at_level(logging.INFO):
        assert looking(*urls, raw_store) is None
        assert "to be downloaded: images not seen before" in caplog.text
        uploading(*urls, raw_store, tmp_path / "cache")
        site.asked.clear()
        found = looking(*urls, raw_store)
        assert "nothing new: images unchanged (HTTP 304), annotations unchanged (HTTP 304)" in caplog.text
        site.put("/images.zip", status(500))
        assert looking(*urls, raw_store) is None
        assert f"to be downloaded: images {urls[0]}: HTTP 500" in caplog.text
    assert found is not None
    assert found.info.images == len(image_members())
    assert {what: source.size_bytes for what, source in found.sources.items()} == {
        what: len(body) for what, body in bodies.items()
    }
    assert [path for path, _ in site.asked] == ["/images.zip", "/annotations.zip", "/images.zip"]
