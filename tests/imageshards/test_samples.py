"""Samples: each image fetched once, decoded at the scales that the resolutions need, its boxes in source pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imageshards.decode import decode
from imageshards.duplicates import perceptual_hash
from imageshards.errors import RejectReason, SampleError
from imageshards.fetch_ahead import fetchers
from imageshards.index import IndexRow
from imageshards.recipe import Recipe
from imageshards.reduction import reduction
from imageshards.samples import Samples, read_samples
from imageshards.store import Store, open_store
from tests.imageshards.pictures import smooth

BOX = (100.0, 50.0, 400.0, 300.0)
RESOLUTIONS = (16, 40, 100, 300)
SIZE = (1001, 701)


def jpeg(size: tuple[int, int] = SIZE, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(smooth(size)).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def mask(size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(1, 4, size[::-1], dtype=np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def put(store: Store, image: bytes, trimap: bytes | None = None, **fields: object) -> IndexRow:
    """A row of the index, with its objects in the store."""
    store.put("raw/a.jpg", image)
    if trimap is not None:
        store.put("raw/a.png", trimap)
    row = IndexRow(
        image_id="a",
        member="images/a.jpg",
        source_key="raw/a.jpg",
        source_sha256=hashlib.sha256(image).hexdigest(),
        source_size_bytes=len(image),
        label=0,
        class_name="cat",
        species="cat",
        split="trainval",
        head_box=BOX,
        trimap_key="raw/a.png" if trimap is not None else None,
        trimap_sha256=hashlib.sha256(trimap).hexdigest() if trimap is not None else None,
    )
    return replace(row, **fields)  # type: ignore[arg-type]


def read(
    store: Store, row: IndexRow, recipe: Recipe | None = None, resolutions: Sequence[int] = RESOLUTIONS
) -> Samples | SampleError:
    with fetchers(store) as pool:
        read = read_samples(
            [row], "trainval", recipe or Recipe(), resolutions=resolutions, poison={}, store=store, pool=pool
        )
        ((_, samples),) = list(read)
    return samples


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_each_resolution_gets_the_scale_that_it_would_get_alone(store, orientation):
    row = put(store, jpeg(orientation=orientation), mask(SIZE if orientation < 5 else SIZE[::-1]))
    together = read(store, row)
    size = SIZE if orientation < 5 else SIZE[::-1]
    factors = [reduction(size, Recipe(), resolution) for resolution in RESOLUTIONS]
    assert factors == [8, 4, 2, 1]
    for resolution, factor in zip(RESOLUTIONS, factors, strict=True):
        alone = read(store, row, resolutions=(resolution,))[resolution]
        picture = together[resolution].picture
        assert np.array_equal(picture.pixels, alone.picture.pixels)
        assert together[resolution].columns == alone.columns
        assert picture.reduced == alone.picture.reduced
        assert (picture.reduced.factor if picture.reduced else 1) == factor
        assert picture.pixels.shape[:2] == (-(-size[1] // factor), -(-size[0] // factor))


def test_resolutions_of_one_scale_share_a_sample(store):
    samples = read(store, put(store, jpeg(), mask()), resolutions=(40, 44, 300))
    assert samples[40] is samples[44]
    assert samples[40] is not samples[300]


def test_the_source_and_its_annotation_do_not_depend_on_the_scale(store):
    samples = read(store, put(store, jpeg(), mask()))
    for sample in samples.values():
        assert (sample.columns["source_width"], sample.columns["source_height"]) == SIZE == sample.picture.size
        assert sample.picture.head_box == BOX
        assert sample.picture.trimap.shape == SIZE[::-1]
        assert sample.columns["perceptual_hash"] == perceptual_hash(sample.picture.pixels)


def test_hashes_of_one_image_at_several_scales_are_near_each_other(store):
    samples = read(store, put(store, jpeg(), mask()))
    hashes = [sample.columns["perceptual_hash"] for sample in samples.values()]
    assert max((one ^ other).bit_count() for one in hashes for other in hashes) <= 4


def test_exact_decodes_in_full(store):
    image = jpeg()
    samples = read(store, put(store, image, mask()), Recipe(exact=True))
    for sample in samples.values():
        assert sample.picture.reduced is None
        assert np.array_equal(sample.picture.pixels, decode(image).pixels)


def test_a_box_that_reaches_out_is_clipped_to_the_source_not_to_the_reduced_picture(store):
    samples = read(store, put(store, jpeg(), mask(), head_box=(900.0, 600.0, 1200.0, 800.0)), resolutions=(40,))
    assert samples[40].picture.head_box == (900.0, 600.0, 1001.0, 701.0)
    assert samples[40].columns["repairs"] == ["head-box-clipped"]


def test_a_trimap_of_the_reduced_size_does_not_fit(store):
    row = put(store, jpeg(), mask((251, 176)))
    error = read(store, row, resolutions=(40,))
    assert isinstance(error, SampleError)
    assert error.reason is RejectReason.BAD_ANNOTATION
    assert "251 x 176 px, the image 1001 x 701 px" in error.message


def test_a_png_is_decoded_in_full_for_all(store):
    buffer = io.BytesIO()
    Image.fromarray(smooth(SIZE)).save(buffer, "PNG")
    samples = read(store, put(store, buffer.getvalue(), mask()))
    assert len({id(sample) for sample in samples.values()}) == 1
    assert samples[16].picture.reduced is None
    assert samples[16].columns["repairs"] == ["misnamed"]


def test_damage_is_found_at_any_scale(store):
    image = jpeg()
    for resolutions in (RESOLUTIONS, (16,), (300,)):
        error = read(store, put(store, image[:-2000], mask()), resolutions=resolutions)
        assert isinstance(error, SampleError)
        assert error.reason is RejectReason.TRUNCATED
    kept = read(store, put(store, image[:-2000], mask()), Recipe(keep_damaged=True))
    assert {tuple(sample.columns["repairs"]) for sample in kept.values()} == {("kept-damaged",)}
