"""Archives made by code: each good one round-trips, each bad one ends in a SourceError."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imageshards import archive, archive_reading
from imageshards.archive import ArchiveLimits, Member, junk_rule, members
from imageshards.errors import ConfigError, SourceError

Files = dict[str, bytes]

FILES: Files = {
    "images/Abyssinian_1.jpg": b"\xff\xd8" + bytes(range(256)) * 5,
    "images/empty.jpg": b"",
    "images/exactly-one-block.jpg": b"x" * tarfile.BLOCKSIZE,
    "annotations/ünïcødé.xml": "<größe/>".encode(),
}


def tar_bytes(files: Files, *, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, encoding="utf-8") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_of(*infos: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", encoding="utf-8", errors="surrogateescape") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"x" * info.size) if info.isreg() else None)
    return buffer.getvalue()


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def sparse_header(*, data_at: int, size_bytes: int) -> bytes:
    """A GNU sparse member with one block of data; tarfile cannot write one."""
    header = bytearray(tar_entry("sparse.jpg", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (data_at, 512)
    header[483:495] = b"%011o\0" % size_bytes
    return signed(header)


def signed(header: bytearray) -> bytes:
    """A tar header with its checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def zip_bytes(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive_file:
        for name, data in files.items():
            archive_file.writestr(name, data)
    return buffer.getvalue()


def zip_entry(name: str, data: bytes = b"x", **fields: object) -> bytes:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    with zipfile.ZipFile(buffer, "w") as archive_file:
        archive_file.writestr(info, data)
    return buffer.getvalue()


def unpack(path: Path, limits: ArchiveLimits = archive.DEFAULT_LIMITS) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for member, data in members(path, limits=limits):
        assert member.name not in found
        assert data is None or len(data) == member.size_bytes
        found[member.name] = data
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "an-archive-whose-name-says-nothing"
        path.write_bytes(data)
        return path

    return write


Written = Callable[[bytes], Path]


# --- good archives ---------------------------------------------------------------------------------------------------

GOOD: dict[str, Callable[[Files], bytes]] = {
    "tar": tar_bytes,
    "tar-gnu": lambda files: tar_bytes(files, tar_format=tarfile.GNU_FORMAT),
    "tar-ustar": lambda files: tar_bytes(files, tar_format=tarfile.USTAR_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_bytes(files)),
    "tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "zip": zip_bytes,
    "zip-stored": lambda files: zip_bytes(files, zipfile.ZIP_STORED),
    "zip-bzip2": lambda files: zip_bytes(files, zipfile.ZIP_BZIP2),
    "zip-lzma": lambda files: zip_bytes(files, zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
def test_every_kind_is_read_whatever_its_name(written: Written, make: Callable[[Files], bytes]) -> None:
    assert unpack(written(make(FILES))) == FILES


def test_members_come_in_the_order_of_the_archive(written: Written) -> None:
    names = [f"images/{number}.jpg" for number in random.Random(7).sample(range(1000), 100)]
    path = written(tar_bytes(dict.fromkeys(names, b"x")))
    assert [member.name for member, _ in members(path)] == names


def test_folders_are_skipped_and_names_lose_dot_parts(written: Written) -> None:
    entries = [
        tar_entry("./", tarfile.DIRTYPE),
        tar_entry("./images", tarfile.DIRTYPE),
        tar_entry("./images//./a.jpg", size=3),
    ]
    assert unpack(written(tar_of(*entries))) == {"images/a.jpg": b"xxx"}


def test_folders_of_a_zip_are_skipped(written: Written) -> None:
    assert unpack(written(zip_bytes({"images/": b"", "./images/a.jpg": b"x"}))) == {"images/a.jpg": b"x"}


def test_a_name_that_comes_twice_is_handed_out_twice(written: Written) -> None:
    path = written(tar_of(tar_entry("a.jpg", size=1), tar_entry("a.jpg", size=2)))
    assert [(member.name, data) for member, data in members(path)] == [("a.jpg", b"x"), ("a.jpg", b"xx")]


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_longer_than_a_tar_header_are_read(written: Written, tar_format: int) -> None:
    files = {"/".join(["folder-" + "n" * 60] * 20) + "/ä.jpg": b"long"}
    assert unpack(written(tar_bytes(files, tar_format=tar_format))) == files


def header_with(at: int, field: bytes) -> bytes:
    """The header of a file of 3 bytes with one of its fields written otherwise."""
    header = bytearray(tar_entry("a.jpg", size=3).tobuf(tarfile.USTAR_FORMAT))
    header[at : at + len(field)] = field
    return signed(header)


@pytest.mark.parametrize(
    "header",
    [
        header_with(0, b"n" * 100),  # a name that fills its field
        header_with(0, b"a.jpg\0what an older name left"),
        header_with(100, b"   644 \0"),
        header_with(100, b"000644 \0"),
        header_with(108, b"\x80\0\0\0\x7f\xff\xff\xff"),  # a user id in base 256
        header_with(124, b"          3 "),
        header_with(124, b"3\0garbage!"),
        header_with(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x03"),
        header_with(156, b"\0"),  # a regular file of Unix V7
        header_with(156, b"7"),  # a contiguous file
        header_with(329, bytes(16)),
        header_with(345, b"folder/of/the/name"),
    ],
)
def test_a_header_means_what_it_means_to_tarfile(written: Written, header: bytes) -> None:
    first = tar_entry("first.jpg", size=512).tobuf() + b"f" * 512  # tarfile reads the first header in any case
    data = first + header + b"xyz".ljust(512, b"\0") + tar_entry("last.jpg", size=1).tobuf() + b"l".ljust(512, b"\0")
    path = written(data + bytes(1024))
    with tarfile.open(path) as tar:
        expected = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    assert len(expected) == 3
    assert unpack(path) == expected


def test_a_global_pax_header_holds_for_the_files_behind_it(written: Written) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"size": "2"}) as tar:
        tar.addfile(tar_entry("a.jpg", size=2), io.BytesIO(b"aa"))
    headed = buffer.getvalue().rstrip(b"\0").ljust(2048, b"\0")
    path = written(headed + tar_entry("b.jpg", size=3).tobuf() + b"bbb".ljust(512, b"\0") + bytes(1024))
    assert unpack(path) == {"a.jpg": b"aa", "b.jpg": b"bb"}


def test_tarfile_is_not_asked_for_ordinary_files(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = tarfile.TarInfo.frombuf, []

    def counted(header: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        parsed.append(header)
        return parse(header, encoding, errors)

    monkeypatch.setattr(tarfile.TarInfo, "frombuf", counted)
    assert len(unpack(written(tar_bytes({f"{number}.jpg": b"x" * number for number in range(100)})))) == 100
    assert len(parsed) < 5


def test_global_pax_headers_are_no_members(written: Written) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "made by git archive"}) as tar:
        tar.addfile(tar_entry("a.jpg", size=1), io.BytesIO(b"a"))
    assert unpack(written(buffer.getvalue())) == {"a.jpg": b"a"}


def test_sparse_members_get_their_holes_back_as_zeros(written: Written) -> None:
    path = written(sparse_header(data_at=512, size_bytes=1024) + b"d" * 512 + tar_bytes({"after.jpg": b"a"}))
    assert unpack(path) == {"sparse.jpg": bytes(512) + b"d" * 512, "after.jpg": b"a"}


def test_one_tar_in_several_gzip_streams_is_one_archive(written: Written) -> None:
    data = tar_bytes(FILES)
    path = written(gzip.compress(data[:1500]) + gzip.compress(data[1500:]))
    assert unpack(path) == FILES


def test_an_archive_without_members_yields_nothing(written: Written) -> None:
    assert unpack(written(tar_bytes({}))) == {}
    assert unpack(written(zip_bytes({}))) == {}


names = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=40).filter(
        lambda part: part not in (".", "..") and part[1:2] != ":"
    ),
    min_size=1,
    max_size=4,
).map("/".join)


