"""What all tests share: a clean environment, S3 servers and stores, a Prefect server, a Ray head, sample photographs.

`moto` is started inside the test process. `ceph` is a real S3 server: the one IMAGESHARDS_TEST_CEPH names, else the one
that already listens on 127.0.0.1:7480, else one that `../shared/s3/ceph-up` starts; where there is none, its tests are
skipped.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from imageshards.sample import SampleArchives, SampleSpec, write_sample
from imageshards.store import Credentials, Store, StoreSpec, open_store
from tests.processes import PROC, processes_with, wait_until
from tests.ray_head import RayHead, running_ray_head

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SHARED = Path(__file__).resolve().parents[2] / "shared"
CEPH_ENDPOINT = "http://127.0.0.1:7480"
CEPH_KEYS = ("testkey", "testsecret")
MOTO_KEYS = ("moto-key", "moto-secret")
CEPH_STOP_SECONDS = 60
PREFECT_START_SECONDS = 60
END_SECONDS = 20
SESSION_VARIABLE = "IMAGESHARDS_TEST_SESSION"
_OUR_VARIABLES = (SESSION_VARIABLE, "IMAGESHARDS_TEST_CEPH")

# No test fails for being slow on a busy machine.
settings.register_profile("imageshards", deadline=None)
settings.load_profile("imageshards")

CEPH = pytest.param("ceph", marks=pytest.mark.ceph)
S3_SERVERS = ["moto", CEPH]
BACKENDS = ["folder", *S3_SERVERS]


@dataclass(frozen=True)
class S3Server:
    """One running S3 server and the keys of a user who may do everything there."""

    name: str
    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    _buckets: list[str] = field(default_factory=list, repr=False, compare=False)

    @functools.cached_property
    def bucket(self) -> str:
        """A bucket for all tests that keep to a prefix of their own."""
        return self.new_bucket()

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.access_key_id, self.secret_access_key)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to reach the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
        }

    def client(self) -> S3Client:
        """boto3, for what a store does not do: making buckets, looking behind its back."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
            config=Config(request_checksum_calculation="when_required", connect_timeout=5, retries={"max_attempts": 2}),
        )

    def new_bucket(self) -> str:
        """An empty bucket, which goes at the end of the session."""
        bucket = f"t-{uuid.uuid4().hex[:20]}"
        self.client().create_bucket(Bucket=bucket)
        self._buckets.append(bucket)
        return bucket

    def remove_buckets(self) -> None:
        """Remove what the tests made: a user of Ceph may have 1,000 buckets."""
        client = self.client()
        for bucket in self._buckets:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                if found := [{"Key": entry["Key"]} for entry in page.get("Contents", [])]:
                    client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})
            for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            client.delete_bucket(Bucket=bucket)
        self._buckets.clear()

    def spec(self, bucket: str, prefix: str = "") -> StoreSpec:
        return StoreSpec(url=f"s3://{bucket}/{prefix}", endpoint_url=self.endpoint_url, region=self.region)

    def store(self, bucket: str, prefix: str = "") -> Store:
        return open_store(self.spec(bucket, prefix), credentials=self.credentials)


_WITH_STACK = {"test_stack.py", "test_nights.py", "test_ui.py", "test_git_pull.py"}
"""Files that use the whole installation, of which there is to be one."""

