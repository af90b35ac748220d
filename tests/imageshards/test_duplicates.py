"""Duplicates: which changes to a picture its hash survives, that the search misses no pair, and what is reported."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from imageshards import duplicates
from imageshards.duplicates import (
    MAX_DISTANCE,
    Duplicate,
    Hashed,
    find_duplicates,
    perceptual_hash,
    reach,
)
from imageshards.hash_search import MAX_NEARLY_EQUAL
from imageshards.sample import SampleSpec, draw_image, plan_sample
from tests.imageshards.pictures import noise, smooth

SPEC = SampleSpec(per_class=2, faults=False, median_long_side_px=240)


def reencoded(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, fraction: float) -> Image.Image:
    x, y = (round(side * fraction / 2) for side in picture.size)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def brightened(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 95": lambda picture: reencoded(picture, 95),
    "JPEG quality 50": lambda picture: reencoded(picture, 50),
    "60 % of the size": lambda picture: resized(picture, 0.6),
    "2 % cropped": lambda picture: cropped(picture, 0.02),
    "4 % cropped": lambda picture: cropped(picture, 0.04),
    "10 % darker": lambda picture: brightened(picture, 0.9),
    "10 % brighter": lambda picture: brightened(picture, 1.1),
    "gray": lambda picture: picture.convert("L").convert("RGB"),
    "all at once": lambda picture: reencoded(brightened(cropped(resized(picture, 0.6), 0.02), 1.1), 75),
}


@pytest.fixture(scope="module")
def pets() -> list[Image.Image]:
    """One drawn pet of each of the 37 breeds."""
    return [draw_image(image, SPEC).image for image in plan_sample(SPEC)[::2]]


def distance(one: np.ndarray | Image.Image, other: np.ndarray | Image.Image) -> int:
    return (perceptual_hash(np.asarray(one)) ^ perceptual_hash(np.asarray(other))).bit_count()


def hashed(name: str, split: str, value: int, source_key: str | None = None) -> Hashed:
    """An image whose file is like no other."""
    return Hashed(name, split, value, source_key or name, f"digest of {name}")


def found_among(
    images: Sequence[Hashed], read_pixels: Callable[[str], np.ndarray | None], max_distance: int = MAX_DISTANCE
) -> list[Duplicate]:
    hashes = np.array([image.perceptual_hash for image in images], np.uint64)
    described = lambda positions: [images[position] for position in positions]  # noqa: E731
    return list(find_duplicates(hashes, described, read_pixels, max_distance=max_distance))


def reported(*pixels: np.ndarray | Image.Image, max_distance: int = MAX_DISTANCE) -> list[Duplicate]:
    """The duplicates among images named 0, 1, 2, … of one split."""
    arrays = {str(number): np.asarray(image) for number, image in enumerate(pixels)}
    images = [hashed(name, "trainval", perceptual_hash(array)) for name, array in arrays.items()]
    return found_among(images, arrays.get, max_distance)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found(pets: list[Image.Image], change: str) -> None:
    found = [reported(pet, CHANGES[change](pet)) for pet in pets]
    assert all(pair and pair[0].distance <= MAX_DISTANCE for pair in found)


def test_a_crop_of_one_corner_is_found_more_often_than_not(pets: list[Image.Image]) -> None:
    found = [reported(pet, pet.crop((pet.width // 25, pet.height // 25, *pet.size))) for pet in pets]
    assert sum(map(len, found)) > 0.6 * len(pets)


def test_a_mirrored_picture_is_not_found(pets: list[Image.Image]) -> None:
    assert not any(reported(pet, pet.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for pet in pets)


@pytest.mark.sample
def test_real_photographs_are_found_when_changed_and_told_apart_otherwise(shared_sample: Path) -> None:
    photographs: dict[str, np.ndarray] = {}
    with tarfile.open(shared_sample / "images.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".jpg") and "beagle_10." not in member.name:  # the truncated one
                file = archive.extractfile(member)
                assert file is not None
                photographs[Path(member.name).stem] = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
    images = [hashed(name, "trainval", perceptual_hash(pixels)) for name, pixels in photographs.items()]
    planted = sorted((pair.first, pair.second) for pair in found_among(images, photographs.get))
    assert planted == [
        ("Egyptian_Mau_136", "Egyptian_Mau_901"),
        ("Egyptian_Mau_138", "Egyptian_Mau_902"),
        ("staffordshire_bull_terrier_103", "staffordshire_bull_terrier_902"),
    ]
    changed = [reported(pixels, CHANGES["all at once"](Image.fromarray(pixels))) for pixels in photographs.values()]
    assert all(changed)


def test_the_hash_is_the_same_on_every_machine() -> None:
    row, column = np.mgrid[:375, :500]
    ramps = np.stack([row * row // 560, column // 2, (row * column) % 251], axis=2).astype(np.uint8)
    assert f"{perceptual_hash(ramps):016x}" == "a82eaf0aed02af35"
    assert f"{perceptual_hash(ramps[:7, :3]):016x}" == "a441004100410084"


@given(width=st.integers(1, 200), height=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_hash_is_what_whole_numbers_without_rounding_give(width: int, height: int, seed: int) -> None:
    pixels = noise((width, height), seed)
    assume(width * height > 1)
    grid, sides = range(96), (height, width)
    lines, columns = ([(2 * i + 1) * side // 192 for i in grid] for side in sides)
    gray = (pixels[lines][:, columns].astype(object) * [299, 587, 114]).sum(axis=2)
    basis = np.array([[round(1024 * np.cos(np.pi * k * (2 * n + 1) / 192)) for n in grid] for k in range(8)], object)
    spectrum = (basis @ gray @ basis.T).ravel()
    below, above = sorted(spectrum)[31:33]
    assert perceptual_hash(pixels) == int("".join(str(int(2 * value > below + above)) for value in spectrum), 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 20_000), (20_000, 1), (3, 5000), (2, 2), (97, 95)])
def test_images_of_any_shape_have_a_hash_of_64_bits(shape: tuple[int, int]) -> None:
    pixels = noise(shape, seed=1)
    assert 0 <= perceptual_hash(pixels) < 2**64
    assert [pair.kind for pair in reported(pixels, pixels.copy())] == ["exact"]


def test_views_and_read_only_arrays_hash_like_their_copies() -> None:
    pixels = smooth((400, 300))
    view = pixels[::2, ::-1]
    view.flags.writeable = False
    assert perceptual_hash(view) == perceptual_hash(view.copy())
    assert [pair.kind for pair in reported(view, view.copy())] == ["exact"]


def flat(color: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> np.ndarray:
    return np.full((size[1], size[0], 3), color, np.uint8)


def test_flat_images_are_duplicates_only_in_nearly_the_same_color() -> None:
    assert [pair.kind for pair in reported(flat((9, 99, 200)), flat((9, 99, 200)))] == ["exact"]
    assert [pair.kind for pair in reported(flat((9, 99, 200)), flat((10, 98, 201)))] == ["near"]
    assert [pair.kind for pair in reported(flat((9, 99, 200)), flat((9, 99, 200), (41, 30)))] == ["near"]
    assert reported(flat((0, 0, 0)), flat((255, 255, 255)), flat((255, 0, 0)), flat((76, 76, 76))) == []


def test_equal_pixels_are_exact_and_one_changed_pixel_makes_them_near() -> None:
    pixels = smooth((120, 90))
    touched = pixels.copy()
    touched[10, 10] ^= 1
    assert [(pair.first, pair.second, pair.kind) for pair in reported(pixels, touched, pixels.copy())] == [
        ("0", "1", "near"),
        ("0", "2", "exact"),
        ("1", "2", "near"),
    ]


def test_equal_bytes_of_another_shape_are_not_exact() -> None:
    assert [pair.kind for pair in reported(flat((7, 7, 7), (30, 40)), flat((7, 7, 7), (40, 30)))] == ["near"]


def test_hashes_that_agree_by_chance_are_dismissed_by_the_pixels() -> None:
    pictures = {str(seed): smooth((120, 90), seed) for seed in range(12)}
    images = [hashed(name, "test", 42) for name in pictures]
    assert found_among(images, pictures.get) == []


def test_images_that_cannot_be_read_again_are_near_by_their_hash() -> None:
    images = [
        hashed("a", "test", 0b0111),
        hashed("b", "trainval", 0b0001),
        hashed("c", "test", 2**64 - 1),
    ]
    assert found_among(images, lambda _: None) == [Duplicate("a", "b", "test", "trainval", "near", 2)]


def test_candidates_alone_are_read_once_each_by_their_source_key() -> None:
    pixels = smooth((120, 90))
    read: list[str] = []

    def read_pixels(source_key: str) -> np.ndarray:
        read.append(source_key)
        return pixels

    images = [hashed(name, "test", 42, f"raw/{name}.jpg") for name in "abc"]
    assert len(found_among([*images, hashed("d", "test", 2**64 - 1, "raw/d.jpg")], read_pixels)) == 3
    assert sorted(read) == ["raw/a.jpg", "raw/b.jpg", "raw/c.jpg"]


PICTURES = {f"{name}_{number}": smooth((64, 48), seed) for seed, name in enumerate("ab") for number in (2, 10, 9)}
IMAGES = [
    hashed(name, ("test", "trainval")[number % 2], perceptual_hash(pixels))
    for number, (name, pixels) in enumerate(PICTURES.items())
]


@given(images=st.permutations(IMAGES))
def test_the_same_pairs_are_found_whatever_the_order_of_images(images: list[Hashed]) -> None:
    names = sorted((pair.first, pair.second) for pair in found_among(images, PICTURES.get))
    assert names == [
        (f"{name}_{one}", f"{name}_{other}") for name in "ab" for one, other in (("10", "2"), ("10", "9"), ("2", "9"))
    ]


def test_images_are_described_that_are_candidates_and_no_others() -> None:
    images = [*IMAGES, hashed("c", "test", 0)]
    asked: list[int] = []

    def describe(positions: np.ndarray) -> list[Hashed]:
        asked.extend(positions.tolist())
        return [images[position] for position in positions]

    hashes = np.array([image.perceptual_hash for image in images], np.uint64)
    assert len(list(find_duplicates(hashes, describe, PICTURES.get))) == 6
    assert asked == list(range(6))


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_pairs_are_the_same_in_whatever_portions(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    expected = found_among(IMAGES, PICTURES.get)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", at_once)
    assert found_among(IMAGES, PICTURES.get) == expected


def test_the_same_file_twice_is_exact_and_not_read() -> None:
    images = [Hashed(name, "test", 42, f"raw/{name}.jpg", "one digest") for name in "ab"]

    def read_pixels(source_key: str) -> np.ndarray:
        pytest.fail(f"{source_key} was read")

    assert found_among(images, read_pixels) == [Duplicate("a", "b", "test", "test", "exact", 0)]


def test_a_search_among_very_many_is_for_equal_hashes_alone() -> None:
    assert reach(MAX_NEARLY_EQUAL) == MAX_DISTANCE
    assert reach(MAX_NEARLY_EQUAL + 1) == 0


def test_no_images_have_no_duplicates() -> None:
    assert found_among([], lambda _: None) == []


def test_the_module_loads_neither_torch_nor_opencv_nor_an_orchestrator() -> None:
    program = (
        "import sys, imageshards.duplicates; "
        "sys.exit(' '.join({'torch', 'cv2', 'ray', 'prefect', 'PIL'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr.strip()
        == ""
    )
