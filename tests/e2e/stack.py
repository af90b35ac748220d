"""A whole installation for the end-to-end tests, started as `make stack` does, and what a person would do with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentScheduleUpdate, DeploymentUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.states import Cancelling

from deploy.installation import NOTIFICATIONS, PREFECT_SECRET, RAY_SECRET, StackSpec, down, up
from deploy.processes import start
from deploy.services import PREFECT_USER, base_environment, client_environment, prefect_worker
from deploy.state import StackState, read_secret, read_state, write_state
from imageshards.store import Store
from tests.conftest import S3Server
from tests.processes import wait_until

RUN_SECONDS = 120.0
POLL_SECONDS = 0.3
LOG_PAGE = 200
LOG_SECONDS = 20.0
REQUEST_SECONDS = 30.0
COMMAND_SECONDS = 60.0
RAY_CPUS = 2

FINAL = {"Completed", "Failed", "Crashed", "Cancelled"}


@dataclass(frozen=True)
class Stack:
    """A running installation.

    Attributes:
        state: Its ports and process ids.
        folder: Its state, secrets and logs.
        server: The S3 server of its store.
        bucket: The bucket of its store, which is all of it.
    """

    state: StackState
    folder: Path
    server: S3Server
    bucket: str

    @property
    def api_url(self) -> str:
        return self.state.api_url

    @property
    def ui_url(self) -> str:
        return self.state.ui_url

    @property
    def ray_address(self) -> str:
        return self.state.ray_address

    @property
    def store_url(self) -> str:
        return self.state.store_url

    @property
    def store(self) -> Store:
        return self.server.store(self.bucket)

    @property
    def auth_string(self) -> str:
        """What Prefect's API and UI ask for: user:password."""
        return f"{PREFECT_USER}:{read_secret(self.folder, PREFECT_SECRET)}"

    @property
    def ray_token(self) -> str:
        return read_secret(self.folder, RAY_SECRET)

    @property
    def client(self) -> SyncPrefectClient:
        """Prefect's own client, to be used in a with statement."""
        return SyncPrefectClient(self.api_url, auth_string=self.auth_string)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use the stack's Prefect server."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_AUTH_STRING": self.auth_string,
            "PREFECT_HOME": str(self.folder / "home"),
        }

    def create_store_block(self, name: str) -> Store:
        """Make a dataset-store block of this name, of a prefix of this name in the bucket; the store that it means."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "AWS_", "RAY_"))}
        url = {"IMAGESHARDS_STORE_URL": f"s3://{self.bucket}/{name}"}
        subprocess.run(
            [sys.executable, "-m", "blocks.from_environment", "--store-block", name],
            env={**kept, **self.environment, **self.server.environment, **url},
            stdout=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=True,
        )
        return self.server.store(self.bucket, name)

    def run_deployment(self, name: str, parameters: Mapping[str, Any] | None = None) -> FlowRun:
        """Start a run of a deployment, such as `pets/manual`."""
        with self.client as client:
            deployment = client.read_deployment_by_name(name)
            return client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters or {}))

    def read(self, run: FlowRun | UUID) -> FlowRun:
        """The run as the server has it now."""
        with self.client as client:
            return client.read_flow_run(run.id if isinstance(run, FlowRun) else run)

    def wait(self, run: FlowRun | UUID, *states: str, seconds: float = RUN_SECONDS) -> FlowRun:
        """Wait until the run is in one of the states; fails, with its log, if it ends in another one."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.read(run)
            name = found.state.name if found.state else ""
            if name in states:
                return found
            late = time.monotonic() > deadline
            if late or name in FINAL:
                why = f"is {name} after {seconds:.0f} s" if late else f"ended as {name}"
                log = "\n".join(self.logs(found)[-60:])
                message = found.state.message if found.state else ""
                pytest.fail(f"{found.name} {why}, expected {' or '.join(states)}: {message}\n{log}")
            time.sleep(POLL_SECONDS)

    def finish(self, name: str, parameters: Mapping[str, Any] | None = None, *states: str) -> FlowRun:
        """Run a deployment to its end; `Completed` unless other states are given."""
        return self.wait(self.run_deployment(name, parameters), *(states or ("Completed",)))

    def cancel(self, run: FlowRun) -> None:
        """As the UI's button does."""
        with self.client as client:
            client.set_flow_run_state(run.id, Cancelling())

    def replace_worker(self) -> None:
        """Kill the worker as a machine without memory would, and start another one."""
        # of the state as it is now: this may be the second time
        state = read_state(self.folder)
        assert state is not None
        os.kill(state.pids["worker"], signal.SIGKILL)
        client = client_environment(state, self.folder, read_secret(self.folder, PREFECT_SECRET))
        service = prefect_worker({**base_environment(state.id, os.environ), **client}, self.folder)
        worker = start(service, self.folder / f"{service.name}.log")
        write_state(self.folder, state.model_copy(update={"pids": {**state.pids, service.name: worker}}))

    def pause_schedules(self) -> None:
        """No deployment starts by itself; who runs the tests at two in the morning gets no run more."""
        with self.client as client:
            for deployment in client.read_deployments():
                for schedule in deployment.schedules:
                    path = f"/deployments/{deployment.id}/schedules/{schedule.id}"
                    change = DeploymentScheduleUpdate(active=False).model_dump(mode="json", exclude_unset=True)
                    client.request("PATCH", path, json=change).raise_for_status()

    @contextmanager
    def schedule(self, name: str, schedule: DeploymentScheduleCreate) -> Iterator[None]:
        """Give a deployment one more schedule, as the UI's form does."""
        with self.client as client:
            deployment = client.read_deployment_by_name(name)
            path = f"/deployments/{deployment.id}/schedules"
            [created] = client.request("POST", path, json=[schedule.model_dump(mode="json")]).json()
            # the server looks at once for runs to schedule where a deployment itself was changed
            client.update_deployment(deployment.id, DeploymentUpdate(paused=False))
            try:
                yield
            finally:
                client.request("DELETE", f"{path}/{created['id']}").raise_for_status()

    def runs_of(self, deployment: str) -> list[FlowRun]:
        """All runs of a deployment, named without its flow."""
        with self.client as client:
            wanted = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
            return client.read_flow_runs(flow_run_filter=FlowRunFilter(), deployment_filter=wanted)

    def logs(self, run: FlowRun | UUID) -> list[str]:
        """The log of the run and its tasks, from the first line."""
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id if isinstance(run, FlowRun) else run]))
        lines: list[str] = []
        with self.client as client:
            while True:
                page = client.read_logs(wanted, limit=LOG_PAGE, offset=len(lines), sort=LogSort.TIMESTAMP_ASC)
                lines += [log.message for log in page]
                if len(page) < LOG_PAGE:
                    return lines

    def logged(self, run: FlowRun | UUID, text: str) -> bool:
        """Whether a line of the log has the text; it may come some seconds after the run's end."""
        return wait_until(lambda: any(text in line for line in self.logs(run)), timeout_seconds=LOG_SECONDS)

    def artifacts(self, run: FlowRun) -> dict[str, Any]:
        """The artifacts of the run by their keys, each with what it holds."""
        with self.client as client:
            wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
            return {artifact.key or "": artifact.data for artifact in client.read_artifacts(artifact_filter=wanted)}

    @property
    def webhook(self) -> list[dict[str, str]]:
        """The notifications that arrived, each with subject and body."""
        path = self.folder / NOTIFICATIONS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def jobs(self, run: FlowRun) -> dict[str, str]:
        """The Ray jobs that build for a run, with their status."""
        headers = {"Authorization": f"Bearer {self.ray_token}"}
        found = httpx.get(f"{self.ray_address}/api/jobs/", headers=headers, timeout=REQUEST_SECONDS).json()
        ids = re.compile(rf"imageshards-{run.id}-\d+")
        return {job["submission_id"]: job["status"] for job in found if ids.fullmatch(job["submission_id"] or "")}

    def notified(self, text: str) -> list[str]:
        """Subjects of the notifications whose subject or body has the text."""
        return [each["subject"] for each in self.webhook if text in each["subject"] + each["body"]]


@contextmanager
def running_stack(folder: Path, server: S3Server) -> Iterator[Stack]:
    """Start a stack with an empty bucket; end it, whatever happens."""
    bucket = server.new_bucket()
    spec = StackSpec(folder, f"s3://{bucket}", server.environment, ray_cpus=RAY_CPUS)
    state = up(spec)
    try:
        stack = Stack(state, folder, server, bucket)
        stack.pause_schedules()
        yield stack
    finally:
        down(folder)