_ceph = ExitStack()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file stay in one process, for they share what it started; likewise those that share the stack."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "stack" if path.rpartition("/")[2] in _WITH_STACK else path

    config.option.loadscopereorder = False  # by the number of tests: the stack's, few and long, would come last
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where tests run in several processes, all of them use one Ceph, which this one starts before the others."""
    if getattr(session.config.option, "numprocesses", None) and (SHARED / "s3" / "ceph-up").exists():
        named = os.environ.get("IMAGESHARDS_TEST_CEPH")
        server = S3Server("ceph", named or CEPH_ENDPOINT, *CEPH_KEYS)
        if not named and not _is_ceph(server):
            _ceph.enter_context(_started_ceph())


def pytest_sessionfinish() -> None:
    """The end of that Ceph."""
    _ceph.close()


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """A run in the background of a shell ignores SIGINT, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_aws_of_this_machine() -> Iterator[None]:
    """No test sees the developer's keys, profiles, endpoints, or asks the network for a role."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left_behind() -> Iterator[None]:
    """Whatever any test started is gone in the end, with its children and theirs."""
    session = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SESSION_VARIABLE, session)
        yield
    if not PROC.is_dir():
        return
    helpers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # they end with this process

    def left() -> list[str]:
        running = [process.command for process in processes_with(SESSION_VARIABLE, session)]
        return [command for command in running if not any(helper in command for helper in helpers)]

    wait_until(lambda: not left(), timeout_seconds=END_SECONDS)
    assert left() == []


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the developer's Ray cluster, token, Prefect server or profile, nor fills his cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("RAY_", "PREFECT_", "IMAGESHARDS_"))]:
            if name not in _OUR_VARIABLES:
                patch.delenv(name)
        patch.setenv("IMAGESHARDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """An S3 imitation in this process. It lets every key in, and keeps objects in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server("moto", f"http://{host}:{port}", *MOTO_KEYS)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Server]:
    """A real S3 server; skips where there is none."""
    named = os.environ.get("IMAGESHARDS_TEST_CEPH")
    server = S3Server("ceph", named or CEPH_ENDPOINT, *CEPH_KEYS)
    if named or _is_ceph(server):
        yield server
        server.remove_buckets()
        return
    if not (SHARED / "s3" / "ceph-up").exists():
        pytest.skip("no Ceph: set IMAGESHARDS_TEST_CEPH to the endpoint of one")
    with _started_ceph():
        yield server


@contextmanager
def _started_ceph() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ceph-", ignore_cleanup_errors=True) as folder:
        try:
            subprocess.run([SHARED / "s3" / "ceph-up", folder], check=True, stdout=subprocess.DEVNULL)
            yield
        finally:
            subprocess.run([SHARED / "s3" / "ceph-down", folder], check=False, timeout=CEPH_STOP_SECONDS)


def _is_ceph(server: S3Server) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = server.client().list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return answer["ResponseMetadata"].get("RequestId", "").startswith("tx")  # as RGW's ids begin


@pytest.fixture(params=S3_SERVERS)
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def s3_env(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[S3Server, str]]:
    """`s3_env("moto")` or `s3_env("ceph")`: a server and a new bucket, with the environment set to reach them."""

    def enter(name: str) -> tuple[S3Server, str]:
        server: S3Server = request.getfixturevalue(name)
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        return server, server.new_bucket()

    return enter


@pytest.fixture(params=BACKENDS)
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """A maker of empty stores, on each backend in turn."""
    if request.param == "folder":
        return lambda: open_store(str(tmp_path / f"store-{uuid.uuid4().hex[:8]}"))
    server: S3Server = request.getfixturevalue(request.param)
    return lambda: server.store(server.bucket, f"prefix/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """An empty store, on each backend in turn."""
    return new_store()


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    """An empty store in a folder that does not exist yet."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def s3_store(s3_server: S3Server) -> Store:
    """An empty store on each S3 server in turn."""
    return s3_server.store(s3_server.new_bucket(), "prefix")


@pytest.fixture(scope="session")
def shared_sample() -> Path:
    """The folder of the real photographs: images.tar.gz, annotations.tar.gz, expected.json."""
    folder = SHARED / "data" / "pets-sample"
    if not folder.is_dir():
        pytest.skip("no photographs: ../shared/data/pets-sample is not there")
    return folder


@pytest.fixture(scope="session")
def drawn_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleArchives:
    """Small archives in the layout of Oxford's, without any fault: 74 images, one of each class in each split."""
    return write_sample(
        tmp_path_factory.mktemp("sample"), SampleSpec(per_class=2, median_long_side_px=120, faults=False)
    )


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server with an empty database, which this process and its children use from now on."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),  # each run waits 1 s for it
        prefect_test_harness(server_startup_timeout=PREFECT_START_SECONDS),
    ):
        address = PREFECT_API_URL.value()
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_URL", address)
        yield address


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """A Ray cluster of one node; its processes reach both S3 servers, as the nodes of a real one reach theirs."""
    keys = {"AWS_ACCESS_KEY_ID": CEPH_KEYS[0], "AWS_SECRET_ACCESS_KEY": CEPH_KEYS[1], "AWS_REGION": "us-east-1"}
    with running_ray_head(env=keys) as head:
        yield head
