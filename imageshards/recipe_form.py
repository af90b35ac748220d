"""What the recipe's JSON schema says beyond the model, for the form in the Prefect UI: order, and ranges in words.

A server on PostgreSQL keeps schemas as JSONB, which sorts an object's keys by their length; without a position each,
the form would show the fields in that order. And it shows help texts, but no ranges.
"""

from __future__ import annotations

from typing import Any

_LOWER = {"minimum": "from {}", "exclusiveMinimum": "above {}"}
_UPPER = {"maximum": "up to {}", "exclusiveMaximum": "to below {}"}


def describe_fields(schema: dict[str, Any]) -> None:
    """Give each field its position, and add to the description of numbers, and lists of them, which values they take.

    Args:
        schema: JSON schema of a model, as pydantic hands it to `json_schema_extra`; changed in place.
    """
    for position, field in enumerate(schema["properties"].values()):
        field["position"] = position
        if allowed := _range_of(field):
            field["description"] = f"{field['description']} {allowed}."


def _range_of(field: dict[str, Any]) -> str:
    """Such as "From 0 up to 1" or "Each from 0 up to 255"; empty where there is no range."""
    for choice in field.get("anyOf", ()):
        if choice.get("type") != "null":
            return _range_of(choice)
    if field.get("type") == "array":
        item = field["prefixItems"][0] if "prefixItems" in field else field["items"]
        limits = _limits(item)
        return f"Each {limits}" if limits else ""
    limits = _limits(field)
    return limits[:1].upper() + limits[1:]


def _limits(number: dict[str, Any]) -> str:
    return " ".join(text.format(_plain(number[key])) for key, text in (_LOWER | _UPPER).items() if key in number)


def _plain(limit: float) -> str:
    return f"{limit:,}".removesuffix(".0")
