"""The flow on a real Prefect server: what it returns, what it leaves there, how it fails, and that it keeps secrets."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Crashed
from prefect_aws import AwsCredentials
from pydantic import SecretStr
from ray.job_submission import JobStatus, JobSubmissionClient

import flows.pets
from blocks.dataset_store import DatasetStore
from blocks.ray_cluster import ClusterAccess, RayCluster
from flows.command import main
from flows.pets import pets, stop_job
from imageshards.errors import ConfigError, ImageShardsError, StoreError
from imageshards.oxford_pets import DATASET
from imageshards.sample import SampleArchives, SampleSpec, write_sample
from imageshards.store import open_store
from imageshards.writer_lock import Holder, writer_lock
from tasks.ray_job import run_ray_job
from tasks.writer import Writing
from tests.conftest import MOTO_KEYS, S3Server
from tests.flows.runs import Recorded, database_files, last_run
from tests.processes import wait_until
from tests.ray_head import RayHead

MARKER = "s3cr3t-marker-0123456789abcdef0123456789"
LOCAL_RAY_FOLDER = Path("/tmp/ray")
JOB_SECONDS = 60
MAX_TASK_RUNS = 10
OTHER_RUN_SECONDS = 2.0


@dataclass(frozen=True)
class Finished:
    """A run of the flow that built 224 px with a local Ray, its store a block with a secret in it."""

    summary: dict[str, Any]
    recorded: Recorded
    store: Path
    reference: str
    ray_logs: list[Path]


@pytest.fixture(scope="session")
def faulty_sample(tmp_path_factory: pytest.TempPathFactory) -> SampleArchives:
    """77 images, one of which is truncated."""
    return write_sample(tmp_path_factory.mktemp("faulty"), SampleSpec(per_class=2, median_long_side_px=120))


def sources(sample: SampleArchives) -> dict[str, str]:
    return {"images": str(sample.images), "annotations": str(sample.annotations)}


@pytest.fixture(scope="session")
def finished(prefect_api: str, drawn_sample: SampleArchives, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = tmp_path_factory.mktemp("finished") / "store"
    keys = AwsCredentials(aws_access_key_id="key", aws_secret_access_key=SecretStr(MARKER))
    DatasetStore(url=str(store), credentials=keys).save("finished-store", overwrite=True)
    before = time.time()
    summary = pets(**sources(drawn_sample), store="block:finished-store")
    sessions = [folder for folder in LOCAL_RAY_FOLDER.glob("session_2*") if folder.stat().st_mtime >= before]
    logs = [path for folder in sessions for path in (folder / "logs").rglob("*") if path.is_file()]
    return Finished(summary, last_run(), store, "block:finished-store", logs)


def files_of(folder: Path) -> dict[str, int]:
    """Each file with the time of its last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def holds_marker(path: Path) -> bool:
    return MARKER.encode() in path.read_bytes()


def test_it_returns_a_summary_of_the_documented_form(finished: Finished) -> None:
    [result] = finished.summary["results"]
    assert finished.summary == {
        "dataset": "oxford-iiit-pet",
        "store": finished.store.as_uri(),
        "index": finished.summary["index"],
        "results": [result],
    }
    assert Path(finished.summary["index"].removeprefix("file://")).is_file()
    assert Path(result["manifest"].removeprefix("file://")).is_file()
    assert result == {
        "resolution": 224,
        "manifest": result["manifest"],
        "rows": 74,
        "splits": {"test": 37, "trainval": 37},
        "rejects": {},
        "left_out": {},
        "repairs": {},
        "status": "built",
        "published_at": result["published_at"],
        "changes": result["changes"],
        "seconds": result["seconds"],
    }
    assert result["changes"]["gist"].startswith("first version")
    assert result["seconds"] > 0
    assert json.loads(json.dumps(finished.summary)) == finished.summary


