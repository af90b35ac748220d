from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.contenders.bare import decode_and_place, read


def png(mode: str) -> bytes:
    values = np.random.default_rng(3).integers(1, 4, (375, 500), np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.fromarray(values, "L").convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_trimap_becomes_a_square_of_its_own_values(mode: str) -> None:
    placed = decode_and_place(png(mode))
    assert placed is not None
    assert placed.shape == (224, 224)
    assert set(np.unique(placed)) == set(np.unique(np.asarray(Image.open(io.BytesIO(png(mode))))))


@pytest.mark.parametrize("data", [b"", b"\x89PNG", png("L")[:400]])
def test_a_damaged_trimap_does_not_end_the_run(data: bytes) -> None:
    assert decode_and_place(data) is None


def test_a_photograph_gets_the_trimap_of_its_name(tmp_path: Path) -> None:
    trimaps = tmp_path / "trimaps"
    trimaps.mkdir()
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for file in files:
        file.write_bytes(b"same")
    (trimaps / "b.png").write_bytes(b"trimap")
    assert read(files, trimaps) == [(b"same", None), (b"same", b"trimap")]
    assert read(files, None) == [(b"same", None), (b"same", None)]


def test_a_folder_without_any_trimap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    command = [sys.executable, "-m", "benchmarks.contenders.bare", "--files", str(tmp_path), "--processes", "1"]
    done = subprocess.run([*command, "--trimaps", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has the name of a photograph" in done.stderr
