import io
import random
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image, ImageChops, ImageCms

from imageshards.decode import DecodePolicy, decode
from imageshards.decoded import Repair
from imageshards.errors import RejectReason, SampleError
from imageshards.formats.jpeg import MAX_SCANS

KEEP = DecodePolicy(keep_damaged=True)


def photo(width: int = 200, height: int = 152) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return Image.fromarray((np.stack([x, y, (x + y) / 2], -1) * 0.6 + noise).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def rejected(data: bytes, policy: DecodePolicy | None = None) -> str:
    with pytest.raises(SampleError) as caught:
        decode(data, policy or DecodePolicy())
    return caught.value.reason


BASELINE = encoded(photo())
PROGRESSIVE = encoded(photo(), progressive=True)
PIXELS = by_pillow(BASELINE)


def scans(data: bytes) -> list[int]:
    return [found.start() for found in re.finditer(rb"\xff\xda", data)]


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"quality": 30, "optimize": True},
        {"comment": b"\xff\xda not a scan \xff\xd9"},
    ],
)
def test_pixels_equal_those_of_pillow(options: dict[str, Any]) -> None:
    data = encoded(photo(), **options)
    decoded = decode(data)
    assert np.array_equal(decoded.pixels, by_pillow(data))
    assert (decoded.source_format, decoded.source_mode, decoded.repairs) == ("jpeg", "RGB", ())
    assert (decoded.source_width, decoded.source_height) == (200, 152)


def test_gray_becomes_three_equal_channels() -> None:
    data = encoded(photo().convert("L"))
    decoded = decode(data)
    assert np.array_equal(decoded.pixels, by_pillow(data))
    assert (decoded.source_mode, decoded.repairs) == ("L", (Repair.GRAY_TO_RGB,))


def test_a_missing_end_marker_costs_nothing() -> None:
    for missing in (1, 2):
        decoded = decode(BASELINE[:-missing])
        assert np.array_equal(decoded.pixels, PIXELS)
        assert decoded.repairs == (Repair.JPEG_WARNING,)


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_premature_end_is_rejected_unless_damage_is_kept(data: bytes, share: float) -> None:
    cut = data[: int(len(data) * share)]
    assert rejected(cut) == RejectReason.TRUNCATED
    kept = decode(cut, KEEP)
    assert kept.repairs == (Repair.KEPT_DAMAGED,)
    assert np.array_equal(kept.pixels[:8], by_pillow(data)[:8]) or data is PROGRESSIVE


def test_a_header_without_an_image_is_rejected() -> None:
    assert rejected(BASELINE[:100]) == RejectReason.TRUNCATED
    assert rejected(b"\xff\xd8\xff\xd9") == RejectReason.UNDECODABLE
    assert rejected(b"\xff\xd8\xff" + bytes(100)) == RejectReason.TRUNCATED


@pytest.mark.parametrize("junk", [bytes(240), b"\xaa" * 20_000, random.Random(1).randbytes(240).replace(b"\xff", b"")])
def test_extraneous_bytes_before_the_end_cost_nothing(junk: bytes) -> None:
    decoded = decode(BASELINE[:-2] + junk + b"\xff\xd9")
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.repairs == (Repair.JPEG_WARNING,)


def test_many_unread_bytes_that_look_like_image_data_are_a_loss() -> None:
    unread = random.Random(2).randbytes(8000).replace(b"\xff", b"")
    assert rejected(BASELINE[:-2] + unread + b"\xff\xd9") == RejectReason.TRUNCATED


def test_extraneous_bytes_between_segments_cost_nothing() -> None:
    decoded = decode(BASELINE[:20] + b"junk" + BASELINE[20:])
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.repairs == (Repair.JPEG_WARNING,)


