"""latest.json: leads to the current version, and remembers when it left another."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from imageshards.errors import StoreError
from imageshards.manifest import publish_manifest, read_manifest
from imageshards.pointer import latest_key, point_latest, read_latest, read_left
from tests.imageshards.manifests import manifest


def test_the_pointer_remembers_when_it_left_a_version(folder_store):
    first, second, third = (manifest(fingerprint=digit * 32) for digit in "123")
    assert read_left(folder_store, "pets", 224) == {}
    before = datetime.now(UTC)
    publish_manifest(folder_store, first)
    assert read_left(folder_store, "pets", 224) == {}
    for each in (second, third, first, third):
        point_latest(folder_store, each)
    left = read_left(folder_store, "pets", 224)
    assert list(left) == [second.fingerprint, first.fingerprint]
    assert before < left[second.fingerprint] < left[first.fingerprint] < datetime.now(UTC)
    assert read_latest(folder_store, "pets", 224) == third.fingerprint


def test_the_pointer_forgets_what_it_left_long_ago(folder_store, monkeypatch):
    monkeypatch.setattr("imageshards.pointer.LEFT_KEPT", 2)
    for digit in "12345":
        point_latest(folder_store, manifest(fingerprint=digit * 32))
    assert list(read_left(folder_store, "pets", 224)) == ["3" * 32, "4" * 32]


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"left": 3}', b'{"left": {"a": "yesterday"}}', b'{"left": {"a": 1}}']
)
def test_a_damaged_pointer_remembers_nothing_and_can_be_replaced(folder_store, damage):
    folder_store.put(latest_key("pets", 224), damage)
    assert read_left(folder_store, "pets", 224) == {}
    assert point_latest(folder_store, manifest()) is True
    assert read_latest(folder_store, "pets", 224) == "f" * 32


def test_the_pointer_moves_to_another_version_and_back(folder_store):
    other = manifest(fingerprint="0" * 32)
    publish_manifest(folder_store, manifest())
    publish_manifest(folder_store, other)
    assert read_latest(folder_store, "pets", 224) == "0" * 32
    assert point_latest(folder_store, manifest()) is True
    assert read_latest(folder_store, "pets", 224) == "f" * 32
    assert read_manifest(folder_store, "pets", 224, "0" * 32) == other


def test_resolutions_have_pointers_of_their_own(folder_store):
    publish_manifest(folder_store, manifest())
    publish_manifest(folder_store, manifest(resolution=384, fingerprint="0" * 32))
    assert (read_latest(folder_store, "pets", 224), read_latest(folder_store, "pets", 384)) == ("f" * 32, "0" * 32)


@pytest.mark.parametrize("damage", [b"", b"null", b"[]", b"{}", b"<html>", b'"text"', b"\xff"])
def test_a_damaged_pointer_is_an_error_until_something_is_published(folder_store, damage):
    folder_store.put(latest_key("pets", 224), damage)
    with pytest.raises(StoreError, match="publish to replace it"):
        read_latest(folder_store, "pets", 224)
    publish_manifest(folder_store, manifest())
    assert read_latest(folder_store, "pets", 224) == "f" * 32
