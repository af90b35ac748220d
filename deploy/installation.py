"""Starts a whole installation on this machine, and ends it; `deploy.stack` is its command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deploy import postgres, services
from deploy.processes import Service, check_system, end, end_rest, start, wait_ready
from deploy.resources import NOTIFY_VARIABLE
from deploy.state import StackState, make_secret, read_state, write_state
from imageshards.errors import ConfigError, ImageShardsError

FOLDER = services.repository() / ".stack"
START_SECONDS = 120.0
STOP_SECONDS = 30.0
DEPLOY_SECONDS = 180.0
SCRATCH_MODE = 0o711  # PostgreSQL's user has to pass through, and need not look around
STORE_FOLDER = "store"
NOTIFICATIONS = services.NOTIFICATIONS
BUCKET = "imageshards"

PREFECT_SECRET = "prefect-password"  # noqa: S105 (the name of a file)
DATABASE_SECRET = "database-password"  # noqa: S105
RAY_SECRET = "ray-token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class StackSpec:
    """What a stack is to be.

    Attributes:
        folder: Where it keeps its state, secrets and logs.
        store_url: Where the data goes.
        store_environment: AWS_* variables: keys, endpoint and region of the store.
        notify_url: Webhook for notifications; None for an inbox of the stack's own.
        ray_cpus: CPUs of the Ray head.
    """

    folder: Path
    store_url: str
    store_environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    notify_url: str | None = field(default=None, repr=False)
    ray_cpus: int = field(default_factory=services.usable_cpus)


def spec_from_environment(folder: Path, environment: Mapping[str, str]) -> StackSpec:
    """What the environment asks for."""
    endpoint = environment.get("IMAGESHARDS_STACK_S3")
    aws = {name: value for name, value in environment.items() if name.startswith("AWS_")}
    if endpoint:
        aws["AWS_ENDPOINT_URL"] = endpoint
    default = f"s3://{BUCKET}/stack" if endpoint else str(folder / STORE_FOLDER)
    url = environment.get("IMAGESHARDS_STORE_URL") or default
    return StackSpec(folder, url, aws if url.startswith("s3://") else {}, environment.get(NOTIFY_VARIABLE))


def up(spec: StackSpec, say: Callable[[str], object] | None = None) -> StackState:
    """Start all of it, in the order in which one needs the other.

    Raises:
        ConfigError: A stack of this folder is there already, or something that it needs is missing.
        ImageShardsError: A service did not start; what had started is ended again.
    """
    check_system()
    programs = postgres.find_programs(os.environ)
    if read_state(spec.folder) is not None:
        raise ConfigError(
            f"a stack was started in {spec.folder} already: `make stack-status` tells what of it runs, "
            "`make stack-down` ends it"
        )
    spec.folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="imageshards-"))
    scratch.chmod(SCRATCH_MODE)
    state = StackState(id=uuid.uuid4().hex, scratch=scratch, store_url=spec.store_url, ports=services.free_ports())
    write_state(spec.folder, state)
    try:
        return _Starting(spec, state, programs, say or (lambda _: None)).run()
    except BaseException:
        down(spec.folder, keep_logs=True)
        raise


class _Starting:
    """Starts one service after another, and writes down each at once, so that `down` finds whatever was started."""

    def __init__(self, spec: StackSpec, state: StackState, programs: Path, say: Callable[[str], object]) -> None:
        self._spec = spec
        self._state = state
        self._programs = programs
        self._say = say
        self._base = services.base_environment(state.id, os.environ)
        self._passwords = {
            name: make_secret(spec.folder, name) for name in (PREFECT_SECRET, DATABASE_SECRET, RAY_SECRET)
        }
        self._client = {
            **self._base,
            **services.client_environment(state, spec.folder, self._passwords[PREFECT_SECRET]),
        }

    def run(self) -> StackState:
        self._start_head()
        if self._spec.notify_url is None:
            self._start(services.notification_inbox(self._state, self._base, self._spec.folder))
        self._start_database()
        self._start_server()
        self._deploy()
        self._start(services.prefect_worker(self._client, self._spec.folder))
        dashboard = f"{self._state.ray_address}/api/version"
        agent = self._state.ports["dashboard-agent-listen-port"]  # takes the jobs
        self._wait("ray", lambda: services.answers(dashboard) and services.listens(agent))
        self._wait("worker", lambda: worker_is_online(self._client))
        self._state = self._state.model_copy(update={"ready": True})
        write_state(self._spec.folder, self._state)
        return self._state

    def _start_head(self) -> None:
        """Ray takes seconds to start and needs nothing of the others: it comes first, and is waited for last."""
        kept = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
        keys = {name: value for name, value in self._spec.store_environment.items() if name in kept}
        token_file = self._spec.folder / RAY_SECRET
        self._start(
            services.ray_head(self._state, self._base, token_file.resolve(), cpus=self._spec.ray_cpus, keys=keys)
        )

    def _start_database(self) -> None:
        password = self._passwords[DATABASE_SECRET]
        self._start(postgres.create_database(self._programs, self._state, password, self._base))
        self._wait("postgres", lambda: postgres.is_ready(self._programs, self._state))

    def _start_server(self) -> None:
        url = postgres.connection_url(self._state, self._passwords[DATABASE_SECRET])
        self._start(services.prefect_server(self._state, self._client, self._spec.folder, url))
        self._wait("prefect", lambda: services.answers(f"{self._state.api_url}/health"))

    def _deploy(self) -> None:
        """As `make deploy` does."""
        self._say("creating pool, blocks, limit, automations and deployments")
        create_bucket(self._spec)
        environment = {
            **self._client,
            **self._spec.store_environment,
            "IMAGESHARDS_STORE_URL": self._spec.store_url,
            "IMAGESHARDS_RAY_ADDRESS": self._state.ray_address,
            "RAY_AUTH_TOKEN": self._passwords[RAY_SECRET],
            NOTIFY_VARIABLE: self._spec.notify_url or f"http://127.0.0.1:{self._state.ports['inbox']}",
        }
        for command in (["deploy.resources"], ["prefect", "--no-prompt", "deploy", "--all"]):
            done = subprocess.run(  # noqa: S603 (our own commands, no shell)
                [sys.executable, "-m", *command],
                env=environment,
                cwd=services.repository(),
                capture_output=True,
                text=True,
                timeout=DEPLOY_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                raise ImageShardsError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _start(self, service: Service) -> None:
        self._say(f"starting {service.name}")
        pid = start(service, self._log(service.name))
        self._state = self._state.model_copy(update={"pids": {**self._state.pids, service.name: pid}})
        write_state(self._spec.folder, self._state)

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        pid = self._state.pids[name]
        wait_ready(name, pid, is_ready, log=self._log(name), timeout_seconds=START_SECONDS)

    def _log(self, name: str) -> Path:
        return self._spec.folder / f"{name}.log"


def down(folder: Path, *, keep_logs: bool = False) -> bool:
    """End a stack, whole or half dead, and remove what it kept, the data apart; whether there was one.

    Raises:
        ImageShardsError: A process would not end.
    """
    state = read_state(folder)
    if state is None:
        return False
    pids = state.pids
    polite = [pids[name] for name in ("worker", "ray", "inbox") if name in pids]
    end(state.id, polite, signal.SIGTERM, timeout_seconds=STOP_SECONDS)
    end(state.id, [pids[name] for name in ("prefect",) if name in pids], signal.SIGTERM, timeout_seconds=STOP_SECONDS)
    database = [pids[name] for name in ("postgres",) if name in pids]
    end(
        state.id, database, signal.SIGINT, timeout_seconds=STOP_SECONDS
    )  # PostgreSQL's word for: do not wait for clients
    left = end_rest(state.id, timeout_seconds=STOP_SECONDS)
    if left:
        raise ImageShardsError(f"these processes of the stack would not end: {left}; end them, then try again")
    shutil.rmtree(state.scratch, ignore_errors=True)
    for path in folder.iterdir():
        if path.name == STORE_FOLDER or (keep_logs and path.suffix == ".log"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def worker_is_online(environment: Mapping[str, str]) -> bool:
    """Whether the server has heard of a worker of the pool."""
    import httpx  # noqa: PLC0415 (Prefect's own client for HTTP)

    user, _, password = environment["PREFECT_API_AUTH_STRING"].partition(":")
    url = f"{environment['PREFECT_API_URL']}/work_pools/{services.POOL}/workers/filter"
    answer = httpx.post(url, json={}, auth=(user, password), timeout=services.REQUEST_SECONDS)
    return answer.is_success and any(worker["status"] == "ONLINE" for worker in answer.json())


def create_bucket(spec: StackSpec) -> None:
    """Make the bucket of the store, where it is on a server of one's own and not there yet."""
    endpoint = spec.store_environment.get("AWS_ENDPOINT_URL")
    parts = urlsplit(spec.store_url)
    if parts.scheme != "s3" or not endpoint:
        return
    import boto3  # noqa: PLC0415 (only where there is such a server)

    given = spec.store_environment
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=given.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=given.get("AWS_SECRET_ACCESS_KEY"),
        region_name=given.get("AWS_REGION", "us-east-1"),
    )
    if parts.netloc not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=parts.netloc)
