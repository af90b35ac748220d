"""Archives to measure on: the real sample beside the repository where it is there, else the drawn one, replicated."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from imageshards.sample import write_sample

SHARED_SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "pets-sample"


def sample_archives(folder: Path) -> tuple[Path, Path]:
    """The images and the annotations archive of a sample."""
    if SHARED_SAMPLE.is_dir():
        return SHARED_SAMPLE / "images.tar.gz", SHARED_SAMPLE / "annotations.tar.gz"
    drawn = write_sample(folder)
    return drawn.images, drawn.annotations


def replicate(images: Path, annotations: Path, count: int, folder: Path) -> tuple[Path, Path]:
    """The same images under other names until there are `count`, with their split lists, trimaps and boxes.

    Returns:
        An images and an annotations archive, tar without compression.
    """
    photographs, pixels = read_members(images), read_members(annotations)
    lists = {name: pixels[f"annotations/{name}.txt"].decode().splitlines() for name in ("list", "trainval", "test")}
    ids = [line.split()[0] for line in lists["list"] if not line.startswith("#")]
    rounds = -(-count // len(ids))
    names = [(image_id, f"{image_id}{turn:04d}") for turn in range(rounds) for image_id in ids][:count]
    kept = {image_id: [new for old, new in names if old == image_id] for image_id in ids}
    new_images, new_annotations = folder / "images.tar", folder / "annotations.tar"
    with tarfile.open(new_images, "w") as tar:
        for old, new in names:
            add_member(tar, f"images/{new}.jpg", photographs[f"images/{old}.jpg"])
    with tarfile.open(new_annotations, "w") as tar:
        for name, lines in lists.items():
            entries = [line.split(maxsplit=1) for line in lines if not line.startswith("#")]
            text = "".join(f"{new} {rest}\n" for image_id, rest in entries for new in kept[image_id])
            add_member(tar, f"annotations/{name}.txt", text.encode())
        for old, new in names:
            for path in ("annotations/trimaps/{}.png", "annotations/xmls/{}.xml"):
                if data := pixels.get(path.format(old)):
                    add_member(tar, path.format(new), data)
    return new_images, new_annotations


def without_trimaps(annotations: Path) -> Path:
    """An annotations archive, beside the one given, with all of it but the trimaps."""
    kept = annotations.with_name(f"{annotations.stem}-without-trimaps.tar")
    with tarfile.open(kept, "w") as tar:
        for name, data in read_members(annotations).items():
            if "/trimaps/" not in name:
                add_member(tar, name, data)
    return kept


def read_members(path: Path) -> dict[str, bytes]:
    """The files of an archive."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Put a file into an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
