"""The search of a version for leaks: who the candidates are, what is counted, what is kept, and where it ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
import pytest

from imageshards import duplicates, hash_search, leak_search, plan
from imageshards.duplicates import Duplicate
from imageshards.store import Store, open_store
from tests.imageshards.small_dataset import Built, build_drawn, copy_of_raw
from tests.imageshards.tampered import SIDE, failed, findings_of, having, rewritten


@pytest.fixture
def built(drawn, tmp_path, monkeypatch) -> Built:
    """A version of 8 shards, to be tampered with."""
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", SIDE * SIDE * 4 * 20)
    return build_drawn(drawn, open_store(str(tmp_path / "store")))


def alike(built: Built, *image_ids: str) -> Built:
    """These images with one perceptual hash, that of no other, in whichever shards they are."""
    for shard in built.shards:
        ours = set(image_ids) & set(pq.read_table(built.path(shard.name), columns=["image_id"]).column(0).to_pylist())
        for image_id in ours:
            built = rewritten(built, shard.name, having(image_id, perceptual_hash=0x0F0F_F0F0_0F0F_F0F0))
    return built


def unreadable_images(built: Built, folder) -> Built:
    """Raw images that cannot be decoded any more: their hashes alone decide, and one pair is near by chance."""
    raw = copy_of_raw(built.drawn, folder)
    for info in list(raw.list("raw/oxford-iiit-pet/images")):
        raw.put(info.key, b"nothing")
    return Built(
        built.build, built.units, type(built.drawn)(built.drawn.info, raw, {}, {}), built.store, built.versions
    )


def test_candidates_are_named_with_their_splits_wherever_they_lie(built, tmp_path):
    rows = built.rows().select(["image_id", "split"]).to_pylist()
    test, trainval = ([row["image_id"] for row in rows if row["split"] == split] for split in ("test", "trainval"))
    chosen = (test[0], test[-1], trainval[0], trainval[-1])
    findings = findings_of(unreadable_images(alike(built, *chosen), tmp_path / "raw"), max_leaks=0)
    splits = {row["image_id"]: row["split"] for row in rows}
    pairs = [sorted((one, other)) for number, one in enumerate(chosen) for other in chosen[number + 1 :]]
    expected = {Duplicate(one, other, splits[one], splits[other], "near", 0) for one, other in pairs}
    assert {pair for pair in findings.duplicates if pair.distance == 0} == expected
    assert findings.duplicate_pairs == {"exact": 0, "near": 6 + 1, "leak": 4 + 1}
    assert [pair.first_split == pair.second_split for pair in findings.duplicates] == [False] * 5 + [True] * 2
    assert failed(findings) == {"leakage"}


def test_pixels_tell_chance_from_duplicates(built):
    findings = findings_of(alike(built, "pug_97", "pug_98"), max_leaks=0)
    assert findings.duplicate_pairs == {"exact": 0, "near": 0, "leak": 0}
    assert failed(findings) == set()


def test_the_first_pairs_are_kept_and_all_are_counted(built, tmp_path, monkeypatch):
    chosen = [row["image_id"] for row in built.rows().select(["image_id"]).to_pylist()][:10]
    tampered = unreadable_images(alike(built, *chosen), tmp_path / "raw")
    whole = findings_of(tampered)
    monkeypatch.setattr(leak_search, "MAX_DUPLICATES", 7)
    findings = findings_of(tampered)
    assert sum(whole.duplicate_pairs[kind] for kind in ("exact", "near")) == 45 + 1
    assert findings.duplicates == whole.duplicates[:7]
    assert findings.duplicate_pairs == whole.duplicate_pairs


def test_among_very_many_images_equal_hashes_are_searched_and_the_check_says_so(built, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_NEARLY_EQUAL", 10)
    tampered = unreadable_images(alike(built, "pug_97", "pug_98"), tmp_path / "raw")
    nearly = rewritten(tampered, _shard_of(tampered, "pug_99"), having("pug_99", perceptual_hash=0x0F0F_F0F0_0F0F_F0F1))
    findings = findings_of(nearly)
    assert [(pair.first, pair.second) for pair in findings.duplicates] == [("pug_97", "pug_98")]
    (check,) = (check for check in findings.checks if check.name == "leakage")
    assert check.found == "1 across splits, 1 in all, by equal hashes alone, as there are 147 images"


def _shard_of(built: Built, image_id: str) -> str:
    for shard in built.shards:
        if image_id in pq.read_table(built.path(shard.name), columns=["image_id"]).column(0).to_pylist():
            return shard.name
    raise AssertionError(image_id)


def test_images_too_much_alike_are_not_searched_and_a_limit_then_fails(built, monkeypatch):
    monkeypatch.setattr(hash_search, "_MAX_PAIRS", 0)
    monkeypatch.setattr(hash_search, "_MAX_PAIRS_EACH", 0)
    tampered = alike(built, "pug_97", "pug_98")
    assert failed(findings_of(tampered)) == set()
    findings = findings_of(tampered, max_leaks=10)
    assert failed(findings) == {"leakage"}
    (check,) = (check for check in findings.checks if check.name == "leakage")
    assert "too much alike" in check.found
    assert (findings.duplicates, findings.duplicate_pairs) == ((), {"exact": 0, "near": 0, "leak": 0})


def test_a_version_in_any_store_is_judged_alike(built, new_store: Callable[[], Store]):
    store = new_store()
    for source in (built.store, built.drawn.store):
        for info in source.list():
            store.put(info.key, source.get(info.key))
    moved = Built(built.build, built.units, type(built.drawn)(built.drawn.info, store, {}, {}), store, built.versions)
    assert findings_of(moved) == findings_of(built)
    damaged = bytearray(store.get(built.key("test-00000.parquet")))
    damaged[len(damaged) // 3] ^= 1
    store.put(built.key("test-00000.parquet"), bytes(damaged))
    assert "shard-readable" in failed(findings_of(moved))


def test_the_hashes_of_a_version_are_searched_in_an_order_that_its_number_of_shards_does_not_change(
    drawn, built, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "MAX_SHARD_BYTES", 1 << 30)
    one_shard = build_drawn(drawn, open_store(str(tmp_path / "one")))
    seen: list[np.ndarray] = []
    search = duplicates.find_near
    monkeypatch.setattr(
        duplicates, "find_near", lambda hashes, distance: seen.append(hashes) or search(hashes, distance)
    )
    assert findings_of(built).duplicates == findings_of(one_shard).duplicates
    assert len(seen[0]) == 147
    assert np.array_equal(*seen)
