"""Oxford-IIIT Pet: where it comes from, and what its annotations say of each image.

Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs", CVPR 2012. https://www.robots.ox.ac.uk/~vgg/data/pets/
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

from imageshards.errors import SourceError

DATASET = "oxford-iiit-pet"

IMAGES_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz"
IMAGES_MIRRORS = ("https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",)
IMAGES_SHA256 = "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"

ANNOTATIONS_URL = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz"
ANNOTATIONS_MIRRORS = ("https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",)
ANNOTATIONS_SHA256 = "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"

SPLITS = ("trainval", "test")
SPECIES = {1: "cat", 2: "dog"}

_MAX_XML_BYTES = 1 << 20
_MAX_SIDE_PX = 1 << 24
"""Of any picture; float32, in which boxes are stored, counts whole pixels up to here."""

_NAME_AND_NUMBER = re.compile(r"(?P<class_name>.+)_\d+")
_ENTRY = re.compile(r"(?P<image_id>\S+) +(?P<class_id>[0-9]{1,4}) +(?P<species>[0-9]) +[0-9]+")
"""A line of a list; four digits, because labels are stored as int16."""

Box = tuple[float, float, float, float]
Split = Literal["trainval", "test"]


class FrameSize(NamedTuple):
    """Width and height, in pixels, of the picture that an annotation was drawn on."""

    width: int
    height: int


class HeadBox(NamedTuple):
    """xmin, ymin, xmax, ymax in pixels as the XML file has them, and the size of the picture it speaks of."""

    box: Box
    frame: FrameSize | None


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of list.txt.

    Attributes:
        names: By class id.
        species: `cat` or `dog`, by class id.
    """

    names: tuple[str, ...]
    species: tuple[str, ...]

    def id_by_name(self, image_id: str) -> int | None:
        """The class of an image that no list names: that of its name, where a class of that name exists."""
        name = class_of_name(image_id)
        return self.names.index(name) if name in self.names else None


class ClassEntry(NamedTuple):
    """Name and species of a class, as a line of a list has them."""

    name: str
    species: str

    def __str__(self) -> str:
        return f"{self.name} ({self.species})"


class ListEntry(NamedTuple):
    """A line of list.txt or of a split list; the class id is 0-based."""

    image_id: str
    class_id: int
    class_: ClassEntry


def is_annotation(name: str) -> bool:
    """Whether a member belongs into the annotations archive, by its place in the layout."""
    path = PurePosixPath(name)
    return path.name in ("list.txt", "trainval.txt", "test.txt") or path.parent.name in ("trimaps", "xmls")


def class_of_name(image_id: str) -> str | None:
    """The class that a name of the form `NAME_NUMBER` has; None for one of another form."""
    match = _NAME_AND_NUMBER.fullmatch(image_id)
    return match["class_name"] if match else None


def list_entries(name: str, data: bytes) -> Iterator[ListEntry]:
    """The lines of a list, one at a time.

    Args:
        name: Name of the member.
        data: Its bytes.

    Raises:
        SourceError: It is no text, or has a line of another form.
    """
    file = PurePosixPath(name).name
    try:
        for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"), start=1):
            if line.strip() and not line.startswith("#"):
                yield _entry(file, number, line.rstrip("\n"))
    except UnicodeDecodeError as error:
        raise SourceError(f"{name} is no text: {error}", member=name) from error


def _entry(file: str, number: int, line: str) -> ListEntry:
    match = _ENTRY.fullmatch(line.strip())
    class_name = class_of_name(match["image_id"]) if match else None
    if match is None or class_name is None:
        raise SourceError(
            f"{file} line {number}: expected `NAME_NUMBER CLASS-ID SPECIES BREED-ID`, found {line[:80]!r}", line=number
        )
    class_id, species = int(match["class_id"]), int(match["species"])
    if class_id < 1 or species not in SPECIES:
        raise SourceError(
            f"{file} line {number}: class ids start at 1, species is 1 or 2, found {line[:80]!r}", line=number
        )
    return ListEntry(match["image_id"], class_id - 1, ClassEntry(class_name, SPECIES[species]))


def read_voc(name: str, data: bytes) -> HeadBox | None:
    """The box of a Pascal VOC file; None where it holds no object.

    The numbers are taken as edges in pixels, as they are written. Pascal VOC counts pixels from 1; whether Oxford's
    files do was not confirmed, and the difference is one pixel of the source at most.
    """
    if len(data) > _MAX_XML_BYTES or any(mark in data for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0")):
        raise SourceError(  # a zero byte: UTF-16 or UTF-32, in which the marks look different
            f"{name}: a Pascal VOC file is small, UTF-8, and declares no entities; this one is refused", member=name
        )
    try:
        root = ET.fromstring(data)  # noqa: S314 (no entities, bounded size: checked above)
        values = [root.find(f"object/bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        if root.find("object") is None:
            return None
        xmin, ymin, xmax, ymax = (float(value.text or "") if value is not None else float("nan") for value in values)
        sizes = [root.find(f"size/{side}") for side in ("width", "height")]
        width, height = (int(size.text or 0) if size is not None else 0 for size in sizes)
    except (ET.ParseError, ValueError) as error:
        raise SourceError(f"{name} is no Pascal VOC annotation: {error}", member=name) from error
    if not (0 <= xmin < xmax <= _MAX_SIDE_PX and 0 <= ymin < ymax <= _MAX_SIDE_PX):
        raise SourceError(
            f"{name}: expected 0 <= xmin < xmax and 0 <= ymin < ymax, in pixels, found {xmin, ymin, xmax, ymax}",
            member=name,
        )
    if max(width, height) > _MAX_SIDE_PX:
        raise SourceError(f"{name}: no picture has {width} x {height} px", member=name)
    return HeadBox((xmin, ymin, xmax, ymax), FrameSize(width, height) if width > 0 and height > 0 else None)
