"""The data card, dataset.md: what a dataset is, where it comes from and how to load it, as Hugging Face reads it.

Saved as README.md of a folder or of a repository on the Hub, its head tells `datasets` the splits, their files and the
type of each column. Without the types, releases of `datasets` before mid-2026 refuse fixed-size binary columns
(huggingface/datasets#8281).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from imageshards.manifest import Manifest
from imageshards.meanings import LEFT_OUT, REJECTS, REPAIRS
from imageshards.oxford_facts import known_facts
from imageshards.oxford_pets import DATASET
from imageshards.plan import shard_name
from imageshards.recipe import Recipe
from imageshards.report_view import accounting, class_range, named_counts, readable_size, recipe_rows, split_names
from imageshards.schema import shard_schema
from imageshards.survey import Survey

OXFORD_LICENSE = "cc-by-sa-4.0"
OXFORD_NAME = "Oxford-IIIT Pet"

COLUMN_MEANINGS: Mapping[str, str] = {
    "image_id": "Name of the source file without its suffix; unique among rows of copy 0.",
    "copy": "0 for the plain image, 1 and more for its augmented copies.",
    "image": "Pixels or image file, see below.",
    "label": "Class id from 0, in the order of the class names.",
    "class_name": "Name of the class.",
    "species": "cat or dog.",
    "split": "trainval or test; unlisted for images in neither list, where they are kept.",
    "head_box": "xmin, ymin, xmax, ymax of the head in output pixels, clipped to the frame; null without one.",
    "head_box_visible": "Share of the head box's area left inside the frame; null where none was annotated.",
    "trimap": "One byte per pixel, row by row: 1 animal, 2 background, 3 border, 0 where filled; null without one.",
    "source_key": "The source image in the raw store.",
    "source_sha256": "Digest of the source file.",
    "source_width": "Width of the source as stored, in px.",
    "source_height": "Height of the source as stored, in px.",
    "source_format": "Format of the source by content.",
    "source_mode": "Pixel mode of the source, as Pillow names it.",
    "exif_orientation": "1 to 8; pixels, head box and trimap here stand upright.",
    "upscaled": "Whether the source had to be enlarged.",
    "perceptual_hash": "64 bits that are alike for pictures that look alike.",
    "repairs": "What had to be done to the source, by name; mostly empty.",
}

_SIZE_LIMITS = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
_LARGEST = "n>1B"

_BLANKS = re.compile(r"\s+")
_MARKDOWN = re.compile(r"([\\`*\[\]<>|&#~])")


def data_card(manifest: Manifest, survey: Survey) -> str:
    """The data card as Markdown with a YAML head.

    Args:
        manifest: The complete draft.
        survey: Of its shards.
    """
    schema = shard_schema(Recipe.model_validate(manifest.recipe), manifest.resolution)
    splits = split_names(manifest)
    head = yaml.safe_dump(front_matter(manifest, schema), sort_keys=False, allow_unicode=True, width=float("inf"))
    body = (
        _environment()
        .get_template("dataset.md.jinja")
        .render(
            manifest=manifest,
            survey=survey,
            name=pretty_name(manifest),
            counts=accounting(manifest),
            splits=splits,
            class_ranges=class_range(manifest),
            boxes=sum(survey.boxes.values()),
            is_oxford=manifest.dataset == DATASET,
            is_original=_is_original(manifest),
            repairs=named_counts(manifest.repairs, REPAIRS),
            rejects=named_counts(manifest.rejects, REJECTS),
            left_out=named_counts(manifest.left_out, LEFT_OUT),
            recipe=recipe_rows(manifest.recipe),
            columns=[(field.name, str(field.type), COLUMN_MEANINGS.get(field.name, "")) for field in schema],
            first_shard=shard_name(splits[0], 0) if splits else "",
        )
    )
    return f"---\n{head}---\n\n{body}"


def pretty_name(manifest: Manifest) -> str:
    """The name that people know the dataset by."""
    return OXFORD_NAME if manifest.dataset == DATASET else manifest.dataset


def front_matter(manifest: Manifest, schema: pa.Schema) -> dict[str, Any]:
    """The head of the card, with the keys that Hugging Face defines.

    Args:
        manifest: The complete draft.
        schema: Of its shards.
    """
    files = [{"split": split, "path": f"{split}-*.parquet"} for split in split_names(manifest)]
    return {
        "pretty_name": f"{pretty_name(manifest)}, {manifest.resolution} px",
        "license": OXFORD_LICENSE if _is_original(manifest) else "unknown",
        "task_categories": ["image-classification", *_annotated_tasks(manifest)],
        "size_categories": [size_category(manifest.rows)],
        "tags": ["image", f"{manifest.resolution}px", *(["pets"] if manifest.dataset == DATASET else [])],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "features": [_feature(field, manifest) for field in schema],
            "splits": [
                {"name": split, "num_bytes": _split_bytes(manifest, split), "num_examples": manifest.splits[split]}
                for split in split_names(manifest)
            ],
            "download_size": sum(shard.size_bytes for shard in manifest.shards),
            "dataset_size": sum(shard.size_bytes for shard in manifest.shards),
        },
    }


def size_category(rows: int) -> str:
    """Hugging Face's name for an order of magnitude."""
    return next((name for limit, name in _SIZE_LIMITS if rows < limit), _LARGEST)


