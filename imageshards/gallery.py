"""Galleries: each step of the recipe on the same few images, and repaired and rejected images with the reason beside.

What is called "as stored" comes out of the shards. Steps between come from the functions that built them, applied to
recipes that end after each step.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from imageshards.contact_sheet import readable_class
from imageshards.decode import decode, decode_trimap
from imageshards.decoded import DecodePolicy, Repair
from imageshards.display import annotated, thumbnail
from imageshards.errors import RejectReason, SampleError
from imageshards.formats.container import sniff
from imageshards.geometry import place
from imageshards.index import IndexRow, index_rows, read_index, sample_hash
from imageshards.manifest import Manifest
from imageshards.meanings import REJECTS, REPAIRS
from imageshards.picture import Picture
from imageshards.pillow_guard import guarded_pillow
from imageshards.plan import version_prefix
from imageshards.recipe import Augment, Recipe
from imageshards.shard_file import REJECTS_NAME, Reject
from imageshards.store import Store
from imageshards.stored_rows import StoredRow
from imageshards.survey import spread
from imageshards.transform import prepare_unnormalized

STEP_IMAGES = 4
COPIES = 4
REPAIRED = 12
REJECTED = 12
PANEL_PX = 224

MAX_SHOWN_PIXELS = 8_000_000
"""Larger sources are not decoded for a picture of 224 px: it would take more memory than all the rest."""

_MAX_FETCHED_BYTES = 16 << 20
_FIRST_BYTES = 64
_SHOWN_BYTES = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a gallery.

    Attributes:
        title: What it shows.
        note: How it came about.
        image: None where there is nothing to see.
        alt: What to read where it cannot be seen.
    """

    title: str
    note: str
    image: Image.Image | None
    alt: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The pictures of one image.

    Attributes:
        name: Its id.
        labels: Its class and split.
        facts: What to know about it, a sentence each.
        panels: In order.
    """

    name: str
    labels: str
    facts: tuple[str, ...]
    panels: tuple[Panel, ...]


Pictures = Mapping[StoredRow, Image.Image]
"""Stored images with box and outline drawn in."""


def choose_step_rows(rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Choose images that show the recipe well: annotated, upright as stored, wide and tall, training images first."""
    fitting = [
        row
        for row in rows
        if row.exif_orientation == 1
        and row.source_width * row.source_height <= MAX_SHOWN_PIXELS
        and Repair.HEAD_BOX_CLIPPED not in row.repairs
    ]
    best = sorted(fitting, key=lambda row: (row.head_box is None, row.split != "trainval", sample_hash(row.image_id)))
    shapes: dict[str, list[StoredRow]] = {"wide": [], "tall": []}
    for row in best:
        shapes["wide" if row.source_width >= row.source_height else "tall"].append(row)
    return spread(shapes, STEP_IMAGES)


def step_gallery(
    manifest: Manifest, rows: Sequence[StoredRow], copies: Iterable[StoredRow], pictures: Pictures, *, raw_store: Store
) -> list[Strip]:
    """Every step of the recipe on the same images, before and after.

    Args:
        manifest: The version.
        rows: See `choose_step_rows`.
        copies: Their augmented copies.
        pictures: Of all these rows.
        raw_store: Where their sources lie.
    """
    recipe = Recipe.model_validate(manifest.recipe)
    of_image: dict[str, list[StoredRow]] = {}
    for copy in copies:
        of_image.setdefault(copy.image_id, []).append(copy)
    strips = []
    for row in rows:
        picture = _source_picture(_index_row(manifest, row.image_id, raw_store), recipe, raw_store)
        panels = [
            *_step_panels(picture, row, recipe, manifest.resolution, pictures[row]),
            *(_copy_panel(copy, pictures[copy]) for copy in of_image.get(row.image_id, [])),
        ]
        strips.append(Strip(row.image_id, _labels(row.class_name, row.split), (), tuple(panels)))
    return strips


