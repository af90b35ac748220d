"""What all shards of a version hold, added up one after another; memory does not grow with their number.

Two things grow: 16 bytes an image for the search for duplicates, and the images that are not where they belong, which
are kept until all shards were seen, for they may turn up in another one. Of those there are none in a good version;
a version with more than `MAX_UNSETTLED` of them fails, and no more are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imageshards.columns import one_chunk, places_in, strings_at
from imageshards.index import UNLISTED_SPLIT
from imageshards.plan import Unit, copies_of
from imageshards.recipe import Recipe
from imageshards.row_checks import wrong_rows
from imageshards.shard_checks import Piece, ShardFindings
from imageshards.shard_file import Reject
from imageshards.statistics import PixelSums
from imageshards.subject import Offenders, Subject, offenders

MAX_UNSETTLED = 100_000


@dataclass(slots=True)
class Tally:
    """Sums over shards.

    Attributes:
        sums: Over the pixels of plain rows.
        rows: Rows, copies included.
        samples: Rows that are no copies.
        classes: Rows by split and class.
        repairs: Plain rows by repair.
        wrong: Offending images, by check.
        file_problems: What is wrong with files as a whole, by check.
        missing: Images that were neither row nor reject where they belong.
        surplus: Rows and rejects that did not belong where they were, or not for the first time.
        strays: Rows of images that the piece of the index does not have.
        unsettled: See `ShardFindings`.
        overflowed: Whether more was unsettled than is kept.
        units: The buckets whose plain rows are in `hashes` and `places`, in order.
        hashes: Perceptual hashes of plain rows, bucket by bucket.
        places: Sample hashes of the same rows.
        named: See `ShardFindings`.
        empty_trimaps: Likewise.
    """

    sums: PixelSums
    rows: int = 0
    samples: int = 0
    classes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, Offenders] = field(default_factory=dict)
    file_problems: dict[str, Offenders] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    surplus: list[str] = field(default_factory=list)
    strays: list[pa.Table] = field(default_factory=list)
    unsettled: list[tuple[str, str, int, bool]] = field(default_factory=list)
    overflowed: bool = False
    units: list[Unit] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    places: list[NDArray[np.uint64]] = field(default_factory=list)
    named: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    empty_trimaps: set[str] = field(default_factory=set)

    def add(self, piece: Piece, found: ShardFindings) -> None:
        """Add what one shard holds."""
        self.sums += found.sums
        self.rows += found.rows
        self.samples += found.samples
        self.classes.update(found.classes)
        self.repairs.update(found.repairs)
        for name, wrong in found.wrong.items():
            self.wrong.setdefault(name, Offenders()).add(wrong.examples, wrong.count)
        for name, problem in found.file_problems.items():
            self.file_problems.setdefault(name, Offenders()).add([problem])
        self.named.update(found.named)
        self.empty_trimaps |= found.empty_trimaps
        if piece.unit is not None and len(found.hashes):
            self.units.append(piece.unit)
            self.hashes.append(found.hashes)
            self.places.append(found.places)
        self._keep_unsettled(found)

    def _keep_unsettled(self, found: ShardFindings) -> None:
        kept = len(self.missing) + len(self.surplus) + len(self.unsettled) + sum(map(len, self.strays))
        if kept > MAX_UNSETTLED:
            self.overflowed |= bool(found.missing or found.surplus or found.unsettled or found.strays)
            return
        self.missing.update(found.missing)
        self.surplus += found.surplus
        self.unsettled += found.unsettled
        if found.strays is not None:
            self.strays.append(found.strays)


def find_strays(tally: Tally, index: Iterable[pa.Table]) -> pa.Table | None:
    """The rows of the index for the strays, row by row, null where it has none; None where there are no strays.

    Args:
        tally: All shards.
        index: `INDEX_COLUMNS`, piece by piece.
    """
    if not tally.strays:
        return None
    ids = one_chunk(pa.concat_tables(tally.strays).column("image_id"))
    known = pa.concat_tables(
        [piece.filter(pc.is_in(piece.column("image_id"), value_set=ids)) for piece in index]
    ).combine_chunks()
    return known.take(places_in(ids, known.column("image_id")))


def compare_strays(tally: Tally, known: pa.Table, subject: Subject) -> None:
    """Check rows that lie where the index does not have their image against what it has of them elsewhere."""
    rows = pa.concat_tables(tally.strays).combine_chunks()
    for name, wrong in wrong_rows(rows, known, subject.recipe, subject.version.resolution).items():
        problems = offenders(strings_at(rows.column("image_id"), np.flatnonzero(wrong)))
        tally.wrong.setdefault(name, Offenders()).add(problems.examples, problems.count)


def unaccounted(tally: Tally) -> list[str]:
    """Images that are not just once a row or a reject, in whichever shard; sorted."""
    missing, problems = set(tally.missing), set()
    for image_id in tally.surplus:
        if image_id in missing:
            missing.remove(image_id)
        else:
            problems.add(image_id)
    return sorted(problems | missing)


def wrong_copies(tally: Tally, rejects: Iterable[Reject], strays: pa.Table | None, recipe: Recipe) -> list[str]:
    """Images that do not have just the copies that they should have, in whichever shards.

    Args:
        tally: All shards.
        rejects: All samples refused.
        strays: What `find_strays` gave.
        recipe: How many copies there should be.
    """
    copies: dict[tuple[str, str], list[int]] = {}
    seen_at_home = set()
    for image_id, split, copy, at_home in tally.unsettled:
        copies.setdefault((image_id, split), []).append(copy)
        if at_home:
            seen_at_home.add((image_id, split))
    settled_at_home = _settled_at_home(tally, rejects, strays) - seen_at_home
    return [
        image_id
        for (image_id, split), found in copies.items()
        if sorted(found) != list(range(copies_of(recipe, split) + 1)) or (image_id, split) in settled_at_home
    ]


def _settled_at_home(tally: Tally, rejects: Iterable[Reject], strays: pa.Table | None) -> set[tuple[str, str]]:
    """Image id and split of strays that also have rows where they belong."""
    if strays is None:
        return set()
    absent = tally.missing | {reject.image_id for reject in rejects}
    images = zip(*(strays.column(name).to_pylist() for name in ("image_id", "split")), strict=True)
    return {(image_id, split or UNLISTED_SPLIT) for image_id, split in images if image_id and image_id not in absent}
