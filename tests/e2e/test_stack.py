"""The installation that `make stack` makes: a run by hand, one by schedule, and who is told when one goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule

from imageshards.dataset import open_dataset
from imageshards.sample import SampleArchives
from tests.e2e.stack import Stack
from tests.processes import wait_until

NOTIFY_SECONDS = 30.0
LATE_SECONDS = 60.0
AHEAD = timedelta(seconds=12)
SCHEDULE_SECONDS = 60.0
IDLE_QUEUE = "nobody-looks-here"


def parameters(sample: SampleArchives) -> dict[str, str]:
    return {"images": str(sample.images), "annotations": str(sample.annotations)}


@pytest.fixture(scope="module", autouse=True)
def forgotten(stack: Stack) -> Iterator[FlowRun]:
    """A run that no worker takes; begun first, for it takes the server a while to call it late."""
    with stack.client as client:
        queue = {"name": IDLE_QUEUE, "is_paused": True}
        client.request("POST", "/work_pools/imageshards/queues", json=queue).raise_for_status()
        deployment = client.read_deployment_by_name("pets/manual")
        run = client.create_flow_run_from_deployment(deployment.id, work_queue_name=IDLE_QUEUE)
        yield run
        client.delete_flow_run(run.id)


@pytest.fixture(scope="module")
def by_hand(stack: Stack, drawn_sample: SampleArchives) -> FlowRun:
    """A run of `manual` through the API, finished."""
    return stack.finish("pets/manual", parameters(drawn_sample))


def test_a_run_by_hand_leaves_the_dataset_in_s3(stack: Stack, by_hand: FlowRun, drawn_sample: SampleArchives) -> None:
    dataset = open_dataset(stack.store, resolution=224)
    assert dataset.manifest.rows == 74
    assert sum(table.num_rows for split in dataset.manifest.splits for table in dataset.batches(split)) == 74
    assert all(stack.store.exists(shard.path) for shard in dataset.manifest.shards)


def test_what_ran_on_the_cluster_is_in_the_log_of_the_run(stack: Stack, by_hand: FlowRun) -> None:
    assert stack.logged(by_hand, f"ray: Running entrypoint for job imageshards-{by_hand.id}-1")
    assert stack.logged(by_hand, "stage=preprocess outcome=done")
    [line] = [line for line in stack.logs(by_hand) if "stage=preprocess" in line]
    assert "images=74" in line
    assert list(stack.jobs(by_hand).values()) == ["SUCCEEDED"]


def test_a_run_by_hand_leaves_artifacts(stack: Stack, by_hand: FlowRun) -> None:
    artifacts = stack.artifacts(by_hand)
    assert {"summary", "checks-224"} <= set(artifacts)
    assert all(artifacts.values())


def test_a_schedule_starts_the_nightly_run(stack: Stack, by_hand: FlowRun, drawn_sample: SampleArchives) -> None:
    when = datetime.now(UTC) + AHEAD
    soon = DeploymentScheduleCreate(
        schedule=IntervalSchedule(interval=timedelta(days=1), anchor_date=when),
        max_scheduled_runs=1,
        parameters=parameters(drawn_sample),
        slug="soon",
    )

    def started() -> list[FlowRun]:
        return [run for run in stack.runs_of("nightly") if run.start_time]

    with stack.schedule("pets/nightly", soon):
        assert wait_until(started, timeout_seconds=SCHEDULE_SECONDS)
        [run] = started()
        finished = stack.wait(run, "Completed")
    assert finished.auto_scheduled
    assert finished.expected_start_time is not None
    assert abs(finished.expected_start_time - when) < timedelta(seconds=1)
    assert "unchanged" in str(stack.artifacts(finished)["summary"])


def test_a_failed_run_is_told(stack: Stack, drawn_sample: SampleArchives, tmp_path: Path) -> None:
    missing = {**parameters(drawn_sample), "images": str(tmp_path / "missing.tar.gz")}
    run = stack.finish("pets/manual", missing, "Failed")
    assert wait_until(lambda: stack.notified(run.name), timeout_seconds=NOTIFY_SECONDS)
    assert stack.notified(run.name) == ["pets / manual: Failed"]
    [message] = [each for each in stack.webhook if run.name in each["body"]]
    assert "missing.tar.gz" in message["body"]
    assert f"{stack.ui_url}/runs/flow-run/{run.id}" in message["body"]


def test_a_run_that_nobody_starts_is_told(stack: Stack, forgotten: FlowRun) -> None:
    late = stack.wait(forgotten, "Late", seconds=LATE_SECONDS)
    assert wait_until(lambda: stack.notified(late.name), timeout_seconds=NOTIFY_SECONDS)
    assert stack.notified(late.name) == ["pets / manual: Late"]


def test_the_api_and_the_cluster_ask_who_one_is(stack: Stack) -> None:
    import httpx

    assert httpx.post(f"{stack.api_url}/flow_runs/filter", json={}).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(f"{stack.ray_address}/api/jobs/").status_code == httpx.codes.UNAUTHORIZED
    token = {"Authorization": f"Bearer {stack.ray_token}"}
    assert httpx.get(f"{stack.ray_address}/api/jobs/", headers=token).is_success


def test_no_secret_is_in_a_log_or_an_argument(stack: Stack, by_hand: FlowRun) -> None:
    secrets = [stack.auth_string.partition(":")[2], stack.ray_token, stack.server.secret_access_key]
    logs = [path.read_text(errors="replace") for path in stack.folder.glob("*.log")] + stack.logs(by_hand)
    arguments = [path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    for secret in secrets:
        assert not [text for text in (*logs, *arguments) if secret in text]
