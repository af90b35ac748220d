"""Memory: what was freed goes back to the system, and threads share heaps; in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MB = 1_000_000

_HEAD = """
import os, threading
import pyarrow as pa
from imageshards.memory import keep_freed, limit_heaps, release_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""

_FREED = """
pieces = [bytes(1000) for _ in range(100_000)]  # too small for pages of their own
last = pieces[-1]  # at the end of the heap, which cannot shrink by itself
del pieces
before = resident()
release_freed()
print(before - resident())
"""

_ARENAS = """
import ctypes
if {limited}:
    limit_heaps()
barrier = threading.Barrier(9)
def work():
    held = [bytes(1000) for _ in range(100)]
    barrier.wait()
    barrier.wait()
for _ in range(8):
    threading.Thread(target=work).start()
barrier.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fflush(ctypes.c_void_p(file))
barrier.wait()
"""

_PICTURES = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if {kept}:
    keep_freed()
before = faults()
for _ in range(100):
    pictures = [bytearray(500_000) for _ in range(4)]
    del pictures
print(faults() - before)
"""

glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc and /proc")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", _HEAD + program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@glibc
def test_what_was_freed_goes_back() -> None:
    assert int(run(_FREED)) > 50 * MB


@glibc
def test_many_threads_share_few_heaps() -> None:
    heaps = {limited: run(_ARENAS.format(limited=limited)).count("<heap ") for limited in (False, True)}
    assert heaps[True] <= 2 < heaps[False]


@glibc
def test_what_was_freed_is_kept_for_the_next_picture() -> None:
    pages = {kept: int(run(_PICTURES.format(kept=kept))) for kept in (False, True)}
    assert pages[True] < pages[False] / 10, pages


@glibc
def test_arrow_uses_what_is_kept() -> None:
    assert run("keep_freed(); print(pa.default_memory_pool().backend_name)").strip() == "system"
