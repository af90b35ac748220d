from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from imageshards.decode import DecodePolicy, decode, decode_trimap, suffix_disagrees, upright
from imageshards.decoded import Repair
from imageshards.errors import RejectReason, SampleError
from imageshards.recipe import Recipe

RGB = np.stack([*np.mgrid[0:32, 0:48], np.full((32, 48), 30)], -1).astype(np.uint8) * np.array([8, 5, 1], np.uint8)
PICTURE = Image.fromarray(RGB)
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"]
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "JPEG2000": {},
    "WEBP": {"lossless": True},
}
KEEP = DecodePolicy(keep_damaged=True)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def frames(file_format: str, count: int = 4) -> bytes:
    pictures = [Image.fromarray(np.roll(RGB, 5 * shift, 1)) for shift in range(count)]
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    return encoded(pictures[0], file_format, save_all=True, append_images=pictures[1:], **options)


def rejected(data: bytes, policy: DecodePolicy | None = None) -> str:
    with pytest.raises(SampleError) as caught:
        decode(data, policy or DecodePolicy())
    return caught.value.reason


def closeness(pixels: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8] = RGB) -> float:
    return float(np.abs(pixels.astype(int) - expected).mean())


class TestFormats:
    @pytest.mark.parametrize("file_format", FORMATS)
    def test_each_format_is_told_by_its_content(self, file_format: str) -> None:
        decoded = decode(encoded(PICTURE, file_format))
        assert decoded.source_format == file_format.lower()
        assert (decoded.source_width, decoded.source_height) == (48, 32)
        assert decoded.exif_orientation == 1
        assert decoded.pixels.shape == (32, 48, 3)
        assert closeness(decoded.pixels) < 4

    @pytest.mark.parametrize("file_format", LOSSLESS)
    def test_lossless_formats_lose_nothing(self, file_format: str) -> None:
        decoded = decode(encoded(PICTURE, file_format, **LOSSLESS[file_format]))
        assert np.array_equal(decoded.pixels, RGB)
        assert decoded.repairs == ()

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
    @pytest.mark.parametrize("tags", [{}, {322: 16, 323: 16}], ids=["strips", "tiles"])
    def test_compressed_tiff(self, compression: str, tags: dict[int, int]) -> None:
        decoded = decode(encoded(PICTURE, "TIFF", compression=compression, tiffinfo=tags))
        assert np.array_equal(decoded.pixels, RGB)
        assert decoded.repairs == ()

    @pytest.mark.parametrize("options", [{"no_jp2": True}, {"tile_size": (16, 16)}, {"num_resolutions": 1}])
    def test_jpeg_2000_in_all_its_shapes(self, options: dict[str, Any]) -> None:
        assert np.array_equal(decode(encoded(PICTURE, "JPEG2000", **options)).pixels, RGB)

    def test_big_tiff(self) -> None:
        assert np.array_equal(decode(encoded(PICTURE, "TIFF", big_tiff=True)).pixels, RGB)

    def test_nothing_is_empty(self) -> None:
        assert rejected(b"") == RejectReason.EMPTY

    @pytest.mark.parametrize(
        "data",
        [
            b"\0",
            b"<!DOCTYPE html>",
            b"%!PS-Adobe-3.0 EPSF-3.0",
            b"8BPS\0\1",
            b"P6 1 1 255 aaa",
            b"BM is how this sentence begins",
            b"\x89PNG",
            b"\xff\xd8",
            b"MATLAB 5.0 MAT-file",
            b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
        ],
    )
    def test_anything_else_is_unknown_and_no_other_parser_sees_it(self, data: bytes) -> None:
        assert rejected(data) == RejectReason.UNKNOWN_FORMAT

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_garbage_behind_a_signature_is_rejected(self, file_format: str) -> None:
        head = encoded(PICTURE, file_format)[:20]
        for seed in range(20):
            assert rejected(head + random.Random(seed).randbytes(500)) in (
                RejectReason.UNDECODABLE,
                RejectReason.TRUNCATED,
                RejectReason.TOO_LARGE,
            )

    @pytest.mark.parametrize(
        ("name", "source_format", "disagrees"),
        [
            ("a.jpg", "jpeg", False),
            ("a.JPEG", "jpeg", False),
            ("a.jpg", "png", True),
            ("a.b.tif", "tiff", False),
            ("folder.jpg/a", "jpeg", True),
            ("images/a.j2k", "jpeg2000", False),
        ],
    )
    def test_a_suffix_may_disagree(self, name: str, source_format: str, disagrees: bool) -> None:
        assert suffix_disagrees(name, source_format) is disagrees


