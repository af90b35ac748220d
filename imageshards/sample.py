"""A small archive in the layout of Oxford-IIIT Pet, drawn by code, its kinds of odd files included.

    python -m imageshards.sample DIR

writes images.tar.gz, annotations.tar.gz and expected.json into DIR: the two archives as Oxford packs them (stray .mat
and macOS ._* files too), and what a reader must find in them. The same spec gives the same bytes, every time; what is
already there and right is left alone.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from imageshards.errors import ConfigError, ImageShardsError, StoreError
from imageshards.sample_drawing import BREEDS, Breed, Picture, draw_pet
from imageshards.sample_files import Fault, encode_box, encode_image, encode_trimap

IMAGES_NAME, ANNOTATIONS_NAME, EXPECTED_NAME = "images.tar.gz", "annotations.tar.gz", "expected.json"

DRAWING_VERSION = 1
"""Raise it when the drawing changes: a sample of another version is drawn anew."""

MAX_PER_CLASS = 800
"""Listed images are numbered from 96, the unlisted ones from 901."""

_FIRST_NUMBER = 96
"""So that numbers have two digits and three, and their order as text is not their order as numbers."""

_MEMBER_MTIME = 1_340_000_000
"""18 June 2012, when Oxford packed the original."""

_SIDE_RATIOS = (1.1, 1.25, 4 / 3, 4 / 3, 1.5, 1.5)
"""Longer over shorter side. None is square, so that a rotated image shows by its shape."""

_README = "A drawn stand-in for the Oxford-IIIT Pet dataset, in the layout of the original archives.\n"

_LIST_HEADER = """\
#Image CLASS-ID SPECIES BREED ID
#ID: 1:37 Class ids
#SPECIES: 1:Cat 2:Dog
#BREED ID: 1-25:Cat 1:12:Dog
#All images with 1st letter as captial are cat images
#images with small first letter are dog images
"""
"""The original's six comment lines, its spelling included."""

_FAULTS = {
    ("Abyssinian", 0): Fault.PNG_ALPHA,
    ("Egyptian_Mau", 0): Fault.PNG,
    ("beagle", 0): Fault.TRUNCATED,
    ("chihuahua", 0): Fault.EXTRANEOUS,
    ("pug", 0): Fault.ROTATED,
    ("shiba_inu", 1): Fault.CMYK,
}
"""By class and position in it; even positions are trainval, odd ones test."""

