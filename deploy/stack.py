"""A whole installation on this machine: `make stack`, `make stack-down`, or `python -m deploy.stack up|down|status`.

PostgreSQL, a Prefect server on it, a worker, a Ray head that asks for a token, and somewhere for notifications to
arrive; on free ports of loopback, with everything that the deployments need. It is for trying out and for tests: `down`
removes its database, too, and keeps only the data (.stack/store, or the bucket).

    IMAGESHARDS_STORE_URL   where the data goes: a folder or s3://bucket/prefix (default: .stack/store)
    IMAGESHARDS_STACK_S3    endpoint of an S3 server; the bucket `imageshards` is made there unless the URL names one
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION: its keys
    IMAGESHARDS_NOTIFY_URL  webhook for notifications (default: .stack/notifications.jsonl)
    IMAGESHARDS_POSTGRES_BIN  folder of another PostgreSQL's programs
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.installation import FOLDER, NOTIFICATIONS, PREFECT_SECRET, RAY_SECRET, down, spec_from_environment, up
from deploy.processes import processes_of
from deploy.services import PREFECT_USER
from deploy.state import StackState, read_state
from imageshards.errors import ConfigError, ImageShardsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; exit status 0 done, 1 failed or not running, 2 called wrongly."""
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="state, secrets and logs (default: .stack)")
    options = parser.parse_args(arguments)
    folder: Path = options.folder.resolve()
    command = {"up": _up, "down": _down, "status": _status}[options.command]
    try:
        return command(folder)
    except ImageShardsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2 if isinstance(error, ConfigError) else 1


def describe(state: StackState, folder: Path) -> str:
    """Where everything is, for a person; no secret, only the files that hold one."""
    return "\n".join(
        [
            f"Prefect UI      {state.ui_url}",
            f"                asks for {PREFECT_USER}:PASSWORD, the password is in {folder / PREFECT_SECRET}",
            f"Ray dashboard   {state.ray_address}",
            f"                asks for the token in {folder / RAY_SECRET}",
            f"store           {state.store_url}",
            f"notifications   {folder / NOTIFICATIONS if 'inbox' in state.pids else 'to the webhook given'}",
            f"logs            {folder}/*.log",
            "run it          in the UI: Deployments, manual, Run; or, in a shell:",
            f"                export PREFECT_API_URL={state.api_url}",
            f"                export PREFECT_API_AUTH_STRING={PREFECT_USER}:$(cat {folder / PREFECT_SECRET})",
            "                .venv/bin/prefect deployment run pets/manual",
        ]
    )


def _up(folder: Path) -> int:
    running = read_state(folder)
    if running is not None and _is_whole(running):
        sys.stdout.write(f"it runs already; `make stack-down` ends it\n{describe(running, folder)}\n")
        return 0
    state = up(spec_from_environment(folder, os.environ), say=lambda line: sys.stdout.write(f"{line}\n"))
    sys.stdout.write(f"\n{describe(state, folder)}\n")
    return 0


def _down(folder: Path) -> int:
    ended = down(folder)
    sys.stdout.write("ended\n" if ended else "there is no stack\n")
    return 0


def _status(folder: Path) -> int:
    state = read_state(folder)
    if state is None:
        sys.stdout.write("there is no stack; `make stack` starts one\n")
        return 1
    alive = processes_of(state.id)
    for name, pid in state.pids.items():
        sys.stdout.write(f"{name:<15} {'runs' if pid in alive else 'HAS ENDED'} (process {pid})\n")
    sys.stdout.write(f"{describe(state, folder)}\n")
    return 0 if _is_whole(state) else 1


def _is_whole(state: StackState) -> bool:
    return state.ready and set(state.pids.values()) <= processes_of(state.id)


if __name__ == "__main__":
    sys.exit(main())
