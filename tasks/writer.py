"""One run at a time writes a dataset: the lock in the store, and Prefect's limit beside it where there is one.

The lock counts: it knows of runs of every deployment, of every Prefect server and of none. The limit is a handle for
whoever operates a server: where a global concurrency limit `imageshards-writer` exists, at most that many runs write at
a time, whatever their stores; at 0 all wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLeaseHolder, StateType
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment, flow_run

from blocks.dataset_store import store_access
from imageshards.errors import ConfigError, ImageShardsError, StoreError
from imageshards.store import Store
from imageshards.writer_lock import Holder, LeasePolicy, WriterLock, writer_lock
from tasks.stages import stage

LIMIT = "imageshards-writer"
SLOT_LEASE_SECONDS = 60.0
"""The least that Prefect allows: a run that dies gives its slot back after that."""

WAIT_SECONDS = 6 * 3600.0
"""Longer than a run takes; a run that waits for one that hangs is noticed the same day."""

_POLL_SECONDS = 2.0
_REPORT_SECONDS = 30.0
_NO_SLOT = (422, 423)
"""Prefect's answers where there are fewer slots than are asked for, and where all are taken."""
_FLOWS = ("pets", "housekeeping")
"""Those whose runs take slots."""
_WRITING = [StateType.RUNNING, StateType.CANCELLING]

_FREE = f"`prefect gcl update {LIMIT} --active-slots 0` frees them"
_ADVICE = f"where no other run is writing, {_FREE}; at a limit of 0 all runs wait"


class Writing:
    """The right to write a dataset, while the block of `writing` lasts.

    Attributes:
        run_id: Id of this run, by which its Ray job looks whether the run still has that right.
        waited: Whether others had it first: what this run saw before may be so no longer.
    """

    def __init__(self, run_id: str, locks: Sequence[WriterLock], *, waited: bool = False) -> None:
        self.run_id = run_id
        self.waited = waited
        self._locks = locks

    def check(self) -> None:
        """Make sure of it, to be called before anything is published.

        Raises:
            StoreError: Another run has the right now.
            TransientError: A store is out of reach.
        """
        for lock in self._locks:
            lock.check()


@contextmanager
def writing(
    store: str,
    dataset: str,
    *,
    raw_store: str | None = None,
    wait_seconds: float = WAIT_SECONDS,
    policy: LeasePolicy = LeasePolicy(),  # noqa: B008 (frozen)
) -> Iterator[Writing]:
    """Be the only run that writes a dataset; wait for others and say so in the run's log.

    To be entered by the flow function itself, on its main thread, where cancelling interrupts the wait; not by a
    subflow of a flow that has entered it, which would wait for its parent.

    Args:
        store: Folder, URL or `block:NAME` of the finished data.
        dataset: Its name.
        raw_store: Likewise of the raw data, where that is another one.
        wait_seconds: How long to wait at most, for each lock and for Prefect's limit.
        policy: The times of the locks.

    Raises:
        StoreError: Another run still writes, or a store refuses.
        TransientError: A store is out of reach.
        ConfigError: Both stores are one, under two names that do not show it.
        ImageShardsError: No slot of Prefect's limit became free.
    """
    logger = get_run_logger()
    waits: list[str] = []

    def tell(reason: str) -> None:
        waits.append(reason)
        logger.info("%s", reason)

    holder = Holder(run_id=str(flow_run.id), name=str(flow_run.name), deployment=deployment.name)
    with ExitStack() as stack:
        with stage("wait-for-others"):
            locks = [
                stack.enter_context(
                    writer_lock(each, dataset, holder=holder, wait_seconds=wait_seconds, on_wait=tell, policy=policy)
                )
                for each in _stores(store, raw_store)
            ]
            _check_apart(locks)
            _take_slot(stack, wait_seconds, tell)
        yield Writing(holder.run_id, locks, waited=bool(waits))


def _stores(*references: str | None) -> list[Store]:
    """The stores, each once, in the order that all runs keep to: none waits for one that waits for it."""
    opened = (store_access(reference).open() for reference in references if reference)
    places = {_place(store): store for store in opened}
    return [places[place] for place in sorted(places)]


def _place(store: Store) -> tuple[str, str]:
    """What is the same for two ways to name one store."""
    path = store.local_path("locks")
    return (store.url, store.spec.endpoint_url or "") if path is None else (str(path.resolve()), "")


def _check_apart(locks: Sequence[WriterLock]) -> None:
    """Find out before any work, not when publishing, that the second lock was the first: a run takes over its own."""
    for lock in locks[:-1]:
        try:
            lock.check()
        except StoreError as error:
            raise ConfigError(
                "store and raw_store seem to be two names of one place, such as one S3 server by its address and by "
                f"its name: give both the same URL and endpoint ({error.message})"
            ) from error


def _take_slot(stack: ExitStack, wait_seconds: float, on_wait: Callable[[str], None]) -> None:
    """Take a slot of the limit, where there is one, until the stack is left.

    Each request is short, so that cancelling interrupts the wait; and Prefect writes an error into its log for each
    that it denies, so that none is asked for where none is free. A slot of a run that is gone holds nobody up: a server
    that keeps its leases in memory, as Prefect does unless told otherwise, never frees what was taken when it was
    restarted, and others do so after a minute.
    """
    started = next_report = time.monotonic()
    while (limit := _limit()) is not None:
        if _has_room(limit) and _try_slot(stack):
            return
        taken = f"{limit.active_slots} of {limit.limit} slots of Prefect's concurrency limit {LIMIT} are"
        if limit.limit and not _another_run_writes():
            get_run_logger().warning("%s taken, by runs that are gone: going on without one; %s", taken, _FREE)
            return
        reason = f"{taken} taken; {_ADVICE}"
        now = time.monotonic()
        if now - started >= wait_seconds:
            raise ImageShardsError(f"after {wait_seconds:.0f} s of waiting, {reason}")
        if now >= next_report:
            next_report = now + _REPORT_SECONDS
            on_wait(f"waiting: {reason}")
        time.sleep(_POLL_SECONDS)


def _limit() -> GlobalConcurrencyLimitResponse | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            return None


def _another_run_writes() -> bool:
    """Whether the server knows of a run, beside this one, that may hold a slot."""
    with get_client(sync_client=True) as client:
        running = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(_FLOWS))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_WRITING))),
        )
    return any(str(run.id) != str(flow_run.id) for run in running)


def _has_room(limit: GlobalConcurrencyLimitResponse) -> bool:
    return not limit.active or limit.active_slots < limit.limit


def _try_slot(stack: ExitStack) -> bool:
    """Take a slot, unless another run was faster."""
    slot = concurrency(
        LIMIT,
        lease_duration=SLOT_LEASE_SECONDS,
        max_retries=0,
        holder=ConcurrencyLeaseHolder(type="flow_run", id=UUID(str(flow_run.id))),
        raise_on_lease_renewal_failure=False,  # the lock in the store is what counts
    )
    try:
        stack.enter_context(slot)
    except ConcurrencySlotAcquisitionError as error:
        answer = error.__cause__
        if isinstance(answer, httpx.HTTPStatusError) and answer.response.status_code in _NO_SLOT:
            return False
        raise
    return True
