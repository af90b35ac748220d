"""Every mode ends in RGB of the right brightness."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from imageshards.decode import Decoded, DecodePolicy, decode
from imageshards.decoded import Repair

RGB = np.stack([*np.mgrid[0:32, 0:48], np.full((32, 48), 30)], -1).astype(np.uint8) * np.array([8, 5, 1], np.uint8)
GRAY = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
"""Every level there is."""


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded_gray(data: bytes) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    decoded = decode(data)
    for channel in (1, 2):
        assert np.array_equal(decoded.pixels[..., 0], decoded.pixels[..., channel])
    return decoded.pixels[..., 0], decoded.repairs


def png(bits: int, color_type: int, rows: list[bytes], width: int, **chunks: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    middle = b"".join(chunk(kind.encode(), content) for kind, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(pixels: bytes, width: int, height: int, bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(pixels)),
        (339, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pad = b"\0" * (len(pixels) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(pad)) + pixels + pad + directory


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_lossless_colors_are_kept_exactly(file_format: str, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(decode(encoded(image, file_format)).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("file_format", "mode", "repairs"),
    [
        ("PNG", "1", (Repair.BILEVEL_TO_RGB,)),
        ("PNG", "L", (Repair.GRAY_TO_RGB,)),
        ("PNG", "P", (Repair.PALETTE_TO_RGB,)),
        ("TIFF", "CMYK", (Repair.CMYK_TO_RGB,)),
        ("TIFF", "YCbCr", (Repair.YCBCR_TO_RGB,)),
        ("TIFF", "LAB", (Repair.LAB_TO_RGB,)),
        ("JPEG2000", "CMYK", (Repair.CMYK_TO_RGB,)),
    ],
)
def test_conversions_are_right_and_noted(file_format: str, mode: str, repairs: tuple[str, ...]) -> None:
    image = Image.fromarray(RGB).convert(mode)
    decoded = decode(encoded(image, file_format))
    assert decoded.source_mode == mode
    assert decoded.repairs == repairs
    if mode not in ("1", "L", "P"):
        assert np.abs(decoded.pixels.astype(int) - np.asarray(image.convert("RGB"))).max() <= 1
        assert np.abs(decoded.pixels.astype(int) - RGB).mean() <= 1.5


class TestAlpha:
    ALPHA = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))

    def expected(self, color: npt.NDArray[np.uint8], background: tuple[int, int, int]) -> npt.NDArray[np.float64]:
        share = self.ALPHA[..., None] / 255
        return color * share + np.array(background) * (1 - share)

    @pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG2000"])
    def test_rgba_is_put_on_the_background(self, file_format: str, background: tuple[int, int, int]) -> None:
        image = Image.fromarray(np.dstack([RGB, self.ALPHA]))
        options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
        decoded = decode(encoded(image, file_format, **options), DecodePolicy(background=background))
        assert np.abs(decoded.pixels - self.expected(RGB, background)).max() <= 1
        assert decoded.repairs == (Repair.ALPHA_COMPOSITED,)

    def test_gray_with_alpha(self) -> None:
        gray = RGB[..., 0]
        image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(self.ALPHA)])
        decoded = decode(encoded(image, "PNG"), DecodePolicy(background=(1, 2, 3)))
        assert np.abs(decoded.pixels - self.expected(np.dstack([gray] * 3), (1, 2, 3))).max() <= 1
        assert decoded.repairs == (Repair.GRAY_TO_RGB, Repair.ALPHA_COMPOSITED)

    def test_premultiplied_alpha(self) -> None:
        share = self.ALPHA[..., None] / 255
        pixels = np.dstack([np.rint(RGB * share).astype(np.uint8), self.ALPHA])
        data = bytearray(encoded(Image.fromarray(pixels), "TIFF"))
        extra = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
        assert extra in data
        data = data.replace(extra, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
        decoded = decode(bytes(data), DecodePolicy(background=(0, 0, 0)))
        assert np.abs(decoded.pixels - self.expected(RGB, (0, 0, 0))).max() <= 2

    def test_palette_with_a_transparent_color(self) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
        image.putpalette([200, 0, 0, 0, 200, 0])
        for file_format in ("PNG", "GIF"):
            decoded = decode(encoded(image, file_format, transparency=1), DecodePolicy(background=(7, 8, 9)))
            assert decoded.pixels.tolist() == [[[200, 0, 0], [7, 8, 9]]]
            assert decoded.repairs == (Repair.PALETTE_TO_RGB, Repair.ALPHA_COMPOSITED)

    def test_palette_with_an_alpha_for_each_color(self) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
        decoded = decode(encoded(image, "PNG", transparency=bytes([255, 128, 0])), DecodePolicy(background=(0, 0, 0)))
        assert decoded.pixels.tolist() == [[[200, 0, 0], [0, 100, 0], [0, 0, 0]]]

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_one_transparent_gray_is_stated_in_the_files_own_bits(self, bits: int) -> None:
        top = 2**bits - 1
        row = (
            struct.pack(">HH", 0, top) if bits == 16 else (top << 8 - 2 * bits if bits < 8 else 0, top)[: 1 + bits // 8]
        )
        data = png(bits, 0, [bytes(row)], 2, tRNS=struct.pack(">H", top))
        decoded = decode(data, DecodePolicy(background=(9, 9, 9)))
        assert decoded.pixels[0, :, 0].tolist() == [0, 9]
        assert decoded.repairs[-1] == Repair.ALPHA_COMPOSITED

    @pytest.mark.parametrize("bits", [8, 16])
    def test_one_transparent_color_is_stated_in_the_files_own_bits(self, bits: int) -> None:
        code, scale = ("B", 1) if bits == 8 else ("H", 257)
        row = struct.pack(f">6{code}", *(value * scale for value in (10, 20, 30, 40, 50, 60)))
        data = png(bits, 2, [row], 2, tRNS=struct.pack(">3H", *(value * scale for value in (40, 50, 60))))
        decoded = decode(data, DecodePolicy(background=(1, 2, 3)))
        assert decoded.pixels.tolist() == [[[10, 20, 30], [1, 2, 3]]]


class TestDepth:
    @pytest.mark.parametrize("mode", ["I;16", "I;16B"])
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_16_bit_gray_is_divided_by_257_and_rounded(self, mode: str, file_format: str) -> None:
        values = np.arange(65536).reshape(256, 256)
        stored = values.astype(">u2" if mode == "I;16B" else "<u2")
        image = Image.frombytes(mode, (256, 256), stored.tobytes())
        gray, repairs = decoded_gray(encoded(image, file_format))
        assert np.array_equal(gray, np.rint(values / 257))
        assert repairs == (Repair.GRAY_TO_RGB, Repair.DEPTH_SCALED)

    def test_16_bit_gray_in_jpeg_2000(self) -> None:
        gray, repairs = decoded_gray(encoded(Image.fromarray(GRAY.astype(np.uint16) * 257), "JPEG2000"))
        assert np.array_equal(gray, GRAY)
        assert repairs == (Repair.GRAY_TO_RGB, Repair.DEPTH_SCALED)

    def test_16_bit_colors_keep_their_high_byte(self) -> None:
        rows = [(row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in RGB]
        decoded = decode(png(16, 2, rows, 48))
        assert np.array_equal(decoded.pixels, RGB)
        assert decoded.repairs == (Repair.DEPTH_SCALED,)

    def test_12_bit_gray(self) -> None:
        bits = "".join(f"{value:012b}" for value in (0, 4095, 2048, 1024))
        gray, repairs = decoded_gray(tiff(int(bits, 2).to_bytes(6, "big"), 4, 1, 12))
        assert gray.tolist() == [[0, 255, 128, 64]]
        assert repairs == (Repair.GRAY_TO_RGB, Repair.DEPTH_SCALED)

    def test_signed_16_bit_gray(self) -> None:
        values = np.array([[-32768, -1, 0, 16384, 32767]], "<i2")
        gray, _ = decoded_gray(tiff(values.tobytes(), 5, 1, 16, sample_format=2))
        assert gray.tolist() == [[0, 0, 0, 128, 255]]

    @pytest.mark.parametrize("top", [2**8 - 1, 2**16 - 1, 2**32 - 1])
    def test_32_bit_gray_is_scaled_by_the_smallest_white_that_holds_it(self, top: int) -> None:
        values = np.rint(np.arange(256) / 255 * top).astype("<u4")
        gray, repairs = decoded_gray(tiff(values.tobytes(), 256, 1, 32))
        assert gray[0].tolist() == list(range(256))
        assert repairs == (Repair.GRAY_TO_RGB, Repair.DEPTH_SCALED)

    def test_negative_32_bit_gray_is_black(self) -> None:
        gray, _ = decoded_gray(tiff(np.array([-5, 0, 255], "<i4").tobytes(), 3, 1, 32, sample_format=2))
        assert gray.tolist() == [[0, 0, 255]]

    @pytest.mark.parametrize(("bits", "white"), [(8, 255), (16, 65535), (32, 2**32 - 1)])
    def test_gray_stored_inverted(self, bits: int, white: int) -> None:
        values = np.array([0, white], f"<u{bits // 8}")
        if bits == 32:  # Pillow knows no inverted integers of 32 bits, but floats
            data = tiff(np.array([0, 1], "<f4").tobytes(), 2, 1, 32, photometric=0, sample_format=3)
        else:
            data = tiff(values.tobytes(), 2, 1, bits, photometric=0)
        assert decoded_gray(data)[0].tolist() == [[255, 0]]


class TestFloat:
    def decoded(self, values: list[float]) -> list[int]:
        stored = np.array(values, "<f4").tobytes()
        gray, repairs = decoded_gray(tiff(stored, len(values), 1, 32, sample_format=3))
        assert repairs == (Repair.GRAY_TO_RGB, Repair.FLOAT_SCALED)
        return [int(value) for value in gray[0]]

    @pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
    def test_white_is_the_smallest_that_no_pixel_exceeds_twofold(self, white: float) -> None:
        assert self.decoded([0, white / 2, white]) == [0, 128, 255]
        assert self.decoded([0, white / 2, white * 1.9]) == [0, 128, 255]

    def test_values_that_are_no_numbers(self) -> None:
        assert self.decoded([float("nan"), float("inf"), float("-inf"), -3, 1]) == [0, 255, 0, 0, 255]

    def test_nothing_but_values_that_are_no_numbers(self) -> None:
        assert self.decoded([float("nan"), float("inf")]) == [0, 255]

    def test_beyond_the_largest_white_all_is_white(self) -> None:
        assert self.decoded([0, 1e30]) == [0, 255]


def test_a_picture_of_many_strips_is_whole() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (1500, 1501), dtype=np.uint16)
    gray, _ = decoded_gray(encoded(Image.fromarray(values), "PNG", compress_level=1))
    assert np.array_equal(gray, np.rint(values / 257))


class TestIcc:
    TO_SRGB = DecodePolicy(icc="srgb")
    SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    @classmethod
    def swapped(cls) -> bytes:
        """SRGB with the primaries of red and blue exchanged."""
        return cls.SRGB.replace(b"rXYZ", b"tmp ").replace(b"bXYZ", b"rXYZ").replace(b"tmp ", b"bXYZ")

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
    def test_a_profile_is_ignored_unless_asked_for(self, file_format: str) -> None:
        options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(file_format, {})
        red = Image.new("RGB", (16, 16), (200, 20, 20))
        data = encoded(red, file_format, icc_profile=self.swapped(), **options)
        ignored, converted = decode(data), decode(data, self.TO_SRGB)
        assert np.abs(ignored.pixels[8, 8].astype(int) - (200, 20, 20)).max() <= 4
        assert np.abs(converted.pixels[8, 8].astype(int) - (20, 20, 200)).max() <= 4
        assert ignored.repairs == ()
        assert converted.repairs == (Repair.ICC_TO_SRGB,)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
    @pytest.mark.parametrize("profile", [b"", b"no profile", SRGB[:200]])
    def test_a_broken_profile_leaves_the_colors_and_is_noted(self, file_format: str, profile: bytes) -> None:
        data = encoded(Image.fromarray(RGB), file_format, icc_profile=profile or b"\0")
        decoded = decode(data, self.TO_SRGB)
        assert np.array_equal(decoded.pixels, decode(data).pixels)
        assert decoded.repairs == (Repair.ICC_BROKEN,)

    def test_a_profile_for_other_colors_is_broken(self) -> None:
        data = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", icc_profile=self.SRGB)
        assert decode(data, self.TO_SRGB).repairs == (Repair.CMYK_TO_RGB, Repair.ICC_BROKEN)

    def test_a_profile_in_several_parts_of_which_one_is_missing(self) -> None:
        profile = self.SRGB + bytes(70_000)
        data = encoded(Image.fromarray(RGB), "JPEG", icc_profile=profile)
        first = data.index(b"ICC_PROFILE") - 4
        size = int.from_bytes(data[first + 2 : first + 4], "big") + 2
        assert decode(data, self.TO_SRGB).repairs == (Repair.ICC_TO_SRGB,)
        incomplete = data[:first] + data[first + size :]
        assert decode(incomplete).repairs == (Repair.JPEG_WARNING,)
        assert decode(incomplete, self.TO_SRGB).repairs == (Repair.JPEG_WARNING, Repair.ICC_BROKEN)
        assert np.array_equal(decode(incomplete).pixels, decode(data).pixels)

    def test_alpha_and_palettes_are_kept(self) -> None:
        red = Image.new("RGBA", (2, 1), (200, 20, 20, 255))
        red.putpixel((1, 0), (200, 20, 20, 0))
        for image in (red, red.quantize(4)):
            decoded = decode(encoded(image, "PNG", icc_profile=self.swapped()), self.TO_SRGB)
            assert np.abs(decoded.pixels[0].astype(int) - [(20, 20, 200), (255, 255, 255)]).max() <= 4
            assert decoded.repairs[-2:] == (Repair.ICC_TO_SRGB, Repair.ALPHA_COMPOSITED)


def test_a_decoded_image_says_what_it_is() -> None:
    decoded = decode(encoded(Image.fromarray(RGB), "PNG"))
    assert isinstance(decoded, Decoded)
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.dtype == np.uint8
