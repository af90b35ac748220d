"""The annotations: joined whatever their order, refused where they are malformed or contradict each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards.errors import SourceError
from imageshards.oxford_pets import (
    Annotations,
    AnnotationsReader,
    FrameSize,
    HeadBox,
    Label,
)
from tests.imageshards.small_dataset import LISTED, annotation_members, lists, voc


def read(members) -> Annotations:
    reader = AnnotationsReader()
    for name, data in members:
        reader.add(name, data)
    return reader.finish()


def read_lists(**texts: str) -> Annotations:
    files = lists() | {f"{name}.txt": text.encode() for name, text in texts.items()}
    return read([(f"annotations/{name}", data) for name, data in files.items()])


def read_box(data: bytes) -> HeadBox | None:
    return read([*annotation_members(), ("annotations/xmls/beagle_2.xml", data)]).head_boxes.get("beagle_2")


def test_lists_and_boxes_are_joined_by_image():
    joined = read(annotation_members())
    assert joined.class_names == ("Abyssinian", "beagle")
    assert joined.labels["Abyssinian_2"] == Label(0, "Abyssinian", "cat", "test")
    assert joined.labels["beagle_1"] == Label(1, "beagle", "dog", "trainval")
    assert joined.labels.keys() == LISTED.keys()
    assert joined.head_boxes == dict.fromkeys(("Abyssinian_1", "beagle_1"), HeadBox((10, 20, 30, 40), (50, 60)))


@given(st.permutations(annotation_members()))
def test_the_order_of_the_members_does_not_matter(members):
    assert read(members) == read(annotation_members())


def test_the_drawn_sample_is_joined_as_it_was_drawn(drawn):
    assert len(drawn.info.class_names) == drawn.expected["classes"]
    assert drawn.info.class_names == tuple(sorted(drawn.info.class_names, key=str.lower))


def test_an_image_in_the_list_but_in_no_split_has_no_split():
    joined = read_lists(test="Abyssinian_2 1 1 1\n")
    assert joined.label_of("beagle_2") == Label(1, "beagle", "dog", None)


def test_an_unlisted_image_gets_the_class_of_its_name_and_the_species_of_that_class():
    assert read_lists().label_of("beagle_77") == Label(1, "beagle", "dog", None)
    lower_case_cat = {name: text.decode().replace("Abyssinian", "korat") for name, text in lists().items()}
    joined = read([(name, text.encode()) for name, text in lower_case_cat.items()])
    assert joined.label_of("korat_77") == Label(0, "korat", "cat", None)


@pytest.mark.parametrize("image_id", ["poodle_1", "beagle", "beagle_", "beagle_x", "_1", "", "Beagle_1"])
def test_an_unlisted_image_of_no_known_class_has_no_label(image_id):
    assert read_lists().label_of(image_id) is None


def test_class_names_may_hold_underscores_and_numbers():
    line = "staffordshire_bull_2_terrier_100 1 2 1\n"
    joined = read_lists(list=line, trainval=line, test="")
    assert joined.class_names == ("staffordshire_bull_2_terrier",)


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


def test_a_box_is_read_as_its_edges_and_the_size_of_its_picture():
    assert read_box(voc((0, 1.5, 30, 40), (500, 375))) == HeadBox((0, 1.5, 30, 40), FrameSize(500, 375))


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>5</height></size>"])
def test_a_box_without_the_size_of_its_picture_has_no_frame(size):
    data = voc().replace(b"<size><width>50</width><height>60</height></size>", size.encode())
    assert read_box(data) == HeadBox((10, 20, 30, 40), None)


def test_a_file_without_an_object_gives_no_box():
    assert read_box(b"<annotation><size/></annotation>") is None


@pytest.mark.parametrize(
    "data",
    {
        "not xml": b"xmin 1",
        "cut off": voc()[:-30],
        "an edge missing": voc().replace(b"<xmin>10</xmin>", b""),
        "an edge empty": voc().replace(b"<xmin>10</xmin>", b"<xmin/>"),
        "an edge that is no number": voc().replace(b"10", b"ten"),
        "an edge that is nan": voc((float("nan"), 1, 2, 3)),
        "an infinite edge": voc((1, 1, 2, float("inf"))),
        "an edge beyond any picture": voc((1, 1, 2, 1e12)),
        "turned round": voc((30, 20, 10, 40)),
        "no width": voc((10, 20, 10, 40)),
        "negative": voc((-1, 20, 10, 40)),
        "a picture beyond any": voc(size=(99_999_999_999, 10)),
        "a width that is no number": voc().replace(b"50", b"wide"),
        "huge": voc() + b" " * (1 << 20),
        "a document type": b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + voc(),
        "entities": b'<!DOCTYPE a [<!ENTITY b "c">]>' + voc(),
        "entities in UTF-16": ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>' + voc().decode()).encode("utf-16"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_box_file_that_is_none_is_refused_by_name(data):
    with pytest.raises(SourceError, match="beagle_2"):
        read_box(data[1])


def test_readme_and_trimaps_are_passed_over():
    others = [("annotations/README", b"\xff"), ("annotations/trimaps/beagle_2.png", b"no png")]
    assert read([*annotation_members(), *others]) == read(annotation_members())
