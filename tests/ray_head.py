"""A Ray head of the tests' own: on free ports of loopback, in a folder of its own, stopped by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 30
OBJECT_STORE_BYTES = 80 * 1024**2  # Ray's least is 75 MB
WORKER_PORTS = ("20000", "20999")  # not Ray's own 10002 to 19999, which a developer's head may use


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Attributes:
        address: Of its Jobs API.
        folder: Its temporary folder, logs included.
        process_id: Of `ray start`, and of the group of processes that it leads.
    """

    address: str
    folder: Path
    process_id: int

    def kill(self) -> None:
        """End it as a power failure does; what Ray keeps in memory is gone."""
        os.killpg(self.process_id, signal.SIGKILL)

    def logs(self) -> Iterator[Path]:
        """Every log file of every process of the cluster."""
        return (path for path in self.folder.glob("session_*/logs/**/*") if path.is_file() and not path.is_symlink())


@contextmanager
def running_ray_head(
    *, token: str | None = None, env: Mapping[str, str] | None = None, dashboard_port: int | None = None
) -> Iterator[RayHead]:
    """Start a head with two CPUs; it asks for a token where one is given, and for none otherwise.

    Args:
        token: The token.
        env: Variables of its environment.
        dashboard_port: Where its Jobs API listens, for one that takes another's place; a free one unless given.
    """
    folder = Path(
        tempfile.mkdtemp(prefix="rayt-", dir="/tmp")
    )  # short: the path of a socket has at most 107 characters
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token" if token else "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **({"RAY_AUTH_TOKEN": token} if token else {}),
        **(env or {}),
    }
    ports = _free_ports(
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "object-manager-port",
        "node-manager-port",
        "ray-client-server-port",
    )
    if dashboard_port is not None:
        ports["dashboard-port"] = dashboard_port
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += [f"--min-worker-port={WORKER_PORTS[0]}", f"--max-worker-port={WORKER_PORTS[1]}"]
    command += ["--dashboard-host=127.0.0.1", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}"]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(address, process, log)
        yield RayHead(address, folder, process.pid)
    finally:
        _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(*names: str) -> dict[str, int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]  # all at once, so that no two are the same
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return dict(zip(names, ports, strict=True))


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                return
        except urllib.error.HTTPError:  # it answers: it wants its token
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the Ray head did not start: {log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the head; its group is its whole session, which nobody else is in."""
    if process.poll() is None:
        process.terminate()  # then it ends what it started
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
