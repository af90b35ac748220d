"""What a Prefect server knows of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from tests.processes import wait_until

LOG_SECONDS = 20
SQLITE = "sqlite+aiosqlite:///"


@dataclass(frozen=True)
class Recorded:
    """One flow run, as the server has it."""

    run: FlowRun

    def task_names(self) -> list[str]:
        """Names of its task runs, in the order of their start."""
        body = {"flow_runs": {"id": {"any_": [str(self.run.id)]}}, "sort": "EXPECTED_START_TIME_ASC"}
        with get_client(sync_client=True) as client:
            return [task["name"] for task in client.request("POST", "/task_runs/filter", json=body).json()]

    def artifacts(self) -> dict[str, Any]:
        """Its artifacts, by key."""
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self.run.id]))
        with get_client(sync_client=True) as client:
            return {str(artifact.key): artifact for artifact in client.read_artifacts(artifact_filter=wanted)}

    def messages(self) -> list[str]:
        """What it and its tasks logged; all of it, for logs are sent a moment later."""

        def ended() -> bool:
            return any(log["task_run_id"] is None and "Finished in state" in log["message"] for log in self._logs())

        wait_until(ended, timeout_seconds=LOG_SECONDS)
        return [log["message"] for log in self._logs()]

    def _logs(self) -> list[dict[str, Any]]:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.run.id])).model_dump(mode="json")
        with get_client(sync_client=True) as client:
            return client.request("POST", "/logs/filter", json={"logs": wanted}).json()


def last_run() -> Recorded:
    """The run that started last."""
    with get_client(sync_client=True) as client:
        [run] = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return Recorded(run)


def database_files() -> list[Path]:
    """The files of the test server's database."""
    path = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().removeprefix(SQLITE))
    assert path.is_file()
    return sorted(path.parent.glob(path.name + "*"))
