"""Ends the driver of a run that has lost its writer lock.

Where the flow's process and Prefect's worker have both died, nobody else can stop the job that they left on a Ray
cluster.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from imageshards.errors import ImageShardsError, StoreError
from imageshards.lease import Lease, Stillness
from imageshards.store import Store
from imageshards.writer_lock import newest_lease


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """The times of the watch, in seconds.

    Attributes:
        look_seconds: How often to look.
        patience_seconds: How long the lock may stand still, released or not: as long a run has to be tried again, and
            to take its job over.
        end_seconds: How long the process may take to end in good order; Ray ends the tasks of one that is killed, too.
    """

    look_seconds: float = 15.0
    patience_seconds: float = 180.0
    end_seconds: float = 30.0


def watch_lease(
    store: Store,
    dataset: str,
    run_id: str,
    report: Callable[[StoreError], None],
    policy: WatchPolicy = WatchPolicy(),
) -> None:
    """End this process when a run no longer holds the lock of its dataset; watches in a thread.

    A store that does not answer ends nothing: then nothing is known of the run.

    Args:
        store: Where the lock lies.
        dataset: Its dataset.
        run_id: The run that this process works for.
        report: Is told why, before.
        policy: The times of the watch.
    """
    threading.Thread(
        target=_watch, args=(store, dataset, run_id, report, policy), name="lease-watch", daemon=True
    ).start()


def _watch(store: Store, dataset: str, run_id: str, report: Callable[[StoreError], None], policy: WatchPolicy) -> None:
    still = Stillness(2 * policy.look_seconds)
    reason = None
    while reason is None:
        time.sleep(policy.look_seconds)
        with suppress(ImageShardsError):
            _, lease = newest_lease(store, dataset)
            reason = why_end(lease, run_id, still_seconds=still.look(lease, time.monotonic()), policy=policy)
    report(StoreError(f"the job of run {run_id} ends itself: {reason}. The shards that are finished are kept"))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(policy.end_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def why_end(lease: Lease | None, run_id: str, *, still_seconds: float, policy: WatchPolicy) -> str | None:
    """Why a job has nobody to work for any more; None while it has.

    Args:
        lease: What the lock says; None where there is none.
        run_id: The run that the job is of.
        still_seconds: For how long the lock has said that.
        policy: The times of the watch.
    """
    if lease and lease.holder.run_id != run_id:
        return f"{lease.describe()} has taken its writer lock"
    if still_seconds < policy.patience_seconds:
        return None
    since = f"for {still_seconds:.0f} s"
    if lease is None:
        return f"its writer lock has been gone {since}"
    if lease.released:
        return f"it gave its writer lock back, and was not tried again {since}"
    return f"it showed no sign of life {since}; its process and Prefect's worker are probably dead"
