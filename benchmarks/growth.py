"""Does the time for an image, or the memory, grow with the number of images? `python -m benchmarks.growth`.

Uploads, preprocesses and validates (a folder store, 224 px) archives of growing size, each step in processes of its
own, and writes a Markdown table to standard output. 74,000 images take 31 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.archives import replicate, sample_archives
from benchmarks.material import Material, split_cpus, upload_material
from benchmarks.measure import Measurement, Program, measure
from benchmarks.progress import say, work_folder
from benchmarks.table import machine, markdown
from imageshards.store import StoreSpec

STEPS = ("upload", "preprocess", "validate")
_BYTES_PER_IMAGE = 420_000
"""Of disk: the image in the archive, in the store, and its row at 224 px."""
_HEAD = (
    "images",
    "step",
    "seconds",
    "ms/image",
    "ms/further image",
    "CPU ms/image",
    "CPU ms/further image",
    "program, MB",
    "largest worker, MB",
)


def run_steps(count: int, cpus: Sequence[int], folder: Path) -> list[Measurement]:
    """All steps on so many images."""
    images, annotations = replicate(*sample_archives(folder / "sample"), count, folder)
    raw_store, spec, result = StoreSpec(url=str(folder / "raw")), folder / "spec.json", folder / "result.json"
    archives = ("--images", str(images), "--annotations", str(annotations), "--store", raw_store.url)
    uploaded = measure(Program("benchmarks.contenders.uploading", archives), cpus=cpus, folder=folder)
    material: Material = upload_material(images, annotations, raw_store)  # it is there: this reads its index
    spec.write_text(material.job(StoreSpec(url=str(folder / "out"))).model_dump_json())
    images.unlink()
    files = ("--spec", str(spec), "--result", str(result))
    built = measure(Program("benchmarks.contenders.step", (*files, "--folder", str(folder))), cpus=cpus, folder=folder)
    validated = measure(Program("benchmarks.contenders.validating", files), cpus=cpus, folder=folder)
    if validated.facts["failed"]:
        raise SystemExit(f"validation of {count} images failed: {', '.join(validated.facts['failed'])}")
    return [uploaded, built, validated]


def table(found: dict[int, list[Measurement]]) -> str:
    """A line for each number of images and each step; further images are those beyond the size before."""
    rows = []
    for number, step in enumerate(STEPS):
        before: Measurement | None = None
        for count, measured in found.items():
            run = measured[number]
            rows.append(
                [
                    f"{count:,}",
                    step,
                    f"{run.seconds:.1f}",
                    f"{1000 / run.rate:.3f}",
                    _slope(run.seconds, run.images, before.seconds, before.images) if before else "",
                    f"{run.cpu_ms_per_image:.3f}",
                    _slope(run.cpu_seconds, run.images, before.cpu_seconds, before.images) if before else "",
                    f"{run.peaks['program'] / 1e6:,.0f}",
                    f"{run.peaks['worker'] / 1e6:,.0f}" if "worker" in run.peaks else "",
                ]
            )
            before = run
    return markdown(_HEAD, rows, left=2)


def _slope(seconds: float, images: int, seconds_before: float, images_before: int) -> str:
    return f"{1000 * (seconds - seconds_before) / (images - images_before):.3f}"


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[740, 7_400, 74_000])
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; short: sockets lie in it")
    options = parser.parse_args()
    cpus, _ = split_cpus(options.cpus)
    found: dict[int, list[Measurement]] = {}
    with work_folder(options.folder) as folder:
        free, needed = shutil.disk_usage(folder).free, max(options.sizes) * _BYTES_PER_IMAGE
        if free < needed:
            raise SystemExit(
                f"{folder} has {free / 1e9:.0f} GB left, {max(options.sizes):,} images take {needed / 1e9:.0f} GB: "
                "name another place with --folder, or smaller --sizes"
            )
        for count in sorted(options.sizes):
            with tempfile.TemporaryDirectory(prefix="n-", dir=folder, ignore_cleanup_errors=True) as name:
                found[count] = run_steps(count, cpus, Path(name))
            times = ", ".join(f"{step} {run.seconds:.1f} s" for step, run in zip(STEPS, found[count], strict=True))
            say(f"{count:,} images: {times}")
    sys.stdout.write(f"At 224 px, a folder store, worker start included. {machine(cpus)}.\n\n{table(found)}")


if __name__ == "__main__":
    main()
