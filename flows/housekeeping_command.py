"""The command line of the flow `housekeeping`: `python -m flows.housekeeping`.

As in `flows.command`, the flow's own modules are imported only after the options were read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from flows.local_server import local_api, start_local_server
from imageshards.errors import ConfigError, ImageShardsError


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options: the flow's parameters under the same names, `--delete` in the place of `dry_run`."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.housekeeping",
        description="Tell which old versions and remains of abandoned runs would go, or delete them.",
    )
    parser.add_argument("--store", default="data", help="folder, s3://bucket/prefix or block:NAME (default: data)")
    parser.add_argument("--raw-store", help="likewise, of the raw images (default: the store)")
    parser.add_argument("--keep-versions", type=int, default=3, help="newest of each resolution that stay (default: 3)")
    parser.add_argument(
        "--grace-days", type=float, default=7.0, help="so long a version stays after it was replaced (default: 7)"
    )
    parser.add_argument(
        "--delete-raw",
        action="store_true",
        help="also raw images that no version kept refers to; only where no other store relies on them",
    )
    parser.add_argument(
        "--delete", dest="dry_run", action="store_false", help="do it (default: only tell what would go)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow in this process; prints its summary as the last line of stdout.

    Returns:
        0 when all is done, 1 when something could not be, 2 when it was called wrongly.
    """
    options = vars(parse(arguments))
    from imageshards.retention import RetentionPolicy  # noqa: PLC0415 (imports pyarrow)

    try:
        RetentionPolicy(keep_versions=options["keep_versions"], grace_days=options["grace_days"])
        summary = _run(options)
    except ImageShardsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2 if isinstance(error, ConfigError) else 1
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _run(parameters: dict[str, Any]) -> dict[str, Any]:
    server = start_local_server()
    from flows.housekeeping import housekeeping  # noqa: PLC0415 (slow, and the server starts meanwhile)

    with local_api(server):
        summary: dict[str, Any] = housekeeping(**parameters)
    return summary
