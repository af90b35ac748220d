"""docs/recipe.md, generated from the recipe's own model: `python -m imageshards.recipe_table > docs/recipe.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from imageshards.recipe import NEEDS, Augment, Recipe

_HEAD = """\
# The recipe

What is done to pixels. The flow's parameter `recipe`, a JSON or YAML file, and the manifest all hold the same keys.
Every key may be left out; an unknown one is refused, and so is a value that could have no effect.

    fit: letterbox
    fill: [114, 114, 114]
    augment: {copies: 2, horizontal_flip: 0.5, rotation_degrees: 10}

The steps always run in this order:

"""

_ORDER = "The steps of a recipe always run in this order"

_LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def recipe_page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD + _steps(), "", *_tables(), ""])


def _steps() -> str:
    """The order of operations, as the module that defines the recipe states it."""
    documentation = sys.modules[Recipe.__module__].__doc__ or ""
    return documentation.split(_ORDER)[1].split("\n\n")[1].rstrip()


def _tables() -> Iterator[str]:
    yield from _table(Recipe, prefix="")
    yield ""
    yield "## Augmentation"
    yield ""
    yield " ".join((Augment.__doc__ or "").split())
    yield ""
    yield from _table(Augment, prefix="augment.")


def _table(model: type[BaseModel], *, prefix: str) -> Iterator[str]:
    properties = model.model_json_schema()["properties"]
    yield "| key | type | values | default | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in model.model_fields.items():
        if name == "augment":
            continue
        kind, values = _kind_and_values(properties[name])
        meaning = field.description or ""
        if name in NEEDS and not prefix:
            switch, needed = NEEDS[name]
            meaning += f" Only with `{switch}: {' | '.join(needed)}`."
        cells = (f"`{prefix}{name}`", kind, values, f"`{_plain(field.default)}`", meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind_and_values(schema: dict[str, Any]) -> tuple[str, str]:
    choices = [choice for choice in schema.get("anyOf", []) if choice["type"] != "null"]
    if choices:
        kind, values = _kind_and_values(choices[0])
        return f"{kind} or null", values
    if "enum" in schema:
        return "choice", ", ".join(f"`{_plain(value)}`" for value in schema["enum"])
    if schema["type"] == "array":
        items = schema.get("prefixItems") or [schema["items"]]
        kind, values = _kind_and_values(items[0])
        return f"list of {len(items)}: {kind}" if "prefixItems" in schema else f"list of {kind}", values
    limits = [text.format(_plain(schema[key])) for key, text in _LIMITS.items() if key in schema]
    return schema["type"], ", ".join(limits) or ("`true`, `false`" if schema["type"] == "boolean" else "any")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(recipe_page())


if __name__ == "__main__":
    main()
