"""Does the time for an image, or the memory, grow with the number of images? `python -m benchmarks.growth`.

Runs the flow (a folder store, 224 px) as a user does, on archives of growing size and then of sizes going down again,
and writes two Markdown tables to standard output: time by stage, and peak memory by process and stage. 74,000 images
take 31 GB of disk for a while.

The largest size takes minutes, in which a shared machine changes its speed: so each of the others runs before it and
after it, and the mean of both counts. A run of the smallest goes first and does not count: it pays for cold caches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.archives import replicate, sample_archives
from benchmarks.material import split_cpus
from benchmarks.memory_by_stage import Memory, MemoryWatch, Peak
from benchmarks.progress import say, work_folder
from benchmarks.table import machine, markdown

STAGES = ("upload", "preprocess", "validate", "publish")
"""Those that have work for each image."""

ROLES = ("flow", "driver", "worker")

_LOOK_SECONDS = 0.1
_END_SECONDS = 30
_MB = 1e6
_BYTES_PER_IMAGE = 420_000
"""Of disk: the image in the archive, in the store, and its row at 224 px."""
_TIME_HEAD = ("stage", "images", "seconds", "ms/image", "ms/further image", "CPU ms/image", "CPU ms/further image")
_ROOT = Path(__file__).resolve().parents[1]


def run_flow(count: int, cpus: Sequence[int], folder: Path, home: Path) -> Memory:
    """The whole flow on so many images.

    Args:
        count: How many.
        cpus: What it may use.
        folder: For archives and store.
        home: Holds Prefect's database.
    """
    images, annotations = replicate(*sample_archives(folder / "sample"), count, folder)
    command = [sys.executable, "-m", "flows.pets", "--images", str(images), "--annotations", str(annotations)]
    command += ["--max-reject-fraction", "0.05", "--store", str(folder / "store")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PREFECT_", "RAY_"))}
    settings = {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect"), "TMPDIR": str(folder)}
    log = folder / "run.log"
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=_ROOT, env={**kept, **settings}, stdout=output, stderr=output)
    finally:
        os.sched_setaffinity(0, before)
    watch = MemoryWatch(process.pid)
    try:
        with log.open(errors="replace") as lines:
            while process.poll() is None:
                watch.look()
                for line in lines:
                    watch.take(line)
                time.sleep(_LOOK_SECONDS)
            for line in lines:  # what came after the last look
                watch.take(line)
    finally:
        process.terminate()
        process.wait(_END_SECONDS)
    if process.returncode:
        raise SystemExit(f"the run of {count} images failed:\n{log.read_text(errors='replace')[-3000:]}")
    return watch.found


def joined(runs: Sequence[Memory]) -> Memory:
    """Runs of one size as one: the means of their times and of their peaks."""
    shared = set.intersection(*(set(run.peaks) for run in runs))
    return Memory(
        peaks={key: _mean_peak([run.peaks[key] for run in runs]) for key in shared},
        seconds={stage: mean(run.seconds[stage] for run in runs) for stage in STAGES},
        cpu_seconds={stage: mean(run.cpu_seconds[stage] for run in runs) for stage in STAGES},
    )


def _mean_peak(peaks: Sequence[Peak]) -> Peak:
    return Peak(round(mean(peak.resident for peak in peaks)), round(mean(peak.anonymous for peak in peaks)))


def time_table(found: Mapping[int, Memory]) -> str:
    """A line for each stage and each number of images; further images are those beyond the size before."""
    rows = []
    for stage in STAGES:
        before: tuple[int, Memory] | None = None
        for count, run in found.items():
            measured = (run.seconds[stage], run.cpu_seconds[stage])
            cells = []
            for number, seconds in enumerate(measured):
                cells.append(f"{1000 * seconds / count:.3f}")
                cells.append(_slope(stage, number, seconds, count, before))
            rows.append([stage, f"{count:,}", f"{run.seconds[stage]:.1f}", *cells])
            before = (count, run)
    return markdown(_TIME_HEAD, rows)


def _slope(stage: str, number: int, seconds: float, count: int, before: tuple[int, Memory] | None) -> str:
    if before is None:
        return ""
    fewer, run = before
    seconds_before = (run.seconds[stage], run.cpu_seconds[stage])[number]
    return f"{1000 * (seconds - seconds_before) / (count - fewer):.3f}"


def memory_table(found: Mapping[int, Memory]) -> str:
    """A line for each process, and for each stage of the flow's: its peak at each size, and the last two compared."""
    counts = list(found)
    head = ["process", "stage", *(f"{count:,} images, MB" for count in counts), "last to the one before", "anonymous"]
    keys = [("flow", stage) for stage in STAGES] + [(role, None) for role in ROLES]
    rows = []
    for role, stage in keys:
        peaks = [run.peaks[role, stage] if stage else run.peak_of(role)[1] for run in found.values()]
        highest = found[counts[-1]].peak_of(role)[0]
        ratios = ["", ""]
        if len(peaks) > 1:
            ratios = [f"{now / then:.2f}" for now, then in zip(peaks[-1], peaks[-2], strict=True)]
        rows.append([role, stage or f"any ({highest})", *(f"{peak.resident / _MB:,.0f}" for peak in peaks), *ratios])
    return markdown(head, rows, left=2)


def main() -> None:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[740, 7_400, 74_000])
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; short: sockets lie in it")
    options = parser.parse_args()
    cpus, _ = split_cpus(options.cpus)
    growing = sorted(set(options.sizes))
    runs: dict[int, list[Memory]] = {count: [] for count in growing}
    with work_folder(options.folder) as folder:
        free, needed = shutil.disk_usage(folder).free, max(options.sizes) * _BYTES_PER_IMAGE
        if free < needed:
            raise SystemExit(
                f"{folder} has {free / 1e9:.0f} GB left, {max(options.sizes):,} images take {needed / 1e9:.0f} GB: "
                "name another place with --folder, or smaller --sizes"
            )
        home = folder / "home"
        home.mkdir()
        for number, count in enumerate([growing[0], *growing, *reversed(growing[:-1])]):
            with tempfile.TemporaryDirectory(prefix="n-", dir=folder, ignore_cleanup_errors=True) as name:
                last = run_flow(count, cpus, Path(name), home)
            if number:
                runs[count].append(last)
            times = ", ".join(
                f"{stage} {last.seconds[stage]:.1f} s, {last.cpu_seconds[stage]:.1f} of CPU" for stage in STAGES
            )
            say(f"{count:,} images: {times}")
    found = {count: joined(those) for count, those in runs.items()}
    sys.stdout.write(f"At 224 px, a folder store, start of Ray included. {machine(cpus)}.\n\n")
    sys.stdout.write(f"{time_table(found)}\n{memory_table(found)}")


if __name__ == "__main__":
    main()