class TestPolicy:
    @pytest.mark.parametrize("file_format", FORMATS)
    def test_an_image_above_the_limit_is_too_large(self, file_format: str) -> None:
        data = encoded(PICTURE, file_format)
        assert rejected(data, DecodePolicy(max_pixels=48 * 32 - 1)) == RejectReason.TOO_LARGE
        decode(data, DecodePolicy(max_pixels=48 * 32 * 3))

    @pytest.mark.parametrize(("file_format", "weight"), [("WEBP", 2), ("AVIF", 2), ("JPEG2000", 3)])
    def test_pixels_of_costly_decoders_count_more(self, file_format: str, weight: int) -> None:
        data = encoded(PICTURE, file_format)
        assert rejected(data, DecodePolicy(max_pixels=48 * 32 * weight - 1)) == RejectReason.TOO_LARGE
        decode(data, DecodePolicy(max_pixels=48 * 32 * weight))

    def test_it_is_a_part_of_the_recipe(self) -> None:
        recipe = Recipe(keep_damaged=True, icc="srgb", background=(1, 2, 3), max_pixels=99)
        assert DecodePolicy.from_recipe(recipe) == DecodePolicy(True, "srgb", (1, 2, 3), 99)
        assert DecodePolicy.from_recipe(Recipe()) == DecodePolicy()

    @pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF", "JPEG2000"])
    def test_damage_is_rejected_or_kept_as_the_policy_says(self, file_format: str) -> None:
        data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), file_format)
        cut = data[: int(len(data) * 0.7)]
        if file_format == "TIFF":  # its directory stands behind the pixels
            cut = encoded(PICTURE.resize((64, 64)), "TIFF", compression="tiff_lzw")
            cut = cut.replace(struct.pack("<HHII", 257, 4, 1, 64), struct.pack("<HHII", 257, 4, 1, 96))
            cut = cut.replace(struct.pack("<HHIHH", 257, 3, 1, 64, 0), struct.pack("<HHIHH", 257, 3, 1, 96, 0))
        assert rejected(cut) in (RejectReason.TRUNCATED, RejectReason.UNDECODABLE)
        kept = decode(cut, KEEP)
        assert kept.repairs[0] == Repair.KEPT_DAMAGED

    @pytest.mark.parametrize("file_format", ["WEBP", "AVIF"])
    def test_of_some_formats_nothing_is_left(self, file_format: str) -> None:
        cut = encoded(PICTURE, file_format)[:-40]
        assert rejected(cut) == RejectReason.TRUNCATED
        assert rejected(cut, KEEP) == RejectReason.TRUNCATED


class TestFrames:
    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "AVIF", "PNG", "TIFF"])
    def test_the_first_is_taken_and_noted(self, file_format: str) -> None:
        decoded = decode(frames(file_format))
        assert decoded.repairs[0] == Repair.FIRST_FRAME
        assert closeness(decoded.pixels) < 4
        assert Repair.FIRST_FRAME not in decode(frames(file_format, 1)).repairs

    @pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF"])
    def test_damage_in_later_ones_does_not_matter(self, file_format: str) -> None:
        data = frames(file_format)
        damaged = data[: len(data) * 2 // 3] + bytes(len(data) - len(data) * 2 // 3)
        assert np.array_equal(decode(damaged).pixels, decode(data).pixels)

    def test_a_gif_that_ends_behind_its_first_image_is_noted(self) -> None:
        data = encoded(PICTURE, "GIF")
        decoded = decode(data[:-1])
        assert np.array_equal(decoded.pixels, decode(data).pixels)
        assert decoded.repairs[0] == Repair.DECODER_WARNING


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
    def test_every_orientation_of_every_format_ends_upright(self, file_format: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        plain = encoded(PICTURE, file_format, **LOSSLESS.get(file_format, {}))
        turned = encoded(PICTURE, file_format, exif=exif, **LOSSLESS.get(file_format, {}))
        decoded = decode(turned)
        assert decoded.exif_orientation == orientation
        assert np.array_equal(decoded.pixels, upright(decode(plain).pixels, orientation))
        assert decoded.pixels.flags.c_contiguous
        assert (decoded.source_width, decoded.source_height) == (48, 32)
        assert decoded.repairs == ((Repair.EXIF_ORIENTATION,) if orientation > 1 else ())
        pillow = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).convert("RGB"))
        assert np.array_equal(decoded.pixels, pillow)

    @pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"big_tiff": True}, {"compression": "jpeg"}])
    def test_every_kind_of_tiff_ends_upright(self, options: dict[str, Any]) -> None:
        decoded = decode(encoded(PICTURE, "TIFF", tiffinfo={0x0112: 6}, **options))
        assert decoded.exif_orientation == 6
        assert closeness(decoded.pixels, upright(RGB, 6)) < 2

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "AVIF", "JPEG"])
    @pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nothing of sense", b"Exif\0\0II*\0\xff\xff\xff\xff\1\0"])
    def test_a_malformed_block_does_no_harm(self, file_format: str, exif: bytes) -> None:
        if file_format == "AVIF":  # Pillow writes none that it cannot read
            good = Image.Exif()
            good[0x010F] = "maker"
            data = encoded(PICTURE, file_format, exif=good)
            data = data.replace(good.tobytes()[6:], exif[6:].ljust(len(good.tobytes()) - 6, b"\0"))
        else:
            data = encoded(PICTURE, file_format, exif=exif, **LOSSLESS.get(file_format, {}))
        decoded = decode(data)
        assert decoded.exif_orientation == 1
        assert closeness(decoded.pixels) < 4

    def test_only_exif_counts(self) -> None:
        xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
        assert np.array_equal(decode(encoded(PICTURE, "TIFF", tiffinfo={700: xmp})).pixels, RGB)


