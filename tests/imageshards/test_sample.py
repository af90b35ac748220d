"""The drawn sample: the same bytes every time, the layout of the original, and each fault really that fault."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from imageshards.errors import ConfigError, StoreError
from imageshards.sample import SampleArchives, SampleSpec, draw_image, main, plan_sample, write_sample
from imageshards.sample_files import Fault

TINY = SampleSpec(per_class=2, median_long_side_px=60)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleArchives:
    return write_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def photographs(sample: SampleArchives) -> dict[str, bytes]:
    return {
        Path(name).stem: content
        for name, content in read_members(sample.images).items()
        if name.startswith("images/") and name.endswith(".jpg")
    }


@pytest.fixture(scope="module")
def annotations(sample: SampleArchives) -> dict[str, bytes]:
    return read_members(sample.annotations)


@pytest.fixture(scope="module")
def trimaps(annotations: dict[str, bytes]) -> dict[str, Image.Image]:
    return {
        Path(name).stem: Image.open(io.BytesIO(content))
        for name, content in annotations.items()
        if name.startswith("annotations/trimaps/") and "/._" not in name
    }


@pytest.fixture(scope="module")
def boxes(annotations: dict[str, bytes]) -> dict[str, ET.Element]:
    return {Path(name).stem: ET.fromstring(content) for name, content in annotations.items() if name.endswith(".xml")}


def read_members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def id_of(sample: SampleArchives, fault: Fault) -> str:
    return next(image_id for image_id, text in sample.expected["odd_files"].items() if text == fault)


def parse_list(content: bytes) -> list[tuple[str, int, int, int]]:
    rows = [line.split(" ") for line in content.decode().splitlines() if not line.startswith("#")]
    return [(image_id, int(class_id), int(species), int(breed)) for image_id, class_id, species, breed in rows]


def corners(box: ET.Element) -> tuple[int, int, int, int]:
    return tuple(int(box.findtext(f"object/bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))


def digests_of(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


# The same bytes, every time


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for name, hash_seed in (("first", "1"), ("second", "2")):
        command = [sys.executable, "-m", "imageshards.sample", str(tmp_path / name), "--per-class", "2"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": f"UTC{hash_seed}"})
    written = digests_of(tmp_path / "first")
    assert written == digests_of(tmp_path / "second")
    assert sorted(written) == ["annotations.tar.gz", "expected.json", "images.tar.gz"]


def test_no_time_and_no_owner_goes_into_an_archive(sample: SampleArchives) -> None:
    for archive in (sample.images, sample.annotations):
        assert archive.read_bytes()[3:8] == bytes(5)  # gzip: no name, no time (RFC 1952, 2.3)
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
        assert len({member.mtime for member in members}) == 1
        assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}


def test_another_seed_draws_other_pictures_under_the_same_names(tmp_path: Path) -> None:
    first = write_sample(tmp_path / "0", TINY)
    second = write_sample(tmp_path / "1", SampleSpec(per_class=2, median_long_side_px=60, seed=1))
    one, other = read_members(first.images), read_members(second.images)
    assert list(one) == list(other)
    assert not any(one[name] == other[name] for name in one if name.endswith(".jpg"))


def test_every_picture_is_another_one(photographs: dict[str, bytes]) -> None:
    assert len(set(photographs.values())) == len(photographs)


# Nothing is done twice


def test_a_sample_that_is_there_is_left_alone(tmp_path: Path) -> None:
    first = write_sample(tmp_path, TINY)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = write_sample(tmp_path, TINY)
    assert (first.written, second.written) == (True, False)
    assert second.expected == first.expected
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["images.tar.gz", "annotations.tar.gz", "expected.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_missing_or_damaged_file_is_written_anew(tmp_path: Path, name: str, content: bytes | None) -> None:
    write_sample(tmp_path, TINY)
    before = digests_of(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    assert write_sample(tmp_path, TINY).written
    assert digests_of(tmp_path) == before


def test_another_spec_replaces_the_sample(tmp_path: Path) -> None:
    write_sample(tmp_path, TINY)
    replaced = write_sample(tmp_path, SampleSpec(per_class=4, median_long_side_px=60))
    assert replaced.written
    assert replaced.expected["listed"] == 37 * 4
    assert json.loads(replaced.expected_path.read_text()) == replaced.expected


# The layout of the original


def test_counts_are_those_of_expected_json(
    sample: SampleArchives, photographs: dict[str, bytes], annotations: dict[str, bytes]
) -> None:
    expected = json.loads(sample.expected_path.read_text())
    assert expected == sample.expected
    assert expected["images_sha256"] == hashlib.sha256(sample.images.read_bytes()).hexdigest()
    assert expected["annotations_sha256"] == hashlib.sha256(sample.annotations.read_bytes()).hexdigest()
    assert len(photographs) == expected["jpg_members"] == 225
    for split, count in (("list", "listed"), ("trainval", "trainval"), ("test", "test")):
        assert len(parse_list(annotations[f"annotations/{split}.txt"])) == expected[count]
    assert (expected["listed"], expected["trainval"], expected["test"]) == (222, 111, 111)
    assert (expected["classes"], expected["cat_classes"], expected["dog_classes"]) == (37, 12, 25)


def test_list_txt_has_six_comments_then_every_listed_image_once(annotations: dict[str, bytes]) -> None:
    lines = annotations["annotations/list.txt"].decode().splitlines()
    assert [line.startswith("#") for line in lines] == [True] * 6 + [False] * 222
    rows = parse_list(annotations["annotations/list.txt"])
    trainval = parse_list(annotations["annotations/trainval.txt"])
    test = parse_list(annotations["annotations/test.txt"])
    assert Counter(rows) == Counter(trainval) + Counter(test)
    assert max(Counter(rows).values()) == 1
    for split in (trainval, test):
        assert set(Counter(class_id for _, class_id, _, _ in split).values()) == {3}


def test_class_ids_are_alphabetical_and_capitals_are_cats(annotations: dict[str, bytes]) -> None:
    classes: dict[str, tuple[int, int, int]] = {}
    for image_id, *numbers in parse_list(annotations["annotations/list.txt"]):
        assert classes.setdefault(image_id.rpartition("_")[0], tuple(numbers)) == tuple(numbers)
    ordered = sorted(classes, key=str.lower)
    assert [classes[name][0] for name in ordered] == list(range(1, 38))
    for species, capital, count in ((1, True, 12), (2, False, 25)):
        breeds = [classes[name] for name in ordered if name[0].isupper() == capital]
        assert [breed_id for _, _, breed_id in breeds] == list(range(1, count + 1))
        assert {found for _, found, _ in breeds} == {species}


def test_stray_files_are_those_of_the_original(
    sample: SampleArchives, annotations: dict[str, bytes], trimaps: dict[str, Image.Image]
) -> None:
    stray = [name for name in read_members(sample.images) if not name.endswith(".jpg")]
    assert stray == [f"images/Abyssinian_{number}.mat" for number in (100, 101, 102)]
    macos = {name for name in annotations if Path(name).name.startswith("._")}
    assert macos == {"annotations/._trimaps", *(f"annotations/trimaps/._{image_id}.png" for image_id in trimaps)}
    with tarfile.open(sample.annotations) as tar:
        folders = [member.name for member in tar if member.isdir()]
    assert folders == ["annotations", "annotations/trimaps", "annotations/xmls"]


def test_sizes_vary_as_those_of_photographs_do(trimaps: dict[str, Image.Image]) -> None:
    widths, heights = np.array([trimap.size for trimap in trimaps.values()]).T
    assert 350 <= widths.mean() <= 450
    assert 300 <= heights.mean() <= 400
    assert min(widths.min(), heights.min()) >= 140
    assert max(widths.max(), heights.max()) <= 650
    assert 0.15 < (heights > widths).mean() < 0.45


# Annotations fit what is drawn


def test_every_trimap_fits_its_image_and_holds_1_2_3(
    sample: SampleArchives, photographs: dict[str, bytes], trimaps: dict[str, Image.Image]
) -> None:
    assert set(trimaps) == set(photographs)
    for image_id, trimap in trimaps.items():
        width, height = Image.open(io.BytesIO(photographs[image_id])).size
        upright = (height, width) if image_id == id_of(sample, Fault.ROTATED) else (width, height)
        assert (trimap.format, trimap.mode, trimap.size) == ("PNG", "L", upright)
        values = set(np.unique(np.asarray(trimap)).tolist())
        assert values == ({2} if image_id in sample.expected["empty_trimaps"] else {1, 2, 3})


def test_the_border_lies_between_pet_and_background(trimaps: dict[str, Image.Image]) -> None:
    for trimap in trimaps.values():
        values = np.asarray(trimap)
        for one, next_to_it in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1])):
            assert not (one * next_to_it == 2).any()  # 1 beside 2


def test_exactly_the_trainval_images_have_boxes_but_two(
    sample: SampleArchives, annotations: dict[str, bytes], boxes: dict[str, ET.Element]
) -> None:
    trainval = {image_id for image_id, *_ in parse_list(annotations["annotations/trainval.txt"])}
    without = set(sample.expected["trainval_without_box"])
    assert len(without) == 2
    assert without < trainval
    assert set(boxes) == trainval - without


def test_every_box_lies_inside_its_image_and_on_the_pet(
    sample: SampleArchives, boxes: dict[str, ET.Element], trimaps: dict[str, Image.Image]
) -> None:
    for image_id, box in boxes.items():
        xmin, ymin, xmax, ymax = corners(box)
        width, height = trimaps[image_id].size
        assert (int(box.findtext("size/width")), int(box.findtext("size/height"))) == (width, height)
        assert 1 <= xmin < xmax <= width
        assert 1 <= ymin < ymax <= height
        assert box.findtext("filename") == f"{image_id}.jpg"
        assert box.findtext("object/name") == ("cat" if image_id[0].isupper() else "dog")
        inside = np.asarray(trimaps[image_id])[ymin - 1 : ymax, xmin - 1 : xmax]
        if image_id not in sample.expected["empty_trimaps"]:
            assert (inside == 1).mean() > 0.4, image_id
            assert (inside != 2).mean() > 0.55, image_id


# Each fault is that fault


def test_every_kind_of_fault_is_there_and_named(sample: SampleArchives) -> None:
    assert Counter(sample.expected["odd_files"].values()) == Counter(list(Fault)) + Counter([Fault.GIF])
    assert len(sample.expected["empty_trimaps"]) == 1
    assert len(sample.expected["unlisted"]) == 3


@pytest.mark.parametrize(
    ("fault", "file_format", "mode"),
    [
        (Fault.PNG_ALPHA, "PNG", "RGBA"),
        (Fault.PNG, "PNG", "RGB"),
        (Fault.GIF, "GIF", "P"),
        (Fault.CMYK, "JPEG", "CMYK"),
        (Fault.GRAY, "JPEG", "L"),
    ],
)
def test_a_file_is_of_another_kind_than_its_name_says(
    sample: SampleArchives, photographs: dict[str, bytes], fault: Fault, file_format: str, mode: str
) -> None:
    for image_id, text in sample.expected["odd_files"].items():
        if text == fault:
            image = Image.open(io.BytesIO(photographs[image_id]))
            image.load()
            assert (image.format, image.mode) == (file_format, mode)


def test_plain_files_are_rgb_jpegs_that_decode_strictly(sample: SampleArchives, photographs: dict[str, bytes]) -> None:
    for image_id in photographs.keys() - sample.expected["odd_files"].keys():
        image = Image.open(io.BytesIO(photographs[image_id]))
        assert (image.format, image.mode, image.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
        assert simplejpeg.decode_jpeg(photographs[image_id], strict=True).shape == (image.height, image.width, 3)


def test_the_alpha_channel_makes_corners_transparent(sample: SampleArchives, photographs: dict[str, bytes]) -> None:
    alpha = Image.open(io.BytesIO(photographs[id_of(sample, Fault.PNG_ALPHA)])).getchannel("A")
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((alpha.width // 2, alpha.height // 2)) == 255


def test_the_truncated_jpeg_ends_too_early_for_both_decoders(
    sample: SampleArchives, photographs: dict[str, bytes]
) -> None:
    content = photographs[id_of(sample, Fault.TRUNCATED)]
    with pytest.raises(ValueError, match="Premature end"):
        simplejpeg.decode_jpeg(content, strict=True)
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(content)).load()


def test_the_extraneous_bytes_are_seen_and_cost_no_pixel(sample: SampleArchives, photographs: dict[str, bytes]) -> None:
    content = photographs[id_of(sample, Fault.EXTRANEOUS)]
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(content, strict=True)
    whole = content[:-242] + content[-2:]
    lenient = simplejpeg.decode_jpeg(content, strict=False)
    assert np.array_equal(lenient, simplejpeg.decode_jpeg(whole, strict=True))


def test_no_file_but_the_truncated_one_fails_to_load(sample: SampleArchives, photographs: dict[str, bytes]) -> None:
    unusable = set()
    for image_id, content in photographs.items():
        try:
            Image.open(io.BytesIO(content)).convert("RGB")
        except OSError:
            unusable.add(image_id)
    assert unusable == {id_of(sample, Fault.TRUNCATED)}


def test_the_rotated_image_lies_on_its_side_until_exif_is_heeded(
    sample: SampleArchives, photographs: dict[str, bytes], trimaps: dict[str, Image.Image]
) -> None:
    image_id = id_of(sample, Fault.ROTATED)
    stored = Image.open(io.BytesIO(photographs[image_id]))
    assert stored.getexif()[0x0112] == 6
    assert stored.size == trimaps[image_id].size[::-1]
    assert stored.width != stored.height
    drawn = draw_image(next(image for image in plan_sample(SampleSpec()) if image.image_id == image_id), SampleSpec())
    upright = np.asarray(ImageOps.exif_transpose(stored), dtype=float)
    assert np.abs(upright - np.asarray(drawn.image, dtype=float)).mean() < 6
    assert np.abs(np.flipud(upright) - np.asarray(drawn.image, dtype=float)).mean() > 12


def test_about_a_third_of_the_files_carry_an_icc_profile(photographs: dict[str, bytes]) -> None:
    profiles = [Image.open(io.BytesIO(content)).info.get("icc_profile") for content in photographs.values()]
    carried = [profile for profile in profiles if profile]
    assert 60 <= len(carried) <= 80
    for profile in set(carried):
        assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


def test_without_faults_nothing_is_odd_or_missing(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, SampleSpec(per_class=2, median_long_side_px=60, faults=False))
    for key in ("odd_files", "unlisted", "empty_trimaps", "trainval_without_box"):
        assert not sample.expected[key]
    assert sample.expected["jpg_members"] == sample.expected["listed"] == 74
    for name, content in read_members(sample.images).items():
        if name.endswith(".jpg"):
            simplejpeg.decode_jpeg(content, strict=True)


# Its edges


@pytest.mark.parametrize(
    "wrong",
    [{"per_class": 3}, {"per_class": 0}, {"per_class": 802}, {"seed": -1}, {"median_long_side_px": 10}],
)
def test_an_impossible_spec_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SampleSpec(**wrong)


def test_no_two_images_of_the_largest_sample_share_a_name() -> None:
    planned = plan_sample(SampleSpec(per_class=800))
    assert len({image.image_id for image in planned}) == len(planned) == 37 * 800 + 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=str(tmp_path / "file" / "below")):
        write_sample(tmp_path / "file" / "below", TINY)


def test_the_command_says_where_the_files_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for written in (True, False):
        assert main([str(tmp_path), "--per-class", "2", "--no-faults", "--seed", "3"]) == 0
        line = json.loads(capsys.readouterr().out)
        assert line["written"] is written
        assert {Path(line[key]).parent for key in ("images", "annotations", "expected")} == {tmp_path}
    assert json.loads(Path(line["expected"]).read_text())["drawn"]["seed"] == 3


def test_the_command_fails_with_its_own_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file")]) == 1
    assert main([str(tmp_path / "new"), "--per-class", "5"]) == 2
    assert "per_class" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_importing_it_brings_in_neither_prefect_nor_ray_nor_torch() -> None:
    program = "import sys, imageshards.sample; print({'prefect', 'ray', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"
