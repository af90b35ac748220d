from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from imageshards.errors import ConfigError
from imageshards.recipe import NEEDS, Augment, Recipe, parse_recipe, read_recipe
from tests.imageshards.recipes import recipes

DEFAULT_FINGERPRINT = "ed52a98c4e43745181fceacd206c53d512c8590c09d33c3860a78b341e96bfaa"

EFFECTIVE_CHANGES = [
    {"fit": "stretch"},
    {"fit": "letterbox"},
    {"fit": "letterbox", "fill": [1, 2, 3]},
    {"crop_fraction": 0.9},
    {"interpolation": "bicubic"},
    {"upscale": "reject"},
    {"exact": True},
    {"exact": True, "fit": "letterbox"},
    {"exact": True, "interpolation": "bicubic"},
    {"interpolation": "lanczos", "augment": {"copies": 1, "hue": 0.1}},
    {"interpolation": "lanczos", "augment": {"copies": 1, "hue": 0.1}, "exact": True},
    {"keep_damaged": True},
    {"icc": "srgb"},
    {"background": [0, 0, 0]},
    {"max_pixels": 1000},
    {"denoise": "gaussian"},
    {"denoise": "gaussian", "gaussian_sigma": 2},
    {"denoise": "median"},
    {"denoise": "median", "median_size": 5},
    {"contrast": "equalize"},
    {"contrast": "clahe"},
    {"contrast": "clahe", "clahe_clip_limit": 3},
    {"contrast": "clahe", "clahe_tiles": 4},
    {"color": "gray"},
    {"color": "red"},
    {"color": "gray", "threshold": "fixed"},
    {"color": "gray", "threshold": "fixed", "threshold_level": 9},
    {"color": "gray", "threshold": "otsu"},
    {"color": "gray", "threshold": "adaptive"},
    {"color": "gray", "threshold": "adaptive", "adaptive_block_size": 13},
    {"color": "gray", "threshold": "adaptive", "adaptive_offset": 0},
    {"dtype": "float16"},
    {"dtype": "float32"},
    {"dtype": "float32", "normalize": "unit"},
    {"dtype": "float32", "normalize": "imagenet"},
    {"dtype": "float32", "normalize": "dataset"},
    {"dtype": "float32", "normalize": "given", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"dtype": "float32", "normalize": "given", "mean": [0.4] * 3, "std": [0.5] * 3},
    {"dtype": "float32", "normalize": "given", "mean": [0.4] * 3, "std": [0.4] * 3},
    {"encoding": "png"},
    {"encoding": "jpeg"},
    {"encoding": "jpeg", "encoding_quality": 91},
    {"augment": {"copies": 1, "hue": 0.1}},
    {"augment": {"copies": 2, "hue": 0.1}},
    {"augment": {"copies": 1, "hue": 0.1, "seed": 1}},
    {"augment": {"copies": 1, "horizontal_flip": 0.5}},
    {"augment": {"copies": 1, "vertical_flip": 0.5}},
    {"augment": {"copies": 1, "rotation_degrees": 5}},
    {"augment": {"copies": 1, "rotation_degrees": 5, "fill": [1, 1, 1]}},
    {"augment": {"copies": 1, "crop_scale": [0.5, 1]}},
    {"augment": {"copies": 1, "crop_scale": [0.5, 1], "crop_ratio": [1, 1]}},
    {"augment": {"copies": 1, "translate": 0.1}},
    {"augment": {"copies": 1, "scale": [0.9, 1.1]}},
    {"augment": {"copies": 1, "shear_degrees": 3}},
    {"augment": {"copies": 1, "brightness": [0.9, 1.1]}},
    {"augment": {"copies": 1, "contrast": [0.9, 1.1]}},
    {"augment": {"copies": 1, "saturation": [0.9, 1.1]}},
    {"augment": {"copies": 1, "blur_sigma": [0, 1]}},
    {"augment": {"copies": 1, "noise_sigma": [0, 0.1]}},
]


def test_the_fingerprint_of_the_default_recipe_is_pinned():
    """It is part of every address in the store: a change here is a new place for everybody's data."""
    assert Recipe().fingerprint() == DEFAULT_FINGERPRINT


def test_each_effective_field_changes_the_fingerprint():
    fingerprints = [parse_recipe(change).fingerprint() for change in [{}, *EFFECTIVE_CHANGES]]
    assert len(set(fingerprints)) == len(fingerprints)


def test_every_field_is_among_the_effective_changes():
    named = {name for change in EFFECTIVE_CHANGES for name in change}
    assert named == set(Recipe.model_fields)
    augmented = {name for change in EFFECTIVE_CHANGES for name in change.get("augment", {})}
    assert augmented == set(Augment.model_fields)


@settings(max_examples=200, deadline=None)
@given(recipe=recipes())
def test_the_fingerprint_does_not_depend_on_the_order_of_fields(recipe):
    data = recipe.model_dump(mode="json")
    turned = {name: data[name] for name in reversed(data)}
    turned["augment"] = {name: data["augment"][name] for name in reversed(data["augment"])}
    assert parse_recipe(turned).fingerprint() == recipe.fingerprint()