class TestPng:
    @staticmethod
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    DATA = encoded(PICTURE, "PNG")
    AFTER_HEADER = 33

    def with_chunk(self, chunk: bytes) -> bytes:
        return self.DATA[: self.AFTER_HEADER] + chunk + self.DATA[self.AFTER_HEADER :]

    def test_image_data_that_fail_their_checksum_are_a_loss(self) -> None:
        checksum = self.DATA.index(b"IEND") - 8
        damaged = bytearray(self.DATA)
        damaged[checksum] ^= 1
        assert rejected(bytes(damaged)) == RejectReason.TRUNCATED
        kept = decode(bytes(damaged), KEEP)
        assert np.array_equal(kept.pixels, RGB)
        assert kept.repairs == (Repair.KEPT_DAMAGED,)

    def test_metadata_may_be_as_broken_as_they_like(self) -> None:
        for body in (b"", b"a\0\0" + b"not deflated", b"a\0\1\0\0\0" + zlib.compress(bytes(10**8))):
            for kind in (b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"eXIf", b"gAMA", b"acTL", b"fcTL", b"prVt"):
                chunk = self.chunk(kind, body)[:-1] + b"!"
                assert np.array_equal(decode(self.with_chunk(chunk)).pixels, RGB)

    def test_a_missing_end_is_noted(self) -> None:
        decoded = decode(self.DATA[:-12])
        assert np.array_equal(decoded.pixels, RGB)
        assert decoded.repairs == (Repair.DECODER_WARNING,)


class TestTiff:
    def test_a_damaged_fax_line_of_which_libtiff_only_complains_is_a_loss(self) -> None:
        data = encoded(PICTURE.convert("1"), "TIFF", compression="group4")
        complained = 0
        for position in range(8, 200, 4):
            damaged = data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
            with contextlib.suppress(OSError):  # libtiff raises for some, complains of others
                Image.open(io.BytesIO(damaged)).load()
                complained += 1
            assert rejected(damaged) == RejectReason.TRUNCATED
            assert Repair.KEPT_DAMAGED in decode(damaged, KEEP).repairs
        assert complained

    def test_a_tag_that_reaches_beyond_the_file_is_noted(self) -> None:
        data = encoded(PICTURE, "TIFF", tiffinfo={270: "a description"})
        at = data.index(struct.pack("<HHI", 270, 2, 14))
        data = data[: at + 4] + struct.pack("<I", 10**9) + data[at + 8 :]
        decoded = decode(data)
        assert np.array_equal(decoded.pixels, RGB)
        assert decoded.repairs == (Repair.DECODER_WARNING,)


