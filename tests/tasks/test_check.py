"""check: every part that a run needs answers, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow

from imageshards.errors import ConfigError, ImageShardsError, ObjectMissingError, StoreError, TransientError
from tasks.check import check
from tests.conftest import S3Server
from tests.ray_head import RayHead

NOBODY = "http://127.0.0.1:1"


@flow
def checking(store: str, raw_store: str, ray: str) -> None:
    """A flow that does nothing else."""
    check(store, raw_store, ray)


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
