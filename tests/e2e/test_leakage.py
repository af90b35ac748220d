"""A picture that is in both splits is found, named in manifest, report and data card, and can be made to stop a run."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from imageshards.report import write_report
from imageshards.sample import SampleArchives, write_sample
from tests.e2e.conftest import DRAWN, Pets, archives
from tests.imageshards.built_version import build_version, uploaded_archives

TRAINVAL, TEST = "Ragdoll_96", "pug_97"


def plant(source: Path, target: Path, first: str, second: str) -> None:
    """The archive with the bytes of one member under the name of another, too."""
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        data = old.extractfile(first).read()
        for member in old:
            if member.isfile():
                content = data if member.name == second else old.extractfile(member).read()
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> SampleArchives:
    """A drawn sample in which one picture, its trimap with it, lies in both splits."""
    folder = tmp_path_factory.mktemp("leaky")
    sample = write_sample(folder / "sample", DRAWN)
    images, annotations = folder / "images.tar.gz", folder / "annotations.tar.gz"
    plant(sample.images, images, f"images/{TRAINVAL}.jpg", f"images/{TEST}.jpg")
    trimaps = (f"annotations/trimaps/{name}.png" for name in (TRAINVAL, TEST))
    plant(sample.annotations, annotations, *trimaps)
    return SampleArchives(images, annotations, sample.expected_path, sample.expected, written=True)


def test_a_leak_is_named_in_manifest_report_and_data_card(leaky: SampleArchives, tmp_path: Path) -> None:
    built = build_version(*uploaded_archives(tmp_path, leaky.images, leaky.annotations))
    pairs = [(pair.first, pair.second, pair.kind) for pair in built.manifest.duplicates]
    assert pairs == [(TRAINVAL, TEST, "exact")]
    assert built.manifest.duplicate_pairs == {"exact": 1, "near": 0, "leak": 1}

    files = write_report(built.manifest, raw_store=built.store, store=built.store)
    page = built.store.get(files.report).decode()
    section = page[page.index('id="duplicates"') : page.index('id="sources"')]
    plain = section.replace("<wbr>", "")
    assert TRAINVAL in plain
    assert TEST in plain
    assert "1 exact and 0 near pairs" in built.store.get(files.data_card).decode()


def test_leaks_above_the_limit_publish_nothing(leaky: SampleArchives, pets: Pets, tmp_path: Path) -> None:
    run = pets(*archives(leaky), "--store", str(tmp_path), "--max-leaks", "0")
    assert run.status == 1
    assert "leakage" in run.error
    assert TRAINVAL in run.error
    assert TEST in run.error
    assert not list(tmp_path.rglob("manifest.json"))
