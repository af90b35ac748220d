"""One night after the other on a whole installation: a first one, one without news, a changed source, a broken one, a
bad one, one that is cancelled, one whose process dies, one whose worker dies, the one that finishes their work, and
housekeeping.

Each night is a fixture that builds on the one before, so that its tests can run in any order, or alone.
"""

from __future__ import annotations

import io
import os
import re
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image, ImageOps
from prefect.client.schemas.objects import FlowRun

from imageshards.dataset import open_dataset
from imageshards.manifest import Manifest
from imageshards.oxford_pets import DATASET
from imageshards.sample import SampleArchives
from imageshards.store import Store
from tests.e2e.archive_server import ArchiveServer, running_archive_server
from tests.e2e.stack import Stack
from tests.processes import processes_with, wait_until

STOP_SECONDS = 15.0  # the issue's: from the cancellation to the end of the Ray job
START_SECONDS = 90.0
END_SECONDS = 30.0
NOTIFY_SECONDS = 30.0

CHANGED = "beagle_96"
HEAVY: dict[str, Any] = {"resolutions": [224, 448, 512, 600], "recipe": {"exact": True, "contrast": "clahe"}}
"""Enough work to be interrupted in."""


@dataclass(frozen=True)
class Night:
    """One run, and what was there after it.

    Attributes:
        run: The run in its last state.
        current: The version that readers get at 224 px.
        objects: Keys of all raw objects.
        manifests: Keys of all versions that were ever published.
        leftovers: Keys of what belongs to runs, and to no version.
        downloads: What was sent in full of the source.
        confirmed: What was asked for, and had not changed.
    """

    run: FlowRun
    current: Manifest
    objects: frozenset[str]
    manifests: frozenset[str]
    leftovers: frozenset[str]
    downloads: tuple[str, ...]
    confirmed: tuple[str, ...]

    @property
    def state(self) -> str:
        return self.run.state.name if self.run.state else ""


@dataclass(frozen=True)
class House:
    """The installation, the source, and the store of these nights alone."""

    stack: Stack
    source: ArchiveServer
    store: Store

    def night(self, expected: str = "Completed", **parameters: Any) -> Night:
        return self.after(self.stack.finish("pets/manual", self.parameters(parameters), expected))

    def start(self, **parameters: Any) -> FlowRun:
        return self.stack.run_deployment("pets/manual", self.parameters(parameters))

    def parameters(self, more: dict[str, Any]) -> dict[str, Any]:
        return {**self.source.parameters, "store": "block:nights", **more}

    def after(self, run: FlowRun) -> Night:
        found = Night(
            run,
            open_dataset(self.store, resolution=224).manifest,
            frozenset(item.key for item in self.store.list(f"raw/{DATASET}/")),
            frozenset(item.key for item in self.store.list("shards/") if item.key.endswith("/manifest.json")),
            frozenset(item.key for item in self.store.list("runs/")),
            tuple(self.source.downloads),
            tuple(self.source.confirmed),
        )
        self.source.forget()
        return found

    def wait_for_job(self, run: FlowRun) -> None:
        """Wait until the driver of a run runs on the cluster."""
        running = lambda: "RUNNING" in self.stack.jobs(run).values()  # noqa: E731
        assert wait_until(running, timeout_seconds=START_SECONDS), self.stack.logs(run)

    def live_jobs(self, run: FlowRun) -> list[str]:
        return [job for job, status in self.stack.jobs(run).items() if status in ("PENDING", "RUNNING")]


