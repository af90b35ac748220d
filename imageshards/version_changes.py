"""How two versions of a dataset differ, as values, and as a page that a person reads in the morning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from imageshards.data_card import escape_markdown
from imageshards.index_changes import ImageChanges

MAX_CLASSES = 40
"""Lines of the page's table of classes; `Changes.classes` has them all."""

_TEXT_COLUMNS = ("", "which", "class, split", "key")
"""Those of the page's tables that are not set like numbers."""

_KEYS_NAMED = 3
"""Of the recipe, in the gist."""


@dataclass(frozen=True, slots=True)
class Count:
    """A number of the manifest, e.g. `rows in test`; `old` is None where there is no version before."""

    name: str
    old: int | None
    new: int


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Rows of one class in one split."""

    split: str
    class_name: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How the pixel values of one channel moved, in the units of the stored pixels.

    Attributes:
        channel: Number of the channel, from 0.
        old_mean: Mean before.
        new_mean: Mean now.
        old_std: Standard deviation before.
        new_std: Standard deviation now.
        shift: How far the mean moved, in standard deviations of before; None where nothing varied.
    """

    channel: int
    old_mean: float
    new_mean: float
    old_std: float
    new_std: float
    shift: float | None


@dataclass(frozen=True, slots=True)
class RecipeChange:
    """A key of the recipe, e.g. `augment.copies`, with its values; None where a recipe does not have it."""

    key: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class RejectChange:
    """Rejects of one version that the other does not have for the same reason.

    Attributes:
        count: How many.
        reasons: How many for each reason.
        first: Image id and reason of the first `index_changes.MAX_NAMED` by name.
    """

    count: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    first: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RejectChanges:
    """Rejects that are new, and those that are no more; an image refused for another reason is both."""

    new: RejectChange
    gone: RejectChange


@dataclass(frozen=True, slots=True)
class Changes:
    """How a version differs from the one before.

    Attributes:
        dataset: Name of the dataset.
        resolution: Side of the square in px.
        old: Fingerprint of the version before; None for the first version.
        new: Fingerprint of this one.
        old_created_at: When the one before was published, ISO 8601.
        counts: Images, rows and what became of the others, in both.
        images: None where they were not compared.
        rejects: Likewise.
        classes: Classes whose number of rows changed.
        pixels: Each channel; none where they were not compared, or there are none.
        recipe: Keys that differ.
        not_compared: What could not be compared, and why, in sentences.
    """

    dataset: str
    resolution: int
    old: str | None
    new: str
    old_created_at: str | None = None
    counts: tuple[Count, ...] = ()
    images: ImageChanges | None = None
    rejects: RejectChanges | None = None
    classes: tuple[ClassCount, ...] = ()
    pixels: tuple[Drift, ...] = ()
    recipe: tuple[RecipeChange, ...] = ()
    not_compared: tuple[str, ...] = ()

    def gist(self) -> str:
        """The changes in one line: `3 images added, 1 changed, none gone; 1 new reject; class balance unchanged`."""
        if self.old is None:
            counts = {count.name: count.new for count in self.counts}
            rejects = sum(count for name, count in counts.items() if name.startswith("rejected: "))
            found = (_of(counts["images"], "image"), _of(counts["rows"], "row"), _of(rejects, "reject"))
            return f"first version: {', '.join(found)}"
        if self.old == self.new:
            return "the same version as before"
        return "; ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        images = self.images
        if images is None:
            yield "images not compared"
        elif not images.added + images.changed + images.gone:
            yield "no images added, changed or gone"
        else:
            changed, gone = (f"{count:,}" if count else "none" for count in (images.changed, images.gone))
            yield f"{_of(images.added, 'image')} added, {changed} changed, {gone} gone"
        if self.rejects is None:
            yield "rejects not compared"
        else:
            dropped = self.rejects.gone.count
            yield _of(self.rejects.new.count, "new reject") + (f", {dropped:,} gone" if dropped else "")
        changed_classes = len({each.class_name for each in self.classes})
        yield f"rows changed in {_of(changed_classes, 'class')}" if changed_classes else "class balance unchanged"
        if self.recipe:
            keys = list(dict.fromkeys(change.key.partition(".")[0] for change in self.recipe))
            more = f" and {len(keys) - _KEYS_NAMED} more" if len(keys) > _KEYS_NAMED else ""
            yield f"recipe changed ({', '.join(keys[:_KEYS_NAMED])}{more})"

    def to_dict(self) -> dict[str, Any]:
        """The changes as JSON-ready data, the gist included."""
        content: dict[str, Any] = json.loads(json.dumps({"gist": self.gist(), **asdict(self)}))  # tuples become lists
        return content

    def to_markdown(self) -> str:
        """The page: the gist first, then a table of each sort of change that there is."""
        return "\n\n".join(_page(self)) + "\n"


