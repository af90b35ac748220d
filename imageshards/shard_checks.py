"""One shard against the piece of the index that belongs to it; what it does not settle is handed on."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imageshards.columns import mask, numbers, one_chunk, places_in, present, strings_at
from imageshards.errors import StoreError
from imageshards.index import sample_hash
from imageshards.plan import Unit, bucket_of, copies_of, shard_name
from imageshards.row_checks import ROW_COLUMNS, empty_trimaps, look_at_pixels, wrong_rows
from imageshards.schema import BINARY_COLUMNS, METADATA_KEY, shard_metadata, shard_schema
from imageshards.shard_file import ShardResult, read_shard_result
from imageshards.statistics import PixelSums
from imageshards.subject import Offenders, Subject, offenders

STRAY_COLUMNS = [*ROW_COLUMNS, "image_good", "trimap_low", "trimap_high"]

_reading = threading.Lock()
"""A row group takes twice its size while it is read, a quarter of the time. One at a time: 20 MB less, and as fast."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One bucket of a split, and the shard that should hold it.

    Attributes:
        unit: The bucket; None for a shard whose name belongs to no bucket.
        shard: What the driver says of the shard; None where it told of none.
    """

    unit: Unit | None
    shard: ShardResult | None


@dataclass(slots=True)
class ShardFindings:
    """What one shard holds.

    Attributes:
        rows: Rows, copies included.
        samples: Rows that are no copies.
        sums: Over the pixels of plain rows.
        classes: Rows by split and class.
        repairs: Plain rows by repair.
        wrong: Offending images, by check.
        file_problems: What is wrong with the file as a whole, by check.
        missing: Images of this piece that are neither row nor reject here.
        surplus: Plain rows and rejects that are not of this piece, or not for the first time, one entry for each.
        strays: `STRAY_COLUMNS` of the rows whose image is not of this piece of the index.
        unsettled: image_id, split, copy of rows whose image does not have just its copies here, and whether the image
            is of this piece.
        hashes: Perceptual hash of each plain row of this piece.
        places: Sample hash of the same rows.
        named: Format and repairs of the plain rows that published facts name.
        empty_trimaps: Those among them whose trimap is background alone.
    """

    sums: PixelSums
    rows: int = 0
    samples: int = 0
    classes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    wrong: Mapping[str, Offenders] = field(default_factory=dict)
    file_problems: Mapping[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    strays: pa.Table | None = None
    unsettled: list[tuple[str, str, int, bool]] = field(default_factory=list)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    places: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    named: Mapping[str, tuple[str, list[str]]] = field(default_factory=dict)
    empty_trimaps: set[str] = field(default_factory=set)


def check_piece(
    subject: Subject, piece: Piece, index: pa.Table, path: Path | None, sha256: str | None
) -> ShardFindings:
    """Read a shard once and compare it with its piece of the index.

    Args:
        subject: What is validated.
        piece: Which bucket and which shard.
        index: `INDEX_COLUMNS` of the bucket.
        path: The shard's file; None where the driver told of none.
        sha256: Digest of the file where it is known, 64 hexadecimal digits.
    """
    found, rows = ShardFindings(PixelSums.zero(subject.recipe.channels)), None
    if piece.shard is not None and path is not None:
        found, rows = _read(subject, piece.shard, path, sha256)
    wanted = _wanted(subject, index)
    if rows is None:
        _account(found, pa.array([], pa.string()), piece, index, wanted)
        return found
    places = places_in(rows.column("image_id"), index.column("image_id"))
    plain = numbers(rows.column("copy"), "int16") == 0
    found.rows, found.samples = rows.num_rows, int(plain.sum())
    _account(found, rows.column("image_id").filter(pa.array(plain)), piece, index, wanted)
    _compare(found, subject, rows, index.take(places))
    _settle_copies(found, subject, piece, rows, places)
    _check_places(found, piece, rows, index.column("sample_hash").take(places))
    _count(found, rows, plain)
    ours = pa.array(plain & present(places))
    found.hashes = numbers(rows.column("perceptual_hash").filter(ours), "uint64")
    found.places = numbers(index.column("sample_hash").take(places.filter(ours)), "uint64")
    if subject.facts is not None:
        _note_named(found, rows, {*subject.facts.odd_images, *subject.facts.empty_trimaps})
    return found


def _wanted(subject: Subject, index: pa.Table) -> NDArray[np.bool_]:
    """Which images of the index were to become rows or rejects."""
    unlisted = subject.keep_unlisted & present(index.column("label"))
    return ~present(index.column("left_out")) & (present(index.column("split")) | unlisted)


def _read(
    subject: Subject, shard: ShardResult, path: Path, sha256: str | None
) -> tuple[ShardFindings, pa.Table | None]:
    """Its rows, and what was seen of their pixels; none where the file is not what it should be."""
    found = ShardFindings(PixelSums.zero(subject.recipe.channels))
    try:
        _ask_ahead(path)
        result = read_shard_result(path, resolution=shard.resolution, name=shard.name, sha256=sha256)
        # With pre_buffer, threads of Arrow's take turns reading, and keep what is freed elsewhere: some 20 MB more.
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            if problem := _schema_problem(subject, shard, file.schema_arrow):
                found.file_problems = {"schema": problem}
                return found, None
            small = [name for name in file.schema_arrow.names if name not in BINARY_COLUMNS]
            rows = file.read(columns=small, use_threads=False).replace_schema_metadata(None).combine_chunks()
            rows.validate(full=True)  # finds text that is not UTF-8
            looks = []
            plain, start = numbers(rows.column("copy"), "int16") == 0, 0
            for number in range(file.num_row_groups):
                with _reading:
                    group = file.read_row_group(number, columns=list(BINARY_COLUMNS), use_threads=False)
                sums, look = look_at_pixels(
                    group, plain[start : start + group.num_rows], subject.recipe, subject.version.resolution
                )
                start += group.num_rows
                del group  # else it is in memory while the next one is read
                found.sums += sums
                looks.append(look)
    except (StoreError, pa.ArrowException, OSError, ValueError) as error:
        found.file_problems = {"shard-readable": f"{shard.name}: {error}"}
        return found, None
    if result != shard:
        found.file_problems = {"shard-digest": f"{shard.name}: expected {shard.sha256}, found {result.sha256}"}
    if looks:
        for name, column in zip(looks[0].schema.names, pa.concat_tables(looks).combine_chunks().columns, strict=True):
            rows = rows.append_column(name, column)
        return found, rows
    return found, None


def _ask_ahead(path: Path) -> None:
    """Let the system read the whole file from now on: as a rule it is new, and was written past the page cache."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), path.open("rb") as file:  # whoever reads it says what is wrong with it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _schema_problem(subject: Subject, shard: ShardResult, found: pa.Schema) -> str | None:
    expected = shard_schema(subject.recipe, subject.version.resolution)
    if not found.remove_metadata().equals(expected):
        names = [
            field.name for field in found if field.name not in expected.names or expected.field(field.name) != field
        ]
        return f"{shard.name}: columns {', '.join(names) or 'missing'}"
    metadata = shard_metadata(
        dataset=subject.dataset,
        recipe=subject.recipe,
        resolution=subject.version.resolution,
        class_names=subject.info.class_names,
        shard=shard.name,
        inputs=shard.inputs,
    )
    if (found.metadata or {}).get(METADATA_KEY) != metadata[METADATA_KEY]:
        return f"{shard.name}: file metadata"
    return None


