"""How an index grows: `python -m benchmarks.index_scale [--images N] [--store URL]`.

Made-up images go through the catalog and the index writer of the upload, streaming; then the index is planned by as the
driver does, read whole and read unit by unit as workers do. Each step runs in a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageshards.catalog import Catalog, index_columns
from imageshards.index import IndexInfo, iter_index, read_index
from imageshards.index_row import ROW_GROUP_ROWS
from imageshards.index_writer import IndexWriter
from imageshards.job import count_population
from imageshards.oxford_pets import SPECIES, ClassEntry, Classes, FrameSize, HeadBox, ListEntry
from imageshards.plan import plan_units
from imageshards.recipe import Recipe
from imageshards.store import Store, open_store

_FOLDER = "raw/bench/index"
_KEY = f"{_FOLDER}/index.parquet"
_CLASSES = 37
_UNLISTED_EVERY = 1000
_UNITS_READ = 200
_RESOLUTION = 224


def write(store: Store, images: int) -> dict[str, Any]:
    """Write an index of made-up images."""
    classes = Classes(tuple(f"breed_{number}" for number in range(_CLASSES)), ("dog",) * _CLASSES)
    info = IndexInfo(_KEY, "", "bench", 0, classes.names, {"image": images}, "0" * 64, "1" * 64)
    with Catalog() as catalog:
        filled = Stopwatch()
        for number in range(images):
            _add(catalog, number, classes)
        fill = filled.times()
        written = Stopwatch()
        with IndexWriter(store, _KEY, folder=catalog.folder, class_names=classes.names) as writer:
            for rows in catalog.rows(ROW_GROUP_ROWS):
                writer.write(index_columns(rows, classes, "raw/bench/"))
            writer.finish(info)
        scratch_bytes = catalog.size_bytes
    objects = [found.size_bytes for found in store.list(_FOLDER)]
    return {
        "fill": fill,
        "write": written.times(),
        "scratch_bytes": scratch_bytes,
        "index_bytes": sum(objects),
        "objects": len(objects),
    }


def _add(catalog: Catalog, number: int, classes: Classes) -> None:
    class_id = number % _CLASSES
    image_id = f"{classes.names[class_id]}_{number}"
    digest = hashlib.sha256(image_id.encode()).digest()
    entry = ListEntry(image_id, class_id, ClassEntry(classes.names[class_id], SPECIES[2]))
    catalog.add_image(
        image_id, f"images/{image_id}.jpg", name=f"images/{image_id}.jpg", sha256=digest, size_bytes=100_000 + number
    )
    if number % _UNLISTED_EVERY:
        catalog.add_listed(entry)
        catalog.add_to_split("test" if number % 2 else "trainval", entry)
    catalog.add_trimap(image_id, f"annotations/trimaps/{image_id}.png", digest)
    if number % 2 == 0:
        catalog.add_box(image_id, HeadBox((10.0, 20.0, 110.0, 120.0 + number % 100), FrameSize(500, 375)))


def plan(store: Store, images: int) -> dict[str, Any]:
    """Count the splits and plan the work units, as the driver does."""
    watch = Stopwatch()
    population = count_population(store, _KEY, keep_unlisted=False)
    units = plan_units(population.splits, Recipe(), (_RESOLUTION,))
    counted = sum(population.splits.values()) + sum(population.left_out.values())
    if counted != images:
        raise SystemExit(f"{counted} images counted instead of {images}")
    return {"plan": watch.times(), "units": len(units)}


def read_all(store: Store, images: int) -> dict[str, Any]:
    """Read every column of every row, piece by piece."""
    watch = Stopwatch()
    rows = pieces = piece_bytes = 0
    for table in iter_index(store, _KEY):
        rows, pieces, piece_bytes = rows + table.num_rows, pieces + 1, max(piece_bytes, table.nbytes)
    if rows != images:
        raise SystemExit(f"{rows} rows read instead of {images}")
    return {"read": watch.times(), "pieces": pieces, "piece_bytes": piece_bytes}


def read_units(store: Store, _: int) -> dict[str, Any]:
    """Read the rows of some work units, spread over all, as one worker does that builds one after another."""
    population = count_population(store, _KEY, keep_unlisted=False)
    units = plan_units(population.splits, Recipe(), (_RESOLUTION,))
    chosen = units[:: max(1, len(units) // _UNITS_READ)]
    watch = Stopwatch()
    rows = sum(read_index(store, _KEY, split=unit.split, hash_range=unit.hash_range).num_rows for unit in chosen)
    seconds, cpu_seconds = watch.times()
    return {"unit": (seconds / len(chosen), cpu_seconds / len(chosen)), "rows": rows // len(chosen)}


class Stopwatch:
    """Seconds on the wall and of the CPU since it was made: others may use the machine, too."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def times(self) -> tuple[float, float]:
        """Seconds on the wall, and of the CPU."""
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]


_STEPS: dict[str, Callable[[Store, int], dict[str, Any]]] = {
    "write": write,
    "plan": plan,
    "read_all": read_all,
    "read_units": read_units,
}


def measure(step: str, store: str, images: int) -> dict[str, Any]:
    """Run a step in a process of its own; what it found, and its peak memory in MB."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.index_scale",
        "--step",
        step,
        "--store",
        store,
        "--images",
        str(images),
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)  # type: ignore[no-any-return]


def table(images: int, found: dict[str, dict[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    wrote, planned, read, unit = (found[step] for step in _STEPS)
    index = f"index of {wrote['index_bytes'] / 1e6:,.0f} MB in {wrote['objects']} objects"
    pieces = f"{read['pieces']:,} pieces of {read['piece_bytes'] / 1e6:.0f} MB at most"
    lines = [
        ("catalog filled", images, wrote["fill"], f"scratch of {wrote['scratch_bytes'] / 1e6:,.0f} MB", wrote),
        ("joined, sorted, written", images, wrote["write"], index, wrote),
        ("planned", images, planned["plan"], f"{planned['units']:,} work units", planned),
        ("read whole, every column", images, read["read"], pieces, read),
        ("read one work unit, on average", unit["rows"], unit["unit"], f"{unit['rows']:,} rows", unit),
    ]
    head = (
        f"| {images:,} images | seconds | CPU s | rows per CPU s | | peak memory, MB |\n"
        "| --- | ---: | ---: | ---: | --- | ---: |\n"
    )
    return head + "".join(
        f"| {name} | {seconds:,.3g} | {cpu:,.3g} | {rows / cpu:,.0f} | {what} | {step['peak_mb']:,.0f} |\n"
        for name, rows, (seconds, cpu), what, step in lines
    )


def main() -> None:
    """Print the table, or with --step the numbers of one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--store", help="a folder or s3://bucket/prefix; default: a temporary folder")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        found = _STEPS[options.step](open_store(options.store), options.images)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(json.dumps({**found, "peak_mb": peak}))
        return
    with tempfile.TemporaryDirectory(prefix="imageshards-bench-") as folder:
        store = options.store or str(Path(folder, "store"))
        sys.stdout.write(table(options.images, {step: measure(step, store, options.images) for step in _STEPS}))
        opened = open_store(store)
        for entry in opened.list(_FOLDER):
            opened.delete(entry.key)


if __name__ == "__main__":
    main()