@pytest.mark.parametrize("kind", ["tar", "tar-gnu", "tar.gz", "tar.xz", "zip", "zip-stored"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, st.binary(max_size=2000), max_size=6))
def test_names_and_bytes_round_trip(written: Written, kind: str, files: Files) -> None:
    assert unpack(written(GOOD[kind](files))) == files


# --- unsafe members --------------------------------------------------------------------------------------------------

UNSAFE_NAMES = {
    "/etc/passwd": "absolute",
    "C:/windows/a.jpg": "absolute",
    "c:a.jpg": "absolute",
    "\\\\server\\share\\a.jpg": "backslash",
    "..\\a.jpg": "backslash",
    "../a.jpg": "climbs",
    "images/../../a.jpg": "climbs",
    "images/..": "climbs",
    "images/a\n.jpg": "control",
    "images/\x1b[31m.jpg": "control",
    "images/\x7f.jpg": "control",
}


@pytest.mark.parametrize(("name", "reason"), UNSAFE_NAMES.items())
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_unsafe_names_are_refused(written: Written, kind: str, name: str, reason: str) -> None:
    path = written(GOOD[kind]({"good.jpg": b"x", name: b"x"}))
    with pytest.raises(SourceError, match=reason) as caught:
        unpack(path)
    assert ascii(name) in str(caught.value)
    assert "after member 'good.jpg'" in str(caught.value)
    assert str(caught.value).isprintable()


