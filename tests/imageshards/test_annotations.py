"""The annotations archive: joined whatever its order, refused where it is malformed or contradicts itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageshards.annotations import AnnotationsReader
from imageshards.catalog import Catalog
from imageshards.errors import SourceError
from imageshards.oxford_pets import Classes
from tests.imageshards.small_dataset import LISTED, annotation_members, lists, voc


class Read(NamedTuple):
    """What the reader made of an archive: classes, and class id, split and box of some images."""

    classes: Classes
    said: dict[str, tuple[int | None, str | None, tuple[float | None, ...]]]


def read(members: Iterable[tuple[str, bytes]], image_ids: Iterable[str] = LISTED) -> Read:
    with Catalog() as catalog:
        reader = AnnotationsReader(catalog)
        for name, data in members:
            reader.add(name, data)
        classes = reader.finish()
        for image_id in image_ids:
            catalog.add_image(image_id, f"{image_id}.jpg", name=f"images/{image_id}.jpg", sha256=b"", size_bytes=1)
        rows = [row for rows in catalog.rows(2) for row in rows]
    return Read(classes, {row.image_id: (row.class_id, row.split, row[8:14]) for row in rows})


def read_lists(**texts: str) -> Read:
    files = lists() | {f"{name}.txt": text.encode() for name, text in texts.items()}
    return read([(f"annotations/{name}", data) for name, data in files.items()])


def test_lists_and_boxes_are_joined_by_image():
    joined = read(annotation_members())
    assert joined.classes == Classes(("Abyssinian", "beagle"), ("cat", "dog"))
    box, nothing = (10, 20, 30, 40, 50, 60), (None,) * 6
    assert joined.said == {
        "Abyssinian_1": (0, "trainval", box),
        "Abyssinian_2": (0, "test", nothing),
        "beagle_1": (1, "trainval", box),
        "beagle_2": (1, "test", nothing),
    }


@settings(deadline=None)
@given(st.permutations(annotation_members()))
def test_the_order_of_the_members_does_not_matter(members):
    assert read(members) == read(annotation_members())


def test_the_drawn_sample_is_joined_as_it_was_drawn(drawn):
    assert len(drawn.info.class_names) == drawn.expected["classes"]
    assert drawn.info.class_names == tuple(sorted(drawn.info.class_names, key=str.lower))


def test_an_image_in_the_list_but_in_no_split_has_no_split():
    joined = read_lists(test="Abyssinian_2 1 1 1\n")
    assert joined.said["beagle_2"][:2] == (1, None)


def test_an_image_that_no_list_names_has_neither_class_nor_split():
    assert read(annotation_members(), ["beagle_77"]).said["beagle_77"][:2] == (None, None)


def test_class_names_may_hold_underscores_and_numbers():
    line = "staffordshire_bull_2_terrier_100 1 2 1\n"
    joined = read_lists(list=line, trainval=line, test="")
    assert joined.classes.names == ("staffordshire_bull_2_terrier",)


@pytest.mark.parametrize("missing", ["list.txt", "trainval.txt", "test.txt"])
def test_annotations_without_a_list_are_refused(missing):
    with pytest.raises(SourceError, match=f"holds no {missing}"):
        read([(name, data) for name, data in annotation_members() if not name.endswith(missing)])


@pytest.mark.parametrize(
    "line",
    [
        "beagle_1 2 2",
        "beagle_1 2 2 1 9",
        "beagle 2 2 1",
        "beagle_1 two 2 1",
        "beagle_1 -2 2 1",
        "beagle_1 2.0 2 1",
        "beagle_1 0 2 1",
        "beagle_1 2 3 1",
        "beagle_1 2 0 1",
        "beagle_1 " + "1" * 5000 + " 2 1",
        "\x00\x01\x02",
        "beagle_1,2,2,1",
    ],
)
def test_a_malformed_line_is_refused_with_its_number(line):
    with pytest.raises(SourceError, match=r"list\.txt line 3:") as caught:
        read_lists(list=f"# comment\n\n{line}\n")
    assert caught.value.context["line"] == 3
    assert len(caught.value.message) < 300


CONTRADICTIONS = {
    "the same image twice in the list": ({"list": "beagle_1 1 2 1\nbeagle_1 1 2 1\n"}, "twice"),
    "one class id for two names": ({"list": "beagle_1 1 2 1\npug_1 1 2 1\n"}, "class id 1"),
    "two class ids for one name": ({"list": "beagle_1 1 2 1\nbeagle_2 2 2 1\n"}, "class id 1 and 2"),
    "one class of two species": ({"list": "beagle_1 1 2 1\nbeagle_2 1 1 1\n"}, "class id 1"),
    "a gap in the class ids": ({"list": "beagle_1 1 2 1\npug_1 3 2 1\n"}, "without a gap"),
    "class ids from 2 on": ({"list": "beagle_1 2 2 1\n"}, "without a gap"),
    "an empty list": ({"list": "# nothing\n"}, "without a gap"),
    "a split with an image that the list lacks": ({"test": "beagle_9 2 2 1\n"}, "beagle_9"),
    "an image in both splits": ({"test": "beagle_1 2 2 1\n"}, "belongs to one split"),
    "an image twice in a split": ({"test": "beagle_2 2 2 1\nbeagle_2 2 2 1\n"}, "belongs to one split"),
    "another class in the split list": ({"test": "beagle_2 1 2 1\n"}, "must agree"),
    "another species in the split list": ({"test": "beagle_2 2 1 1\n"}, "must agree"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_lists_that_contradict_each_other_are_refused(what):
    texts, message = CONTRADICTIONS[what]
    with pytest.raises(SourceError, match=message):
        read_lists(**({"trainval": "", "test": ""} | texts if "list" in texts else texts))


def test_a_list_that_is_no_text_is_refused():
    with pytest.raises(SourceError, match="no text"):
        read([("list.txt", b"\xff\xfe\x00")])


def test_two_lists_of_one_name_are_refused():
    with pytest.raises(SourceError, match=r"two files named list\.txt"):
        read([*annotation_members(), ("backup/list.txt", lists()["list.txt"])])


def test_two_boxes_for_one_image_are_refused():
    with pytest.raises(SourceError, match=r"a second beagle_1\.xml"):
        read([*annotation_members(), ("backup/beagle_1.xml", voc((1, 2, 3, 4)))])


def test_a_file_without_an_object_is_no_box_but_the_only_file_of_its_image():
    empty = ("annotations/xmls/beagle_2.xml", b"<annotation><size/></annotation>")
    assert read([*annotation_members(), empty]).said["beagle_2"][2] == (None,) * 6
    with pytest.raises(SourceError, match=r"a second beagle_2\.xml"):
        read([*annotation_members(), empty, ("backup/xmls/beagle_2.xml", voc())])


def test_a_box_file_that_is_none_is_refused_by_name():
    with pytest.raises(SourceError, match="beagle_2"):
        read([*annotation_members(), ("annotations/xmls/beagle_2.xml", b"xmin 1")])


def test_readme_and_trimaps_are_passed_over():
    others = [("annotations/README", b"\xff"), ("annotations/trimaps/beagle_2.png", b"no png")]
    assert read([*annotation_members(), *others]) == read(annotation_members())
