"""What the run form in the Prefect UI is made of: the flow's schema as a deployment would register it."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import cloudpickle
import pytest
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows.form import Resolution
from flows.pets import pets
from imageshards.recipe import RESOLUTIONS

SCHEMA = pets.parameters.model_dump_for_openapi()
FIELDS: dict[str, dict[str, Any]] = SCHEMA["properties"]


def test_each_parameter_has_a_title_for_people_and_a_help_text() -> None:
    assert set(FIELDS) == set(inspect.signature(pets.fn).parameters)
    titles = {name: field.get("title") or SCHEMA["definitions"]["Recipe"]["title"] for name, field in FIELDS.items()}
    assert [name for name, title in titles.items() if title == name] == []
    assert [name for name, field in FIELDS.items() if not field.get("description")] == []
    assert len(set(titles.values())) == len(titles)


def test_a_flow_that_is_sent_by_value_still_knows_its_parameters() -> None:
    """As `pets.serve()` sends it."""
    sent = cloudpickle.loads(cloudpickle.dumps(pets))
    assert sent.validate_parameters({"resolutions": [384]})["resolutions"] == [384]


def test_the_fields_stand_in_the_order_of_the_signature_with_the_long_recipe_last() -> None:
    by_position = sorted(FIELDS, key=lambda name: FIELDS[name]["position"])
    assert by_position == list(inspect.signature(pets.fn).parameters)
    assert by_position[:3] == ["images", "annotations", "resolutions"]
    assert by_position[-1] == "recipe"


def test_resolutions_are_a_choice_of_several_and_of_all_that_there_are() -> None:
    assert get_args(Resolution) == RESOLUTIONS
    assert FIELDS["resolutions"]["type"] == "array"
    assert FIELDS["resolutions"]["items"]["enum"] == list(RESOLUTIONS)


def test_each_choice_of_a_field_that_may_be_empty_says_what_it_means() -> None:
    choices = {name: [choice.get("title") for choice in field.get("anyOf", [])] for name, field in FIELDS.items()}
    assert {name: titles for name, titles in choices.items() if not all(titles)} == {}
    assert choices["raw_store"] == ["Another store", "The same store"]


def test_the_form_is_filled_in_with_the_defaults_and_these_are_valid() -> None:
    defaults = {name: field["default"] for name, field in FIELDS.items()}
    is_valid_schema(SCHEMA)  # raises
    assert validate(defaults, SCHEMA, raise_on_error=False, preprocess=True) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_reject_fraction", 1.5),
        ("max_reject_fraction", -0.1),
        ("max_leaks", -1),
        ("keep_versions", 0),
        ("resolutions", []),
        ("resolutions", [225]),
        ("images_sha256", "abc"),
        ("recipe", {"crop_fraction": 2}),
        ("recipe", {"gaussian_sigma": 0}),
        ("recipe", {"fill": [0, 0, 256]}),
        ("recipe", {"augment": {"hue": 0.6}}),
        ("recipe", {"fitt": "stretch"}),
    ],
)
def test_a_value_out_of_its_range_is_refused_before_a_run_is_created(name: str, value: Any) -> None:
    assert validate({name: value}, SCHEMA, raise_on_error=False, preprocess=True) != []