def _account(
    found: ShardFindings, plain_ids: pa.Array, piece: Piece, index: pa.Table, wanted: NDArray[np.bool_]
) -> None:
    """Each wanted image once, as a plain row or as a reject; note what is missing and what is too much."""
    rejects = [reject.image_id for reject in piece.shard.rejects] if piece.shard else []
    times = np.zeros(index.num_rows, np.int64)
    for ids in (one_chunk(plain_ids), pa.array(rejects, pa.string())):
        places = places_in(ids, index.column("image_id"))
        known = present(places)
        times += np.bincount(numbers(places, "int64")[known], minlength=index.num_rows)
        found.surplus += ids.filter(pa.array(~known)).to_pylist()
    found.missing = strings_at(index.column("image_id"), np.flatnonzero(wanted & (times == 0)))
    too_often = np.maximum(times - wanted, 0)
    found.surplus += strings_at(index.column("image_id"), np.repeat(np.arange(index.num_rows), too_often))


def _compare(found: ShardFindings, subject: Subject, rows: pa.Table, known: pa.Table) -> None:
    """Rows that the piece of the index knows are compared here; the others are strays."""
    ours = pa.array(present(known.column("image_id")))
    theirs, strays = rows.filter(ours), rows.filter(pc.invert(ours))
    wrong = wrong_rows(theirs, known.filter(ours), subject.recipe, subject.version.resolution)
    found.wrong = {
        name: offenders(strings_at(theirs.column("image_id"), np.flatnonzero(wrong[name]))) for name in wrong
    }
    found.strays = strays.select(STRAY_COLUMNS) if strays.num_rows else None