@settings(max_examples=200, deadline=None)
@given(recipe=recipes())
def test_the_canonical_form_is_a_recipe_with_the_same_canonical_form(recipe):
    again = parse_recipe(json.loads(recipe.canonical()))
    assert again.canonical() == recipe.canonical()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"crop_fraction": 0.875, "fit": "center-crop"}),
        ({"interpolation": "nearest"}, {"interpolation": "nearest", "exact": True}),
        (
            {"interpolation": "bicubic", "augment": {"copies": 1, "crop_scale": [0.5, 1]}},
            {"interpolation": "bicubic", "augment": {"copies": 1, "crop_scale": [0.5, 1]}, "exact": True},
        ),
        ({"augment": {"seed": 3, "fill": [9, 9, 9]}}, {}),
        ({"augment": {"copies": 1, "hue": 0.1}}, {"augment": {"copies": 1, "hue": 0.1, "fill": [9, 9, 9]}}),
        ({"augment": {"copies": 1, "hue": 0.1}}, {"augment": {"copies": 1, "hue": 0.1, "crop_ratio": [1, 2]}}),
        (
            {"color": "gray", "threshold": "adaptive", "adaptive_offset": 0.0},
            {"color": "gray", "threshold": "adaptive", "adaptive_offset": -0.0},
        ),
        ({"crop_fraction": 1}, {"crop_fraction": 1.0}),
    ],
)
def test_fields_without_effect_do_not_change_the_fingerprint(one, other):
    assert parse_recipe(one).fingerprint() == parse_recipe(other).fingerprint()


@pytest.mark.parametrize("field", NEEDS)
def test_a_value_that_could_have_no_effect_is_refused(field):
    value = {"fill": [1, 1, 1], "mean": [0.5] * 3, "std": [0.5] * 3, "median_size": 5}.get(field, 7)
    value = 0.5 if field == "crop_fraction" else value
    fit = {"fit": "stretch"} if field == "crop_fraction" else {}
    with pytest.raises(ConfigError, match=f"{field} has no effect unless {NEEDS[field][0]} is"):
        parse_recipe({field: value, **fit})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"resize": 256}, "unknown key 'resize'"),
        ({"augment": {"flip": 1}}, "unknown key 'augment.flip'"),
        ({"crop_fraction": 0}, "crop_fraction: .* greater than or equal to 0.01, found 0"),
        ({"crop_fraction": float("nan")}, "crop_fraction"),
        ({"fit": "squash"}, "fit: .*'center-crop', 'letterbox' or 'stretch'"),
        ({"fill": [1, 2]}, "fill"),
        ({"fit": "letterbox", "fill": [1, 2, 256]}, "fill.2: .* less than or equal to 255"),
        ({"threshold": "otsu"}, "threshold works on one channel"),
        ({"color": "gray", "threshold": "adaptive", "adaptive_block_size": 4}, "adaptive_block_size must be odd"),
        ({"normalize": "unit"}, "set dtype to float16 or float32"),
        ({"normalize": "imagenet", "dtype": "float32", "color": "gray"}, "stated for three channels"),
        ({"normalize": "given", "dtype": "float32"}, "needs mean with 3 value"),
        ({"normalize": "given", "dtype": "float32", "mean": [0.5], "std": [0.0]}, "std.0: .* 0.001"),
        (
            {"normalize": "given", "dtype": "float32", "mean": [0.5], "std": [0.1]},
            "needs mean with 3 .*needs std with 3",
        ),
        ({"dtype": "float32", "encoding": "png"}, "encoding png holds uint8 only"),
        ({"augment": {"copies": 2}}, "the copies would be duplicates"),
        ({"augment": {"scale": [1.2, 0.9]}}, "scale: the lower end 1.2 lies above the upper end 0.9"),
        ({"augment": {"scale": [0, 1]}}, "augment.scale.0: .* 0.01"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_reason(data, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_recipe(data)
    assert "docs/recipe.md" in str(caught.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(ConfigError, match=r"crop_fraction.*unknown key 'resize'|unknown key 'resize'.*crop_fraction"):
        parse_recipe({"crop_fraction": 3, "resize": 256})


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValidationError):
        Recipe().fit = "stretch"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.json", '{"fit": "letterbox", "fill": [1, 2, 3], "augment": {"copies": 1, "hue": 0.1}}'),
        ("recipe.yaml", "fit: letterbox\nfill: [1, 2, 3]\naugment:\n  copies: 1\n  hue: 0.1\n"),
    ],
)
def test_a_file_in_json_or_yaml_holds_a_recipe(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    recipe = read_recipe(tmp_path / name)
    assert recipe == Recipe(fit="letterbox", fill=(1, 2, 3), augment=Augment(copies=1, hue=0.1))


def test_an_empty_file_holds_the_default_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("# nothing yet\n")
    assert read_recipe(tmp_path / "recipe.yaml") == Recipe()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"fit: [", "neither JSON nor YAML"),
        (b"\xff\xfe\x00", "neither JSON nor YAML"),
        (b"- fit\n- stretch\n", "must hold one mapping of keys to values, found list"),
        (b"fit: squash\n", "the recipe is not valid"),
        (b"1: 2\n", "recipe is not valid"),
    ],
)
def test_a_file_that_holds_no_recipe_is_refused(tmp_path, content, problem):
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the recipe file"):
        read_recipe(tmp_path / "none.yaml")


def test_the_form_of_the_recipe_describes_every_field():
    for model in (Recipe, Augment):
        assert all(field.description for field in model.model_fields.values())
