"""What a run costs that has little or nothing to do: `python -m benchmarks.fixed_cost`.

Runs the command line as a user without a Prefect server does, with a home folder of its own: 32 images, everything
included; and 7,400 images of which nothing changed. Prints a Markdown table. Prefect's database exists in both, for
the run before has made it. Requests are counted by a proxy before an S3 server, where there is one, in further runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.archives import replicate, sample_archives
from benchmarks.counting_proxy import counting_proxy
from benchmarks.material import split_cpus
from benchmarks.process_tree import ProcessTree
from benchmarks.s3 import S3Place, s3_place
from benchmarks.table import machine, markdown

_FEW, _MANY = 32, 7400
_LOOK_SECONDS = 0.1
_MEMORY_EACH_LOOKS = 5
_MB = 1_000_000
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the command line.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: User and system time of all its processes.
        peak_together: Highest sum of their proportional memory, in bytes.
    """

    seconds: float
    cpu_seconds: float
    peak_together: int


@dataclass(frozen=True, slots=True)
class User:
    """Someone with a home folder and some CPUs.

    Attributes:
        home: Holds Prefect's database, too.
        cpus: What the runs may use.
    """

    home: Path
    cpus: Sequence[int]

    def run(self, archives: tuple[Path, Path], store: str, environment: Mapping[str, str] | None = None) -> Run:
        """Call the command, and watch it to its end.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        images, annotations = archives
        command = [sys.executable, "-m", "flows.pets", "--images", str(images), "--annotations", str(annotations)]
        command += ["--max-reject-fraction", "0.05", "--store", store]  # one of 32 images is damaged
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PREFECT_", "RAY_"))}
        settings = {"HOME": str(self.home), "PREFECT_HOME": str(self.home / ".prefect")}
        log = self.home / "run.log"
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)
        try:
            with log.open("wb") as output:
                started = time.perf_counter()
                process = subprocess.Popen(
                    command, cwd=_ROOT, env={**kept, **settings, **(environment or {})}, stdout=output, stderr=output
                )
        finally:
            os.sched_setaffinity(0, before)
        tree = ProcessTree(process.pid)
        looks = 0
        while process.poll() is None:
            tree.look(memory=looks % _MEMORY_EACH_LOOKS == 0)
            looks += 1
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - started
        if process.returncode:
            sys.stderr.write(log.read_text(errors="replace")[-3000:])
            raise subprocess.CalledProcessError(process.returncode, command)
        tree.look()
        return Run(seconds, tree.cpu.seconds(), tree.peak_together)


def count_requests(user: User, archives: tuple[Path, Path], place: S3Place, prefix: str) -> tuple[int, int]:
    """Requests to the store of a first run, and of one where nothing has changed."""
    assert place.endpoint_url
    with counting_proxy(place.endpoint_url) as proxy:
        environment = {**place.environment, "AWS_ENDPOINT_URL": proxy.address}
        counts = []
        for _ in range(2):
            user.run(archives, f"{place.url.rstrip('/')}/{prefix}", environment)
            counts.append(len(proxy.requests))
    return counts[0], counts[1] - counts[0]


def row(name: str, runs: Sequence[Run], requests: int | None) -> list[str]:
    """A line of the table: medians."""
    seconds = sorted(run.seconds for run in runs)
    return [
        name,
        f"{median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})",
        f"{median(run.cpu_seconds for run in runs):.1f}",
        "not measured" if requests is None else str(requests),
        f"{median(run.peak_together for run in runs) / _MB:,.0f}",
        str(len(runs)),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cpus", type=int, default=2, help="how many the runs may use (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each case runs (default: 3)")
    parser.add_argument("--many", type=int, default=_MANY, help=f"images of the unchanged run (default: {_MANY})")
    parser.add_argument("--no-s3", action="store_true", help="count no requests")
    options = parser.parse_args()
    cpus, servers_cpus = split_cpus(options.cpus)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imageshards-bench-")))
        user = User(folder / "home", cpus)
        sample = sample_archives(folder / "sample")
        sets = {}
        for count in (_FEW, options.many):
            (folder / str(count)).mkdir()
            sets[count] = replicate(*sample, count, folder / str(count))
        user.home.mkdir()
        user.run(sets[options.many], str(folder / "many"))  # makes the database, too
        few = [user.run(sets[_FEW], str(folder / f"few-{turn}")) for turn in range(options.repeats)]
        same = [user.run(sets[options.many], str(folder / "many")) for _ in range(options.repeats)]
        place = None if options.no_s3 else stack.enter_context(s3_place(folder, cpus=servers_cpus))
        few_requests = same_requests = None
        if place and place.endpoint_url:
            few_requests, _ = count_requests(user, sets[_FEW], place, "few")
            _, same_requests = count_requests(user, sets[options.many], place, "many")
    head = ["run", "seconds, median (least to most)", "CPU seconds", "requests to the store", "memory, MB", "runs"]
    rows = [
        row(f"{_FEW} images, everything included", few, few_requests),
        row(f"{options.many:,} images, unchanged", same, same_requests),
    ]
    print(f"{machine(cpus)}\n\n{markdown(head, rows)}", end="")


if __name__ == "__main__":
    main()