def _annotated_tasks(manifest: Manifest) -> list[str]:
    return ["object-detection", "image-segmentation"] if manifest.members.get("trimap") else []


def _is_original(manifest: Manifest) -> bool:
    """Whether the archives are the very ones that the published facts speak of."""
    digests = [manifest.sources[what].sha256 if what in manifest.sources else "" for what in ("images", "annotations")]
    return manifest.dataset == DATASET and known_facts(*digests) is not None


def _split_bytes(manifest: Manifest, split: str) -> int:
    return sum(shard.size_bytes for shard in manifest.shards if shard.split == split)


def _feature(field: pa.Field, manifest: Manifest) -> dict[str, Any]:
    """A column as `datasets` describes it."""
    if field.name == "label":
        names = {str(label): name for label, name in enumerate(manifest.class_names)}
        return {"name": field.name, "dtype": {"class_label": {"names": names}}}
    if field.name == "image" and manifest.encoding != "raw":
        return {"name": field.name, "dtype": "image"}
    if pa.types.is_fixed_size_list(field.type):
        return {"name": field.name, "sequence": _dtype(field.type.value_type), "length": field.type.list_size}
    if pa.types.is_list(field.type):
        return {"name": field.name, "sequence": _dtype(field.type.value_type)}
    return {"name": field.name, "dtype": _dtype(field.type)}


def _dtype(kind: pa.DataType) -> str:
    named = {pa.float32(): "float32", pa.string(): "string", pa.bool_(): "bool"}
    return "binary" if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) else named.get(kind, str(kind))


def escape_markdown(value: Any) -> Any:
    """Make text from outside stand for itself: no markup, no HTML, no second line."""
    if not isinstance(value, str) or isinstance(value, _Verbatim):
        return value
    escaped = _MARKDOWN.sub(r"\\\1", _BLANKS.sub(" ", value))
    return escaped.replace("\\&", "&amp;").replace("\\<", "&lt;")


class _Verbatim(str):
    """Text of our own, and digests: left as it is."""

    __slots__ = ()


@cache
def _environment() -> Environment:
    """Escapes every string that the template does not call verbatim."""
    environment = Environment(  # noqa: S701  Markdown, escaped by `finalize`
        loader=PackageLoader("imageshards"),
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["verbatim"] = _Verbatim
    environment.filters["thousands"] = "{:,}".format
    environment.filters["size"] = readable_size
    return environment
