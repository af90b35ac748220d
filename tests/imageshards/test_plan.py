"""The plan: each sample in one shard of each resolution, whatever the sizes; a version's name follows from content."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards import plan
from imageshards.index import IndexRow, sample_hash
from imageshards.plan import (
    HASH_BITS,
    MAX_SHARD_BYTES,
    Unit,
    bucket_of,
    copies_of,
    fingerprint,
    left_out_rule,
    plan_shards,
    plan_units,
    row_size_bytes,
    shard_count,
    shard_name,
    shards_of,
    split_of,
    version_prefix,
)
from imageshards.recipe import MAX_RESOLUTION, Augment, Recipe
from imageshards.schema import image_size_bytes
from tests.imageshards.recipes import recipes

AUGMENTED = Recipe(augment=Augment(copies=2, horizontal_flip=0.5))

hashes = st.integers(0, 2**HASH_BITS - 1)
powers_of_two = st.integers(0, 14).map(lambda exponent: 1 << exponent)
split_sizes = st.dictionaries(st.sampled_from(["trainval", "test", "unlisted"]), st.integers(0, 300_000), min_size=1)
resolution_sets = st.lists(st.integers(1, 400), min_size=1, max_size=4, unique=True)
plain_or_augmented = st.sampled_from([Recipe(), AUGMENTED, Recipe(encoding="webp"), Recipe(dtype="float32")])


def row(split: str | None = "trainval", label: int | None = 1, left_out: str | None = None) -> IndexRow:
    return IndexRow("beagle_1", "beagle_1.jpg", "k", "s", 1, label=label, split=split, left_out=left_out)


@given(hashes, powers_of_two)
def test_a_bucket_is_the_range_of_hashes_that_a_unit_reads(hash_, buckets):
    bucket = bucket_of(hash_, buckets)
    assert 0 <= bucket < buckets
    first, last = Unit("test", bucket, buckets, (224,)).hash_range
    assert first <= hash_ <= last


@given(powers_of_two)
def test_the_ranges_of_all_buckets_lie_end_to_end(buckets):
    ranges = [Unit("test", bucket, buckets, (224,)).hash_range for bucket in range(buckets)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 2**HASH_BITS - 1
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(ranges))


@given(hashes, powers_of_two, st.integers(0, 6))
def test_buckets_nest(hash_, buckets, further):
    """The shards of a small resolution are unions of those of a large one."""
    assert bucket_of(hash_, buckets << further) >> further == bucket_of(hash_, buckets)


@settings(deadline=None, max_examples=50)
@given(split_sizes, plain_or_augmented, resolution_sets, st.lists(hashes, max_size=20))
def test_units_cover_each_sample_once_at_each_resolution(sizes, recipe, resolutions, samples):
    units = plan_units(sizes, recipe, resolutions)
    by_split = {split: [unit for unit in units if unit.split == split] for split in sizes}
    for split, size in sizes.items():
        if not size:
            assert not by_split[split]
            continue
        for resolution in resolutions:
            shards = plan_shards(sizes, recipe, resolution)[split]
            ours = [unit for unit in by_split[split] if resolution in unit.resolutions]
            built = [number for unit in ours for number in shards_of(unit, shards)]
            assert sorted(built) == list(range(shards))
            for hash_ in samples:
                owners = [unit for unit in ours if unit.hash_range[0] <= hash_ <= unit.hash_range[1]]
                assert len(owners) == 1
                assert bucket_of(hash_, shards) in shards_of(owners[0], shards)


@settings(deadline=None, max_examples=50)
@given(split_sizes, plain_or_augmented, resolution_sets)
def test_the_shards_of_a_resolution_do_not_depend_on_what_is_built_beside_it(sizes, recipe, resolutions):
    def built(units: list[Unit], resolution: int) -> set[tuple[str, int]]:
        shards = plan_shards(sizes, recipe, resolution)
        ours = (unit for unit in units if resolution in unit.resolutions)
        return {(unit.split, number) for unit in ours for number in shards_of(unit, shards[unit.split])}

    together = plan_units(sizes, recipe, resolutions)
    for resolution in resolutions:
        assert built(together, resolution) == built(plan_units(sizes, recipe, [resolution]), resolution)


@given(split_sizes, plain_or_augmented, resolution_sets)
def test_the_order_of_resolutions_and_splits_does_not_change_the_plan(sizes, recipe, resolutions):
    backwards = dict(reversed(sizes.items()))
    assert plan_units(backwards, recipe, [*resolutions[::-1], resolutions[0]]) == plan_units(sizes, recipe, resolutions)


@given(split_sizes, st.sampled_from([Recipe(), Recipe(encoding="jpeg")]), resolution_sets)
def test_a_plain_recipe_decodes_each_image_once(sizes, recipe, resolutions):
    for unit in plan_units(sizes, recipe, resolutions):
        assert unit.resolutions == tuple(sorted(resolutions))


@given(st.integers(1, 10_000_000), st.integers(1, 3 * MAX_RESOLUTION**2 * 5))
def test_shards_are_the_smallest_power_of_two_within_the_limit(rows, row_bytes):
    count = shard_count(rows, row_bytes)
    assert count.bit_count() == 1
    assert rows * row_bytes <= count * MAX_SHARD_BYTES
    assert count == 1 or rows * row_bytes > count // 2 * MAX_SHARD_BYTES


@pytest.mark.parametrize(
    ("resolution", "shards"), [(224, {"trainval": 8, "test": 8}), (600, {"trainval": 64, "test": 64})]
)
def test_the_original_dataset_gets_these_shards(resolution, shards):
    assert plan_shards({"trainval": 3680, "test": 3669}, Recipe(), resolution) == shards


def test_copies_count_towards_the_size_of_training_shards_alone():
    sizes = {"trainval": 3680, "test": 3680}
    plain, augmented = plan_shards(sizes, Recipe(), 224), plan_shards(sizes, AUGMENTED, 224)
    assert augmented["trainval"] > plain["trainval"]
    assert augmented["test"] == plain["test"]


def test_a_smaller_limit_makes_more_shards(monkeypatch):
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 1 << 20)
    assert plan_shards({"test": 100}, Recipe(), 224) == {"test": 32}


def test_a_recipe_that_augments_gets_a_unit_for_each_shard():
    sizes = {"trainval": 3680, "test": 3669}
    for unit in plan_units(sizes, AUGMENTED, [224, 384]):
        (resolution,) = unit.resolutions
        assert unit.buckets == plan_shards(sizes, AUGMENTED, resolution)[unit.split]


@pytest.mark.parametrize("recipe", [Recipe(), AUGMENTED])
def test_the_largest_units_come_first(recipe):
    sizes = {"trainval": 3680, "test": 500}
    units = plan_units(sizes, recipe, [224, 600])
    pixels = [
        sizes[unit.split]
        * (1 + copies_of(recipe, unit.split))
        / unit.buckets
        * sum(side**2 for side in unit.resolutions)
        for unit in units
    ]
    assert pixels == sorted(pixels, reverse=True)
    assert len(set(pixels)) > 1


def test_only_training_images_get_copies():
    assert [copies_of(AUGMENTED, split) for split in ("trainval", "test", "unlisted")] == [2, 0, 0]


@pytest.mark.parametrize("keep_unlisted", [False, True])
@pytest.mark.parametrize("split", ["trainval", "test", None])
@pytest.mark.parametrize("label", [1, None])
@pytest.mark.parametrize("left_out", [None, "member-too-large"])
def test_an_image_goes_to_a_split_or_is_left_out_by_a_rule(keep_unlisted, split, label, left_out):
    image = row(split, label, left_out)
    goes_to = split_of(image, keep_unlisted=keep_unlisted)
    rule = left_out_rule(image, keep_unlisted=keep_unlisted)
    assert (goes_to is None) != (rule is None)
    if left_out:
        assert rule == left_out
    elif split:
        assert goes_to == split
    elif keep_unlisted and label is not None:
        assert goes_to == "unlisted"
    else:
        assert rule == "no-split"


@given(recipes(), st.integers(1, 600))
def test_a_row_is_its_image_and_its_trimap(recipe, resolution):
    size = row_size_bytes(recipe, resolution)
    raw = image_size_bytes(recipe, resolution) + resolution**2
    assert size == raw if recipe.encoding == "raw" else resolution**2 <= size < raw


def test_names_sort_by_number():
    assert shard_name("trainval", 7) == "trainval-00007.parquet"
    assert sorted(shard_name("test", number) for number in range(2000)) == [
        shard_name("test", number) for number in range(2000)
    ]
    assert Unit("trainval", 3, 8, (224,)).name == "trainval 3/8"
    assert version_prefix("pets", 224, "abc") == "shards/pets/224/abc/"


@given(recipes(), st.data())
def test_the_fingerprint_does_not_depend_on_the_order_of_a_recipes_fields(recipe, data):
    fields = data.draw(st.permutations(list(recipe.model_dump().items())))
    shuffled = Recipe.model_validate(dict(fields))
    assert fingerprint("d", shuffled, 224, keep_unlisted=False) == fingerprint("d", recipe, 224, keep_unlisted=False)


@given(recipes(), recipes())
def test_recipes_that_differ_have_different_fingerprints(one, other):
    same = fingerprint("d", one, 224, keep_unlisted=False) == fingerprint("d", other, 224, keep_unlisted=False)
    assert same == (one.canonical() == other.canonical())


def test_the_fingerprint_changes_with_all_that_a_version_is_made_from(monkeypatch):
    def fingerprints() -> set[str]:
        return {
            fingerprint("d", Recipe(), 224, keep_unlisted=False),
            fingerprint("e", Recipe(), 224, keep_unlisted=False),
            fingerprint("d", Recipe(fit="stretch"), 224, keep_unlisted=False),
            fingerprint("d", Recipe(), 299, keep_unlisted=False),
            fingerprint("d", Recipe(), 224, keep_unlisted=True),
        }

    before = fingerprints()
    monkeypatch.setattr(plan, "FORMAT_VERSION", plan.FORMAT_VERSION + 1)
    assert len(before | fingerprints()) == 10
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in before)


def test_ids_spread_evenly_over_the_buckets():
    counts = [0] * 8
    for number in range(8000):
        counts[bucket_of(sample_hash(f"beagle_{number}"), 8)] += 1
    assert min(counts) > 900
    assert max(counts) < 1100
