from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.process_tree import CpuLedger, ProcessTree, Stat, read_stat

ROOT = 10


def seconds(ledger: CpuLedger) -> float:
    return ledger.seconds() * 100  # in ticks of 10 ms


def test_processes_outside_of_the_tree_do_not_count() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, own=7, waited=0), Stat(11, ROOT, 6, own=2, waited=0), Stat(99, 1, 5, 1000, 0)])
    assert seconds(ledger) == pytest.approx(9)


def test_a_child_that_was_waited_for_counts_once() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, own=1, waited=0), Stat(11, ROOT, 6, own=20, waited=0)])
    ledger.update([Stat(ROOT, 1, 5, own=2, waited=25)])
    assert seconds(ledger) == pytest.approx(27)


def test_a_child_that_nobody_waited_for_counts_as_last_seen() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, own=1, waited=0), Stat(11, ROOT, 6, own=20, waited=3)])
    ledger.update([Stat(ROOT, 1, 5, own=2, waited=0)])
    assert seconds(ledger) == pytest.approx(25)


def test_a_child_that_was_never_seen_counts_when_it_was_waited_for() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, own=1, waited=0)])
    ledger.update([Stat(ROOT, 1, 5, own=1, waited=8)])
    assert seconds(ledger) == pytest.approx(9)


def test_an_orphan_stays_in_the_tree_with_its_children() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, 1, 0), Stat(11, ROOT, 6, 2, 0), Stat(12, 11, 7, 3, 0)])
    ledger.update([Stat(ROOT, 1, 5, 1, 2), Stat(12, 1, 7, 4, 0), Stat(13, 12, 8, 10, 0)])
    assert seconds(ledger) == pytest.approx(1 + 2 + 4 + 10)
    assert {stat.id for stat in ledger.alive} == {ROOT, 12, 13}


def test_a_number_that_was_given_to_another_process_is_not_the_same_process() -> None:
    ledger = CpuLedger(ROOT)
    ledger.update([Stat(ROOT, 1, 5, 1, 0), Stat(11, ROOT, 6, 2, 0)])
    ledger.update([Stat(ROOT, 1, 5, 1, 2), Stat(11, 1, 9, 500, 0)])
    assert seconds(ledger) == pytest.approx(3)


def test_memory_and_time_of_a_real_grandchild_are_seen() -> None:
    hog = "import time; held = b'x' * 50_000_000\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    with subprocess.Popen([sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        tree = ProcessTree(process.pid)
        tree.look(memory=True)
        alive = [stat.id for stat in tree.cpu.alive]
        process.communicate(b"\n")
    tree.look()
    assert tree.cpu.seconds() >= 0.3
    assert tree.peaks["other"] >= 50_000_000
    assert tree.peaks["program"] < 50_000_000 <= tree.peak_together
    assert len(alive) == 2
    assert [read_stat(process_id) for process_id in alive] == [None, None]
