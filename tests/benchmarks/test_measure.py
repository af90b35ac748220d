from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.measure import Program, ProgramFailedError, measure
from benchmarks.process_tree import Stat, is_running


def program(folder: Path, text: str) -> Program:
    (folder / "measured.py").write_text(text)
    return Program("measured", environment={"PYTHONPATH": f"{folder}:{Path.cwd()}"})


BUSY = """
import os, subprocess, sys, time
from benchmarks.stopwatch import Stopwatch
while time.process_time() < 0.3: pass
print("imageshards-bench is not the prefix")
with Stopwatch() as stopwatch:
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.2: pass"], check=True)
    stopwatch.images = 8
    stopwatch.facts = {"cpus": sorted(os.sched_getaffinity(0)), "own": os.times()[:2]}
"""


def test_only_what_the_stopwatch_encloses_is_counted_children_included(tmp_path: Path) -> None:
    measured = measure(program(tmp_path, BUSY), cpus=[min(os.sched_getaffinity(0))], folder=tmp_path)
    assert measured.images == 8
    assert 0.17 <= measured.cpu_seconds < 0.2 + sum(measured.facts["own"])  # the kernel counts in ticks of 10 ms
    assert measured.seconds >= 0.2
    assert measured.rate == pytest.approx(8 / measured.seconds)
    assert measured.peak_largest > 5_000_000


def test_the_program_is_held_to_its_cpus_and_the_caller_is_not(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    measured = measure(program(tmp_path, BUSY), cpus=[max(before)], folder=tmp_path)
    assert measured.facts["cpus"] == [max(before)]
    assert os.sched_getaffinity(0) == before


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    failing = program(tmp_path, "raise ValueError('no such luck')")
    with pytest.raises(ProgramFailedError, match=r"measured ended early(?s:.*)no such luck"):
        measure(failing, cpus=sorted(os.sched_getaffinity(0)), folder=tmp_path)


def test_a_program_that_could_not_start_is_tried_once_more(tmp_path: Path) -> None:
    started = tmp_path / "started"
    text = f"""
import pathlib, sys
from benchmarks.stopwatch import Stopwatch
tries = pathlib.Path({str(started)!r})
if not tries.exists():
    tries.touch()
    sys.exit("the first time fails")
with Stopwatch() as stopwatch:
    stopwatch.images = 3
"""
    assert measure(program(tmp_path, text), cpus=sorted(os.sched_getaffinity(0)), folder=tmp_path).images == 3


def test_a_program_that_fails_at_its_work_is_not_tried_again(tmp_path: Path) -> None:
    text = f"""
from benchmarks.stopwatch import Stopwatch
with Stopwatch() as stopwatch:
    open({str(tmp_path / "tries")!r}, "a").write("x")
    raise ValueError("at work")
"""
    with pytest.raises(ProgramFailedError, match="at work"):
        measure(program(tmp_path, text), cpus=sorted(os.sched_getaffinity(0)), folder=tmp_path)
    assert (tmp_path / "tries").read_text() == "x"


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    leaving = program(
        tmp_path,
        """
import subprocess, sys
from benchmarks.process_tree import read_stat
from benchmarks.stopwatch import Stopwatch
with Stopwatch() as stopwatch:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    stopwatch.images, stopwatch.facts = 1, {"left": read_stat(left.pid)}
""",
    )
    measured = measure(leaving, cpus=sorted(os.sched_getaffinity(0)), folder=tmp_path)
    assert not is_running(Stat(*measured.facts["left"]))
