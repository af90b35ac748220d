"""A Prefect server that is away for a while takes artifacts from whoever looks, and ends no work."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from imageshards.errors import Check
from imageshards.housekeeping import Cleaning
from tasks.artifacts import artifact_or_warning
from tasks.clean import cleaning_artifact
from tasks.progress_artifact import AWAY_SECONDS, ProgressArtifact
from tasks.tables import checks_artifact
from tests.flows.runs import last_run


@pytest.fixture
def no_server() -> Iterator[None]:
    """An address where nobody answers, and a client that does not wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def test_progress_and_tables_go_without_a_server(no_server: None, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    progress = ProgressArtifact("a-progress", clock=lambda: now[0])
    progress.show(1, 10, seconds=1)
    now[0] = AWAY_SECONDS - 1
    progress.show(2, 10, seconds=2)
    assert len(caplog.messages) == 1, "while a server is away it is not asked again and again"
    checks_artifact(224, [Check("rows", True, "1", "1")])
    cleaning_artifact(Cleaning("pets", dry_run=True))
    kept = [message.partition(" could not be left: ConnectError")[0] for message in caplog.messages]
    assert kept == ["artifact a-progress", "artifact checks-224", "artifact housekeeping-pets"]


def test_the_log_of_the_run_has_the_warning(prefect_api: str) -> None:
    @flow
    def run() -> None:
        with artifact_or_warning("artifact x"):
            raise OSError("no route\nto the server")

    run()
    assert "artifact x could not be left: OSError: no route" in last_run().messages()
