"""Markdown tables of measurements, and what machine they are from."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.measure import Measurement

NOT_MEASURED = "not measured"

_MB = 1_000_000


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table; all but the first `left` columns are set to the right."""
    marks = ["---" if column < left else "---:" for column in range(len(head))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, marks, *rows))


def cells(runs: Sequence[Measurement], references: Sequence[Measurement]) -> list[str]:
    """Images/s and `share` of the reference (each: median, least and most), runs, memory in MB, CPU ms per image."""
    return [
        _spread([run.rate for run in runs], "{:,.0f}"),
        share(runs, references),
        str(len(runs)),
        f"{median(run.peak_largest for run in runs) / _MB:,.0f}",
        f"{median(run.peak_together for run in runs) / _MB:,.0f}",
        f"{median(run.cpu_ms_per_image for run in runs):.2f}",
    ]


def share(runs: Sequence[Measurement], references: Sequence[Measurement]) -> str:
    """The speed of a program as a share of another's: median, least and most.

    Args:
        runs: Of one program, the first of them in the first turn.
        references: Of the program that it is held against, likewise. Each run is compared with that of its own turn:
            the speed of a machine that others share changes from minute to minute, for both.
    """
    shares = [run.rate / reference.rate for run, reference in zip(runs, references, strict=False)]
    return _spread(shares, "{:.0%}") if shares else NOT_MEASURED


def _spread(values: Sequence[float], form: str) -> str:
    middle, least, most = (form.format(value) for value in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


def machine(cpus: Sequence[int]) -> str:
    """A sentence on where and when: processor, CPUs used and there, memory, Python, date."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    today = dt.datetime.now(tz=dt.UTC).date()
    processors = sum(line.startswith("processor") for line in info)
    return (
        f"{model}, {len(cpus)} of {processors} CPUs used, {int(memory.split()[1]) / 1e6:.0f} GB of memory, "
        f"Python {platform.python_version()}, {today:%d %B %Y}"
    )


def versions(names: Iterable[str]) -> str:
    """What is installed of these packages."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
