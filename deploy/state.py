"""What a running stack has written down: its processes, ports and secrets, in a folder that only its user can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from imageshards.errors import ConfigError

STATE_FILE = "state.json"
OWNER_ONLY = 0o600
_TOKEN_BYTES = 32


class StackState(BaseModel):
    """One stack, from the moment its first process is about to start.

    Attributes:
        id: What each of its processes has in its environment.
        scratch: Folder of the database and of Ray; under the system's temporary folder, for the path of a socket has
            at most 107 characters, and PostgreSQL must be able to reach it as another user.
        store_url: Where the finished data goes.
        ports: Of each service.
        pids: Of each service that was started.
        ready: Whether all of it started.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scratch: Path
    store_url: str
    ports: dict[str, int]
    pids: dict[str, int] = {}
    ready: bool = False

    @property
    def api_url(self) -> str:
        """Of Prefect's API."""
        return f"{self.ui_url}/api"

    @property
    def ui_url(self) -> str:
        """Of Prefect's UI."""
        return f"http://127.0.0.1:{self.ports['prefect']}"

    @property
    def ray_address(self) -> str:
        """Of Ray's dashboard and Jobs API."""
        return f"http://127.0.0.1:{self.ports['dashboard']}"


def write_state(folder: Path, state: StackState) -> None:
    """Replace the state; nobody ever reads half of it."""
    partial = folder / f"{STATE_FILE}.partial"
    _write_private(partial, state.model_dump_json(indent=1))
    partial.replace(folder / STATE_FILE)


def read_state(folder: Path) -> StackState | None:
    """The stack of a folder; None where there is none.

    Raises:
        ConfigError: The file is none of ours.
    """
    path = folder / STATE_FILE
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not a stack's state: end its processes by hand, then remove {folder}") from error


def make_secret(folder: Path, name: str) -> str:
    """Draw a secret and write it to a file that only this user can read."""
    secret = secrets.token_urlsafe(_TOKEN_BYTES)
    _write_private(folder / name, secret)
    return secret


def read_secret(folder: Path, name: str) -> str:
    """A secret that `make_secret` wrote."""
    return (folder / name).read_text()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # else it would keep the permissions it had
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "w") as file:
        file.write(text)
