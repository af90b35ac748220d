from __future__ import annotations

from pathlib import Path

from imageshards.recipe import Augment, Recipe
from imageshards.recipe_table import recipe_page

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_in_docs_is_what_the_model_says():
    assert PAGE.read_text(encoding="utf-8") == recipe_page(), "run: python -m imageshards.recipe_table > docs/recipe.md"


def test_the_page_names_every_key():
    page = recipe_page()
    for name in set(Recipe.model_fields) - {"augment"} | {f"augment.{name}" for name in Augment.model_fields}:
        assert f"| `{name}` |" in page
