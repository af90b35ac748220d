from __future__ import annotations

from pathlib import Path

from benchmarks.material import Material, make_material, photographs_alone
from imageshards.index import IndexRow, index_rows, read_index
from imageshards.store import open_store


def rows_of(material: Material) -> list[IndexRow]:
    return list(index_rows(read_index(open_store(material.raw_store), material.info.key)))


def test_photographs_alone_are_the_same_images_without_trimaps(tmp_path: Path) -> None:
    material = make_material(30, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in material.files.iterdir()}
    whole, alone = rows_of(material), rows_of(photographs_alone(material))
    assert {path: path.stat().st_mtime_ns for path in material.files.iterdir()} == written
    assert [(row.source_key, row.label, row.head_box) for row in alone] == [
        (row.source_key, row.label, row.head_box) for row in whole
    ]
    assert any(row.trimap_key for row in whole)
    assert not any(row.trimap_key for row in alone)
