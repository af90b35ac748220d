"""This package's upload of two archives into a store."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.material import upload_material
from benchmarks.stopwatch import Stopwatch
from imageshards.store import StoreSpec


def main() -> None:
    """Upload."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="an archive")
    parser.add_argument("--annotations", type=Path, required=True, help="an archive")
    parser.add_argument("--store", required=True, help="where to")
    options = parser.parse_args()
    with Stopwatch() as stopwatch:
        material = upload_material(options.images, options.annotations, StoreSpec(url=options.store))
        stopwatch.images = material.info.images


if __name__ == "__main__":
    main()
