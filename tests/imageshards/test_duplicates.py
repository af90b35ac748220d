"""Duplicates: which changes to a picture its hash survives, that the search misses no pair, and what is reported."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from imageshards import duplicates
from imageshards.duplicates import (
    LONGEST_DISTANCE,
    MAX_DISTANCE,
    Duplicate,
    Hashed,
    find_duplicates,
    find_near,
    leaks,
    perceptual_hash,
)
from imageshards.errors import ConfigError
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


def reported(*pixels: np.ndarray | Image.Image, max_distance: int = MAX_DISTANCE) -> list[Duplicate]:
    """The duplicates among images named 0, 1, 2, … of one split."""
    arrays = {str(number): np.asarray(image) for number, image in enumerate(pixels)}
    images = [Hashed(name, "trainval", perceptual_hash(array), name) for name, array in arrays.items()]
    return find_duplicates(images, arrays.get, max_distance=max_distance)


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
    images = [Hashed(name, "trainval", perceptual_hash(pixels), name) for name, pixels in photographs.items()]
    planted = [(pair.first, pair.second) for pair in find_duplicates(images, photographs.get)]
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


def brute_force(hashes: np.ndarray, max_distance: int) -> list[list[int]]:
    far = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    return [[int(i), int(j)] for i, j in np.argwhere(far <= max_distance) if i < j]


@st.composite
def crowded_hashes(draw: st.DrawFn) -> np.ndarray:
    """Hashes around a few centers, so that every distance occurs."""
    centers = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = st.sets(st.integers(0, 63), max_size=LONGEST_DISTANCE)
    members = draw(st.lists(st.tuples(st.sampled_from(centers), flips), max_size=60))
    return np.array([center ^ sum(1 << bit for bit in bits) for center, bits in members], np.uint64)


def has_no_crowd(hashes: np.ndarray) -> bool:
    return np.unique(hashes, return_counts=True)[1].max(initial=0) <= 16


@given(hashes=crowded_hashes().filter(has_no_crowd), max_distance=st.integers(0, LONGEST_DISTANCE))
@example(hashes=np.array([], np.uint64), max_distance=3)
@example(hashes=np.array([7], np.uint64), max_distance=3)
@example(hashes=np.array([0, 2**64 - 1, 0], np.uint64), max_distance=0)
@settings(deadline=None)
def test_the_search_finds_what_brute_force_finds(hashes: np.ndarray, max_distance: int) -> None:
    assert find_near(hashes, max_distance).tolist() == brute_force(hashes, max_distance)


@pytest.mark.parametrize("agreeing", [1, 2, 3, 4])
@pytest.mark.parametrize("max_distance", [0, 5, 10])
def test_the_search_is_exact_however_many_bands_have_to_agree(
    monkeypatch: pytest.MonkeyPatch, agreeing: int, max_distance: int
) -> None:
    monkeypatch.setattr(duplicates, "_agreeing_bands", lambda *_: agreeing)
    rng = np.random.default_rng(0)
    centers = rng.integers(0, 2**64, 40, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (400, 7), dtype=np.uint64), axis=1)
    hashes = np.repeat(centers, 10) ^ flips
    expected = brute_force(hashes, max_distance)
    assert len(expected) > (0 if max_distance else -1)
    assert find_near(hashes, max_distance).tolist() == expected


def test_the_search_finds_every_planted_pair_among_many() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 60_000, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (500, MAX_DISTANCE), dtype=np.uint64), axis=1)
    hashes[-500:] = hashes[:500] ^ flips
    found = find_near(hashes, MAX_DISTANCE)
    assert {(i, 59_500 + i) for i in range(500)} <= set(map(tuple, found.tolist()))
    assert np.bitwise_count(hashes[found[:, 0]] ^ hashes[found[:, 1]]).max() <= MAX_DISTANCE
    assert (np.diff(found[:, 0] * 60_000 + found[:, 1]) > 0).all()


def test_sixteen_equal_hashes_give_all_their_pairs() -> None:
    assert len(find_near(np.full(16, 5, np.uint64), 0)) == 16 * 15 // 2


def test_more_than_sixteen_equal_hashes_are_paired_with_their_first_alone() -> None:
    hashes = np.array([3, *[5] * 17, 2**60, 4], np.uint64)
    assert find_near(hashes, 1).tolist() == [*([1, other] for other in range(2, 18)), [1, 19]]


def test_a_huge_group_of_equal_hashes_gives_no_more_pairs_than_members() -> None:
    found = find_near(np.full(300_000, 5, np.uint64), MAX_DISTANCE)
    assert len(found) == 299_999
    assert (found[:, 0] == 0).all()


def test_too_many_near_pairs_are_refused_with_what_to_do() -> None:
    alike = np.random.default_rng(0).integers(0, 2**20, 50_000, dtype=np.uint64)
    with pytest.raises(ConfigError, match="set a smaller one"):
        find_near(alike, MAX_DISTANCE)


@pytest.mark.parametrize("max_distance", [-1, LONGEST_DISTANCE + 1])
def test_a_distance_out_of_range_is_refused(max_distance: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 16"):
        find_near(np.zeros(2, np.uint64), max_distance)


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
    images = [Hashed(name, "test", 42, name) for name in pictures]
    assert find_duplicates(images, pictures.get) == []


def test_images_that_cannot_be_read_again_are_near_by_their_hash() -> None:
    images = [
        Hashed("a", "test", 0b0111, "a"),
        Hashed("b", "trainval", 0b0001, "b"),
        Hashed("c", "test", 2**64 - 1, "c"),
    ]
    assert find_duplicates(images, lambda _: None) == [Duplicate("a", "b", "test", "trainval", "near", 2)]


def test_candidates_alone_are_read_once_each_by_their_source_key() -> None:
    pixels = smooth((120, 90))
    read: list[str] = []

    def read_pixels(source_key: str) -> np.ndarray:
        read.append(source_key)
        return pixels

    images = [Hashed(name, "test", 42, f"raw/{name}.jpg") for name in "abc"]
    assert len(find_duplicates([*images, Hashed("d", "test", 2**64 - 1, "raw/d.jpg")], read_pixels)) == 3
    assert sorted(read) == ["raw/a.jpg", "raw/b.jpg", "raw/c.jpg"]


PICTURES = {f"{name}_{number}": smooth((64, 48), seed) for seed, name in enumerate("ab") for number in (2, 10, 9)}
IMAGES = [
    Hashed(name, ("test", "trainval")[number % 2], perceptual_hash(pixels), name)
    for number, (name, pixels) in enumerate(PICTURES.items())
]


@given(images=st.permutations(IMAGES))
def test_pairs_are_ordered_by_name_whatever_the_order_of_images(images: list[Hashed]) -> None:
    names = [(pair.first, pair.second) for pair in find_duplicates(images, PICTURES.get)]
    assert names == [
        (f"{name}_{one}", f"{name}_{other}") for name in "ab" for one, other in (("10", "2"), ("10", "9"), ("2", "9"))
    ]


def test_leaks_are_the_pairs_across_splits() -> None:
    found = find_duplicates(IMAGES, PICTURES.get)
    across = leaks(found)
    assert {(pair.first, pair.second) for pair in across} == {
        ("a_10", "a_2"),
        ("a_10", "a_9"),
        ("b_10", "b_2"),
        ("b_10", "b_9"),
    }
    assert [pair for pair in found if pair not in across] == [
        Duplicate("a_2", "a_9", "test", "test", "exact", 0),
        Duplicate("b_2", "b_9", "trainval", "trainval", "exact", 0),
    ]


def test_no_images_have_no_duplicates() -> None:
    assert find_duplicates([], lambda _: None) == []


def test_the_module_loads_neither_torch_nor_opencv_nor_an_orchestrator() -> None:
    program = (
        "import sys, imageshards.duplicates; "
        "sys.exit(' '.join({'torch', 'cv2', 'ray', 'prefect', 'PIL'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr.strip()
        == ""
    )
