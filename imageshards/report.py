"""The report of a version: a contact sheet, an HTML page and a data card beside its manifest.

Everything in them follows from the manifest, the shards and the raw images: the same input gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from imageshards.contact_sheet import MAX_CELL_PX, Cell, choose_rows, contact_sheet
from imageshards.data_card import data_card
from imageshards.display import annotated, displayable, stored_pixels
from imageshards.gallery import (
    COPIES,
    REPAIRED,
    Pictures,
    Strip,
    choose_rejects,
    choose_step_rows,
    rejected_gallery,
    repaired_gallery,
    step_gallery,
)
from imageshards.index import NO_SPLIT_RULE, UNLISTED_SPLIT, iter_index
from imageshards.manifest import Manifest
from imageshards.memory import release_freed
from imageshards.plan import version_prefix
from imageshards.report_view import readable_size, view
from imageshards.store import Store
from imageshards.stored_rows import StoredRow, find_copies, read_pixels
from imageshards.survey import Survey, spread, survey_version

CONTACT_SHEET_NAME = "contact-sheet.jpg"
REPORT_NAME = "report.html"
DATA_CARD_NAME = "dataset.md"

_SHEET_QUALITY = 88

_MAX_PICTURE_BYTES = 12_000
"""Of a picture in the page. Photographs of 224 px take 6 to 10 KB; black-and-white ones that threshold full of detail
leaves take more, and are made coarser. At most 130 pictures stay below 2.1 MB, base64 included."""
_PICTURE_QUALITIES = (78, 60, 40, 20)

LEFT_OUT_SHOWN = 24


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Keys of what was written."""

    contact_sheet: str
    report: str
    data_card: str


@dataclass(frozen=True, slots=True)
class Galleries:
    """The pictures of the page."""

    cells: Sequence[Cell]
    steps: Sequence[Strip]
    repaired: Sequence[Strip]
    rejected: Sequence[Strip]


def write_report(manifest: Manifest, *, raw_store: Store, store: Store) -> ReportFiles:
    """Put contact sheet, HTML page and data card beside the manifest. Idempotent: writes the same bytes again.

    Args:
        manifest: The complete draft; shards and rejects lie in the store already.
        raw_store: Where the raw images and the index lie.
        store: Where the shards lie.

    Raises:
        StoreError: A raw object, a shard or the index is missing, or the store refuses.
        TransientError: A store is out of reach.
    """
    prefix = version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint)
    files = ReportFiles(prefix + CONTACT_SHEET_NAME, prefix + REPORT_NAME, prefix + DATA_CARD_NAME)
    survey = survey_version(manifest, store)
    galleries = _galleries(manifest, survey, raw_store=raw_store, store=store)
    sheet = contact_sheet(galleries.cells, title=_title(manifest), side_px=min(manifest.resolution, MAX_CELL_PX))
    store.put(files.contact_sheet, _encoded(sheet, "JPEG", _SHEET_QUALITY))
    page = render_report(manifest, survey, galleries, left_out_names=_left_out_names(manifest, raw_store))
    store.put(files.report, page.encode())
    store.put(files.data_card, data_card(manifest, survey).encode())
    return files


def render_report(
    manifest: Manifest, survey: Survey, galleries: Galleries, *, left_out_names: Mapping[str, Sequence[str]]
) -> str:
    """The HTML page: one file that needs nothing else, no script, no network."""
    content = view(manifest, survey, left_out_names=left_out_names)
    return _environment().get_template("report.html.jinja").render(**content, galleries=galleries)


def _galleries(manifest: Manifest, survey: Survey, *, raw_store: Store, store: Store) -> Galleries:
    shown = choose_rows(row for rows in survey.first.values() for row in rows)
    steps = choose_step_rows(shown)
    copies = find_copies(manifest, steps, copies=min(COPIES, _copies(manifest)), store=store)
    repaired = spread(survey.repaired, REPAIRED)
    pictures = _pictures(manifest, [*shown, *copies, *repaired], store)
    return Galleries(
        cells=[Cell(row, pictures[row]) for row in shown],
        steps=step_gallery(manifest, steps, copies, pictures, raw_store=raw_store),
        repaired=repaired_gallery(repaired, pictures, raw_store=raw_store),
        rejected=rejected_gallery(choose_rejects(manifest, store), raw_store=raw_store),
    )


def _pictures(manifest: Manifest, rows: Sequence[StoredRow], store: Store) -> Pictures:
    """The chosen rows out of the shards, reduced at once, box and outline drawn in."""
    pictures: dict[StoredRow, Image.Image] = {}
    for row, image, trimap in read_pixels(manifest, rows, store):
        pixels = displayable(stored_pixels(image, manifest), manifest)
        pictures[row] = annotated(pixels, row.head_box, trimap, side_px=MAX_CELL_PX)
    release_freed()  # else the row groups they lay in are below what the galleries take: 25 MB
    return pictures


def _copies(manifest: Manifest) -> int:
    return int(manifest.recipe.get("augment", {}).get("copies", 0))


def _title(manifest: Manifest) -> str:
    shown = f"{manifest.dataset} · {manifest.resolution} px · {manifest.samples:,} images"
    return f"{shown} · {manifest.fingerprint[:8]}"


def _left_out_names(manifest: Manifest, raw_store: Store) -> dict[str, list[str]]:
    """The first few images that each rule leaves out."""
    names: dict[str, list[str]] = {rule: [] for rule in manifest.left_out}
    if not names:
        return names
    keeps_unlisted = UNLISTED_SPLIT in manifest.splits
    for piece in iter_index(raw_store, manifest.index, columns=["image_id", "split", "left_out", "label"]):
        outside = piece.filter(pc.or_(pc.is_null(piece["split"]), pc.is_valid(piece["left_out"])))
        for row in outside.to_pylist():
            known = names.get(row["left_out"] or NO_SPLIT_RULE, [])
            kept = not row["left_out"] and keeps_unlisted and row["label"] is not None
            if not kept and len(known) < LEFT_OUT_SHOWN:
                known.append(row["image_id"])
    return {rule: sorted(known) for rule, known in names.items()}


def data_uri(image: Image.Image) -> str:
    """A picture as a data: URI, coarser where it would be large."""
    for quality in _PICTURE_QUALITIES:
        data = _encoded(image, "WEBP", quality)
        if len(data) <= _MAX_PICTURE_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, format_name: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, quality=quality)
    return buffer.getvalue()


@cache
def _environment() -> Environment:
    """Escapes everything: names come out of archives that anyone may have made."""
    environment = Environment(
        loader=PackageLoader("imageshards"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["breakable"] = _breakable
    environment.filters["thousands"] = _thousands
    environment.filters["size"] = readable_size
    return environment


def _breakable(name: str) -> Markup:
    """A name that may be broken behind its underscores."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _thousands(number: int) -> str:
    return f"{number:,}"
