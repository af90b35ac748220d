"""Prefect's API for one run from the command line, where no Prefect server is configured.

Prefect starts such a server by itself, but imports all of it into the process of the flow to do so, begins only when
the flow does, and leaves it running when that process is killed. Here it is a child process that is started first,
imports and builds while the flow's own modules are imported, and ends with its parent.
"""

from __future__ import annotations

import atexit
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from imageshards.collector import collector_paused
from imageshards.parent_watch import stop_with_parent

HOST = "127.0.0.1"
STOP_TIMEOUT_SECONDS = 5.0

_SERVER_DEFAULTS = {
    "PREFECT__SERVER_EPHEMERAL": "1",  # as Prefect's own: only the services that a run needs
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_UI_ENABLED": "0",
    # looking through all integrations for types of blocks takes a second at each start; a type is saved with its block
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "0",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
}
"""What the server has in its environment unless the user's says otherwise."""


class LocalServer:
    """A Prefect API server in a child process.

    Its socket listens before the server does, so that nobody has to guess a port, or to ask again and again.
    """

    def __init__(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
                [sys.executable, "-m", "flows.local_server", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # the flow's stdout is for its summary
                env={**_SERVER_DEFAULTS, **os.environ},
                pass_fds=[listener.fileno()],
                start_new_session=True,  # an interrupt is for the flow, which has yet to tell the server of it
            )
        atexit.register(self.stop)  # and so after Prefect's queues of logs and events are empty

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL has to be."""
        return f"http://{HOST}:{self.port}/api"

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until it answers; tells whether it does."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_seconds)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):  # it ended, or takes too long
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End it, and wait for that. Can be called again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        atexit.unregister(self.stop)


def start_local_server() -> LocalServer | None:
    """Start the server, unless the environment names one; whether it is needed is for `local_api` to say."""
    return None if os.environ.get("PREFECT_API_URL") else LocalServer()


@contextmanager
def local_api(server: LocalServer | None) -> Iterator[None]:
    """Let Prefect in this process use the server, where it would start one of its own; stop a needless one."""
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 (slow, and the server starts meanwhile)
    from prefect.settings import (  # noqa: PLC0415
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        PREFECT_UI_URL,
        temporary_settings,
    )

    if server is None:
        yield
        return
    if not is_needed() or not server.wait(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()):
        server.stop()  # where it was needed, Prefect starts its own now, and tells what is wrong
        yield
        return
    os.environ["PREFECT_API_URL"] = server.api_url
    refresh_global_settings_context()  # not only here: threads of Prefect's own look there
    # The server ends with the run: nobody will miss its heartbeats, for which the run's end waits a second; no UI.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_UI_URL: ""}):
        yield


def is_needed() -> bool:
    """Whether Prefect would start a server for a run: no API is configured, in profiles and files neither."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED  # noqa: PLC0415 (see above)

    return not PREFECT_API_URL.value() and bool(PREFECT_SERVER_EPHEMERAL_ENABLED.value())


def serve(listener: socket.socket) -> None:
    """Serve Prefect's API on a socket until a signal, or the end of standard input."""
    with collector_paused():
        if not is_needed():
            return
        import uvicorn  # noqa: PLC0415 (only where it is needed)
        from prefect.server.api.server import create_app  # noqa: PLC0415

        app = create_app(ephemeral=True, final=True)
    stop_with_parent()
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run([listener])


def main(arguments: Sequence[str]) -> int:
    """The child process; takes the number of the inherited socket."""
    with socket.socket(fileno=int(arguments[0])) as listener:
        serve(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
