"""The executor: every unit gets through or the run fails; a bounded number in flight; a poison image is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imageshards import executor, plan, worker
from imageshards.errors import StoreError, TransientError
from imageshards.executor import (
    MAX_LOSSES,
    MAX_TRANSIENT_TRIES,
    PROBE_IMAGES,
    PROBE_TRIES,
    RETRY_PAUSES_SECONDS,
    Executor,
    WorkerLostError,
)
from imageshards.index import IndexRow
from imageshards.plan import Unit
from imageshards.recipe import Recipe
from imageshards.reuse import PublishedShard
from imageshards.shard_inputs import Build
from imageshards.shards import unit_rows
from imageshards.statistics import PixelSums
from imageshards.store import Store, StoreSpec, open_store
from tests.imageshards.in_process import KILLED, InProcess, TaskLostError
from tests.imageshards.processes import DEADLY, Processes, deadly_build, deadly_probe
from tests.imageshards.small_dataset import Drawn, build_drawn, plan_drawn, tree

Failure = Callable[[Unit, int], Exception | None]


def never(unit: Unit, tries: int) -> Exception | None:
    return None


class Work:
    """Stands before the real functions of `worker`: fails, or loses its process, as a test wants it.

    Args:
        deadly: Images that kill the process that touches them.
        fails: Gives the error of the n-th try (from 1) of a unit, or None.
    """

    def __init__(self, deadly: Sequence[str] = (), fails: Failure = never) -> None:
        self.deadly = set(deadly)
        self.fails = fails
        self.tries: Counter[str] = Counter()
        self.probed: list[list[str]] = []

    def build(
        self, build: Build, unit: Unit, raw_store: StoreSpec, store: StoreSpec, published: Sequence[PublishedShard]
    ) -> dict[str, Any]:
        self.tries[unit.name] += 1
        ids = {row.image_id for row in unit_rows(build, unit, open_store(raw_store))}
        if self.deadly & ids - build.poison.keys():
            raise TaskLostError
        if error := self.fails(unit, self.tries[unit.name]):
            raise error
        return worker.run_build(build, unit, raw_store, store, published)

    def probe(self, build: Build, unit: Unit, rows: Sequence[IndexRow], raw_store: StoreSpec) -> dict[str, Any]:
        self.probed.append([row.image_id for row in rows])
        if self.deadly & {row.image_id for row in rows}:
            raise TaskLostError
        return worker.run_probe(build, unit, rows, raw_store)


class Run:
    """One run of the executor on the drawn sample."""

    def __init__(
        self, drawn: Drawn, out: Store, work: Work | None = None, slots: int = 3, pauses: Sequence[float] = (0.0,)
    ) -> None:
        self.drawn, self.out, self.work = drawn, out, work or Work()
        self.build, self.units = plan_drawn(drawn)
        self.backend = InProcess(slots)
        self.log: list[str] = []
        self.done: list[Unit] = []
        self.shards: list[Any] = []
        self.executor = Executor(
            self.backend,
            drawn.store.spec,
            out.spec,
            log=self.log.append,
            build_function=self.work.build,
            probe_function=self.work.probe,
            pauses_seconds=pauses,
        )

    def go(self) -> Run:
        self.executor.build(self.build, self.units, self.collect)
        return self

    def collect(self, unit: Unit, shards: Any) -> None:
        self.done.append(unit)
        self.shards.extend(shards)

    @property
    def rejects(self) -> dict[str, str]:
        return {reject.image_id: reject.reason for shard in self.shards for reject in shard.rejects}


@pytest.fixture(autouse=True)
def eight_units(monkeypatch) -> None:
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 32 * 32 * 4 * 20)


@pytest.fixture
def out(tmp_path) -> Store:
    return open_store(str(tmp_path / "out"))


def in_test(drawn: Drawn, count: int) -> list[str]:
    """Some images of the second unit of the test split."""
    build, units = plan_drawn(drawn)
    unit = next(unit for unit in units if unit.split == "test" and unit.bucket == 1)
    return [row.image_id for row in unit_rows(build, unit, drawn.store)][:count]


def test_every_unit_is_built_once_and_handed_on(drawn, out, tmp_path):
    run = Run(drawn, out).go()
    assert sorted(unit.name for unit in run.done) == sorted(unit.name for unit in run.units)
    assert set(run.work.tries.values()) == {1}
    expected = build_drawn(drawn, open_store(str(tmp_path / "expected")))
    assert sorted(run.shards, key=lambda shard: shard.name) == list(expected.shards)
    assert run.log == []
    assert run.backend.cancelled == []


@pytest.mark.parametrize("slots", [1, 3, 100])
def test_a_bounded_number_is_in_flight(drawn, out, slots):
    run = Run(drawn, out, slots=slots).go()
    assert run.backend.most_in_flight == min(slots, len(run.units))


def test_a_cluster_that_grows_gets_more_tasks(drawn, out):
    run = Run(drawn, out, slots=1)

    def grow(unit: Unit, shards: Any) -> None:
        run.backend.slots = 4

    run.executor.build(run.build, run.units, grow)
    assert run.backend.most_in_flight == 4


def test_nothing_to_do_is_done(drawn, out):
    run = Run(drawn, out)
    run.units = ()
    assert run.go().done == []


def failing(times: int, error: TransientError | StoreError) -> Work:
    """Work whose second test unit gives an error the first few times, as data, as a worker does."""
    work = Work()
    build = work.build

    def run_build(what: Build, unit: Unit, *where: Any) -> dict[str, Any]:
        if unit.split == "test" and unit.bucket == 1 and work.tries["failed"] < times:
            work.tries["failed"] += 1
            return {"error": error.to_dict()}
        return build(what, unit, *where)

    work.build = run_build  # type: ignore[method-assign]
    return work


def test_a_transient_error_is_tried_again(drawn, out):
    run = Run(drawn, out, failing(MAX_TRANSIENT_TRIES - 1, TransientError("throttled"))).go()
    assert len(run.done) == len(run.units)
    assert len([line for line in run.log if "tried again after: throttled" in line]) == MAX_TRANSIENT_TRIES - 1
    assert run.work.probed == []


def test_a_transient_error_that_stays_fails_the_run(drawn, out):
    work = failing(MAX_TRANSIENT_TRIES, TransientError("throttled", code=503))
    run = Run(drawn, out, work)
    with pytest.raises(TransientError, match="throttled") as caught:
        run.go()
    assert caught.value.context == {"code": 503}
    assert work.tries["failed"] == MAX_TRANSIENT_TRIES
    assert run.backend.tasks == {}


class Clock:
    """Stands in for the module `time`: nobody waits, and what is slept is noted."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(executor, "time", clock)
    return clock