def test_it_leaves_raw_data_and_shards_and_of_the_run_one_lock_that_nobody_holds(finished: Finished) -> None:
    assert {name.split("/")[0] for name in files_of(finished.store)} == {"raw", "shards", "locks"}
    [lock] = [name for name in files_of(finished.store) if name.startswith("locks/")]
    assert json.loads((finished.store / lock).read_text())["released"] is True
    assert [name for name in files_of(finished.store) if name.endswith("latest.json")] == [
        "shards/oxford-iiit-pet/224/latest.json"
    ]


def test_the_server_has_a_completed_run_with_few_task_runs(finished: Finished) -> None:
    assert finished.recorded.run.state is not None
    assert finished.recorded.run.state.is_completed()
    names = [name.rsplit("-", 1)[0] for name in finished.recorded.task_names()]
    assert len(names) <= MAX_TASK_RUNS
    assert sorted(names) == sorted(
        [
            "check",
            "look",
            "download images",
            "download annotations",
            "upload",
            "find published",
            "preprocess",
            "validate 224",
            "publish 224",
        ]
    )


def test_it_leaves_its_artifacts(finished: Finished) -> None:
    artifacts = finished.recorded.artifacts()
    assert set(artifacts) >= {
        "summary",
        "changes",
        "contact-sheet",
        "where-the-time-went",
        "rows-by-class",
        "rejects",
        "checks-224",
        "preprocess-progress",
    }
    assert "| 224 | built | 74 |" in artifacts["summary"].data
    rows = json.loads(artifacts["rows-by-class"].data)
    assert len(rows) == 37
    assert rows[0] == {"class": "Abyssinian", "test": 1, "trainval": 1}
    assert [reject["image"] for reject in json.loads(artifacts["rejects"].data)] == ["none"]
    assert {check["passed"] for check in json.loads(artifacts["checks-224"].data)} == {"yes"}
    assert artifacts["preprocess-progress"].data == 100.0


def test_a_second_run_is_unchanged_starts_no_ray_and_writes_no_object(
    finished: Finished, drawn_sample: SampleArchives
) -> None:
    before = files_of(finished.store)
    summary = pets(**sources(drawn_sample), store=finished.reference)
    assert files_of(finished.store) == before
    [first], [second] = finished.summary["results"], summary["results"]
    assert second == {**first, "status": "unchanged", "changes": None, "seconds": second["seconds"]}
    names = [name.rsplit("-", 1)[0] for name in last_run().task_names()]
    assert not {"preprocess", "validate 224", "publish 224"} & set(names)
    artifacts = last_run().artifacts()
    assert set(artifacts) == {"summary"}
    assert "| 224 | unchanged | 74 |" in artifacts["summary"].data


def test_another_resolution_builds_that_one_alone_and_the_command_prints_it_last(
    finished: Finished, drawn_sample: SampleArchives, ray_head: RayHead, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(finished.store)
    options = [f"--{name}={value}" for name, value in sources(drawn_sample).items()]
    options += ["--store", str(finished.store), "--ray", ray_head.address, "--resolutions", "299", "224"]
    assert main(options) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(result["resolution"], result["status"]) for result in summary["results"]] == [
        (224, "unchanged"),
        (299, "built"),
    ]
    after = files_of(finished.store)
    assert {name: after[name] for name in before if not name.startswith("locks/")} == {
        name: time for name, time in before.items() if not name.startswith("locks/")
    }
    assert {"/".join(name.split("/")[:3]) for name in set(after) - set(before) if name.startswith("shards/")} == {
        "shards/oxford-iiit-pet/299"
    }