def test_unsafe_folders_are_refused_too(written: Written) -> None:
    with pytest.raises(SourceError, match="climbs"):
        unpack(written(tar_of(tar_entry("../evil", tarfile.DIRTYPE))))


@pytest.mark.parametrize("name", [".", "./", ""])
def test_a_file_without_a_name_is_refused(written: Written, name: str) -> None:
    header = bytearray(tar_entry("x").tobuf(tarfile.GNU_FORMAT))
    header[:100] = name.encode().ljust(100, b"\0")
    with pytest.raises(SourceError, match="file without a name"):
        unpack(written(signed(header) + bytes(1024)))


LINKS = {
    "symbolic link": tar_entry("link.jpg", tarfile.SYMTYPE, linkname="a.jpg"),
    "hard link": tar_entry("link.jpg", tarfile.LNKTYPE, linkname="a.jpg"),
    "character device": tar_entry("link.jpg", tarfile.CHRTYPE),
    "block device": tar_entry("link.jpg", tarfile.BLKTYPE),
    "fifo": tar_entry("link.jpg", tarfile.FIFOTYPE),
    "tar entry of type b'V'": tar_entry("link.jpg", b"V"),
}


@pytest.mark.parametrize(("kind", "info"), LINKS.items())
def test_only_files_and_folders_of_a_tar_are_taken(written: Written, kind: str, info: tarfile.TarInfo) -> None:
    with pytest.raises(SourceError, match=f"'link.jpg' is a {kind}"):
        unpack(written(tar_of(tar_entry("a.jpg", size=1), info)))


@pytest.mark.parametrize(
    ("mode", "kind"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "fifo"), (stat.S_IFCHR, "character device")]
)
def test_only_files_and_folders_of_a_zip_are_taken(written: Written, mode: int, kind: str) -> None:
    with pytest.raises(SourceError, match=kind):
        unpack(written(zip_entry("link.jpg", external_attr=(mode | 0o777) << 16)))


def test_a_tar_name_that_is_not_utf8_is_refused(written: Written) -> None:
    info = tar_entry(b"gr\xfc\xdfe.jpg".decode("utf-8", "surrogateescape"), size=1)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(SourceError, match="not UTF-8") as caught:
        unpack(written(buffer.getvalue()))
    str(caught.value).encode("utf-8")  # the message itself can be logged


def test_a_zip_name_that_is_not_utf8_is_refused(written: Written) -> None:
    with pytest.raises(SourceError, match="UnicodeDecodeError"):
        unpack(written(zip_bytes({"gruesse.jpg": b"x"}).replace(b"gruesse", b"gr\xfc\xdfeee")))


def test_a_zip_name_in_utf8_is_read_without_the_flag_that_says_so(written: Written) -> None:
    raw = zip_bytes({"gr__e.jpg": b"x"}).replace(b"gr__e", "grüe".encode())  # as the archiver of macOS writes it
    assert unpack(written(raw)) == {"grüe.jpg": b"x"}


def test_a_nul_in_a_zip_name_is_refused(written: Written) -> None:
    with pytest.raises(SourceError, match="control character"):
        unpack(written(zip_bytes({"a.jpg_evil": b"x"}).replace(b"a.jpg_", b"a.jpg\0")))