@pytest.mark.parametrize("slots", [1, 100])
def test_the_pause_before_a_further_try_grows_and_others_go_on_meanwhile(drawn, out, clock, slots):
    work = failing(MAX_TRANSIENT_TRIES - 1, TransientError("throttled"))
    run = Run(drawn, out, work, slots, RETRY_PAUSES_SECONDS).go()
    assert clock.slept == list(RETRY_PAUSES_SECONDS)
    assert sorted(RETRY_PAUSES_SECONDS) == list(RETRY_PAUSES_SECONDS)
    assert (run.done[-1].split, run.done[-1].bucket) == ("test", 1)
    assert len(run.done) == len(run.units)


def test_a_unit_that_loses_its_worker_pauses_too_the_last_pause_for_all_that_follow(drawn, out, clock):
    run = Run(drawn, out, lost_first(MAX_LOSSES - 1), pauses=(1.0, 2.0, 3.0)).go()
    assert clock.slept == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert len(run.done) == len(run.units)


def test_a_unit_whose_poison_was_found_does_not_pause_again(drawn, out, clock):
    Run(drawn, out, Work(in_test(drawn, 1)), pauses=(1.0, 2.0)).go()
    assert clock.slept == [1.0]


def test_a_pause_that_ends_while_others_run_is_not_waited_out_longer(drawn, out, clock):
    run = Run(drawn, out, failing(1, TransientError("throttled")), slots=100, pauses=(5.0,))
    wait = run.backend.wait

    def wait_or_time_out(handles: Sequence[int], timeout_seconds: float | None) -> int | None:
        if timeout_seconds is None:
            return wait(handles, timeout_seconds)
        clock.now += timeout_seconds
        return None

    run.backend.wait = wait_or_time_out  # type: ignore[method-assign]
    run.go()
    assert clock.slept == []
    assert len(run.done) == len(run.units)
    assert run.backend.tasks == {}
    first_tries = run.backend.submitted.index("run_build", len(run.units))
    assert first_tries == len(run.units), "the second try was submitted while the others ran"