def _page(changes: Changes) -> Iterator[str]:
    gist = changes.gist()
    yield f"{gist[0].upper()}{gist[1:]}."
    if changes.old is not None:
        yield (
            f"{escape_markdown(changes.dataset)} at {changes.resolution} px, version `{changes.new}`, against "
            f"`{changes.old}`, published {changes.old_created_at}."
        )
    yield _counts(changes.counts)
    if changes.images is not None and changes.old != changes.new:
        yield from _images(changes.images)
    if changes.rejects is not None:
        yield from _rejects(changes.rejects)
    yield from _classes(changes.classes)
    yield from _pixels(changes.pixels)
    yield from _recipe(changes.recipe)
    if changes.not_compared:
        yield "### Not compared"
        yield "\n".join(f"- {escape_markdown(sentence)}" for sentence in changes.not_compared)


def _counts(counts: Iterable[Count]) -> str:
    rows = [
        (each.name, "" if each.old is None else f"{each.old:,}", f"{each.new:,}", _difference(each.old, each.new))
        for each in counts
    ]
    return _table(("", "before", "now", "difference"), rows)


def _images(images: ImageChanges) -> Iterator[str]:
    rows = [
        _named("added", images.added, images.first_added),
        _named(
            "changed", images.changed, [f"{each.image_id} ({', '.join(each.kinds)})" for each in images.first_changed]
        ),
        _named("gone", images.gone, images.first_gone),
    ]
    if any(rows):
        yield "### Images"
        yield _table(("", "images", "which"), filter(None, rows))
    if images.kinds:
        yield "Changed in: " + ", ".join(f"{kind} {count:,}" for kind, count in images.kinds.items()) + "."


def _rejects(rejects: RejectChanges) -> Iterator[str]:
    sorts = (("new", rejects.new), ("gone", rejects.gone))
    rows = [_named(what, of.count, [f"{name} ({reason})" for name, reason in of.first]) for what, of in sorts]
    if any(rows):
        yield "### Rejects"
        yield _table(("", "images", "which"), filter(None, rows))


def _named(what: str, count: int, names: Sequence[str]) -> Sequence[str]:
    """A line of a table: how many there are, and the names of the first; empty for none."""
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    return (what, f"{count:,}", ", ".join(names) + more) if count else ()


def _classes(classes: Sequence[ClassCount]) -> Iterator[str]:
    largest_first = sorted(classes, key=lambda each: -abs(each.new - each.old))
    rows = [
        (f"{each.class_name}, {each.split}", f"{each.old:,}", f"{each.new:,}", _difference(each.old, each.new))
        for each in largest_first[:MAX_CLASSES]
    ]
    if rows:
        yield "### Rows by class"
        yield _table(("class, split", "before", "now", "difference"), rows)
    if len(classes) > len(rows):
        yield f"… and {len(classes) - len(rows):,} more."


def _pixels(pixels: Iterable[Drift]) -> Iterator[str]:
    rows = [
        (
            str(each.channel),
            *(f"{value:.4g}" for value in (each.old_mean, each.new_mean)),
            f"{each.new_mean - each.old_mean:+.3g}",
            "" if each.shift is None else f"{each.shift:+.3f}",
            *(f"{value:.4g}" for value in (each.old_std, each.new_std)),
            f"{each.new_std - each.old_std:+.3g}",
        )
        for each in pixels
    ]
    if rows:
        yield "### Pixel values"
        head = ("channel", "mean before", "now", "difference", "in std", "std before", "now", "difference")
        yield _table(head, rows)


def _recipe(recipe: Iterable[RecipeChange]) -> Iterator[str]:
    rows = [(each.key, json.dumps(each.old), json.dumps(each.new)) for each in recipe]
    if rows:
        yield "### Recipe"
        yield _table(("key", "before", "now"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    sides = ["---" if title in _TEXT_COLUMNS else "---:" for title in head]
    lines = [head, sides, *([escape_markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _difference(old: int | None, new: int) -> str:
    return "" if old in (None, new) else f"{new - (old or 0):+,}"


def _of(count: int, what: str) -> str:
    """`1 image`, `3 images`, `no images`."""
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{count:,} {what}" if count == 1 else f"{f'{count:,}' if count else 'no'} {plural}"