def test_a_nul_in_a_pax_name_is_refused(written: Written) -> None:
    info = tar_entry("a.jpg", size=1)
    info.pax_headers = {"path": "a.jpg\0/../evil"}
    with pytest.raises(SourceError, match="control character"):
        unpack(written(tar_of(info)))


def test_encrypted_zip_entries_are_refused(written: Written) -> None:
    raw = bytearray(zip_bytes({"secret.jpg": b"x"}))
    raw[6] |= 1  # general purpose flags, local header
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # and directory
    with pytest.raises(SourceError, match="is encrypted; only files"):
        unpack(written(bytes(raw)))


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_member_beyond_the_limit_comes_without_its_bytes(written: Written, kind: str) -> None:
    path = written(GOOD[kind]({"a.jpg": b"a" * 10, "large.jpg": b"l" * 100_000, "z.jpg": b"z" * 10}))
    found = list(members(path, limits=ArchiveLimits(max_member_bytes=10)))
    assert found == [
        (Member("a.jpg", 10), b"a" * 10),
        (Member("large.jpg", 100_000), None),
        (Member("z.jpg", 10), b"z" * 10),
    ]


def test_a_truncated_member_beyond_the_limit_is_noticed_in_a_tar(written: Written) -> None:
    path = written(tar_bytes({"large.jpg": b"l" * 100_000})[:50_000])
    with pytest.raises(SourceError, match="truncated"):
        unpack(path, ArchiveLimits(max_member_bytes=10))


def test_a_zip_member_whose_size_lies_is_not_left_out_but_refused(written: Written) -> None:
    raw = bytearray(zip_bytes({"a.jpg": b"a" * 10}))
    size_at = raw.index(b"PK\x01\x02") + 24
    raw[size_at : size_at + 4] = struct.pack("<L", 1 << 30)
    with pytest.raises(SourceError, match="10 bytes instead of 1073741824"):
        unpack(written(bytes(raw)))


def test_holes_of_a_sparse_member_count_as_unpacked_bytes(written: Written) -> None:
    path = written(sparse_header(data_at=0, size_bytes=1 << 30) + b"d" * 512 + tar_bytes({}))
    with pytest.raises(SourceError, match="max_ratio"):
        unpack(path)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_too_many_members_are_refused(written: Written, kind: str) -> None:
    path = written(GOOD[kind](dict.fromkeys("abcd", b"x")))
    assert len(unpack(path, ArchiveLimits(max_members=4))) == 4
    with pytest.raises(SourceError, match="max_members"):
        unpack(path, ArchiveLimits(max_members=3))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_too_many_bytes_are_refused(written: Written, kind: str) -> None:
    path = written(GOOD[kind]({"a.jpg": bytes(60_000), "b.jpg": bytes(60_000)}))
    with pytest.raises(SourceError, match="max_total_bytes"):
        unpack(path, ArchiveLimits(max_total_bytes=100_000))


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_refused_by_its_ratio(written: Written, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reading, "_RATIO_FREE_BYTES", 1_000_000)
    bomb = GOOD[kind]({f"{number}.jpg": bytes(500_000) for number in range(5)})
    with pytest.raises(SourceError, match="max_ratio"):
        unpack(written(bomb))
    assert len(unpack(written(bomb), ArchiveLimits(max_ratio=2000))) == 5


def test_a_bomb_of_zeros_behind_the_end_marker_is_refused(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reading, "_RATIO_FREE_BYTES", 1_000_000)
    with pytest.raises(SourceError, match="max_ratio"):
        unpack(written(gzip.compress(tar_bytes({"a.jpg": b"x"}) + bytes(5_000_000))))


