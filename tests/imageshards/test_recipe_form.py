"""What the form in the Prefect UI is told of the recipe: the order of its fields, and their ranges."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from imageshards.recipe import Augment, Recipe
from imageshards.recipe_form import describe_fields


class Example(BaseModel):
    model_config = ConfigDict(json_schema_extra=describe_fields)

    word: str = Field("", description="A word.")
    share: float = Field(0.0, ge=0, le=1, description="A share.")
    sigma: float = Field(1.0, gt=0, lt=2.5, description="A sigma.")
    seed: int = Field(0, ge=0, description="A seed.")
    pixels: int = Field(1, le=1_000_000, description="Pixels.")
    color: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field((), description="A color.")
    names: list[str] = Field([], description="Names.")
    mean: list[Annotated[float, Field(ge=-1)]] | None = Field(None, description="A mean.")


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("word", "A word."),
        ("share", "A share. From 0 up to 1."),
        ("sigma", "A sigma. Above 0 to below 2.5."),
        ("seed", "A seed. From 0."),
        ("pixels", "Pixels. Up to 1,000,000."),
        ("color", "A color. Each from 0 up to 255."),
        ("names", "Names."),
        ("mean", "A mean. Each from -1."),
    ],
)
def test_the_description_says_which_values_a_field_takes(name: str, description: str):
    assert Example.model_json_schema()["properties"][name]["description"] == description


@pytest.mark.parametrize("model", [Recipe, Augment], ids=lambda model: model.__name__)
def test_each_field_has_its_place_where_the_model_has_it(model: type[BaseModel]):
    properties = model.model_json_schema()["properties"]
    assert sorted(properties, key=lambda name: properties[name]["position"]) == list(model.model_fields)


@pytest.mark.parametrize("model", [Recipe, Augment], ids=lambda model: model.__name__)
def test_each_field_is_explained(model: type[BaseModel]):
    properties = model.model_json_schema()["properties"]
    assert [name for name, field in properties.items() if not field.get("description")] == []