def test_no_time_is_set_where_no_slot_is_free(drawn, out, clock):
    run = Run(drawn, out, failing(1, TransientError("throttled")), slots=1, pauses=(5.0,)).go()
    assert set(run.backend.timeouts) == {None}


def test_units_are_asked_for_as_they_are_submitted(drawn, out):
    run = Run(drawn, out, slots=2)
    taken: list[Unit] = []

    def units() -> Iterator[Unit]:
        for unit in run.units:
            taken.append(unit)
            yield unit

    def check(unit: Unit, shards: Any) -> None:
        run.done.append(unit)
        assert len(taken) <= len(run.done) - 1 + run.backend.slots

    run.executor.build(run.build, units(), check)
    assert len(run.done) == len(run.units)


def test_an_error_that_stays_fails_the_run_at_once_and_cancels_the_rest(drawn, out):
    work = failing(99, StoreError("denied"))
    run = Run(drawn, out, work, slots=3)
    with pytest.raises(StoreError, match="denied"):
        run.go()
    assert work.tries["failed"] == 1
    assert run.backend.tasks == {}
    assert run.backend.cancelled


def test_an_error_that_is_not_ours_cancels_the_rest_too(drawn, out):
    def out_of_memory(unit: Unit, tries: int) -> Exception | None:
        return MemoryError("of a library")

    run = Run(drawn, out, Work(fails=out_of_memory))
    with pytest.raises(MemoryError):
        run.go()
    assert run.backend.tasks == {}
    assert len(run.backend.cancelled) == 2