def recipe_steps(recipe: Recipe) -> list[tuple[str, str, Recipe]]:
    """Name, parameters, and recipe that ends after it, of each step that changes pixels; geometry comes first."""
    partial = recipe.model_copy(
        update={
            "denoise": "none",
            "contrast": "none",
            "color": "rgb",
            "threshold": "none",
            "normalize": "none",
            "dtype": "uint8",
            "encoding": "raw",
            "augment": Augment(),
        }
    )
    steps: list[tuple[str, str, Recipe]] = [(recipe.fit, recipe.interpolation, partial)]
    for field, off in (("denoise", "none"), ("contrast", "none"), ("color", "rgb"), ("threshold", "none")):
        value = getattr(recipe, field)
        if value != off:
            partial = partial.model_copy(update={field: value})
            steps.append((field, f"{value}{_PARAMETERS.get(value, _nothing)(recipe)}", partial))
    return steps


def _nothing(_: Recipe) -> str:
    return ""


_PARAMETERS: Mapping[str, Callable[[Recipe], str]] = {
    "gaussian": lambda recipe: f", sigma {recipe.gaussian_sigma:g} px",
    "median": lambda recipe: f" of {recipe.median_size} x {recipe.median_size} px",
    "clahe": lambda recipe: f", {recipe.clahe_tiles} x {recipe.clahe_tiles} tiles, limit {recipe.clahe_clip_limit:g}",
    "fixed": lambda recipe: f", above {recipe.threshold_level}",
    "adaptive": lambda recipe: f", window {recipe.adaptive_block_size} px, offset {recipe.adaptive_offset:g}",
}


def _step_panels(
    picture: Picture, row: StoredRow, recipe: Recipe, resolution: int, stored: Image.Image
) -> Iterable[Panel]:
    height, width = picture.pixels.shape[:2]
    yield Panel(
        "source",
        f"{width} x {height} px, decoded",
        annotated(picture.pixels, picture.head_box, picture.trimap, side_px=PANEL_PX),
        f"{row.image_id} as decoded, head box and trimap outline drawn in",
    )
    steps = recipe_steps(recipe)
    as_stored = _as_stored(recipe)
    for number, (name, parameters, partial) in enumerate(steps):
        note = f"{_placement(recipe, (width, height), resolution)}, {parameters}" if number == 0 else parameters
        if number == len(steps) - 1 and as_stored is None:
            yield Panel(f"{name}, as stored", note, stored, f"{row.image_id} after {name}, as stored")
            return
        prepared = prepare_unnormalized(picture, partial, resolution=resolution, image_id=row.image_id)
        box, trimap = (prepared.head_box, prepared.trimap) if number == 0 else (None, None)
        image = annotated(prepared.pixels, box, trimap, side_px=PANEL_PX)
        yield Panel(name, note, image, f"{row.image_id} after {name}")
    yield Panel("as stored", as_stored or "", stored, f"{row.image_id} as stored, drawn back from its values")


def _as_stored(recipe: Recipe) -> str | None:
    """What happens between the last step and the file; None where nothing does."""
    quality = "" if recipe.encoding == "png" else f", quality {recipe.encoding_quality}"
    if recipe.encoding != "raw":
        return f"{recipe.encoding}{quality}"
    if recipe.dtype == "uint8":
        return None
    undone = "" if recipe.normalize == "none" else f", normalized ({recipe.normalize}); undone here, to be seen"
    return f"{recipe.dtype}{undone}"


def _placement(recipe: Recipe, source: tuple[int, int], resolution: int) -> str:
    placement = place(source, recipe, resolution)
    resized = f"{source[0]} x {source[1]} to {placement.resized[0]} x {placement.resized[1]} px"
    if placement.pads:
        return f"{resized} on {resolution} x {resolution}"
    return f"{resized}, the middle kept" if placement.crops else resized


def _copy_panel(copy: StoredRow, image: Image.Image) -> Panel:
    return Panel(f"copy {copy.copy}", "augmented, as stored", image, f"{copy.image_id}, augmented copy {copy.copy}")


def repaired_gallery(rows: Sequence[StoredRow], pictures: Pictures, *, raw_store: Store) -> list[Strip]:
    """Repaired images: as a loader shows them that only says convert("RGB"), and as they are stored."""
    strips = []
    for row in rows:
        facts = [f"{repair}: {REPAIRS.get(repair, 'no description')}" for repair in row.repairs]
        stated = "" if row.exif_orientation == 1 else f", EXIF orientation {row.exif_orientation}"
        size = f"{row.source_width} x {row.source_height} px"
        facts.append(f"stored as {row.source_format}, mode {row.source_mode}, {size}{stated}")
        stored = Panel("ours", "as stored", pictures[row], f"{row.image_id} as stored")
        panels = (_naive_panel(row, raw_store.get(row.source_key)), stored)
        strips.append(Strip(row.image_id, _labels(row.class_name, row.split), tuple(facts), panels))
    return strips