def repacked(archive: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """The archive with some of its files changed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=packed, mode="w:gz") as new:
        for member in old:
            if member.isfile():
                content = change(member.name, old.extractfile(member).read())  # type: ignore[union-attr]
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
            else:
                new.addfile(member)
    return packed.getvalue()


def mirrored(name: str, content: bytes) -> bytes:
    """One photograph is another one now."""
    if f"{CHANGED}." not in name:
        return content
    picture = io.BytesIO()
    ImageOps.invert(Image.open(io.BytesIO(content)).convert("RGB")).save(picture, "JPEG")
    return picture.getvalue()


def damaged(name: str, content: bytes) -> bytes:
    """Two photographs that nobody can decode: more than 1 % of 74."""
    return b"\xff\xd8 no photograph" if re.search(r"(pug|samoyed)_96\.jpg$", name) else content


@pytest.fixture(scope="module")
def house(stack: Stack, drawn_sample: SampleArchives) -> Iterator[House]:
    with running_archive_server() as source:
        source.serve(images=drawn_sample.images.read_bytes(), annotations=drawn_sample.annotations.read_bytes())
        yield House(stack, source, stack.create_store_block("nights"))


@pytest.fixture(scope="module")
def first(house: House) -> Night:
    return house.night()


@pytest.fixture(scope="module")
def quiet(house: House, first: Night) -> Night:
    """Nothing is new at the source."""
    return house.night()


@pytest.fixture(scope="module")
def changed(house: House, quiet: Night) -> Night:
    """One photograph is another one, and the source stumbles at first."""
    house.source.serve(images=repacked(house.source.files["/images.tar.gz"], mirrored))
    house.source.failures = 1
    return house.night()


@pytest.fixture(scope="module")
def broken(house: House, changed: Night) -> Night:
    """The source says that it is under maintenance, and says so with a success."""
    good = house.source.files["/images.tar.gz"]
    house.source.serve(images=b"<html>under maintenance</html>" * 100)
    night = house.night("Failed")
    house.source.serve(images=good)
    return night


@pytest.fixture(scope="module")
def bad(house: House, broken: Night) -> Night:
    """More photographs than the limit cannot be decoded."""
    good = house.source.files["/images.tar.gz"]
    house.source.serve(images=repacked(good, damaged))
    night = house.night("Failed")
    house.source.serve(images=good)
    return night


@pytest.fixture(scope="module")
def cancelled(house: House, bad: Night) -> Night:
    """Somebody cancels the run while the cluster works; how long the job lives on is checked here."""
    run = house.start(**HEAVY)
    house.wait_for_job(run)
    house.stack.cancel(run)
    began = time.monotonic()
    stopped = wait_until(lambda: not house.live_jobs(run), timeout_seconds=3 * STOP_SECONDS)
    assert stopped
    assert time.monotonic() - began < STOP_SECONDS
    return house.after(house.stack.wait(run, "Cancelled"))


@pytest.fixture(scope="module")
def killed(house: House, cancelled: Night) -> Night:
    """The flow's process dies while the cluster works."""
    run = house.start(**HEAVY)
    house.wait_for_job(run)
    [*processes] = processes_with("PREFECT__FLOW_RUN_ID", str(run.id))
    assert processes
    for process in processes:
        os.kill(process.id, signal.SIGKILL)
    return house.after(house.stack.wait(run, "Crashed"))


@pytest.fixture(scope="module")
def abandoned(house: House, killed: Night) -> Night:
    """The worker dies, and a new one is started; the flow's process outlives it until it next writes to its output."""
    run = house.start(**HEAVY)
    assert house.stack.logged(run, "stage=check ")
    house.stack.replace_worker()
    return house.after(house.stack.wait(run, "Crashed"))


@pytest.fixture(scope="module")
def last(house: House, abandoned: Night) -> Night:
    """Nothing special; it has the work of the three before to finish."""
    return house.night(**HEAVY)


@pytest.fixture(scope="module")
def swept(house: House, last: Night) -> Night:
    """Housekeeping without its days of grace."""
    choices = {"store": "block:nights", "grace_days": 0, "keep_versions": 1}
    return house.after(house.stack.finish("housekeeping/housekeeping", choices))


def test_the_first_night_builds_all(first: Night) -> None:
    assert first.current.rows == 74
    assert sorted(first.downloads) == ["/annotations.tar.gz", "/images.tar.gz"]


def test_a_night_without_news_downloads_and_changes_nothing(house: House, first: Night, quiet: Night) -> None:
    assert quiet.downloads == ()
    assert set(quiet.confirmed) == {"/annotations.tar.gz", "/images.tar.gz"}
    assert quiet.current == first.current
    assert quiet.objects == first.objects
    assert house.stack.jobs(quiet.run) == {}
    assert "unchanged" in house.stack.artifacts(quiet.run)["summary"]


def test_a_changed_source_uploads_what_changed_and_reuses_shards(house: House, quiet: Night, changed: Night) -> None:
    assert changed.downloads == ("/images.tar.gz",)
    assert changed.current.fingerprint != quiet.current.fingerprint
    assert changed.current.rows == 74
    new = changed.objects - quiet.objects
    assert [key for key in new if "/images/" in key] == [key for key in new if CHANGED in key]
    assert len([key for key in new if "/images/" in key]) == 1
    before, after = ({shard.split: shard.sha256 for shard in night.current.shards} for night in (quiet, changed))
    assert before["test"] == after["test"]
    assert before["trainval"] != after["trainval"]
    assert house.stack.logged(changed.run, "1 of 2 shards of 224 px reused")


def test_a_broken_source_fails_and_yesterdays_dataset_stays(house: House, changed: Night, broken: Night) -> None:
    assert broken.state == "Failed"
    assert broken.run.state is not None
    assert "SourceError" in str(broken.run.state.message)
    assert broken.current == changed.current
    assert house.stack.jobs(broken.run) == {}
    assert wait_until(lambda: house.stack.notified(broken.run.name), timeout_seconds=NOTIFY_SECONDS)


def test_too_many_rejects_fail_before_anything_is_published(house: House, changed: Night, bad: Night) -> None:
    assert bad.state == "Failed"
    assert bad.run.state is not None
    assert "ValidationError" in str(bad.run.state.message)
    assert bad.current == changed.current
    assert bad.manifests == changed.manifests
    assert wait_until(lambda: house.stack.notified(bad.run.name), timeout_seconds=NOTIFY_SECONDS)


def test_a_cancelled_night_leaves_nothing_running_or_half_published(
    house: House, changed: Night, cancelled: Night
) -> None:
    assert cancelled.state == "Cancelled"
    assert list(house.stack.jobs(cancelled.run).values()) == ["STOPPED"]
    assert cancelled.current == changed.current
    assert cancelled.manifests == changed.manifests
    assert no_process_of(cancelled.run)
    assert house.stack.notified(cancelled.run.name) == []


def test_a_dead_flow_is_crashed_and_its_job_stopped(house: House, changed: Night, killed: Night) -> None:
    assert killed.state == "Crashed"
    assert wait_until(lambda: not house.live_jobs(killed.run), timeout_seconds=END_SECONDS)
    assert list(house.stack.jobs(killed.run).values()) == ["STOPPED"]
    assert no_process_of(killed.run)
    assert killed.current == changed.current
    assert killed.manifests == changed.manifests
    assert wait_until(lambda: house.stack.notified(killed.run.name), timeout_seconds=NOTIFY_SECONDS)


def test_a_run_whose_worker_died_is_crashed_and_leaves_nothing_running(house: House, abandoned: Night) -> None:
    assert abandoned.state == "Crashed"
    assert wait_until(lambda: not house.live_jobs(abandoned.run), timeout_seconds=END_SECONDS)
    assert no_process_of(abandoned.run)
    assert wait_until(lambda: house.stack.notified(abandoned.run.name), timeout_seconds=NOTIFY_SECONDS)


def test_the_next_night_finishes_the_work(house: House, last: Night) -> None:
    assert last.state == "Completed"
    for resolution in HEAVY["resolutions"]:
        assert open_dataset(house.store, resolution=resolution).manifest.rows == 74


def test_housekeeping_removes_old_versions_and_nothing_that_may_be_in_use(
    house: House, killed: Night, swept: Night
) -> None:
    assert f"runs/{killed.run.id}/spec.json" in killed.leftovers
    assert swept.leftovers == killed.leftovers  # younger than what counts as abandoned
    assert swept.state == "Completed"
    assert len(swept.manifests) == len(HEAVY["resolutions"])
    for resolution in HEAVY["resolutions"]:
        dataset = open_dataset(house.store, resolution=resolution)
        assert all(house.store.exists(shard.path) for shard in dataset.manifest.shards)
    assert swept.objects >= killed.objects


def no_process_of(run: FlowRun) -> bool:
    """Whether neither flow nor driver of the run is left; workers of the Ray head may be, which belong to no job."""

    def left() -> list[str]:
        flow = processes_with("PREFECT__FLOW_RUN_ID", str(run.id))
        drivers = processes_with("RAY_JOB_SUBMISSION_ID", f"imageshards-{run.id}-1")
        return [process.command for process in (*flow, *drivers)]

    return wait_until(lambda: not left(), timeout_seconds=END_SECONDS)
