"""What single files of the annotations say: lines of lists, classes by name, Pascal VOC boxes."""

from __future__ import annotations

import pytest

from imageshards.errors import SourceError
from imageshards.oxford_pets import (
    ClassEntry,
    Classes,
    FrameSize,
    HeadBox,
    ListEntry,
    list_entries,
    read_voc,
)
from tests.imageshards.small_dataset import voc

CLASSES = Classes(("korat", "beagle"), ("cat", "dog"))


def test_lines_become_entries_and_comments_and_blanks_are_passed_over():
    data = b"# comment\r\n\nbeagle_1 2 2 1\r\n  korat_7   1 1 1  \nkorat_8 1 1 1"
    assert list(list_entries("annotations/list.txt", data)) == [
        ListEntry("beagle_1", 1, ClassEntry("beagle", "dog")),
        ListEntry("korat_7", 0, ClassEntry("korat", "cat")),
        ListEntry("korat_8", 0, ClassEntry("korat", "cat")),
    ]


def test_entries_are_read_one_at_a_time():
    entries = list_entries("list.txt", b"beagle_1 2 2 1\nno entry\n")
    assert next(entries).image_id == "beagle_1"
    with pytest.raises(SourceError, match=r"list\.txt line 2:"):
        next(entries)


def test_an_unlisted_image_gets_the_class_of_its_name():
    assert CLASSES.id_by_name("beagle_77") == 1
    assert CLASSES.id_by_name("korat_1") == 0


@pytest.mark.parametrize("image_id", ["poodle_1", "beagle", "beagle_", "beagle_x", "_1", "", "Beagle_1"])
def test_an_unlisted_image_of_no_known_class_has_no_label(image_id):
    assert CLASSES.id_by_name(image_id) is None


def test_a_box_is_read_as_its_edges_and_the_size_of_its_picture():
    assert read_voc("xmls/beagle_2.xml", voc((0, 1.5, 30, 40), (500, 375))) == HeadBox(
        (0, 1.5, 30, 40), FrameSize(500, 375)
    )


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>5</height></size>"])
def test_a_box_without_the_size_of_its_picture_has_no_frame(size):
    data = voc().replace(b"<size><width>50</width><height>60</height></size>", size.encode())
    assert read_voc("xmls/beagle_2.xml", data) == HeadBox((10, 20, 30, 40), None)


def test_a_file_without_an_object_gives_no_box():
    assert read_voc("xmls/beagle_2.xml", b"<annotation><size/></annotation>") is None


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
        read_voc("xmls/beagle_2.xml", data[1])