def test_a_header_that_wants_gigabytes_is_refused_before_it_is_held(written: Written) -> None:
    name = tar_entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=8 << 30).tobuf(tarfile.GNU_FORMAT)
    path = written(gzip.compress(tar_bytes({"a.jpg": b"x"})[:1024] + name + b"n" * (16 << 20), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(SourceError, match="header of more than"):
        unpack(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_headers_nested_without_end_are_refused(written: Written) -> None:
    header = tar_entry("././@PaxHeader", tarfile.XGLTYPE, size=0).tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(SourceError, match=r"RecursionError|header of more than"):
        unpack(written(header * 2000 + tar_bytes(FILES)))


def test_a_sparse_map_that_never_ends_is_refused(written: Written) -> None:
    info = tar_entry("GNUSparseFile.0/a.jpg", size=512)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    head = info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(SourceError, match="damaged or truncated"):
        unpack(written(head + b"9999999\n".ljust(512, b"1")))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_large_member_is_held_once(written: Written, kind: str) -> None:
    size_bytes = 24 << 20
    path = written(GOOD[kind]({"a.jpg": random.Random(2).randbytes(size_bytes)}))
    tracemalloc.start()
    ((_, data),) = members(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data is not None
    assert len(data) == size_bytes
    assert peak < 1.3 * size_bytes


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_members"):
        ArchiveLimits(max_members=0)


# --- damage ----------------------------------------------------------------------------------------------------------

NOISE = random.Random(1)
MANY = {f"images/{number:02}.jpg": NOISE.randbytes(NOISE.choice([0, 1, 511, 512, 513, 1500])) for number in range(12)}


def cuts(total_bytes: int) -> Iterable[int]:
    borders = range(0, total_bytes, 512)
    near = {border + step for border in borders for step in (-1, 0, 1)}
    return sorted(cut for cut in near | set(range(0, total_bytes, 97)) if 0 < cut < total_bytes)


def test_a_tar_cut_anywhere_is_either_whole_or_refused(written: Written) -> None:
    whole = tar_bytes(MANY)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        last = tar.getmembers()[-1]
    data_end = last.offset_data + -(-last.size // 512) * 512
    for cut in cuts(len(whole)):
        path = written(whole[:cut])
        if cut >= data_end + 512:  # one block of the end marker is left
            assert unpack(path) == MANY, cut
        else:
            with pytest.raises(SourceError):
                unpack(path)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip", "zip-stored"])
def test_a_compressed_archive_cut_anywhere_is_refused(written: Written, kind: str) -> None:
    whole = GOOD[kind](MANY)
    for cut in cuts(len(whole)):
        with pytest.raises(SourceError):
            unpack(written(whole[:cut]))


def test_a_tar_cut_between_two_gzip_streams_is_refused(written: Written) -> None:
    data = tar_bytes(MANY)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        border = tar.getmembers()[5].offset
    with pytest.raises(SourceError, match=r"damaged or truncated.*header"):
        unpack(written(gzip.compress(data[:border])))


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz", "zip", "zip-stored"])
def test_flipped_bits_never_give_other_bytes(written: Written, kind: str) -> None:
    whole = GOOD[kind](MANY)
    refused = 0
    for position in range(0, len(whole), 41):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        try:
            found = unpack(written(bytes(flipped)))
        except SourceError:
            refused += 1
        else:
            assert list(found.values()) == list(MANY.values()), position
    assert refused > 50


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(written: Written) -> None:
    whole = bytearray(tar_bytes(MANY))
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as tar:
        header = tar.getmembers()[6].offset
    whole[header + 10] ^= 1
    with pytest.raises(SourceError, match="bad checksum"):
        unpack(written(bytes(whole)))


def test_a_hole_of_zeros_in_the_middle_is_not_taken_for_the_end(written: Written) -> None:
    whole = bytearray(tar_bytes(MANY))
    with tarfile.open(fileobj=io.BytesIO(bytes(whole))) as tar:
        header = tar.getmembers()[6].offset
    whole[header : header + 1024] = bytes(1024)
    with pytest.raises(SourceError, match="after its end marker"):
        unpack(written(bytes(whole)))


@pytest.mark.parametrize("rest", [b"garbage", tar_bytes({"second.jpg": b"x"})], ids=["garbage", "second-tar"])
@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_what_follows_the_end_marker_is_refused(written: Written, rest: bytes, wrap: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SourceError, match="after its end marker"):
        unpack(written(wrap(tar_bytes(FILES) + rest)))


def test_garbage_behind_a_gzip_stream_is_refused(written: Written) -> None:
    with pytest.raises(SourceError, match="incorrect header"):
        unpack(written(gzip.compress(tar_bytes(FILES)) + b"garbage"))


def test_two_zips_in_one_file_are_refused(written: Written) -> None:
    with pytest.raises(SourceError, match="several zip archives"):
        unpack(written(zip_bytes({"a.jpg": b"x"}) + zip_bytes({"b.jpg": b"x"})))


def test_a_tar_member_of_negative_size_is_refused(written: Written) -> None:
    info = tar_entry("a.jpg")
    info.pax_headers = {"size": "-1024"}
    with pytest.raises(SourceError):
        unpack(written(tar_of(info, tar_entry("b.jpg"))))


def test_garbage_behind_a_zip_is_refused(written: Written) -> None:
    with pytest.raises(SourceError, match="more or less than its directory lists"):
        unpack(written(zip_bytes(FILES) + b"garbage"))


def test_a_zip_with_a_comment_is_read(written: Written) -> None:
    buffer = io.BytesIO(zip_bytes(FILES))
    with zipfile.ZipFile(buffer, "a") as archive_file:
        archive_file.comment = b"made for a test"
    assert unpack(written(buffer.getvalue())) == FILES


def test_a_zip_of_more_entries_than_the_short_directory_counts_is_read(written: Written) -> None:
    names = [f"{number}.jpg" for number in range(0xFFFF + 2)]
    assert list(unpack(written(zip_bytes(dict.fromkeys(names, b""), zipfile.ZIP_STORED)))) == names


def test_an_unknown_zip_compression_is_refused(written: Written) -> None:
    raw = bytearray(zip_bytes({"a.jpg": b"x"}))
    method = struct.pack("<H", 97)
    raw[8:10] = method
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 10 : directory + 12] = method
    with pytest.raises(SourceError, match="NotImplementedError"):
        unpack(written(bytes(raw)))


NO_ARCHIVES = {
    "garbage": (b"<!DOCTYPE html><title>404</title>" * 100, "neither a tar nor a zip"),
    "short garbage": (b"hello", "neither a tar nor a zip"),
    "gzip of text": (gzip.compress(b"just text " * 100), "gzip file that holds no tar"),
    "gzip of nothing": (gzip.compress(b""), "gzip file that holds no tar"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(1000), "tar.xz and zip are read"),
    "empty": (b"", r"empty \(0 bytes\)"),
}


@pytest.mark.parametrize(("data", "message"), NO_ARCHIVES.values(), ids=NO_ARCHIVES.keys())
def test_what_is_no_archive_says_what_it_is(written: Written, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        unpack(written(data))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        unpack(tmp_path / "missing.tar")
    with pytest.raises(SourceError, match="is not a file"):
        unpack(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(written: Written) -> None:
    path = written(tar_bytes(FILES))
    path.chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        unpack(path)


# --- memory, errors of the caller, junk ------------------------------------------------------------------------------


def test_memory_stays_flat_over_a_big_tar(tmp_path: Path) -> None:
    path, photo, number_of_photos = tmp_path / "big.tar", os.urandom(200_000), 1_000
    with tarfile.open(path, "w") as tar:
        for number in range(number_of_photos):
            tar.addfile(tar_entry(f"images/{number}.jpg", size=len(photo)), io.BytesIO(photo))
    tracemalloc.start()
    try:
        assert sum(member.size_bytes for member, _ in members(path)) == len(photo) * number_of_photos
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_memory_stays_flat_over_many_members(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    path.write_bytes(tar_entry("a.jpg").tobuf() * 5_000 + bytes(1024))
    tracemalloc.start()
    try:
        assert sum(1 for _ in members(path)) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_error_of_the_caller_stays_his_own(written: Written) -> None:
    with pytest.raises(OSError, match="disk full"):  # noqa: PT012  # the error comes out of the loop's body
        for _ in members(written(tar_bytes(FILES))):
            raise OSError("disk full")


JUNK = ["._a.jpg", "images/._a.jpg", "__MACOSX/images/a.jpg", "x/__MACOSX/._a.jpg", ".DS_Store", "images/.DS_Store"]
DATA = ["a.jpg", "images/a._.jpg", "images/.hidden.jpg", "__MACOSX.jpg", "DS_Store", "._folder/a.jpg"]


def test_files_that_macos_adds_are_junk() -> None:
    assert [junk_rule(name) for name in JUNK] == ["appledouble"] * len(JUNK)
    assert [junk_rule(name) for name in DATA] == [None] * len(DATA)