class TestSurroundings:
    BAD = (
        encoded(PICTURE, "TIFF", compression="tiff_adobe_deflate")[:-900],
        encoded(PICTURE, "TIFF", compression="tiff_lzw").replace(b"\x08", b"\x09"),
        encoded(PICTURE, "PNG")[:-40],
        encoded(PICTURE, "WEBP")[:-20],
        encoded(PICTURE, "AVIF")[:-20],
        encoded(PICTURE, "JPEG2000")[:-20],
        encoded(PICTURE, "JPEG")[:-20],
        encoded(PICTURE.quantize(8), "PNG", transparency=bytes(range(8))),
    )

    def test_nothing_is_printed_and_nothing_logged(self, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
        caplog.set_level(logging.DEBUG)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for data in self.BAD:
                for policy in (DecodePolicy(), KEEP):
                    try:
                        decode(data, policy)
                    except SampleError:
                        continue
        assert capfd.readouterr() == ("", "")
        assert [record.name for record in caplog.records] == []
        assert [str(warning.message) for warning in caught] == []

    def test_pillow_is_found_again_as_it_was(self) -> None:
        def state() -> tuple[Any, ...]:
            return (
                ImageFile.LOAD_TRUNCATED_IMAGES,
                Image.MAX_IMAGE_PIXELS,
                AvifImagePlugin.DEFAULT_MAX_THREADS,
                logging.getLogger("PIL").propagate,
                list(logging.getLogger("PIL").handlers),
                list(warnings.filters),
            )

        before = state()
        for data in self.BAD:
            with pytest.raises(SampleError) if data is not self.BAD[-1] else warnings.catch_warnings():
                decode(data)
            assert state() == before

    def test_threads_do_not_disturb_each_other(self) -> None:
        good = [encoded(PICTURE, name) for name in FORMATS]
        expected = [decode(data).pixels for data in good]

        def work(number: int) -> bool:
            which = number % len(good)
            if number % 3 == 0:
                with pytest.raises(SampleError):
                    decode(self.BAD[number % 7])
            return np.array_equal(decode(good[which]).pixels, expected[which])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(400)))

    def test_an_ordinary_jpeg_needs_no_pillow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(**_: Any) -> None:
            raise AssertionError

        monkeypatch.setattr("imageshards.formats.reading.guarded_pillow", fail)
        assert closeness(decode(encoded(PICTURE, "JPEG")).pixels) < 4
        assert closeness(decode(encoded(PICTURE, "JPEG", progressive=True)).pixels) < 4
        with pytest.raises(SampleError):
            decode(encoded(PICTURE, "PNG"))

    def test_importing_it_brings_in_nothing_heavy(self) -> None:
        code = "import sys, imageshards.decode; print(*{name.split('.')[0] for name in sys.modules})"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert not {"torch", "torchvision", "cv2", "ray", "prefect", "pyarrow"} & set(loaded)

    def test_results_and_errors_survive_pickling(self) -> None:
        decoded = pickle.loads(pickle.dumps(decode(encoded(PICTURE, "PNG"))))
        assert np.array_equal(decoded.pixels, RGB)
        with pytest.raises(SampleError) as caught:
            decode(self.BAD[0])
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


