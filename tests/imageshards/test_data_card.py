"""The data card: YAML that Hugging Face reads, facts that are true of the archives at hand, snippets that run."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from imageshards.data_card import COLUMN_MEANINGS, data_card, escape_markdown, front_matter, size_category
from imageshards.manifest import ArchiveSource, CheckEntry
from imageshards.oxford_facts import ORIGINAL
from imageshards.oxford_pets import ANNOTATIONS_SHA256, IMAGES_SHA256
from imageshards.recipe import Recipe, parse_recipe
from imageshards.schema import shard_schema
from imageshards.survey import Survey, survey_version
from tests.imageshards.built_version import BuiltVersion, build_version, plain_manifest, uploaded_sample

ORIGINALS = {
    "images": ArchiveSource(url="https://example.org/images.tar.gz", sha256=IMAGES_SHA256, size_bytes=1),
    "annotations": ArchiveSource(url="https://example.org/annotations.tar.gz", sha256=ANNOTATIONS_SHA256, size_bytes=1),
}


HEAD = re.compile(r"\A---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n|\Z)")
"""How huggingface_hub finds the head of a card."""


def head_of(card: str) -> dict[str, Any]:
    match = HEAD.match(card)
    assert match
    loaded = yaml.safe_load(match[1])
    assert isinstance(loaded, dict)
    return loaded


def snippets_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("card")))


def card_of(built: BuiltVersion) -> str:
    return data_card(built.manifest, survey_version(built.manifest, built.store))


def test_the_head_names_splits_files_and_columns(built: BuiltVersion) -> None:
    head = head_of(card_of(built))

    assert head["pretty_name"] == "Oxford-IIIT Pet, 64 px"
    assert head["task_categories"] == ["image-classification", "object-detection", "image-segmentation"]
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [
        {"split": "trainval", "path": "trainval-*.parquet"},
        {"split": "test", "path": "test-*.parquet"},
    ]
    splits = {split["name"]: split["num_examples"] for split in head["dataset_info"]["splits"]}
    assert splits == dict(built.manifest.splits)


def test_the_files_of_each_split_are_those_of_the_shards(built: BuiltVersion) -> None:
    folder = Path(str(built.store.local_path(built.prefix.rstrip("/"))))

    found = {
        name.relative_to(folder).name
        for entry in head_of(card_of(built))["configs"][0]["data_files"]
        for name in folder.glob(entry["path"])
    }

    assert found == {Path(shard.path).name for shard in built.manifest.shards}


@pytest.mark.parametrize("settings", [{}, {"encoding": "webp"}, {"dtype": "float16", "color": "gray"}], ids=str)
def test_the_columns_of_the_head_are_those_of_the_schema(settings: dict[str, Any]) -> None:
    recipe = parse_recipe(settings)
    schema = shard_schema(recipe, 64)

    features = {
        each["name"]: each for each in front_matter(plain_manifest(recipe=recipe), schema)["dataset_info"]["features"]
    }

    assert list(features) == schema.names
    assert features["image"]["dtype"] == ("image" if recipe.encoding == "webp" else "binary")
    assert features["label"]["dtype"]["class_label"]["names"] == {"0": "Abyssinian", "1": "pug"}
    assert features["head_box"] == {"name": "head_box", "sequence": "float32", "length": 4}
    assert features["repairs"] == {"name": "repairs", "sequence": "string"}
    assert features["exif_orientation"]["dtype"] == "int8"
    assert features["upscaled"]["dtype"] == "bool"


def test_columns_can_be_cast_to_the_types_that_the_head_tells(built: BuiltVersion) -> None:
    """What `datasets` does with a table when it is told the types of its columns."""
    features = {each["name"]: each for each in head_of(card_of(built))["dataset_info"]["features"]}
    table = pq.read_table(built.store.local_path(built.manifest.shards[0].path))

    for name, feature in features.items():
        if isinstance(feature.get("dtype"), str):
            kind = {"binary": pa.binary(), "string": pa.string(), "bool": pa.bool_()}.get(feature["dtype"])
            cast = table[name].cast(kind or getattr(pa, feature["dtype"])())
            assert cast[0].as_py() == table[name][0].as_py()


def test_every_column_is_explained() -> None:
    assert set(COLUMN_MEANINGS) == set(shard_schema(Recipe(), 64).names)


@pytest.mark.parametrize(
    "settings",
    [{}, {"normalize": "imagenet", "dtype": "float32"}, {"color": "gray"}, {"encoding": "png"}],
    ids=str,
)
def test_the_snippet_loads_what_is_in_the_shards(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(settings)
    built = build_version(*uploaded_sample(tmp_path), recipe=recipe)
    monkeypatch.chdir(str(built.store.local_path(built.prefix.rstrip("/"))))
    names: dict[str, Any] = {}

    exec(snippets_of(card_of(built))[0], names)

    last = pq.read_table("trainval-00000.parquet", columns=["image", "label"]).slice(
        -1 + built.manifest.splits["trainval"]
    )
    stored = last["image"][0].as_py()
    assert names["labels"][-1] == last["label"][0].as_py()
    if recipe.encoding == "raw":
        assert names["pixels"].shape[1:] == (64, 64, recipe.channels)
        assert names["pixels"].dtype == recipe.dtype
        assert names["pixels"][-1].tobytes() == stored
        assert not names["pixels"].flags.owndata
    else:
        assert (names["pixels"][-1] == np.asarray(Image.open(io.BytesIO(stored)))).all()


def test_facts_of_the_original_archives_are_told_of_these_alone() -> None:
    original = data_card(plain_manifest(sources=ORIGINALS), Survey())
    other = data_card(plain_manifest(), Survey())

    assert head_of(original)["license"] == "cc-by-sa-4.0"
    assert head_of(other)["license"] == "unknown"
    for fact in ("beagle_116", "saint_bernard_15, 108", "41 images in neither", "23 images that leak"):
        assert fact in original
        assert fact not in other
    assert "are not the original ones" in other
    assert "are not the original ones" not in original


def test_the_known_faults_are_those_that_the_checks_hold_the_archives_to() -> None:
    card = data_card(plain_manifest(sources=ORIGINALS), Survey())
    lines = [line for line in card.partition("## Known faults")[2].splitlines() if line.startswith("- ")]
    named = (sorted(ORIGINAL.odd_images), sorted(ORIGINAL.without_box), sorted(ORIGINAL.empty_trimaps))

    for line, names in zip(lines, named, strict=False):
        numbers = sorted(name.rpartition("_")[2] for name in names)
        assert line.startswith(f"- {len(names)} ")
        found = re.findall(r"(?:_|, )(\d+)\b", line)
        assert sorted(found) == numbers
    assert lines[3].startswith(f"- {ORIGINAL.unlisted} ")


def test_both_statements_about_the_license_and_the_citation_are_there() -> None:
    for card in (data_card(plain_manifest(sources=ORIGINALS), Survey()), data_card(plain_manifest(), Survey())):
        assert "Attribution-ShareAlike 4.0" in card
        assert "for research purposes only" in card
        assert "@inproceedings{parkhi2012cats" in card


def test_another_dataset_gets_no_facts_about_cats_and_dogs() -> None:
    card = data_card(plain_manifest(dataset="flowers", sources=ORIGINALS, members={"image": 12}), Survey())

    assert head_of(card)["license"] == "unknown"
    assert head_of(card)["task_categories"] == ["image-classification"]
    for word in ("Parkhi", "Creative Commons", "beagle", "Oxford", "pets"):
        assert word not in card


def test_the_card_tells_what_was_measured(built: BuiltVersion) -> None:
    manifest, card = built.manifest, card_of(built)

    for name, count in {**manifest.repairs, **manifest.rejects, **manifest.left_out}.items():
        assert re.search(rf"\| {name} \| {count} \|", card)
    for check in manifest.checks:
        assert f"| {check.name} | {'passed' if check.passed else 'FAILED'} |" in card
    for source in manifest.sources.values():
        assert source.sha256 in card
    assert manifest.fingerprint in card
    assert manifest.recipe_fingerprint in card


def test_a_folder_of_this_machine_is_not_named() -> None:
    sources = {name: source.model_copy(update={"url": f"/home/me/{name}.tar.gz"}) for name, source in ORIGINALS.items()}

    card = data_card(plain_manifest(sources=sources, raw_store="file:///home/me/store"), Survey())

    assert "/home/me" not in card
    assert "images.tar.gz" in card


EVIL = "<script>alert('x')</script>|`*[a](javascript:b)\n---\nlicense: mit"


def test_names_from_outside_stand_for_themselves() -> None:
    manifest = plain_manifest(
        class_names=(EVIL, "pug"),
        classes={"test": {EVIL: 2}, "trainval": {EVIL: 3}},
        checks=(CheckEntry(name=EVIL, passed=True, expected=EVIL, found=EVIL, examples=(EVIL,)),),
        sources={"images": ArchiveSource(url=f"https://x/{EVIL}", sha256="0" * 64, size_bytes=1)},
        software={EVIL: EVIL},
        repairs={EVIL: 1},
    )

    card = data_card(manifest, Survey())
    head, body = head_of(card), HEAD.sub("", card)

    assert head["license"] == "unknown"
    assert head["dataset_info"]["features"][3]["dtype"]["class_label"]["names"]["0"] == EVIL
    assert "<script>" not in body
    assert "javascript:b" in body
    assert not re.search(r"(?<!\\)\[a\]", body)
    assert "\n---\n" not in body
    for line in body.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 6)


def test_markdown_is_escaped_and_blanks_become_one() -> None:
    assert escape_markdown("a|b <i>`x`\n\ny & z") == "a\\|b &lt;i\\>\\`x\\` y &amp; z"
    assert escape_markdown(", ") == ", "
    assert escape_markdown(12) == 12


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (7349, "1K<n<10K"), (250_000, "100K<n<1M"), (10**10, "n>1B")],
)
def test_the_size_category_is_that_of_hugging_face(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_the_same_version_gives_the_same_card(built: BuiltVersion) -> None:
    assert card_of(built) == card_of(built)


def test_a_version_without_a_row_has_a_card() -> None:
    nothing = {"samples": 0, "rows": 0, "splits": {}, "classes": {}, "repairs": {}, "rejects": {}, "left_out": {}}

    assert "No image had to be repaired" in data_card(plain_manifest(**nothing), Survey())
