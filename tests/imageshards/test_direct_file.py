"""Files written past the page cache: the same bytes as any file, whatever the file system says to it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageshards import direct_file
from imageshards.direct_file import DirectFile

BLOCK = direct_file._BLOCK_BYTES


def is_direct(flags: int) -> bool:
    return bool(flags & getattr(os, "O_DIRECT", 0))


def written(path: Path, *parts: bytes) -> bytes:
    file = DirectFile(path)
    assert [file.write(part) for part in parts] == [len(part) for part in parts]
    file.close()
    file.abandon()
    return path.read_bytes()


def write_blocks(file: DirectFile, count: int) -> None:
    for _ in range(count):
        file.write(bytes(BLOCK))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def no_large_files() -> Iterator[int]:
    """Writing beyond so many bytes fails, as on a full disk."""
    limit = 3 * BLOCK
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 20 * BLOCK, 20 * BLOCK + 4097])
def test_a_file_holds_what_was_written(tmp_path, size):
    data = os.urandom(size)
    assert written(tmp_path / "whole", data) == data
    pieces = [data[start : start + 300_001] for start in range(0, size, 300_001)]
    assert written(tmp_path / "pieces", *pieces) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whatever_holds_bytes_can_be_written(tmp_path, kind):
    assert written(tmp_path / "a", kind(b"abc")) == b"abc"


def test_files_that_are_written_at_once_do_not_meet(tmp_path):
    contents = [os.urandom(9 * BLOCK + number) for number in range(5)]
    files = [DirectFile(tmp_path / str(number)) for number in range(5)]
    for start in range(0, 10 * BLOCK, BLOCK // 2):
        for file, content in zip(files, contents, strict=True):
            file.write(content[start : start + BLOCK // 2])
    for file in files:
        file.close()
    assert [(tmp_path / str(number)).read_bytes() for number in range(5)] == contents


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "usual").touch()
    written(tmp_path / "direct", b"x")
    assert (tmp_path / "direct").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_system_that_refuses_at_opening_gets_usual_writes(tmp_path, monkeypatch):
    opened = []

    def refuse(path, flags, *more, **named):
        opened.append(is_direct(flags))
        if is_direct(flags):
            os.close(system_open(path, flags & ~os.O_DIRECT, *more, **named))  # some create it first
            raise OSError(errno.EINVAL, "Invalid argument")
        return system_open(path, flags, *more, **named)

    system_open = os.open
    monkeypatch.setattr(direct_file.os, "open", refuse)
    data = os.urandom(3 * BLOCK + 5)
    assert written(tmp_path / "a", data) == data
    assert opened == [True] or not hasattr(os, "O_DIRECT")


def test_a_file_system_that_refuses_a_block_gets_usual_writes(tmp_path, monkeypatch):
    refused = []

    def refuse(number, data):
        if is_direct(fcntl.fcntl(number, fcntl.F_GETFL)):
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return system_write(number, data)

    system_write = os.write
    monkeypatch.setattr(direct_file.os, "write", refuse)
    data = os.urandom(5 * BLOCK + 5)
    assert written(tmp_path / "a", data) == data
    assert len(refused) <= 1


def test_writes_that_take_a_part_are_gone_on_with(tmp_path, monkeypatch):
    system_write = os.write
    monkeypatch.setattr(direct_file.os, "write", lambda number, data: system_write(number, data[: BLOCK // 2 + 1]))
    data = os.urandom(3 * BLOCK + 5)
    assert written(tmp_path / "a", data) == data


def test_a_failure_in_the_background_is_raised_at_the_next_call_or_the_end(tmp_path, no_large_files):
    file = DirectFile(tmp_path / "a")
    with pytest.raises(OSError, match="too large") as caught:
        write_blocks(file, 64)
    assert caught.value.errno == errno.EFBIG
    file.abandon()
    short = DirectFile(tmp_path / "b")
    short.write(bytes(no_large_files + 1))
    with pytest.raises(OSError, match="too large"):
        short.close()
    assert written(tmp_path / "c", b"after") == b"after"


def test_more_failures_than_blocks_in_flight_hold_up_nobody(tmp_path, no_large_files):
    for number in range(3):
        file = DirectFile(tmp_path / str(number))
        with pytest.raises(OSError, match="too large"):
            write_blocks(file, 40)
        file.abandon()
    data = os.urandom(2 * BLOCK)
    assert written(tmp_path / "last", data) == data


def test_a_failure_is_raised_again_by_each_later_call(tmp_path, monkeypatch):
    failed = []

    def fail_once(number, data):
        if not failed:
            failed.append(number)
            raise OSError(errno.EIO, "Input/output error")
        return system_write(number, data)

    system_write = os.write
    monkeypatch.setattr(direct_file.os, "write", fail_once)
    file = DirectFile(tmp_path / "a")
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output error"):
            write_blocks(file, 2 * direct_file._BLOCKS_IN_FLIGHT)
    with pytest.raises(OSError, match="Input/output error"):
        file.close()


@pytest.mark.parametrize("end", [DirectFile.close, DirectFile.abandon])
@pytest.mark.parametrize("filled", [0, BLOCK - 1])
def test_a_file_that_was_ended_takes_nothing_and_holds_up_nobody(tmp_path, end, filled):
    file = DirectFile(tmp_path / "a")
    file.write(bytes(filled))
    end(file)
    for _ in range(direct_file._BLOCKS_IN_FLIGHT + 1):
        with pytest.raises(ValueError, match="ended"):
            file.write(bytes(2))
    data = os.urandom(2 * BLOCK)
    assert written(tmp_path / "b", data) == data


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_an_abandoned_file_is_closed(tmp_path):
    before = open_files()
    file = DirectFile(tmp_path / "a")
    file.write(bytes(20 * BLOCK))
    file.abandon()
    file.abandon()
    assert open_files() == before


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="Linux alone writes directly")
def test_blocks_are_written_directly_where_the_file_system_lets_them(tmp_path, monkeypatch):
    seen = []

    def watch(number, data):
        seen.append((len(data), is_direct(fcntl.fcntl(number, fcntl.F_GETFL))))
        return system_write(number, data)

    system_write = os.write
    monkeypatch.setattr(direct_file.os, "write", watch)
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary folder writes nothing directly")
    written(tmp_path / "a", bytes(2 * BLOCK + 7))
    assert seen == [(BLOCK, True), (BLOCK, True), (7, False)]