def _naive_panel(row: StoredRow, data: bytes) -> Panel:
    title, alt = "before", f"{row.image_id} as a naive loader shows it"
    if row.source_width * row.source_height > MAX_SHOWN_PIXELS:
        return Panel(title, "too large to be shown here", None, alt)
    try:
        with guarded_pillow(load_truncated=False), Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # noqa: BLE001  whatever a naive loader dies of is what there is to show
        return Panel(title, f"a naive loader fails: {type(error).__name__}: {error}", None, alt)
    return Panel(title, 'Pillow\'s convert("RGB")', thumbnail(pixels, PANEL_PX), alt)


def choose_rejects(manifest: Manifest, store: Store) -> list[Reject]:
    """A few rejects of each reason, those of the smallest hash."""
    if not manifest.rejects:
        return []
    key = version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint) + REJECTS_NAME
    reasons: dict[str, list[Reject]] = {}
    with pq.ParquetFile(pa.BufferReader(store.get(key))) as file:
        for batch in file.iter_batches(use_threads=False):  # a thread that outlives the buffer aborts the process
            for values in batch.to_pylist():
                kept = reasons.setdefault(values["reason"], [])
                kept.append(Reject(**values))
                kept.sort(key=lambda reject: (sample_hash(reject.image_id), reject.image_id))
                del kept[REJECTED:]
    return spread(reasons, REJECTED)


def rejected_gallery(rejects: Iterable[Reject], *, raw_store: Store) -> list[Strip]:
    """Rejected images with the reason beside; what cannot be seen is told by its size and first bytes."""
    return [_rejected_strip(reject, raw_store) for reject in rejects]


def _rejected_strip(reject: Reject, raw_store: Store) -> Strip:
    size_bytes = raw_store.head(reject.source_key).size_bytes
    if size_bytes <= _MAX_FETCHED_BYTES:
        data = raw_store.get(reject.source_key)
    else:
        data = raw_store.get_range(reject.source_key, 0, _FIRST_BYTES)
    begins = f"begins like {sniff(data)}" if sniff(data) else f"begins with {data[:_SHOWN_BYTES].hex(' ') or 'nothing'}"
    facts = (
        f"{reject.reason}: {REJECTS.get(reject.reason, 'no description')}",
        reject.detail,
        f"{size_bytes:,} bytes, {begins}",
    )
    panel = _rejected_panel(reject, data, whole=len(data) == size_bytes)
    return Strip(reject.image_id, _labels(reject.class_name, reject.split), facts, (panel,))


def _rejected_panel(reject: Reject, data: bytes, *, whole: bool) -> Panel:
    title, alt = "rejected", f"{reject.image_id}, rejected: {reject.reason}"
    if reject.reason == RejectReason.WORKER_CRASH:  # it killed the processes that decoded it
        return Panel(title, "not decoded here", None, alt)
    try:
        policy = DecodePolicy(keep_damaged=True, max_pixels=MAX_SHOWN_PIXELS)
        pixels = decode(data, policy).pixels if whole else None
    except SampleError:
        pixels = None
    if pixels is None:
        return Panel(title, "nothing to see", None, alt)
    return Panel(title, "what can be seen of it", thumbnail(pixels, PANEL_PX), alt)


def _labels(class_name: str | None, split: str) -> str:
    return f"{readable_class(class_name)}, {split}"


def _index_row(manifest: Manifest, image_id: str, raw_store: Store) -> IndexRow:
    place_in_index = sample_hash(image_id)
    table = read_index(raw_store, manifest.index, hash_range=(place_in_index, place_in_index))
    return next(row for row in index_rows(table) if row.image_id == image_id)


def _source_picture(row: IndexRow, recipe: Recipe, raw_store: Store) -> Picture:
    """A source that needs no turning, with its annotation as the index has it."""
    decoded = decode(raw_store.get(row.source_key), DecodePolicy.from_recipe(recipe))
    trimap: NDArray[np.uint8] | None = None
    if row.trimap_key is not None:
        trimap = decode_trimap(raw_store.get(row.trimap_key), max_pixels=recipe.max_pixels)
    return Picture(decoded.pixels, row.head_box, trimap)
