"""Versions as a faulty driver would have made them: a shard is written again, and its result says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imageshards.index import sample_hash
from imageshards.schema import OUTCOME_KEY
from imageshards.shard_file import read_shard_result
from imageshards.validate import Findings, validate_version
from tests.imageshards.small_dataset import Built

SIDE = 32

Change = Callable[[pa.Table], pa.Table]


def findings_of(built: Built, **subject: Any) -> Findings:
    return validate_version(built.subject(**subject), raw_store=built.drawn.store, store=built.store)


def failed(findings: Findings) -> set[str]:
    return {check.name for check in findings.checks if not check.passed}


def rewritten(built: Built, name: str, change: Change, **outcome: Any) -> Built:
    """A shard with other rows or other metadata, and the result of a driver that wrote it so."""
    path = built.path(name)
    footer = json.loads(pq.read_metadata(path).metadata[OUTCOME_KEY]) | outcome
    before = pq.read_table(path)
    table = change(before)
    if table.schema.metadata is None:
        table = table.replace_schema_metadata(before.schema.metadata)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({OUTCOME_KEY: json.dumps(footer).encode()})
    return with_result(built, name)


def with_result(built: Built, name: str) -> Built:
    """The version whose driver says of a shard what lies there now."""
    found = read_shard_result(built.path(name), resolution=SIDE, name=name)
    shards = tuple(found if shard.name == name else shard for shard in built.shards)
    return replace(built, versions={SIDE: replace(built.version, shards=shards)})


def position(table: pa.Table, image_id: str) -> int:
    return int(table.column("image_id").to_pylist().index(image_id))


def having(of: str, /, **values: Any) -> Change:
    """Other values in the row of an image."""

    def change(table: pa.Table) -> pa.Table:
        row = position(table, of)
        for name, value in values.items():
            column = table.column(name).to_pylist()
            column[row] = value
            number = table.schema.get_field_index(name)
            field = table.schema.field(number)
            table = table.set_column(number, field, pa.array(column, field.type))
        return table

    return change


def without(*image_ids: str) -> Change:
    return lambda table: table.filter(
        pa.array([name not in image_ids for name in table.column("image_id").to_pylist()])
    )


def by_place(table: pa.Table) -> pa.Table:
    """Rows in the order in which a shard has them."""
    rows = table.select(["copy", "image_id"]).to_pylist()
    order = sorted(range(len(rows)), key=lambda row: (rows[row]["copy"], sample_hash(rows[row]["image_id"])))
    return table.take(order)


def again(of: str, /, **values: Any) -> Change:
    """The row of an image once more, at its place, with other values."""

    def change(table: pa.Table) -> pa.Table:
        row = position(table, of)
        more = having(of, **values)(table.slice(row, 1))
        return by_place(pa.concat_tables([table, more]))

    return change
