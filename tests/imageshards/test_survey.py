"""What the survey says of a version agrees with its manifest, from a folder and from S3."""

from __future__ import annotations

import pytest

from imageshards.store import Store
from imageshards.stored_rows import find_copies, read_pixels
from imageshards.survey import spread, survey_version
from tests.imageshards.built_version import BuiltVersion, build_version, copy_version, uploaded_sample


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("survey")))


def test_the_survey_counts_what_the_manifest_counts(built: BuiltVersion) -> None:
    survey = survey_version(built.manifest, built.store)

    assert survey.samples == built.manifest.samples
    assert sum(survey.widths.values()) == sum(survey.heights.values()) == survey.samples
    assert sum(survey.formats.values()) == sum(survey.modes.values()) == survey.samples
    assert survey.boxes_gone <= survey.boxes_halved <= survey.boxes_cut <= sum(survey.boxes.values())
    assert set(survey.boxes) == {"trainval"}


def test_each_repair_of_the_manifest_has_its_rows(built: BuiltVersion) -> None:
    survey = survey_version(built.manifest, built.store)

    assert {repair: len(rows) for repair, rows in survey.repaired.items()} == dict(built.manifest.repairs)
    assert all(repair in row.repairs for repair, rows in survey.repaired.items() for row in rows)


def test_a_small_dataset_is_surveyed_whole(built: BuiltVersion) -> None:
    survey = survey_version(built.manifest, built.store)

    assert {split: len(rows) for split, rows in survey.first.items()} == dict(built.manifest.splits)


def test_the_pixels_of_chosen_rows_are_those_of_the_rows(built: BuiltVersion) -> None:
    import pyarrow.parquet as pq

    survey = survey_version(built.manifest, built.store)
    rows = [row for rows in survey.first.values() for row in rows][::7]

    found = {row.image_id: (image, trimap) for row, image, trimap in read_pixels(built.manifest, rows, built.store)}

    stored = {}
    for shard in built.manifest.shards:
        path = built.store.local_path(shard.path)
        for values in pq.ParquetFile(path).read(columns=["image_id", "image", "trimap"]).to_pylist():
            stored[values["image_id"]] = (values["image"], values["trimap"])
    assert set(found) == {row.image_id for row in rows}
    for image_id, (image, trimap) in found.items():
        assert (image, None if trimap is None else trimap.tobytes()) == stored[image_id]


def test_s3_gives_the_same_as_a_folder(built: BuiltVersion, s3_store: Store) -> None:
    copy_version(built, s3_store)

    local, remote = (survey_version(built.manifest, store) for store in (built.store, s3_store))

    assert remote == local
    rows = local.first["trainval"][:3]
    pixels = [
        [
            (row, image, trimap.tobytes())
            for row, image, trimap in read_pixels(built.manifest, rows, store)
            if trimap is not None
        ]
        for store in (built.store, s3_store)
    ]
    assert pixels[0] == pixels[1]


def test_rows_without_copies_have_none(built: BuiltVersion) -> None:
    rows = survey_version(built.manifest, built.store).first["trainval"]

    assert find_copies(built.manifest, rows, copies=4, store=built.store) == []


def test_groups_take_turns() -> None:
    assert spread({"b": [1, 2, 3], "a": [4, 1], "c": []}, 4) == [4, 1, 2, 3]
    assert spread({"a": range(5), "b": [10]}, 3) == [0, 10, 1]
    assert spread({}, 3) == []