_WITHOUT_BOX = {("american_bulldog", 0), ("samoyed", 0)}
_WITH_EMPTY_TRIMAP = {("american_pit_bull_terrier", 0)}
_UNLISTED = (
    ("Egyptian_Mau", 901, Fault.GIF),
    ("Egyptian_Mau", 902, Fault.GIF),
    ("staffordshire_bull_terrier", 902, Fault.GRAY),
)


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What the sample is to be.

    Attributes:
        per_class: Listed images of each of the 37 classes, an even number: half trainval, half test.
        faults: Whether odd files, missing boxes, an empty trimap and unlisted images are among them.
        seed: Seed of every random draw.
        median_long_side_px: Median of the longer sides; sides vary from a third of it to one and a half of it.
    """

    per_class: int = 6
    faults: bool = True
    seed: int = 0
    median_long_side_px: int = 430

    def __post_init__(self) -> None:
        if self.per_class % 2 or not 2 <= self.per_class <= MAX_PER_CLASS:
            raise ConfigError(
                f"per_class must be an even number from 2 to {MAX_PER_CLASS}, found {self.per_class}: "
                "half of each class goes to trainval, half to test"
            )
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, found {self.seed}")
        if not 60 <= self.median_long_side_px <= 4000:
            raise ConfigError(f"median_long_side_px must be from 60 to 4000, found {self.median_long_side_px}")


@dataclass(frozen=True, slots=True)
class SampleArchives:
    """A sample on disk.

    Attributes:
        images: Path of images.tar.gz.
        annotations: Path of annotations.tar.gz.
        expected_path: Path of expected.json.
        expected: Its content: digests, counts, and which files are odd and how.
        written: Whether this call wrote it; False when it was there already.
    """

    images: Path
    annotations: Path
    expected_path: Path
    expected: dict[str, Any]
    written: bool


@dataclass(frozen=True, slots=True)
class SampleImage:
    """One image of the sample, before it is drawn.

    Attributes:
        breed: Its class.
        class_id: 1 to 37.
        breed_id: Number within the species, from 1.
        number: What follows the class name in the image id.
        split: None for an image in no list.
        fault: How its file is odd, if it is.
        has_box: Whether there is an XML file with the box of its head.
        has_outline: Whether the trimap shows the pet; otherwise it is all background.
        has_profile: Whether the file carries an ICC profile (sRGB).
    """

    breed: Breed
    class_id: int
    breed_id: int
    number: int
    split: Literal["trainval", "test"] | None
    fault: Fault | None
    has_box: bool = False
    has_outline: bool = True
    has_profile: bool = False

    @property
    def species(self) -> Literal["cat", "dog"]:
        """What the XML calls the animal."""
        return "cat" if self.breed.is_cat else "dog"

    @property
    def image_id(self) -> str:
        """The name of its files, without suffix."""
        return f"{self.breed.name}_{self.number}"


def plan_sample(spec: SampleSpec) -> tuple[SampleImage, ...]:
    """Every image of the sample, in the order of class and image id."""
    planned: list[SampleImage] = []
    for class_id, breed in enumerate(BREEDS, start=1):
        breed_id = sum(other.is_cat == breed.is_cat for other in BREEDS[:class_id])
        for position in range(spec.per_class):
            place = (breed.name, position) if spec.faults else None
            fault = _FAULTS.get(place) if place else None
            planned.append(
                SampleImage(
                    breed=breed,
                    class_id=class_id,
                    breed_id=breed_id,
                    number=_FIRST_NUMBER + position,
                    split="test" if position % 2 else "trainval",
                    fault=fault,
                    has_box=position % 2 == 0 and place not in _WITHOUT_BOX,
                    has_outline=place not in _WITH_EMPTY_TRIMAP,
                    has_profile=fault is None and (class_id + position) % 3 == 0,
                )
            )
        for name, number, odd in _UNLISTED if spec.faults else ():
            if name == breed.name:
                planned.append(SampleImage(breed, class_id, breed_id, number, split=None, fault=odd))
    return tuple(sorted(planned, key=lambda image: (image.class_id, image.image_id)))


def write_sample(directory: Path, spec: SampleSpec = SampleSpec()) -> SampleArchives:
    """Write the archives and what is expected of them into a folder, made if needed.

    Idempotent: does nothing when they are there already, drawn from the same spec and undamaged. Each file appears
    whole, expected.json last.

    Raises:
        StoreError: The folder cannot be made or written.
    """
    try:
        present = _read_present(directory, spec)
        expected = _write_anew(directory, spec) if present is None else present
    except OSError as error:
        raise StoreError(
            f"cannot write the sample to {directory}: {error.strerror}; name a folder that can be written",
            path=str(directory),
        ) from error
    return SampleArchives(
        images=directory / IMAGES_NAME,
        annotations=directory / ANNOTATIONS_NAME,
        expected_path=directory / EXPECTED_NAME,
        expected=expected,
        written=present is None,
    )


def _read_present(directory: Path, spec: SampleSpec) -> dict[str, Any] | None:
    try:
        found = json.loads((directory / EXPECTED_NAME).read_bytes())
        expected = _expected(directory, spec)
    except (FileNotFoundError, ValueError):
        return None
    return expected if found == expected else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_anew(directory: Path, spec: SampleSpec) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".drawing-") as name:
        scratch = Path(name)
        _write_archives(scratch, spec)
        expected = _expected(scratch, spec)
        text = json.dumps(expected, indent=1, sort_keys=True) + "\n"
        (scratch / EXPECTED_NAME).write_text(text, encoding="utf-8")
        for finished in (IMAGES_NAME, ANNOTATIONS_NAME, EXPECTED_NAME):
            (scratch / finished).replace(directory / finished)
    return expected


def _expected(directory: Path, spec: SampleSpec) -> dict[str, Any]:
    """What a reader of the archives in this folder must find."""
    planned = plan_sample(spec)
    listed = [image for image in planned if image.split]
    trainval = [image for image in listed if image.split == "trainval"]
    return {
        "images_sha256": _sha256(directory / IMAGES_NAME),
        "annotations_sha256": _sha256(directory / ANNOTATIONS_NAME),
        "classes": len(BREEDS),
        "cat_classes": sum(breed.is_cat for breed in BREEDS),
        "dog_classes": sum(not breed.is_cat for breed in BREEDS),
        "jpg_members": len(planned),
        "listed": len(listed),
        "trainval": len(trainval),
        "test": len(listed) - len(trainval),
        "unlisted": sorted(image.image_id for image in planned if not image.split),
        "odd_files": {image.image_id: str(image.fault) for image in planned if image.fault},
        "trainval_without_box": sorted(image.image_id for image in trainval if not image.has_box),
        "empty_trimaps": sorted(image.image_id for image in planned if not image.has_outline),
        "drawn": {"version": DRAWING_VERSION, **asdict(spec)},
    }


def _write_archives(directory: Path, spec: SampleSpec) -> None:
    """Draw each image once, in the order of the archive, and write both archives."""
    planned = plan_sample(spec)
    trimaps: dict[str, bytes] = {}
    boxes: dict[str, bytes] = {}
    with _new_tar(directory / IMAGES_NAME) as tar:
        _add(tar, "images/")
        for number in (100, 101, 102):
            _add(tar, f"images/Abyssinian_{number}.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128, b"\0"))
        for image in sorted(planned, key=lambda image: image.image_id):
            picture = draw_image(image, spec)
            photograph = encode_image(picture, image.fault, with_profile=image.has_profile)
            _add(tar, f"images/{image.image_id}.jpg", photograph)
            trimaps[f"annotations/trimaps/{image.image_id}.png"] = encode_trimap(picture, empty=not image.has_outline)
            if image.has_box:
                boxes[f"annotations/xmls/{image.image_id}.xml"] = encode_box(picture, image.image_id, image.species)
    with _new_tar(directory / ANNOTATIONS_NAME) as tar:
        for name in ("annotations/", "annotations/trimaps/", "annotations/xmls/"):
            _add(tar, name)
        for name, content in (_lists(planned) | trimaps | boxes).items():
            _add(tar, name, content)
        for name in ("annotations/trimaps", *trimaps):
            folder, _, base = name.rpartition("/")
            _add(tar, f"{folder}/._{base}", bytes(212))


@contextmanager
def _new_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar.gz that depends on its members only: neither the time nor the file's name goes into its header."""
    with (
        path.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"") -> None:
    member = tarfile.TarInfo(name.rstrip("/"))
    member.mtime, member.size = _MEMBER_MTIME, len(content)
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(member, io.BytesIO(content))