class TestTrimap:
    TRIMAP = np.random.default_rng(0).integers(1, 4, (30, 40), np.uint8)
    LIMIT = 10**6

    def reject(self, data: bytes, **options: Any) -> str:
        with pytest.raises(SampleError) as caught:
            decode_trimap(data, **{"max_pixels": self.LIMIT, **options})
        assert caught.value.reason == RejectReason.BAD_ANNOTATION
        return caught.value.message

    @pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
    def test_stored_values_come_out(self, file_format: str) -> None:
        data = encoded(Image.fromarray(self.TRIMAP), file_format)
        trimap = decode_trimap(data, max_pixels=self.LIMIT)
        assert np.array_equal(trimap, self.TRIMAP)
        assert trimap.dtype == np.uint8

    def test_values_are_indices_whatever_the_palette(self) -> None:
        image = Image.fromarray(self.TRIMAP, "P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        for bits in (2, 8):
            assert np.array_equal(decode_trimap(encoded(image, "PNG", bits=bits), max_pixels=self.LIMIT), self.TRIMAP)

    def test_two_bits_of_gray_are_not_stretched(self) -> None:
        rows = b"".join(b"\0" + bytes([0b01101101]) for _ in range(3))
        header = struct.pack(">IIBBBBB", 4, 3, 2, 0, 0, 0, 0)
        chunk = TestPng.chunk
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        assert decode_trimap(data, max_pixels=self.LIMIT).tolist() == [[1, 2, 3, 1]] * 3

    def test_other_values_are_refused(self) -> None:
        wrong = self.TRIMAP.copy()
        wrong[0, 0], wrong[0, 1] = 0, 7
        assert "0, 1, 2, 3, 7" in self.reject(encoded(Image.fromarray(wrong), "PNG"))

    def test_colors_depth_and_lossy_formats_are_refused(self) -> None:
        self.reject(encoded(Image.fromarray(self.TRIMAP).convert("RGB"), "PNG"))
        self.reject(encoded(Image.fromarray(self.TRIMAP.astype(np.uint16)), "PNG"))
        for lossy in ("JPEG", "WEBP", "GIF"):  # GIF: encoders sort its palette
            self.reject(encoded(Image.fromarray(self.TRIMAP), lossy))

    def test_damage_and_size_are_refused(self) -> None:
        data = encoded(Image.fromarray(self.TRIMAP), "PNG")
        for bad in (b"", b"?", data[:50], data[:-30]):
            self.reject(bad)
        self.reject(data, max_pixels=100)


@pytest.fixture(scope="module")
def images(shared_sample: Path) -> dict[str, bytes]:
    """The real photographs by name."""
    with tarfile.open(shared_sample / "images.tar.gz") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")]
        return {Path(member.name).stem: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def odd(shared_sample: Path) -> dict[str, str]:
    """What is odd about some of them, by name."""
    files: dict[str, str] = json.loads((shared_sample / "expected.json").read_text(encoding="utf-8"))["odd_files"]
    return files


@pytest.mark.sample
class TestSample:
    """The odd files of the real photographs each end as expected.json says."""

    ODD: ClassVar = {
        "PNG with alpha under a .jpg name": ("png", "RGBA", ["alpha-composited", "misnamed"]),
        "PNG without alpha under a .jpg name": ("png", "RGB", ["misnamed"]),
        "GIF (palette) under a .jpg name, in no split": ("gif", "P", ["palette-to-rgb", "misnamed"]),
        "JPEG with 240 extraneous bytes before its end marker": ("jpeg", "RGB", ["jpeg-warning"]),
        "stored rotated, EXIF orientation 6 (the annotations are in upright coordinates)": (
            "jpeg",
            "RGB",
            ["exif-orientation"],
        ),
        "CMYK JPEG": ("jpeg", "CMYK", ["cmyk-to-rgb"]),
        "gray JPEG, in no split": ("jpeg", "L", ["gray-to-rgb"]),
    }
    CUT = "JPEG cut off at 80 % (premature end)"

    def test_odd_files_end_as_expected(self, images: dict[str, bytes], odd: dict[str, str]) -> None:
        for name, what in odd.items():
            if what == self.CUT:
                assert rejected(images[name]) == RejectReason.TRUNCATED
                assert decode(images[name], KEEP).repairs == (Repair.KEPT_DAMAGED,)
                continue
            decoded = decode(images[name])
            repairs = [
                *decoded.repairs,
                *(["misnamed"] if suffix_disagrees(f"{name}.jpg", decoded.source_format) else []),
            ]
            assert (decoded.source_format, decoded.source_mode, repairs) == self.ODD[what], name

    def test_all_others_need_no_repair_and_equal_pillow(self, images: dict[str, bytes], odd: dict[str, str]) -> None:
        for name, data in images.items():
            if name not in odd:
                decoded = decode(data)
                assert decoded.repairs == ()
                assert np.array_equal(decoded.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    def test_the_rotated_one_stands_upright(self, images: dict[str, bytes], odd: dict[str, str]) -> None:
        (name,) = (name for name, what in odd.items() if "EXIF orientation 6" in what)
        decoded = decode(images[name])
        stored = Image.open(io.BytesIO(images[name]))
        assert decoded.exif_orientation == 6
        assert (decoded.source_width, decoded.source_height) == stored.size
        assert decoded.pixels.shape[:2] == (stored.width, stored.height)
        assert np.array_equal(decoded.pixels, np.asarray(ImageOps.exif_transpose(stored)))

    def test_the_cmyk_one_looks_like_a_photograph(self, images: dict[str, bytes], odd: dict[str, str]) -> None:
        (name,) = (name for name, what in odd.items() if what == "CMYK JPEG")
        expected = np.asarray(Image.open(io.BytesIO(images[name])).convert("RGB"))
        assert np.array_equal(decode(images[name]).pixels, expected)

    def test_all_trimaps_decode(self, shared_sample: Path) -> None:
        with tarfile.open(shared_sample / "annotations.tar.gz") as archive:
            for member in archive:
                path = Path(member.name)
                if path.suffix == ".png" and not path.name.startswith("._"):
                    decode_trimap(archive.extractfile(member).read(), max_pixels=10**8)  # type: ignore[union-attr]
