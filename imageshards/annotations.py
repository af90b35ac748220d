"""Reads the annotations archive of Oxford-IIIT Pet into the catalog, member by member, and checks what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from imageshards.catalog import Catalog
from imageshards.errors import SourceError
from imageshards.oxford_pets import SPLITS, ClassEntry, Classes, class_of_name, list_entries, read_voc

_LISTS = ("list.txt", *(f"{split}.txt" for split in SPLITS))


class AnnotationsReader:
    """Takes the members of an annotations archive, in any order; `finish` checks what they say together.

    Args:
        catalog: Where lists and boxes go; trimaps and README are of no concern here.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lists: set[str] = set()
        self._classes: dict[int, ClassEntry] = {}

    def add(self, name: str, data: bytes) -> None:
        """Take in one member.

        Raises:
            SourceError: The member cannot be read as what its name says, or says something twice.
        """
        path = PurePosixPath(name)
        if path.name in _LISTS:
            if path.name in self._lists:
                raise SourceError(
                    f"the annotations archive holds two files named {path.name}, one of them {name}", member=name
                )
            self._lists.add(path.name)
            if path.name == "list.txt":
                self._add_list(name, data)
            else:
                self._add_split(path.stem, name, data)
        elif path.suffix == ".xml" and not self._catalog.add_box(path.stem, read_voc(name, data)):
            raise SourceError(f"the annotations archive holds a second {path.name}, {name}", member=name)

    def finish(self) -> Classes:
        """The classes, by id.

        Raises:
            SourceError: A list is missing, or contradicts another.
        """
        for required in _LISTS:
            if required not in self._lists:
                raise SourceError(
                    f"the annotations archive holds no {required}: expected the layout of Oxford-IIIT Pet "
                    "(annotations/list.txt, trainval.txt, test.txt, trimaps/, xmls/); check that --annotations names it"
                )
        if found := self._catalog.contradiction():
            name = class_of_name(found.image_id) or ""
            raise SourceError(
                f"{found.split}.txt puts {found.image_id} into class id {found.split_class_id + 1}, "
                f"{ClassEntry(name, found.split_species)}, but list.txt into {found.list_class_id + 1}, "
                f"{ClassEntry(name, found.list_species)}: the lists must agree"
            )
        alone, first = self._catalog.in_splits_alone()
        if alone:
            raise SourceError(f"trainval.txt and test.txt name {alone} images that list.txt does not, e.g. {first}")
        return _contiguous(self._classes)

    def _add_list(self, name: str, data: bytes) -> None:
        for entry in list_entries(name, data):
            known = self._classes.setdefault(entry.class_id, entry.class_)
            if known != entry.class_:
                raise SourceError(f"list.txt gives class id {entry.class_id + 1} to both {known} and {entry.class_}")
            if not self._catalog.add_listed(entry):
                raise SourceError(f"list.txt names {entry.image_id} twice")

    def _add_split(self, split: str, name: str, data: bytes) -> None:
        for entry in list_entries(name, data):
            if not self._catalog.add_to_split(split, entry):
                splits = sorted({self._catalog.split_of(entry.image_id), split}, key=SPLITS.index)
                raise SourceError(
                    f"{entry.image_id} is named twice in the split lists ({' and '.join(splits)}): "
                    "a sample belongs to one split"
                )


def _contiguous(classes: Mapping[int, ClassEntry]) -> Classes:
    """The classes by id, without a gap and without a name that two of them have."""
    if not classes or sorted(classes) != list(range(len(classes))):
        found = ", ".join(str(class_id + 1) for class_id in sorted(classes)[:5]) or "none"
        raise SourceError(f"list.txt: class ids must run from 1 without a gap, found {len(classes)} classes: {found} …")
    ids: dict[str, int] = {}
    for class_id, each in sorted(classes.items()):
        if ids.setdefault(each.name, class_id) != class_id:
            raise SourceError(f"list.txt gives both class id {ids[each.name] + 1} and {class_id + 1} to {each.name}")
    by_id = [classes[class_id] for class_id in range(len(classes))]
    return Classes(tuple(each.name for each in by_id), tuple(each.species for each in by_id))