def test_results_that_cannot_be_taken_cancel_the_rest(drawn, out):
    run = Run(drawn, out)

    def refuse(unit: Unit, shards: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.executor.build(run.build, run.units, refuse)
    assert run.backend.tasks == {}
    assert len(run.backend.cancelled) == 2


def lost_first(times: int) -> Work:
    """Work whose second test unit loses its process the first few times, whatever its images."""
    return Work(
        fails=lambda unit, tries: (
            TaskLostError() if (unit.split, unit.bucket) == ("test", 1) and tries <= times else None
        )
    )


def test_a_unit_that_lost_its_worker_once_is_tried_again_without_a_search(drawn, out):
    run = Run(drawn, out, lost_first(1)).go()
    assert len(run.done) == len(run.units)
    assert run.work.probed == []
    assert run.rejects == {"beagle_96": "truncated"}
    assert len(run.log) == 1
    assert f"lost its worker (1 of {MAX_LOSSES}): {KILLED}" in run.log[0]


def test_a_unit_that_loses_its_worker_for_no_image_gets_through_in_the_end(drawn, out):
    run = Run(drawn, out, lost_first(MAX_LOSSES - 1)).go()
    assert len(run.done) == len(run.units)
    assert run.rejects == {"beagle_96": "truncated"}
    assert run.executor.poison == {}


def test_a_unit_that_always_loses_its_worker_fails_the_run(drawn, out):
    run = Run(drawn, out, lost_first(99))
    with pytest.raises(TransientError, match=rf"lost its worker {MAX_LOSSES} times.*{KILLED}.*more memory") as caught:
        run.go()
    assert caught.value.context["unit"].startswith("test 1/")
    assert not isinstance(caught.value, WorkerLostError)
    assert run.backend.tasks == {}


@pytest.mark.parametrize("count", [1, 3])
def test_poison_images_are_found_and_rejected_and_all_else_is_built(drawn, out, tmp_path, count):
    deadly = in_test(drawn, count)
    run = Run(drawn, out, Work(deadly)).go()
    assert set(run.executor.poison) == set(deadly)
    assert run.rejects == dict.fromkeys(deadly, "worker-crash") | {"beagle_96": "truncated"}
    assert sum(shard.samples for shard in run.shards) == drawn.expected["listed"] - 1 - count
    assert sum("killed its worker" in line and "rejected" in line for line in run.log) == count
    expected = build_drawn(drawn, open_store(str(tmp_path / "expected")), poison=run.executor.poison)
    assert {key: data for key, data in tree(expected.store).items() if "rejects" not in key} == tree(out)


def test_poison_images_of_several_units_are_found(drawn, out):
    build, units = plan_drawn(drawn)
    deadly = [unit_rows(build, unit, drawn.store)[0].image_id for unit in units]
    run = Run(drawn, out, Work(deadly)).go()
    assert {image_id for image_id, reason in run.rejects.items() if reason == "worker-crash"} == set(deadly)


def test_the_search_tries_groups_then_suspects_alone_several_times(drawn, out):
    (deadly,) = in_test(drawn, 1)
    run = Run(drawn, out, Work([deadly])).go()
    assert max(len(group) for group in run.work.probed) <= PROBE_IMAGES
    assert run.work.probed.count([deadly]) == PROBE_TRIES
    groups = [group for group in run.work.probed if len(group) > 1]
    tried = [image_id for group in groups for image_id in group]
    assert len(tried) == len(set(tried))
    assert run.backend.most_in_flight <= 2 * run.backend.slots


def test_an_image_that_killed_a_worker_but_not_when_tried_alone_is_kept(drawn, out):
    (victim,) = in_test(drawn, 1)
    work = Work([victim])
    probe = work.probe

    def run_probe(build: Build, unit: Unit, rows: Sequence[IndexRow], raw_store: StoreSpec) -> dict[str, Any]:
        if len(rows) == 1 and rows[0].image_id == victim and work.probed.count([victim]):
            work.deadly.clear()  # the second time alone it does no harm
        return probe(build, unit, rows, raw_store)

    work.probe = run_probe  # type: ignore[method-assign]
    run = Run(drawn, out, work).go()
    assert run.executor.poison == {}
    assert run.rejects == {"beagle_96": "truncated"}
    assert len(run.done) == len(run.units)


def probe_that_fails(error: StoreError | TransientError) -> Callable[..., dict[str, Any]]:
    def probe(build: Build, unit: Unit, rows: Sequence[IndexRow], raw_store: StoreSpec) -> dict[str, Any]:
        return {"error": error.to_dict()}

    return probe


def test_a_transient_error_while_searching_makes_no_image_a_suspect(drawn, out):
    (deadly,) = in_test(drawn, 1)
    work = Work([deadly])
    work.probe = probe_that_fails(TransientError("throttled"))  # type: ignore[method-assign]
    run = Run(drawn, out, work)
    with pytest.raises(TransientError, match="no single image does it"):
        run.go()
    assert any("throttled" in line for line in run.log)
    assert run.executor.poison == {}


def test_an_error_while_searching_fails_the_run_and_cancels_everything(drawn, out):
    (deadly,) = in_test(drawn, 1)
    work = Work([deadly])
    work.probe = probe_that_fails(StoreError("denied"))  # type: ignore[method-assign]
    run = Run(drawn, out, work)
    with pytest.raises(StoreError, match="denied"):
        run.go()
    assert run.backend.tasks == {}


def test_other_functions_of_the_worker_run_likewise(drawn, out):
    run = Run(drawn, out)
    build, units = plan_drawn(drawn, recipe=Recipe(dtype="float32", normalize="dataset"))
    sums: list[PixelSums] = []

    def add(unit: Unit, measured: dict[int, PixelSums]) -> None:
        sums.append(measured[32])

    trainval = [unit for unit in units if unit.split == "trainval"]
    run.executor.run(
        build,
        trainval,
        add,
        lambda attempt: (worker.run_measure, attempt, drawn.store.spec),
    )
    samples = drawn.expected["trainval"] - 1
    assert sum(sums, PixelSums.zero(3)).count == samples * 32 * 32
    assert set(run.backend.submitted) == {"run_measure"}


def test_an_image_that_kills_a_real_process_is_found(drawn, out, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    build, units = plan_drawn(drawn)
    run = Executor(
        Processes(),
        drawn.store.spec,
        out.spec,
        log=[].append,
        build_function=deadly_build,
        probe_function=deadly_probe,
        pauses_seconds=(0.0,),
    )
    shards: list[Any] = []

    def collect(unit: Unit, results: list[Any]) -> None:
        shards.extend(results)

    run.build(build, units, collect)
    assert set(run.poison) == {DEADLY}
    assert "signal 9" in run.poison[DEADLY]
    assert {(reject.image_id, reject.reason) for shard in shards for reject in shard.rejects} == {
        (DEADLY, "worker-crash"),
        ("beagle_96", "truncated"),
    }
    assert sum(shard.samples for shard in shards) == drawn.expected["listed"] - 2


def test_the_search_begins_before_the_last_try():
    assert executor.LOSSES_BEFORE_PROBE < MAX_LOSSES - 1