@pytest.mark.parametrize(
    ("found", "patched"),
    [
        (b"JFIF\0\x01", b"JFIF\0\x09"),
        (b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00", b"\x03\x01\x00\x02\x11\x03\x11\x00\x3e\x00"),
    ],
    ids=["JFIF revision", "scan parameters"],
)
def test_odd_parameters_that_libjpeg_corrects_cost_nothing(found: bytes, patched: bytes) -> None:
    assert found in BASELINE
    decoded = decode(BASELINE.replace(found, patched))
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.repairs == (Repair.JPEG_WARNING,)


def test_an_unknown_adobe_transform_costs_nothing() -> None:
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x09"
    decoded = decode(BASELINE[:2] + adobe + BASELINE[20:])  # in place of JFIF's segment
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.repairs == (Repair.JPEG_WARNING,)


def test_a_harmless_warning_does_not_hide_a_loss() -> None:
    assert rejected(BASELINE[:20] + b"junk" + BASELINE[20:-1500]) == RejectReason.TRUNCATED
    assert rejected(BASELINE.replace(b"JFIF\0\x01", b"JFIF\0\x09")[:-1500]) == RejectReason.TRUNCATED
    assert rejected(BASELINE[:-1500] + bytes(300) + b"\xff\xd9") == RejectReason.TRUNCATED


def test_missing_scans_are_a_loss() -> None:
    last = scans(PROGRESSIVE)[-1]
    assert rejected(PROGRESSIVE[: last - 40]) == RejectReason.TRUNCATED


def test_a_component_without_a_scan_is_a_loss() -> None:
    first, second = scans(PROGRESSIVE)[:2]
    luma_only = PROGRESSIVE[:first] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x01" + PROGRESSIVE[first + 14 : second]
    assert rejected(luma_only + b"\xff\xd9") == RejectReason.TRUNCATED


def test_an_end_marker_in_the_middle_of_a_scan_is_a_loss() -> None:
    middle = (scans(BASELINE)[0] + len(BASELINE)) // 2
    assert rejected(BASELINE[:middle] + b"\xff\xd9" + BASELINE[middle + 2 :]) == RejectReason.TRUNCATED


def test_more_scans_than_any_encoder_writes_are_not_decoded() -> None:
    last = scans(PROGRESSIVE)[-1]
    bomb = PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * MAX_SCANS + b"\xff\xd9"
    assert rejected(bomb) == RejectReason.UNDECODABLE
    assert rejected(bomb, KEEP) == RejectReason.UNDECODABLE


def test_a_scan_hidden_behind_an_end_marker_in_a_comment_is_counted() -> None:
    last = scans(PROGRESSIVE)[-1]
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    assert rejected(PROGRESSIVE[:last] + comment + PROGRESSIVE[last:-2] * 200 + b"\xff\xd9") == RejectReason.UNDECODABLE


def test_unusual_subsampling_is_left_to_pillow_and_noted() -> None:
    header = bytearray(encoded(Image.new("RGB", (24, 8)), subsampling=0))
    frame = header.index(b"\xff\xc0")
    header[frame + 11] = 0x31  # three luma blocks beside each other for one of chroma
    bits = "001010" * 3 + "0000" * 2  # each block: no DC difference, end of block
    blocks = int(bits.ljust(32, "1"), 2).to_bytes(4, "big")
    decoded = decode(bytes(header[: scans(header)[0] + 14]) + blocks + b"\xff\xd9")
    assert decoded.repairs == (Repair.JPEG_UNCHECKED,)
    assert decoded.pixels.shape == (8, 24, 3)
    assert (decoded.pixels == 128).all()


class TestCmyk:
    RGB = np.asarray(photo())

    def close(self, pixels: npt.NDArray[np.uint8]) -> bool:
        return float(np.abs(pixels.astype(int) - self.RGB).mean()) < 4  # what quality 95 leaves of the noise

    def test_adobes_inverted_cmyk(self) -> None:
        data = encoded(photo().convert("CMYK"), quality=95, subsampling=0)
        assert b"Adobe" in data
        decoded = decode(data)
        assert self.close(decoded.pixels)
        assert np.array_equal(decoded.pixels, by_pillow(data))
        assert (decoded.source_mode, decoded.repairs) == ("CMYK", (Repair.CMYK_TO_RGB,))

    def test_cmyk_without_adobes_segment_is_not_inverted(self) -> None:
        inverted = encoded(ImageChops.invert(photo().convert("CMYK")), quality=95, subsampling=0)
        at = inverted.index(b"\xff\xee")
        data = inverted[:at] + inverted[at + 16 :]
        assert b"Adobe" not in data
        assert self.close(decode(data).pixels)

    def test_ycck(self) -> None:
        inverted = np.ascontiguousarray(ImageChops.invert(photo().convert("CMYK")))
        data = simplejpeg.encode_jpeg(inverted, 95, "CMYK", "444")
        decoded = decode(data)
        assert self.close(decoded.pixels)
        assert (decoded.source_mode, decoded.repairs) == ("CMYK", (Repair.YCCK_TO_RGB,))

    def test_black_ink_counts(self) -> None:
        cmyk = Image.merge("CMYK", [*photo().convert("CMYK").split()[:3], Image.new("L", (200, 152), 100)])
        decoded = decode(encoded(cmyk, quality=95, subsampling=0))
        assert np.abs(decoded.pixels.astype(int) - np.asarray(cmyk.convert("RGB"))).mean() < 2

    def test_a_cut_is_a_loss(self) -> None:
        data = encoded(photo().convert("CMYK"))
        assert rejected(data[:-1000]) == RejectReason.TRUNCATED
        assert decode(data[:-1000], KEEP).repairs == (Repair.KEPT_DAMAGED, Repair.CMYK_TO_RGB)


def test_the_size_in_the_header_is_enough_to_reject() -> None:
    huge = bytearray(BASELINE)
    struct.pack_into(">HH", huge, huge.index(b"\xff\xc0") + 5, 65500, 65500)
    assert rejected(bytes(huge)) == RejectReason.TOO_LARGE
    assert rejected(BASELINE, DecodePolicy(max_pixels=200 * 152 - 1)) == RejectReason.TOO_LARGE
    decode(BASELINE, DecodePolicy(max_pixels=200 * 152))


FACTORS = (2, 4, 8)


def outcome(data: bytes, policy: DecodePolicy, factor: int) -> tuple[Any, ...]:
    """What becomes of a file decoded at a scale: its repairs and its size, or the reason why there is none."""
    try:
        decoded = decode(data, policy, reduction=lambda _size: factor)
    except SampleError as error:
        return error.reason, error.message
    return decoded.repairs, decoded.size, decoded.source_width, decoded.source_height, decoded.source_mode


def damaged_files() -> dict[str, bytes]:
    random_bytes = random.Random(3)
    files = {"no end": BASELINE[:-2], "junk between": BASELINE[:20] + b"junk" + BASELINE[20:]}
    files["junk before the end"] = BASELINE[:-2] + bytes(240) + b"\xff\xd9"
    files["unread data"] = BASELINE[:-2] + random_bytes.randbytes(8000).replace(b"\xff", b"") + b"\xff\xd9"
    files["JFIF revision"] = BASELINE.replace(b"JFIF\0\x01", b"JFIF\0\x09")
    for name, data in (("baseline", BASELINE), ("progressive", PROGRESSIVE)):
        files |= {f"{name} cut at {share}": data[: int(len(data) * share)] for share in (0.3, 0.6, 0.9, 0.99)}
        for number in range(100):
            changed = bytearray(data)
            changed[random_bytes.randrange(scans(data)[0], len(data))] ^= 1 << random_bytes.randrange(8)
            files[f"{name} with flipped bit {number}"] = bytes(changed)
    return files


def test_whatever_is_wrong_with_a_file_is_found_at_any_scale() -> None:
    found = set()
    for name, data in damaged_files().items():
        for policy in (DecodePolicy(), KEEP):
            whole = outcome(data, policy, 1)
            found.add(whole[0])
            for factor in FACTORS:
                assert outcome(data, policy, factor) == whole, f"{name} at 1/{factor}, {policy}"
    assert found >= {(), (Repair.JPEG_WARNING,), (Repair.KEPT_DAMAGED,), RejectReason.TRUNCATED}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_reduced_picture_is_rounded_up(factor: int, subsampling: int) -> None:
    for width, height in [(8, 1), (1, 8), (9, 13), (31, 64), (200, 152), (201, 151), (65, 1000)]:
        decoded = decode(encoded(photo(width, height), subsampling=subsampling), reduction=lambda _size: factor)
        assert decoded.pixels.shape == (-(-height // factor), -(-width // factor), 3)
        assert (decoded.source_width, decoded.source_height) == decoded.size == (width, height)
        assert decoded.reduced is not None
        assert decoded.reduced.box((0, 0, width, height)) == (0, 0, width / factor, height / factor)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_reduced_picture_is_the_average_of_its_blocks(factor: int) -> None:
    image = Image.fromarray(np.asarray(photo()) // 4 * 3)
    for picture in (image, image.convert("L")):
        data = encoded(picture, quality=98, subsampling=0)
        reduced = decode(data, reduction=lambda _size: factor).pixels.astype(int)
        blocks = decode(data).pixels.reshape(152 // factor, factor, 200 // factor, factor, 3).mean((1, 3))
        assert np.abs(reduced - blocks).mean() < 2


def test_what_is_not_a_plain_jpeg_is_decoded_in_full() -> None:
    cmyk = encoded(photo().convert("CMYK"))
    png = io.BytesIO()
    photo().save(png, "PNG")
    for data in (cmyk, png.getvalue()):
        decoded = decode(data, reduction=lambda _size: 4)
        assert decoded.reduced is None
        assert np.array_equal(decoded.pixels, decode(data).pixels)


def test_a_reduction_is_asked_with_the_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    asked = []

    def reduction(size: tuple[int, int]) -> int:
        asked.append(size)
        return 2

    assert decode(encoded(photo(), exif=exif), reduction=reduction).size == (152, 200)
    assert asked == [(152, 200)]


def test_an_icc_profile_is_applied_to_a_reduced_picture() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = encoded(photo(), icc_profile=profile)
    policy = DecodePolicy(icc="srgb")
    whole, reduced = decode(data, policy), decode(data, policy, reduction=lambda _size: 2)
    assert reduced.repairs == whole.repairs != ()
    assert reduced.pixels.shape == (76, 100, 3)


def test_what_follows_the_end_is_another_image() -> None:
    decoded = decode(BASELINE + PROGRESSIVE)  # as in the multi-picture files of cameras
    assert np.array_equal(decoded.pixels, PIXELS)
    assert decoded.repairs == ()
