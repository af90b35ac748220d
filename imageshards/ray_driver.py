"""The program that runs on the Ray cluster: `python -m imageshards.ray_driver --spec URI`.

The only module that imports Ray. Reads a job spec from the store, runs the job, and writes its result into the store.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray._private import utils as ray_utils
from ray._private.node import Node
from ray.exceptions import RayError, RayTaskError

from imageshards import worker
from imageshards.driver_output import say
from imageshards.errors import ImageShardsError, error_from_dict
from imageshards.executor import WorkerLostError
from imageshards.job import JobSpec, driver_line
from imageshards.lease_watch import watch_lease
from imageshards.parent_watch import end_group_with_parent
from imageshards.run_job import run_job
from imageshards.store import Store, StoreSpec, open_store

_TASKS_PER_CPU = 2
"""One that runs and one that waits, so that no CPU does."""

_LOCAL_OBJECT_STORE_BYTES = 100 << 20
"""Pixels never pass through Ray's object store, which takes 30 % of the memory unless told otherwise."""

_CLUSTER_SIZE_SECONDS = 1.0
"""How old the cluster's size may be: asking takes 0.4 ms, as much as all else that the driver does for a task."""


class RayBackend:
    """Runs functions as Ray tasks of one CPU, without retries of Ray's own: those would loop on a poison image."""

    def __init__(self) -> None:
        self._tasks: dict[Any, Any] = {}
        self._slots = 0
        self._asked = -math.inf
        # Workers import while the driver plans: 0.3 s of each.
        self._warming = [self.submit(worker.warm_up) for _ in range(self.slots // _TASKS_PER_CPU)]

    @property
    def slots(self) -> int:
        """Two for each CPU that the cluster has just now; an autoscaler sees demand and the driver sees growth."""
        if time.monotonic() - self._asked > _CLUSTER_SIZE_SECONDS:
            self._asked = time.monotonic()
            self._slots = max(2, _TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        return self._slots

    def submit(self, function: Callable[..., dict[str, Any]], *arguments: Any) -> Any:
        """See `executor.Backend`."""
        if function not in self._tasks:
            # Of 40 units on two nodes, SPREAD lost 2 % against an even split, Ray's default 10 to 25 %: it prefers the
            # driver's node, and units wait there while another node is free.
            self._tasks[function] = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(function)
        return self._tasks[function].remote(*arguments)

    def wait(self, handles: Sequence[Any], timeout_seconds: float | None) -> Any | None:
        """See `executor.Backend`."""
        done, _ = ray.wait(list(handles), num_returns=1, timeout=timeout_seconds)
        return done[0] if done else None

    def fetch(self, handle: Any) -> Any:
        """See `executor.Backend`."""
        try:
            outcome = ray.get(handle)
        except RayTaskError:
            raise
        except RayError as error:
            lines = str(error).strip().splitlines() or [""]
            raise WorkerLostError(f"{type(error).__name__}: {lines[0][:300]}") from error
        if "error" in outcome:
            raise error_from_dict(outcome["error"])
        return outcome["ok"]

    def cancel(self, handle: Any) -> None:
        """See `executor.Backend`."""
        ray.cancel(handle, force=True)


_NEEDLESS_SERVICES = ("start_monitor", "start_log_monitor", "start_api_server")
"""Ray's autoscaler, forwarding of logs and dashboard: three processes of Python, 4 s of CPU before the first task and
1 s at the end, that do nothing for one driver on one node. No option of `ray.init` leaves them out."""

_DASHBOARD_CHECK = "get_dashboard_dependency_error"
"""Asks whether what the dashboard needs is installed, by importing it: 0.4 s of CPU in the driver. Where it is not,
Ray's agent on the node does without, too."""


def start_ray(address: str) -> None:
    """Join the cluster at an address, or start one for this process alone (`local`)."""
    if address == "local":
        for name in _NEEDLESS_SERVICES:
            if hasattr(Node, name):  # of another version of Ray that has none such, nothing is to be left out
                setattr(Node, name, lambda *_, **__: None)
        if hasattr(ray_utils, _DASHBOARD_CHECK):
            setattr(ray_utils, _DASHBOARD_CHECK, lambda: ImportError("nobody looks at this node"))
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        ray.init(
            address="local",
            num_cpus=allowed if allowed and allowed < (os.cpu_count() or 1) else None,  # Ray counts all of the machine
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)


def _stop_on_signal(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m imageshards.ray_driver", description=__doc__.partition("\n")[0])
    parser.add_argument("--spec", required=True, metavar="URI", help="the job spec: a path, file:// or s3:// address")
    parser.add_argument("--endpoint-url", help="where the S3 server of the spec's store is, unless it is AWS")
    parser.add_argument("--region", help="region of that server")
    parser.add_argument("--credentials-env", help="prefix of the environment variables that hold its credentials")
    parser.add_argument("--ray-address", default="auto", help="`auto` (the default), `local`, or the address of a head")
    parser.add_argument("--stop-with-parent", action="store_true", help="end with stdin, and its process group too")
    return parser.parse_args(arguments)


def _read_spec(options: argparse.Namespace) -> tuple[JobSpec, Store]:
    folder, _, name = options.spec.rpartition("/")
    location = StoreSpec(
        url=folder, endpoint_url=options.endpoint_url, region=options.region, credentials_env=options.credentials_env
    )
    spec = JobSpec.from_json(open_store(location).get(name), uri=options.spec)
    return spec, open_store(spec.store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; exit status 0 when its result lies in the store, 1 after an error that stdout describes."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    if options.stop_with_parent:
        end_group_with_parent()
    try:
        spec, store = _read_spec(options)
        if spec.lease:
            watch_lease(store, spec.dataset, spec.lease, lambda error: say(driver_line("error", error=error.to_dict())))
        start_ray(options.ray_address)
        signal.signal(signal.SIGTERM, _stop_on_signal)  # ray.init puts its own in place
        result = run_job(spec, RayBackend())
        store.put(spec.result_key, result.to_json())
    except ImageShardsError as error:
        say(driver_line("error", error=error.to_dict()))
        return 1
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
