"""What becomes of rows in wrong shards: what shard by shard is found is what a look at all rows together finds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imageshards import plan, tally
from imageshards.index import UNLISTED_SPLIT, index_rows, read_index, sample_hash
from imageshards.plan import bucket_of, copies_of, shard_name, split_of
from imageshards.recipe import Augment, Recipe
from imageshards.shard_file import concatenate_rejects
from imageshards.store import open_store
from tests.imageshards.small_dataset import Built, build_drawn
from tests.imageshards.tampered import SIDE, by_place, failed, findings_of, rewritten

COMPARED = {"accounting", "copies", "annotations", "placement"}
SHARDS = [shard_name(split, number) for split in ("test", "trainval") for number in range(4)]


@pytest.fixture(scope="module")
def many(drawn, tmp_path_factory) -> Built:
    """A version of 8 shards; tests do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MAX_SHARD_BYTES", SIDE * SIDE * 4 * 20)
        built = build_drawn(drawn, open_store(str(tmp_path_factory.mktemp("many") / "store")))
    assert [shard.name for shard in built.shards] == SHARDS
    return built


@pytest.fixture(scope="module")
def augmented(faultless, tmp_path_factory) -> Built:
    """The same with two copies of each training image."""
    pytest.importorskip("torch")
    recipe = Recipe(augment=Augment(copies=2, horizontal_flip=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MAX_SHARD_BYTES", SIDE * SIDE * 4 * 30)
        built = build_drawn(faultless, open_store(str(tmp_path_factory.mktemp("augmented") / "store")), recipe=recipe)
    assert len([shard for shard in built.shards if shard.split == "trainval"]) > 1
    return built


def row_of(built: Built, shard: str, number: int) -> pa.Table:
    table = pq.read_table(built.path(shard))
    return table.slice(number % table.num_rows, 1)


def minus(table: pa.Table, row: pa.Table) -> pa.Table:
    (gone,) = row.select(["image_id", "copy"]).to_pylist()
    kept = [each != gone for each in table.select(["image_id", "copy"]).to_pylist()]
    return table.filter(pa.array(kept))


def plus(table: pa.Table, row: pa.Table) -> pa.Table:
    return by_place(pa.concat_tables([table, row]))


def with_values(row: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        number = row.schema.get_field_index(name)
        row = row.set_column(number, row.schema.field(number), pa.array([value], row.schema.field(number).type))
    return row


def moved(built: Built, source: str, number: int, target: str, **values: Any) -> Built:
    """A row of one shard in another one, with other values; left where it was if `keep`."""
    keep = values.pop("keep", False)
    row = row_of(built, source, number)
    if not keep:
        built = rewritten(built, source, lambda table: minus(table, row))
    return rewritten(built, target, lambda table: plus(table, with_values(row, **values)))


def wrong_together(built: Built) -> set[str]:
    """The checks that fail by a look at all rows together, as plain as can be."""
    index = {row.image_id: row for row in index_rows(read_index(built.drawn.store, built.drawn.info.key))}
    shards = Counter(shard.split for shard in built.shards)
    seen: Counter[str] = Counter(reject.image_id for reject in concatenate_rejects(built.shards))
    copies: dict[tuple[str, str], list[int]] = {}
    wrong = set()
    for shard in built.shards:
        last = (0, 0, "")
        for row in pq.read_table(built.path(shard.name)).drop_columns(["image", "trimap"]).to_pylist():
            image_id, copy, split = row["image_id"], row["copy"], row["split"]
            seen[image_id] += copy == 0
            copies.setdefault((image_id, split), []).append(copy)
            known = index.get(image_id)
            if known is None or (split, row["label"], row["class_name"], row["source_key"]) != (
                known.split or UNLISTED_SPLIT,
                known.label,
                known.class_name,
                known.source_key,
            ):
                wrong.add("annotations")
            place = (copy, sample_hash(image_id), image_id)
            if shard.name != shard_name(split, bucket_of(place[1], shards[shard.split])) or place < last:
                wrong.add("placement")
            last = max(last, place)
    wanted = {name for name, row in index.items() if split_of(row, keep_unlisted=built.build.keep_unlisted)}
    if +seen != Counter(wanted):
        wrong.add("accounting")
    for (_, split), found in copies.items():
        if sorted(found) != list(range(copies_of(built.build.recipe, split) + 1)):
            wrong.add("copies")
    return wrong


MOVES = st.lists(
    st.tuples(
        st.sampled_from(SHARDS),
        st.integers(0, 30),
        st.sampled_from(SHARDS),
        st.fixed_dictionaries(
            {},
            optional={
                "keep": st.booleans(),
                "split": st.sampled_from(["test", "trainval"]),
                "copy": st.integers(0, 2),
                "image_id": st.sampled_from(["nobody_1", "pug_97", "beagle_96"]),
                "label": st.integers(0, 1),
            },
        ),
    ),
    max_size=3,
)
TRAINVAL, OTHER = SHARDS[4], SHARDS[5]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
@example(moves=[])
@example(moves=[(TRAINVAL, 0, OTHER, {})])
@example(moves=[(TRAINVAL, 0, OTHER, {"keep": True})])
@example(moves=[(TRAINVAL, 0, SHARDS[0], {"keep": True})])
@example(moves=[(TRAINVAL, 0, SHARDS[0], {"split": "test"})])
@example(moves=[(TRAINVAL, 0, OTHER, {"label": 0})])
@example(moves=[(TRAINVAL, 0, OTHER, {}), (TRAINVAL, 0, OTHER, {"keep": True})])
@example(moves=[(TRAINVAL, 0, OTHER, {"image_id": "beagle_96"})])
def test_rows_in_any_shard_are_judged_as_by_a_look_at_all_of_them(many, tmp_path_factory, moves):
    built = many.copied_to(tmp_path_factory.mktemp("moved") / "store")
    for source, number, target, values in moves:
        if pq.read_metadata(built.path(source)).num_rows:
            built = moved(built, source, number, target, **values)
    assert failed(findings_of(built)) & COMPARED == wrong_together(built)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_copies_in_any_shard_are_judged_as_by_a_look_at_all_of_them(augmented, tmp_path_factory, data):
    names = [shard.name for shard in augmented.shards]
    built = augmented.copied_to(tmp_path_factory.mktemp("moved") / "store")
    for _ in range(data.draw(st.integers(1, 2))):
        source, target = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        values = {"keep": data.draw(st.booleans())}
        if data.draw(st.booleans()):
            values["copy"] = data.draw(st.integers(0, 3))
        built = moved(built, source, data.draw(st.integers(0, 40)), target, **values)
    assert failed(findings_of(built)) & COMPARED == wrong_together(built)


def test_a_shard_that_the_driver_did_not_tell_of_is_missed(many):
    built = replace(many, versions={SIDE: replace(many.version, shards=many.shards[1:])})
    findings = findings_of(built)
    assert failed(findings) == {"accounting", "no-class-empty"}
    missing = pq.read_table(many.path(SHARDS[0]), columns=["image_id"]).column(0).to_pylist()
    (check,) = (check for check in findings.checks if check.name == "accounting")
    assert set(check.examples) <= set(missing)


def test_a_split_that_the_driver_did_not_tell_of_is_missed(many):
    left = tuple(shard for shard in many.shards if shard.split == "test")
    findings = findings_of(replace(many, versions={SIDE: replace(many.version, shards=left)}))
    assert failed(findings) == {"accounting", "no-class-empty", "rejects-table"}
    assert findings.splits == {"test": sum(shard.rows for shard in left)}


def test_a_shard_told_of_twice_is_counted_twice(many):
    shards = (*many.shards, many.shards[0])
    findings = findings_of(replace(many, versions={SIDE: replace(many.version, shards=shards)}))
    assert {"accounting", "copies"} <= failed(findings)
    assert findings.rows == many.rows().num_rows + many.shards[0].rows


def test_more_misplaced_images_than_are_kept_fail_the_accounting(many, tmp_path, monkeypatch):
    built = many.copied_to(tmp_path / "store")
    for source, target in ((SHARDS[0], SHARDS[1]), (SHARDS[2], SHARDS[3])):
        built = moved(built, source, 0, target)
    assert failed(findings_of(built)) == {"placement"}
    monkeypatch.setattr(tally, "MAX_UNSETTLED", 1)
    findings = findings_of(built)
    assert failed(findings) == {"placement", "accounting"}
    (check,) = (check for check in findings.checks if check.name == "accounting")
    assert "not all of them looked for elsewhere" in check.found
