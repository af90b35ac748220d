"""Oxford-IIIT Pet: where it comes from, and what its annotations say of each image.

Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs", CVPR 2012. https://www.robots.ox.ac.uk/~vgg/data/pets/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
class Label:
    """What list.txt says of an image.

    Attributes:
        class_id: 0-based, in the order of list.txt's 1-based CLASS-ID.
        class_name: e.g. `Abyssinian`, `american_bulldog`.
        species: `cat` or `dog`.
        split: `trainval`, `test`, or None for an image in no split.
    """

    class_id: int
    class_name: str
    species: str
    split: str | None


@dataclass(frozen=True, slots=True)
class Annotations:
    """Everything the annotations archive says, by image id (the file name without its suffix).

    Attributes:
        class_names: By class id.
        class_species: `cat` or `dog`, by class id.
        labels: Images of list.txt.
        head_boxes: Images that have an XML file.
    """

    class_names: tuple[str, ...]
    class_species: tuple[str, ...]
    labels: Mapping[str, Label]
    head_boxes: Mapping[str, HeadBox]

    def label_of(self, image_id: str) -> Label | None:
        """The label of an image; one in no split gets its class from its name, where a class of that name exists."""
        if label := self.labels.get(image_id):
            return label
        match = _NAME_AND_NUMBER.fullmatch(image_id)
        name = match["class_name"] if match else ""
        if name not in self.class_names:
            return None
        class_id = self.class_names.index(name)
        return Label(class_id, name, self.class_species[class_id], None)


def is_annotation(name: str) -> bool:
    """Whether a member belongs into the annotations archive, by its place in the layout."""
    path = PurePosixPath(name)
    return path.name in ("list.txt", "trainval.txt", "test.txt") or path.parent.name in ("trimaps", "xmls")


class AnnotationsReader:
    """Collects the members of an annotations archive, in any order; `finish` checks them and joins them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._boxes: dict[str, HeadBox] = {}

    def add(self, name: str, data: bytes) -> None:
        """Take in one member; trimaps and README are of no concern here.

        Raises:
            SourceError: The member cannot be read as what its name says.
        """
        path = PurePosixPath(name)
        if path.name in ("list.txt", "trainval.txt", "test.txt"):
            if path.name in self._texts:
                raise SourceError(
                    f"the annotations archive holds two files named {path.name}, one of them {name}", member=name
                )
            self._texts[path.name] = _text(name, data)
        elif path.suffix == ".xml":
            if path.stem in self._boxes:
                raise SourceError(f"the annotations archive holds a second {path.name}, {name}", member=name)
            box = _read_voc(name, data)
            if box is not None:
                self._boxes[path.stem] = box

    def finish(self) -> Annotations:
        """The joined annotations.

        Raises:
            SourceError: A list is missing, malformed, or contradicts another.
        """
        for required in ("list.txt", "trainval.txt", "test.txt"):
            if required not in self._texts:
                raise SourceError(
                    f"the annotations archive holds no {required}: expected the layout of Oxford-IIIT Pet "
                    "(annotations/list.txt, trainval.txt, test.txt, trimaps/, xmls/); check that --annotations names it"
                )
        splits = _read_splits(self._texts)
        labels: dict[str, Label] = {}
        classes: dict[int, _Class] = {}
        for entry in _entries("list.txt", self._texts["list.txt"]):
            if entry.image_id in labels:
                raise SourceError(f"list.txt names {entry.image_id} twice")
            if classes.setdefault(entry.class_id, entry.class_) != entry.class_:
                raise SourceError(
                    f"list.txt gives class id {entry.class_id + 1} to both {classes[entry.class_id]} and {entry.class_}"
                )
            split, stated = splits.pop(entry.image_id, (None, entry))
            if stated != entry:
                raise SourceError(
                    f"{split}.txt puts {entry.image_id} into class id {stated.class_id + 1}, {stated.class_}, but "
                    f"list.txt into {entry.class_id + 1}, {entry.class_}: the lists must agree"
                )
            labels[entry.image_id] = Label(entry.class_id, entry.class_.name, entry.class_.species, split)
        if splits:
            raise SourceError(
                f"trainval.txt and test.txt name {len(splits)} images that list.txt does not, e.g. {min(splits)}"
            )
        by_id = _contiguous(classes)
        return Annotations(
            tuple(each.name for each in by_id), tuple(each.species for each in by_id), labels, self._boxes
        )


class _Class(NamedTuple):
    name: str
    species: str

    def __str__(self) -> str:
        return f"{self.name} ({self.species})"


class _Entry(NamedTuple):
    image_id: str
    class_id: int
    class_: _Class


def _entries(file: str, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _ENTRY.fullmatch(line.strip())
        named = _NAME_AND_NUMBER.fullmatch(match["image_id"]) if match else None
        if match is None or named is None:
            raise SourceError(
                f"{file} line {number}: expected `NAME_NUMBER CLASS-ID SPECIES BREED-ID`, found {line[:80]!r}",
                line=number,
            )
        class_id, species = int(match["class_id"]), int(match["species"])
        if class_id < 1 or species not in SPECIES:
            raise SourceError(
                f"{file} line {number}: class ids start at 1, species is 1 or 2, found {line[:80]!r}", line=number
            )
        yield _Entry(match["image_id"], class_id - 1, _Class(named["class_name"], SPECIES[species]))


def _read_splits(texts: Mapping[str, str]) -> dict[str, tuple[str, _Entry]]:
    splits: dict[str, tuple[str, _Entry]] = {}
    for split in SPLITS:
        for entry in _entries(f"{split}.txt", texts[f"{split}.txt"]):
            if entry.image_id in splits:
                raise SourceError(
                    f"{entry.image_id} is named twice in the split lists ({splits[entry.image_id][0]} and {split}): "
                    "a sample belongs to one split"
                )
            splits[entry.image_id] = split, entry
    return splits


def _contiguous(classes: Mapping[int, _Class]) -> list[_Class]:
    """The classes by id, without a gap and without a name that two of them have."""
    if not classes or sorted(classes) != list(range(len(classes))):
        found = ", ".join(str(class_id + 1) for class_id in sorted(classes)[:5]) or "none"
        raise SourceError(f"list.txt: class ids must run from 1 without a gap, found {len(classes)} classes: {found} …")
    ids: dict[str, int] = {}
    for class_id, each in sorted(classes.items()):
        if ids.setdefault(each.name, class_id) != class_id:
            raise SourceError(f"list.txt gives both class id {ids[each.name] + 1} and {class_id + 1} to {each.name}")
    return [classes[class_id] for class_id in range(len(classes))]


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{name} is no text: {error}", member=name) from error


def _read_voc(name: str, data: bytes) -> HeadBox | None:
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