def test_too_many_rejects_publish_nothing_and_leave_the_checks_for_whoever_looks(
    prefect_api: str,
    faulty_sample: SampleArchives,
    ray_head: RayHead,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [f"--{name}={value}" for name, value in sources(faulty_sample).items()]
    assert main([*options, "--store", str(tmp_path), "--ray", ray_head.address]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "reject-fraction" in said.err.splitlines()[-1]
    assert not list(tmp_path.rglob("manifest.json")) + list(tmp_path.rglob("latest.json"))
    recorded = last_run()
    assert recorded.run.state is not None
    assert recorded.run.state.is_failed()
    artifacts = recorded.artifacts()
    assert "# oxford-iiit-pet: failed" in artifacts["summary"].data
    assert [reject["image"] for reject in json.loads(artifacts["rejects"].data)] == ["beagle_96"]
    checks = json.loads(artifacts["checks-224"].data)
    [failed] = [check for check in checks if check["check"] == "reject-fraction"]
    assert failed["passed"] == "NO"
    assert "beagle_96" in failed["found"] + failed["examples"]
    assert len(recorded.task_names()) <= MAX_TASK_RUNS  # it was not tried again


def test_no_secret_leaves_the_process_on_the_way_to_a_local_ray(finished: Finished) -> None:
    assert MARKER not in finished.recorded.run.model_dump_json()
    assert finished.recorded.run.parameters["store"] == finished.reference
    messages = finished.recorded.messages()
    assert messages
    assert not [message for message in messages if MARKER in message]
    assert not [key for key, artifact in finished.recorded.artifacts().items() if MARKER in artifact.model_dump_json()]
    assert not [path for path in finished.ray_logs if holds_marker(path)]
    assert not [path for path in finished.store.rglob("*") if path.is_file() and holds_marker(path)]


def test_no_secret_leaves_the_process_on_the_way_to_a_cluster(
    prefect_api: str, drawn_sample: SampleArchives, moto: S3Server, ray_head: RayHead
) -> None:
    """The nodes of the cluster have keys of their own; moto lets everybody in."""
    bucket = moto.new_bucket()
    keys = AwsCredentials(aws_access_key_id=MOTO_KEYS[0], aws_secret_access_key=SecretStr(MARKER))
    DatasetStore(url=f"s3://{bucket}/prefix", credentials=keys, endpoint_url=moto.endpoint_url).save(
        "marked-store", overwrite=True
    )
    RayCluster(address=ray_head.address, token=SecretStr(MARKER)).save("marked-cluster", overwrite=True)

    summary = pets(**sources(drawn_sample), store="block:marked-store", ray="block:marked-cluster")

    assert summary["results"][0]["status"] == "built"
    assert summary["store"] == f"s3://{bucket}/prefix"
    recorded = last_run()
    jobs = [job for job in JobSubmissionClient(ray_head.address).list_jobs() if str(recorded.run.id) in str(job)]
    assert len(jobs) == 2  # one that looks what is installed there, one that works
    assert all(set(job.runtime_env or {}) <= {"py_modules", "excludes", "_ray_commit"} for job in jobs)
    store = moto.store(bucket)
    shown = {
        "summary": json.dumps(summary),
        "run": recorded.run.model_dump_json(),
        "logs": "\n".join(recorded.messages()),
        "artifacts": "\n".join(artifact.model_dump_json() for artifact in recorded.artifacts().values()),
        "jobs": "\n".join(job.model_dump_json() for job in jobs),
        "jobs' logs": "\n".join(
            JobSubmissionClient(ray_head.address).get_job_logs(job.submission_id or "") for job in jobs
        ),
    }
    assert not [where for where, text in shown.items() if MARKER in text]
    assert any(b"block:marked-store" in path.read_bytes() for path in database_files())  # so one can search there
    assert not [path for path in database_files() if holds_marker(path)]
    assert any(str(recorded.run.id).encode() in path.read_bytes() for path in ray_head.logs())
    assert not [path for path in ray_head.logs() if holds_marker(path)]
    assert not [info.key for info in store.list() if MARKER.encode() in store.get(info.key)]
    assert {info.key.split("/")[1] for info in store.list()} == {"raw", "shards", "locks"}


def test_a_run_that_is_gone_has_its_job_stopped_by_the_hook(
    prefect_api: str, ray_head: RayHead, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec sleep 60\n')
    python.chmod(0o755)
    RayCluster(address=ray_head.address).save("hook-cluster", overwrite=True)
    run_id = uuid4()
    waiting = threading.Thread(target=_run_job, args=(ClusterAccess(ray_head.address, python=str(python)), run_id))
    waiting.start()
    client = JobSubmissionClient(ray_head.address)

    def status() -> set[JobStatus]:
        return {job.status for job in client.list_jobs() if str(run_id) in (job.submission_id or "")}

    assert wait_until(lambda: status() == {JobStatus.RUNNING}, timeout_seconds=JOB_SECONDS)
    stop_job(pets, FlowRun(id=run_id, flow_id=uuid4(), parameters={"ray": "block:hook-cluster"}), Crashed())
    assert status() == {JobStatus.STOPPED}
    waiting.join()


def _run_job(cluster: ClusterAccess, run_id: UUID) -> None:
    with pytest.raises(ImageShardsError, match="was stopped"):
        run_ray_job(cluster, str(run_id), [], lambda _: None)


def test_the_hook_has_nothing_to_do_for_a_local_ray() -> None:
    stop_job(pets, FlowRun(id=uuid4(), flow_id=uuid4(), parameters={"ray": "local"}), Crashed())
    stop_job(pets, FlowRun(id=uuid4(), flow_id=uuid4(), parameters={}), Crashed())


def test_the_hook_is_called_when_a_run_is_cancelled_and_when_it_crashes() -> None:
    assert pets.on_cancellation_hooks == [stop_job]
    assert pets.on_crashed_hooks == [stop_job]


def test_no_resolution_at_all_is_a_configuration_error_and_the_summary_says_so(prefect_api: str) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        pets(resolutions=[])
    assert "at least one" in last_run().artifacts()["summary"].data


def test_a_run_that_had_to_wait_looks_again_and_does_not_go_back_to_an_older_source(
    finished: Finished, drawn_sample: SampleArchives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits, the source is replaced; another run may well have published the new one meanwhile."""
    store = shutil.copytree(finished.store, tmp_path / "store")
    source = {name: Path(shutil.copy(path, tmp_path)) for name, path in sources(drawn_sample).items()}
    newer = sources(write_sample(tmp_path / "newer", SampleSpec(per_class=2, median_long_side_px=100, faults=False)))
    real = flows.pets.writing

    @contextmanager
    def writing_after_another(*arguments: Any, **options: Any) -> Iterator[Writing]:
        with ExitStack() as other:
            other.enter_context(
                writer_lock(open_store(str(store)), DATASET, holder=Holder(run_id="other", name="sly-fox"))
            )
            for name, path in source.items():
                shutil.copy(newer[name], path)
            threading.Timer(OTHER_RUN_SECONDS, other.pop_all().close).start()
        with real(*arguments, **options) as right:
            yield right

    monkeypatch.setattr(flows.pets, "writing", writing_after_another)
    summary = pets(**{name: str(path) for name, path in source.items()}, store=str(store), keep_versions=3)
    assert [result["status"] for result in summary["results"]] == ["built"]


def test_a_run_that_is_started_again_as_a_whole_does_what_is_left(
    prefect_api: str, drawn_sample: SampleArchives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Retry button of the Prefect UI does: the same flow run, from the start."""

    def denied(*_: Any, **__: Any) -> None:
        raise StoreError("denied")

    real = flows.pets.publish
    monkeypatch.setattr(flows.pets, "publish", denied)
    with pytest.raises(StoreError, match="denied"):
        pets(**sources(drawn_sample), store=str(tmp_path))
    monkeypatch.setattr(flows.pets, "publish", real)
    run = last_run().run
    summary = run_flow(pets, flow_run=run, parameters=run.parameters)
    assert [result["status"] for result in summary["results"]] == ["built"]
    again = last_run()
    assert again.run.id == run.id
    assert any("units were finished by an earlier run" in message for message in again.messages())
