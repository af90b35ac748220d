"""A user's machine where no Prefect server runs: all of a run is there afterwards, and little is done for nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.counting_proxy import counting_proxy
from imageshards.sample import SampleArchives
from tests.conftest import S3Server
from tests.e2e.conftest import ROOT, Pets, archives
from tests.processes import PROC, processes_with, wait_until

MAX_REQUESTS = 50
WAIT_SECONDS = 120
GONE_SECONDS = 30
MARK = "IMAGESHARDS_TEST_RUN"


@pytest.fixture(scope="module")
def no_server(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who has none; what has the value "" is as if it were not set."""
    return {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}


@pytest.fixture
def asked(no_server: dict[str, str]) -> Callable[[str], list[Any]]:
    """Asks the database that the runs of `no_server` leave behind."""

    def query(statement: str) -> list[Any]:
        with sqlite3.connect(Path(no_server["PREFECT_HOME"]) / "prefect.db") as database:
            return [row[0] for row in database.execute(statement)]

    return query


def test_a_run_is_recorded_and_an_unchanged_one_asks_the_store_little_and_starts_no_ray(
    pets: Pets,
    no_server: dict[str, str],
    asked: Callable[[str], list[Any]],
    drawn: SampleArchives,
    moto: S3Server,
    tmp_path: Path,
) -> None:
    bucket = moto.new_bucket()
    options = [*archives(drawn), "--store", f"s3://{bucket}"]
    with counting_proxy(moto.endpoint_url) as proxy:
        environment = {**no_server, **moto.environment, "AWS_ENDPOINT_URL": proxy.address}
        built = pets(*options, env=environment)
        assert built.summary["results"][0]["status"] == "built"
        assert len(proxy.requests) > MAX_REQUESTS  # so one can count
        assert asked("SELECT state_type FROM flow_run") == ["COMPLETED"]
        assert {"COMPLETED"} == set(asked("SELECT state_type FROM task_run"))
        assert {"summary", "rejects", "checks-224", "preprocess-progress"} <= set(asked("SELECT key FROM artifact"))
        assert any("Finished in state Completed" in message for message in asked("SELECT message FROM log"))

        before = len(proxy.requests)
        folder = tmp_path / "ray"
        unchanged = pets(*options, env={**environment, "RAY_TMPDIR": str(folder)})
        assert unchanged.summary["results"][0]["status"] == "unchanged"
        assert 0 < len(proxy.requests) - before < MAX_REQUESTS
        assert not folder.exists()
    assert asked("SELECT state_type FROM flow_run") == ["COMPLETED", "COMPLETED"]


def test_a_failed_run_is_recorded_and_tells_of_the_error_alone(
    pets: Pets, no_server: dict[str, str], asked: Callable[[str], list[Any]], drawn: SampleArchives, tmp_path: Path
) -> None:
    options = ["--images", str(drawn.annotations), "--annotations", str(drawn.annotations)]
    run = pets(*options, "--store", str(tmp_path / "store"), env=no_server)
    assert run.status == 1
    assert run.stdout == ""
    assert "annotations archive" in run.error
    assert asked("SELECT state_type FROM flow_run ORDER BY created")[-1] == "FAILED"


@pytest.mark.skipif(not PROC.is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_neither_server_nor_ray_outlives_a_run(
    number: signal.Signals,
    cli_environment: dict[str, str],
    no_server: dict[str, str],
    drawn: SampleArchives,
    tmp_path: Path,
) -> None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.pets", *archives(drawn), "--store", str(tmp_path)],
        cwd=ROOT,
        env={**cli_environment, **no_server, MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def runs(name: str) -> bool:
        assert process.poll() is None, process.returncode
        return any(name in each.command for each in processes_with(MARK, mark))

    try:
        assert wait_until(lambda: runs("imageshards.ray_driver"), timeout_seconds=WAIT_SECONDS)
        assert runs("flows.local_server")
        os.killpg(process.pid, number)
        process.wait(WAIT_SECONDS)
        assert process.returncode != 0
        assert wait_until(lambda: not processes_with(MARK, mark), timeout_seconds=GONE_SECONDS)
        assert not list(tmp_path.rglob("manifest.json"))
    finally:
        for each in processes_with(MARK, mark):
            os.kill(each.id, signal.SIGKILL)
        process.wait()
