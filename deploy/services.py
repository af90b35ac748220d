"""The programs of a stack and what each has in its environment.

Secrets travel in environments, which only the same user can read, and never in arguments.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path

from deploy.processes import MARK, Service
from deploy.state import StackState
from imageshards.errors import ConfigError

POOL = "imageshards"
PREFECT_USER = "admin"
NOTIFICATIONS = "notifications.jsonl"
WORKER_QUERY_SECONDS = 5
HEARTBEAT_SECONDS = 30
REQUEST_SECONDS = 5
OBJECT_STORE_BYTES = 128 * 1024**2  # the driver's workers keep nothing there; Ray's least is 75 MB
WORKER_PORTS = ("20000", "20999")  # not Ray's own 10002 to 19999, which another head on this machine may use

PORTS = ("postgres", "prefect", "inbox", "dashboard")
_RAY_PORTS = (
    *("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    *("metrics-export-port", "object-manager-port", "node-manager-port", "ray-client-server-port"),
)
_PORT_RANGE = range(21000, 32000)

_OTHERS = ("PREFECT_", "RAY_", "AWS_")
"""Settings of this machine's user, which would lead a service to another server, cluster or bucket."""


def free_ports() -> dict[str, int]:
    """A free port of loopback for each service and each of Ray's many servers.

    Not of those that the system itself hands out (32768 and above on Linux): it would give one to somebody's outgoing
    connection before the service takes it, seen with the agent of Ray, without which the head takes no job.
    """
    candidates = random.sample(_PORT_RANGE, len(_PORT_RANGE))
    with ExitStack() as held:  # all at once, so that no two are the same
        return {name: _hold_one(candidates, held) for name in (*PORTS, *_RAY_PORTS)}


def _hold_one(candidates: list[int], held: ExitStack) -> int:
    while candidates:
        with suppress(OSError):  # somebody has it
            return int(held.enter_context(socket.create_server(("127.0.0.1", candidates.pop()))).getsockname()[1])
    raise ConfigError(f"no port of {_PORT_RANGE.start} to {_PORT_RANGE.stop - 1} is free on this machine")


def base_environment(stack_id: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What all services have in their environment."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_OTHERS)}
    return kept | {MARK: stack_id}


def client_environment(state: StackState, folder: Path, password: str) -> dict[str, str]:
    """What a program needs in its environment to use the stack's Prefect server."""
    return {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": state.api_url,
        "PREFECT_API_AUTH_STRING": f"{PREFECT_USER}:{password}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    }


def prefect_server(state: StackState, environment: Mapping[str, str], folder: Path, database_url: str) -> Service:
    """The Prefect server; whoever uses it must give the user and password of the client's environment."""
    own = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_API_AUTH_STRING": environment["PREFECT_API_AUTH_STRING"],
        "PREFECT_UI_URL": state.ui_url,  # for the links in notifications
        # Kept in memory, as they are by default, a restart of the server leaves its slots taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    return Service("prefect", [*command, "--port", str(state.ports["prefect"])], {**environment, **own}, folder)


def prefect_worker(environment: Mapping[str, str], folder: Path) -> Service:
    """A worker of the process pool: each flow run is a process of its own, in a temporary folder."""
    own = {
        "PREFECT_WORKER_QUERY_SECONDS": str(WORKER_QUERY_SECONDS),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    return Service("worker", [*command, "--name", "stack"], {**environment, **own}, folder)


def ray_head(
    state: StackState, environment: Mapping[str, str], token_file: Path, *, cpus: int, keys: Mapping[str, str]
) -> Service:
    """A Ray head that asks for a token; its processes have the keys to the store, as a cluster's nodes have theirs."""
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--num-cpus={cpus}"]
    command += [f"--{name}={state.ports[name]}" for name in _RAY_PORTS]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={state.ports['dashboard']}"]
    command += [f"--min-worker-port={WORKER_PORTS[0]}", f"--max-worker-port={WORKER_PORTS[1]}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={state.scratch / 'ray'}"]
    return Service("ray", command, {**environment, **own, **keys}, state.scratch)


def notification_inbox(state: StackState, environment: Mapping[str, str], folder: Path) -> Service:
    """Where notifications arrive when no webhook is given."""
    file = str(folder / NOTIFICATIONS)
    return Service(
        "inbox", [sys.executable, "-m", "deploy.inbox", str(state.ports["inbox"]), file], environment, repository()
    )


def answers(url: str) -> bool:
    """Whether a server answers, be it that it wants to know who asks."""
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_SECONDS):  # noqa: S310 (our own http address)
            return True
    except urllib.error.HTTPError as error:
        return error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=REQUEST_SECONDS):
            return True
    except OSError:
        return False


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def repository() -> Path:
    """The folder of prefect.yaml."""
    return Path(__file__).resolve().parents[1]
