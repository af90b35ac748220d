"""Shared by the tests of imageshards: the drawn sample, uploaded once."""

from __future__ import annotations

import pytest

from imageshards.sample import SampleSpec
from tests.imageshards.built_version import BuiltVersion, build_version, uploaded_sample
from tests.imageshards.small_dataset import Drawn, upload_drawn


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The drawn sample with all its faults, uploaded into a store that tests only read."""
    return upload_drawn(tmp_path_factory.mktemp("drawn"), SampleSpec(per_class=4, median_long_side_px=60))


@pytest.fixture(scope="session")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A smaller drawn sample without faults, likewise."""
    spec = SampleSpec(per_class=2, median_long_side_px=60, faults=False)
    return upload_drawn(tmp_path_factory.mktemp("faultless"), spec)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    """A small version, in a store that tests only read."""
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("built")))
