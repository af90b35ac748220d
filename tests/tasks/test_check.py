"""check: every part that a run needs answers, before any work."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from prefect import flow

from imageshards.errors import ConfigError, ImageShardsError, ObjectMissingError, StoreError, TransientError
from tasks.check import check, check_cluster_versions
from tasks.ray_versions import Installation
from tests.conftest import S3Server
from tests.ray_head import RayHead

NOBODY = "http://127.0.0.1:1"


@flow
def checking(store: str, raw_store: str, ray: str) -> None:
    """A flow that does nothing else."""
    check(store, raw_store, ray)


@flow
def looking(ray: str) -> None:
    """A flow that looks at a cluster."""
    check_cluster_versions(ray)


def test_the_look_at_a_cluster_logs_what_it_found_and_a_local_one_needs_none(
    prefect_api: str, ray_head: RayHead, caplog: pytest.LogCaptureFixture
) -> None:
    looking("local")
    assert "fits" not in caplog.text
    looking(ray_head.address)
    assert (
        f"Ray cluster {ray_head.address} fits: Python {platform.python_version()}, Ray {ray.__version__}" in caplog.text
    )


def test_the_look_fails_for_good_where_something_does_not_fit(
    prefect_api: str, ray_head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation.here()
    monkeypatch.setattr(Installation, "here", lambda: replace(here, python="3.99.0"))
    with pytest.raises(ConfigError, match=r"does not fit: it runs Python .*, this installation has 3\.99\.0"):
        looking(ray_head.address)


def test_it_passes_where_everything_answers(
    prefect_api: str, moto: S3Server, ray_head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)
    store = tmp_path / "store"
    checking(str(store), f"s3://{moto.new_bucket()}/raw", ray_head.address)
    assert not store.exists()


@pytest.mark.parametrize(
    ("store", "raw_store", "ray", "error"),
    [
        ("gs://bucket", "data", "local", ConfigError),
        ("data", "gs://bucket", "local", ConfigError),
        ("block:none", "data", "local", ConfigError),
        ("data", "data", "head:8265", ConfigError),
        ("data", "data", "block:none", ConfigError),
        ("s3://no-such-bucket", "data", "local", ObjectMissingError),
        ("data", "s3://no-such-bucket", "local", ObjectMissingError),
        ("/dev/null", "data", "local", StoreError),
        ("data", "data", NOBODY, TransientError),
    ],
)
def test_it_fails_at_once_where_something_does_not(
    empty_folder: Path, store: str, raw_store: str, ray: str, error: type[ImageShardsError]
) -> None:
    with pytest.raises(error):
        checking(store, raw_store, ray)
    assert not list(empty_folder.iterdir())


@pytest.fixture
def empty_folder(prefect_api: str, moto: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory, with an S3 server in reach."""
    monkeypatch.chdir(tmp_path)
    for variable, value in moto.environment.items():
        monkeypatch.setenv(variable, value)
    return tmp_path