def _settle_copies(found: ShardFindings, subject: Subject, piece: Piece, rows: pa.Table, places: pa.Array) -> None:
    """Images with just their copies are settled; all other rows are noted, for a sister may be in another shard."""
    split = piece.unit.split if piece.unit else ""
    expected = copies_of(subject.recipe, split) + 1
    copies = numbers(rows.column("copy"), "int64")
    at_home = present(places) & mask(pc.equal(one_chunk(rows.column("split")), split))
    image = numbers(places, "int64")
    size = 1 + int(image.max(initial=0))
    total = np.bincount(image[at_home], minlength=size)
    right = at_home & (copies >= 0) & (copies < expected)
    different = np.bincount(np.unique(image[right] * expected + copies[right]) // expected, minlength=size)
    complete = (total == expected) & (different == expected)
    left = ~(at_home & complete[image])
    columns = (rows.column(name).filter(pa.array(left)).to_pylist() for name in ("image_id", "split", "copy"))
    found.unsettled = list(zip(*columns, at_home[left].tolist(), strict=True))


def _check_places(found: ShardFindings, piece: Piece, rows: pa.Table, hashes: pa.ChunkedArray) -> None:
    """Each row in the shard of its split and its hash; plain rows before copies, by hash."""
    known = present(hashes)
    place = numbers(hashes, "uint64")
    copies = numbers(rows.column("copy"), "int16")
    at_home = known & mask(pc.equal(one_chunk(rows.column("split")), piece.unit.split if piece.unit else ""))
    ordered = (copies[1:] > copies[:-1]) | ((copies[1:] == copies[:-1]) & (place[1:] > place[:-1]))
    if piece.shard and not (at_home.all() and ordered.all()):
        found.wrong = {**found.wrong, "placement": offenders(_misplaced(piece.shard, piece.unit, rows))}


def _misplaced(shard: ShardResult, unit: Unit | None, rows: pa.Table) -> list[str]:
    """Images that belong into another shard, or elsewhere in this one, row by row: there is at least one."""
    problems, last = [], (0, 0, "")
    columns = (rows.column(column).to_pylist() for column in ("image_id", "split", "copy"))
    for image_id, split, copy in zip(*columns, strict=True):
        place = (copy, sample_hash(image_id), image_id)
        if unit is None or shard.name != shard_name(split, bucket_of(place[1], unit.buckets)) or place < last:
            problems.append(image_id)
        last = max(place, last)
    return problems


def _count(found: ShardFindings, rows: pa.Table, plain: NDArray[np.bool_]) -> None:
    splits, classes = one_chunk(rows.column("split")), one_chunk(rows.column("class_name"))
    for split in pc.unique(splits).to_pylist():
        counts = pc.value_counts(classes.filter(pc.equal(splits, split)))
        found.classes.update({(split, each["values"]): each["counts"] for each in counts.to_pylist()})
    repairs = pc.list_flatten(one_chunk(rows.column("repairs").filter(pa.array(plain))))
    found.repairs.update({each["values"]: each["counts"] for each in pc.value_counts(repairs).to_pylist()})


def _note_named(found: ShardFindings, rows: pa.Table, names: set[str]) -> None:
    """Keep what facts are compared with; there are few of them."""
    wanted = pc.is_in(rows.column("image_id"), value_set=pa.array(sorted(names)))
    chosen = rows.filter(pc.and_(wanted, pc.equal(rows.column("copy"), 0)))
    columns = (chosen.column(name).to_pylist() for name in ("image_id", "source_format", "repairs"))
    found.named = {
        image_id: (source_format, repairs) for image_id, source_format, repairs in zip(*columns, strict=True)
    }
    found.empty_trimaps = set(strings_at(chosen.column("image_id"), np.flatnonzero(empty_trimaps(chosen))))


def pieces_of(subject: Subject, splits: Mapping[str, int], rows_a_piece: int) -> list[Piece]:
    """Every bucket of every split with its shard, in the order of splits and buckets; shards of no bucket come last.

    Args:
        subject: What is validated.
        splits: Images of each split that were to become rows or rejects.
        rows_a_piece: Images read at once of a split that has no shard.
    """
    told: dict[str, list[ShardResult]] = {}
    for shard in subject.version.shards:
        told.setdefault(shard.name, []).append(shard)
    shards = Counter(shard.split for shard in subject.version.shards)
    pieces = []
    for split in sorted({*splits, *shards}):
        wanted = shards[split] or 1 + splits[split] // rows_a_piece
        buckets = 1 << (wanted - 1).bit_length()
        for bucket in range(buckets):
            named = told.get(shard_name(split, bucket))
            pieces.append(Piece(Unit(split, bucket, buckets, ()), named.pop(0) if named else None))
    return [*pieces, *(Piece(None, shard) for shards_left in told.values() for shard in shards_left)]
