"""Memory by stage: what the log's lines say, who is who, and peaks that belong to one stage each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.memory_by_stage import Memory, MemoryWatch, Peak, StageEnd, role_of, stage_end

MB = 1_000_000


def test_a_line_of_the_log_tells_which_stage_has_ended() -> None:
    line = "05:12:00.142 | INFO    | Task run 'upload-81d' - stage=upload outcome=done seconds=7.01 images=7400"
    assert stage_end(line) == StageEnd("upload", "done", 7.01)
    assert stage_end("05:12:00.142 | INFO    | Flow run 'wait-for-others' - Finished in state Completed()") is None


def test_a_name_with_a_hyphen_is_one_stage() -> None:
    found = stage_end("stage=find-published outcome=failed seconds=0.0 wanted=1")
    assert found == StageEnd("find-published", "failed", 0.0)


@pytest.mark.parametrize(
    ("process", "command", "role"),
    [
        (1, b"python\0-m\0flows.pets", "flow"),
        (2, b"python\0-m\0imageshards.ray_driver\0--spec\0x", "driver"),
        (2, b"ray::run_build\0", "worker"),
        (2, b"ray::IDLE\0", "worker"),
        (2, b"ray::DashboardAgent\0", None),
        (2, b"python\0-m\0flows.local_server\x003", "Prefect's server"),
        (2, b"python\0-m\0flows.pets", None),
    ],
)
def test_a_process_is_known_by_its_command(process, command, role) -> None:
    assert role_of(process, 1, command) == role


def test_the_peak_of_a_role_names_its_stage_and_joins_both_kinds() -> None:
    memory = Memory(
        peaks={("flow", "upload"): Peak(3, 9), ("flow", "validate"): Peak(5, 2), ("driver", "x"): Peak(8, 8)}
    )
    assert memory.peak_of("flow") == ("validate", Peak(5, 9))


def test_a_peak_belongs_to_the_stage_in_which_it_was() -> None:
    """A process that holds 80 MB for a moment, then says that a stage has ended, then does little."""
    program = "held = b'x' * 80_000_000\ndel held\nprint(1, flush=True); input(); print(2, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        watch = MemoryWatch(process.pid)
        process.stdout.readline()
        watch.take("stage=first outcome=done seconds=1.5")
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        watch.take("an ordinary line")
        watch.take("stage=second outcome=done seconds=0.5")
        process.stdin.write("\n")
    first, second = (watch.found.peaks["flow", name].resident for name in ("first", "second"))
    assert first > 80 * MB
    assert second < first - 60 * MB
    assert watch.found.seconds == {"first": 1.5, "second": 0.5}


def test_a_stage_that_comes_again_adds_its_seconds() -> None:
    watch = MemoryWatch(root=2**30)  # no such process
    for seconds in ("1.0", "2.0"):
        watch.take(f"stage=download outcome=done seconds={seconds}")
    assert watch.found.seconds == {"download": 3.0}
