"""The garbage collector's pause."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from imageshards.collector import collector_paused


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_meanwhile_and_what_is_there_by_the_end_is_never_looked_at():
    with collector_paused():
        assert not gc.isenabled()
        kept = [[]]
    assert gc.isenabled()
    assert not any(each is kept for each in gc.get_objects())


def test_an_import_that_fails_leaves_it_on():
    with pytest.raises(ImportError, match="nowhere"), collector_paused():
        raise ImportError("nowhere")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()
