"""The dataset-store block: what it makes of its fields, that it comes back as it was, that it keeps its secrets."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from prefect_aws import AwsCredentials, MinIOCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from blocks.dataset_store import DatasetStore, StoreAccess, store_access
from imageshards.errors import ConfigError, StoreError
from imageshards.store import StoreSpec
from tests.blocks.saved import SECRET, new_name, what_the_server_shows
from tests.conftest import S3Server

URL = "s3://bucket/prefix"
CREDENTIALS = [
    AwsCredentials(aws_access_key_id="key", aws_secret_access_key=SecretStr(SECRET), region_name="eu-west-1"),
    MinIOCredentials(minio_root_user="key", minio_root_password=SecretStr(SECRET), region_name="eu-west-1"),
]
each_kind = pytest.mark.parametrize("credentials", CREDENTIALS, ids=lambda held: type(held).__name__)


def keys_of(server: S3Server, kind: type) -> AwsCredentials | MinIOCredentials:
    secret = SecretStr(server.secret_access_key)
    if kind is MinIOCredentials:
        return MinIOCredentials(minio_root_user=server.access_key_id, minio_root_password=secret)
    return AwsCredentials(aws_access_key_id=server.access_key_id, aws_secret_access_key=secret)


@each_kind
@pytest.mark.parametrize("saved_before", [False, True], ids=["inline", "as a block of its own"])
def test_a_saved_block_comes_back_with_the_same_kind_of_credentials(
    prefect_api: str, credentials: AwsCredentials | MinIOCredentials, saved_before: bool
) -> None:
    held = credentials.model_copy()
    if saved_before:
        held.save(new_name())
    name = new_name()
    DatasetStore(url=URL, credentials=held, endpoint_url="http://127.0.0.1:9000").save(name)

    loaded = DatasetStore.load(name)
    access = store_access(f"block:{name}")

    assert type(loaded.credentials) is type(credentials)
    assert SECRET not in loaded.model_dump_json()
    assert access.spec == StoreSpec(url=URL, endpoint_url="http://127.0.0.1:9000", region="eu-west-1")
    assert access.credentials is not None
    assert access.credentials.access_key_id == "key"
    assert access.credentials.secret_access_key == SECRET
    assert SECRET not in what_the_server_shows()


def test_a_block_without_credentials_comes_back_without(prefect_api: str, tmp_path: Path) -> None:
    name = new_name()
    DatasetStore(url=str(tmp_path)).save(name)
    assert store_access(f"block:{name}") == StoreAccess(StoreSpec(url=str(tmp_path)), None)


@pytest.mark.parametrize("kind", [AwsCredentials, MinIOCredentials])
def test_its_credentials_open_the_bucket(prefect_api: str, s3_server: S3Server, kind: type) -> None:
    name = new_name()
    DatasetStore(
        url=f"s3://{s3_server.new_bucket()}/prefix",
        credentials=keys_of(s3_server, kind),
        endpoint_url=s3_server.endpoint_url,
    ).save(name)

    store = store_access(f"block:{name}").open()

    store.check_access()
    store.put("a/b", b"content")
    assert store.get("a/b") == b"content"


@pytest.mark.ceph
def test_its_credentials_win_over_those_of_the_environment(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ceph.new_bucket()
    block = DatasetStore(
        url=f"s3://{bucket}", credentials=keys_of(ceph, AwsCredentials), endpoint_url=ceph.endpoint_url
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    block.access().open().check_access()
    monkeypatch.setenv("AWS_ENDPOINT_URL", ceph.endpoint_url)
    with pytest.raises(StoreError, match="access key"):
        store_access(f"s3://{bucket}").open().check_access()


@pytest.mark.ceph
def test_without_credentials_it_takes_those_of_the_environment(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in ceph.environment.items():
        monkeypatch.setenv(variable, value)
    region_only = AwsCredentials(region_name="us-east-1")
    DatasetStore(url=f"s3://{ceph.new_bucket()}", credentials=region_only).access().open().check_access()


@each_kind
def test_nothing_shows_the_secret(credentials: AwsCredentials | MinIOCredentials) -> None:
    block = DatasetStore(url=URL, credentials=credentials)
    access = block.access()
    shown = [repr(block), str(block), block.model_dump_json(), str(block.model_dump()), repr(access), str(access)]
    shown += [repr(access.spec), access.spec.model_dump_json(), repr(access.open()), f"{access.credentials}"]
    assert not [text for text in shown if SECRET in text]
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(access)


def test_nothing_of_ours_shows_a_session_token() -> None:
    credentials = AwsCredentials(
        aws_access_key_id="key", aws_secret_access_key=SecretStr("secret"), aws_session_token=SECRET
    )
    block = DatasetStore(url=URL, credentials=credentials)
    access = block.access()
    assert access.credentials is not None
    assert access.credentials.session_token == SECRET
    assert SECRET not in repr(block) + str(block) + repr(access) + str(access)


def test_a_child_process_gets_the_credentials_under_a_prefix_and_nothing_without_any() -> None:
    credentials = AwsCredentials(
        aws_access_key_id="key", aws_secret_access_key=SecretStr("secret"), aws_session_token="token"
    )
    access = DatasetStore(url=URL, credentials=credentials).access()
    assert access.environment("RAW_") == {
        "RAW_AWS_ACCESS_KEY_ID": "key",
        "RAW_AWS_SECRET_ACCESS_KEY": "secret",
        "RAW_AWS_SESSION_TOKEN": "token",
    }
    assert "RAW_AWS_SESSION_TOKEN" not in DatasetStore(url=URL, credentials=CREDENTIALS[0]).access().environment("RAW_")
    assert store_access("data").environment("RAW_") == {}


@pytest.mark.parametrize(
    ("own", "of_credentials", "expected"),
    [
        (None, None, None),
        ("http://own:1", None, "http://own:1"),
        (None, "http://theirs:2", "http://theirs:2"),
        ("http://own:1", "http://theirs:2", "http://own:1"),
        ("", "http://theirs:2", "http://theirs:2"),
        ("", "", None),
    ],
)
def test_the_endpoint_is_its_own_else_that_of_the_credentials(
    own: str | None, of_credentials: str | None, expected: str | None
) -> None:
    for kind in (AwsCredentials, MinIOCredentials):
        keys = {"minio_root_user": "key", "minio_root_password": "secret"} if kind is MinIOCredentials else {}
        held = kind(**keys, aws_client_parameters=AwsClientParameters(endpoint_url=of_credentials))
        assert DatasetStore(url=URL, credentials=held, endpoint_url=own).access().spec.endpoint_url == expected


@pytest.mark.parametrize(
    ("own", "of_credentials", "expected"),
    [(None, None, None), ("a", None, "a"), (None, "b", "b"), ("a", "b", "a"), ("", "b", "b"), ("", "", None)],
)
def test_the_region_is_its_own_else_that_of_the_credentials(
    own: str | None, of_credentials: str | None, expected: str | None
) -> None:
    held = AwsCredentials(region_name=of_credentials)
    assert DatasetStore(url=URL, credentials=held, region=own).access().spec.region == expected


@pytest.mark.parametrize(
    "held",
    [
        AwsCredentials(aws_access_key_id="key"),
        AwsCredentials(aws_secret_access_key=SecretStr(SECRET)),
        MinIOCredentials(minio_root_user="key", minio_root_password=SecretStr("")),
    ],
    ids=["no secret key", "no access key", "empty password"],
)
def test_half_a_key_pair_is_refused(held: AwsCredentials | MinIOCredentials) -> None:
    with pytest.raises(ConfigError, match="half a key pair") as caught:
        DatasetStore(url=URL, credentials=held).access()
    assert SECRET not in str(caught.value)


def test_a_profile_gives_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = key\naws_secret_access_key = secret\n[empty]\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    found = DatasetStore(url=URL, credentials=AwsCredentials(profile_name="team")).access().credentials
    assert found is not None
    assert (found.access_key_id, found.secret_access_key) == ("key", "secret")
    for profile in ("empty", "unknown"):
        with pytest.raises(ConfigError, match=f"AWS profile '{profile}'"):
            DatasetStore(url=URL, credentials=AwsCredentials(profile_name=profile)).access()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("", None), ("gs://bucket", None), ("s3://B/x", None), (f"s3://user:{SECRET}@bucket", None), (URL, "ftp://x")],
)
def test_an_impossible_store_is_refused_without_showing_secrets(url: str, endpoint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        DatasetStore(url=url, endpoint_url=endpoint).access()
    assert SECRET not in str(caught.value)


def test_a_plain_reference_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert store_access(str(tmp_path)) == StoreAccess(StoreSpec(url=str(tmp_path)))
    assert store_access(URL).spec.url == URL


def test_a_public_url_makes_links_that_hold_any_key() -> None:
    access = DatasetStore(url=URL, public_url="https://data.example.org/pets/").access()
    assert access.link("shards/a b/#1%.html") == "https://data.example.org/pets/shards/a%20b/%231%25.html"
    assert DatasetStore(url=URL).access().link("shards/x") is None
    assert DatasetStore(url=URL, public_url="").access().link("shards/x") is None
    assert store_access("data").link("shards/x") is None


@pytest.mark.parametrize(
    "url",
    [
        "data.example.org",
        "javascript:alert(1)",
        "https://",
        "https://[1",
        f"https://user:{SECRET}@data.example.org",
        f"https://data.example.org/?X-Amz-Signature={SECRET}",
        f"https://data.example.org/#{SECRET}",
    ],
)
def test_a_public_url_that_is_none_or_holds_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="public URL") as caught:
        DatasetStore(url=URL, public_url=url).access()
    assert SECRET not in str(caught.value)