def _lists(planned: Sequence[SampleImage]) -> dict[str, bytes]:
    lines = {
        image: f"{image.image_id} {image.class_id} {1 if image.breed.is_cat else 2} {image.breed_id}\n"
        for image in planned
        if image.split
    }
    texts = {"README": _README, "list.txt": _LIST_HEADER + "".join(lines.values())}
    for split in ("trainval", "test"):
        texts[f"{split}.txt"] = "".join(line for image, line in lines.items() if image.split == split)
    return {f"annotations/{name}": text.encode() for name, text in texts.items()}


def draw_image(image: SampleImage, spec: SampleSpec) -> Picture:
    """Draw one image; it depends on the spec and on the image's class and number, not on the others."""
    rng = np.random.default_rng((spec.seed, image.class_id, image.number))
    spread = float(np.clip(np.exp(rng.normal(0, 0.25)), 0.5, 1.5))
    longer = round(spec.median_long_side_px * spread)
    shorter = round(longer / float(rng.choice(_SIDE_RATIOS)))
    portrait = rng.random() < 0.3
    return draw_pet(image.breed, (shorter, longer) if portrait else (longer, shorter), rng)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a sample as the command line says; its paths go to stdout as one JSON line.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage.
    """
    parser = argparse.ArgumentParser(prog="python -m imageshards.sample", description=_summary())
    parser.add_argument("directory", type=Path, help="where the three files go; made if needed")
    parser.add_argument("--per-class", type=int, default=6, help="listed images of each class, even (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw (default: 0)")
    parser.add_argument("--no-faults", action="store_true", help="no odd files, nothing missing, nothing unlisted")
    options = parser.parse_args(arguments)
    try:
        spec = SampleSpec(per_class=options.per_class, faults=not options.no_faults, seed=options.seed)
        sample = write_sample(options.directory, spec)
    except ImageShardsError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    line = {"images": sample.images, "annotations": sample.annotations, "expected": sample.expected_path}
    sys.stdout.write(json.dumps({key: os.fspath(path) for key, path in line.items()} | {"written": sample.written}))
    sys.stdout.write("\n")
    return 0


def _summary() -> str:
    return (__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
