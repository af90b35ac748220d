"""The command line of the flow: `python -m flows.pets`.

The flow's own modules, and Prefect, are imported only after the options were read, and while the local server starts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from flows.local_server import LocalServer, local_api, start_local_server
from imageshards import oxford_pets
from imageshards.collector import collector_paused
from imageshards.errors import ConfigError, ImageShardsError
from imageshards.recipe import RESOLUTIONS, Recipe, read_recipe


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options: the flow's parameters under the same names, the recipe as a file."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pets",
        description="Oxford-IIIT Pet, from two archives to validated, versioned Parquet.",
    )
    parser.add_argument("--images", default=oxford_pets.IMAGES_URL, help="URL or path (default: the Oxford archive)")
    parser.add_argument("--annotations", default=oxford_pets.ANNOTATIONS_URL, help="URL or path (default: likewise)")
    parser.add_argument("--images-sha256", help="what the images archive must be")
    parser.add_argument("--annotations-sha256", help="what the annotations archive must be")
    parser.add_argument("--store", default="data", help="folder, s3://bucket/prefix or block:NAME (default: data)")
    parser.add_argument("--raw-store", help="likewise, for the raw images (default: the store)")
    parser.add_argument(
        "--resolutions", type=int, nargs="+", choices=RESOLUTIONS, default=[224], help="sides in px (default: 224)"
    )
    parser.add_argument("--ray", default="local", help="`local`, http(s)://head:8265 or block:NAME (default: local)")
    parser.add_argument("--recipe", metavar="FILE", help="JSON or YAML file; docs/recipe.md lists its keys")
    parser.add_argument(
        "--max-reject-fraction", type=float, default=0.01, help="above this share nothing is published (default: 0.01)"
    )
    parser.add_argument("--max-leaks", type=int, help="above this number of duplicate pairs across splits, likewise")
    parser.add_argument("--keep-unlisted", action="store_true", help="keep images in no split, as split `unlisted`")
    parser.add_argument("--keep-versions", type=int, help="delete older versions a week after they were replaced")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow in this process; prints its summary as the last line of stdout.

    Returns:
        0 when every resolution is published, 1 when the run failed, 2 when it was called wrongly.
    """
    options = vars(parse(arguments))
    recipe_file = options.pop("recipe")
    try:
        recipe = read_recipe(recipe_file) if recipe_file else Recipe()
        summary = _run(start_local_server(), {**options, "recipe": recipe})
    except ImageShardsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2 if isinstance(error, ConfigError) else 1
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _run(server: LocalServer | None, parameters: dict[str, Any]) -> dict[str, Any]:
    with collector_paused():
        from flows.pets import pets  # noqa: PLC0415 (slow, and the server starts meanwhile)
        from tasks.progress import terminal_progress  # noqa: PLC0415
    with local_api(server), terminal_progress():
        summary: dict[str, Any] = pets(**parameters)
    return summary
