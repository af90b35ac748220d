"""What is known of the original archives of Oxford-IIIT Pet, as checks; applied to them alone, told by their digests.

Counts by class and split: after table 1 of Parkhi, Vedaldi, Zisserman, Jawahar, "Cats and Dogs", CVPR 2012 (training
and validation images together are `trainval`). The single numbers were not compared with the paper or the archives;
that they add up to the confirmed 3,680 and 3,669 is tested. Odd images, missing boxes and empty trimaps: the loaders of
torchvision and TensorFlow Datasets, and published audits of the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from imageshards.errors import Check
from imageshards.oxford_pets import ANNOTATIONS_SHA256, IMAGES_SHA256

_USUAL_IMAGES_OF_A_CLASS = 100
_EXAMPLES = 5

OBSERVED_COLUMNS = ("image_id", "split", "class_name", "species", "head_box")
"""Columns of the index that the facts speak of."""


@dataclass(frozen=True, slots=True)
class OddImage:
    """An image that is not what its name says.

    Attributes:
        source_format: Its format by content.
        repairs: Repairs that must be noted when it becomes a row.
        reject: Reason for which it may be refused instead.
    """

    source_format: str
    repairs: frozenset[str] = frozenset()
    reject: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Published facts of one pair of archives.

    Attributes:
        splits: Images of each split.
        species: Classes of each species.
        fewer: Images of the classes that do not have 100 in a split, by split and class.
        unlisted: Images in no split.
        head_boxes: XML head boxes, by split; None stands for images in no split.
        trimaps: Trimaps.
        stray_members: Members of the images archive that are no images.
        odd_images: Images that are not what their names say.
        without_box: Images of trainval that have no head box.
        empty_trimaps: Images whose trimap is background alone.
    """

    splits: Mapping[str, int]
    species: Mapping[str, int]
    fewer: Mapping[str, Mapping[str, int]]
    unlisted: int
    head_boxes: Mapping[str | None, int]
    trimaps: int
    stray_members: int
    odd_images: Mapping[str, OddImage]
    without_box: Set[str]
    empty_trimaps: Set[str]

    @property
    def images(self) -> int:
        """Images in the archive."""
        return sum(self.splits.values()) + self.unlisted


@dataclass(frozen=True, slots=True)
class Observed:
    """What was found of the same archives.

    Attributes:
        index: `OBSERVED_COLUMNS` of the index by image id.
        members: Members of both archives by kind.
        rows: `source_format` and `repairs` of each plain row that the facts name, by image id.
        rejects: Reason of each reject by image id.
        empty_trimaps: Those of these rows whose trimap is background alone.
    """

    index: Mapping[str, Mapping[str, Any]]
    members: Mapping[str, int]
    rows: Mapping[str, tuple[str, Sequence[str]]]
    rejects: Mapping[str, str]
    empty_trimaps: Set[str]


_GIF = OddImage("gif", frozenset({"misnamed", "palette-to-rgb"}))
_GRAY = OddImage("jpeg", frozenset({"gray-to-rgb"}))
_PNG = OddImage("png", frozenset({"misnamed"}))
_PNG_WITH_ALPHA = OddImage("png", frozenset({"misnamed", "alpha-composited"}))

ORIGINAL = Facts(
    splits={"trainval": 3680, "test": 3669},
    species={"cat": 12, "dog": 25},
    fewer={
        "trainval": {"Bombay": 96, "Egyptian_Mau": 93, "Siamese": 99, "english_cocker_spaniel": 96, "newfoundland": 96},
        "test": {
            "Abyssinian": 98,
            "Bombay": 88,
            "Egyptian_Mau": 97,
            "boxer": 99,
            "keeshond": 99,
            "scottish_terrier": 99,
            "staffordshire_bull_terrier": 89,
        },
    },
    unlisted=41,
    head_boxes={"trainval": 3671, "test": 0, None: 15},
    trimaps=7390,
    stray_members=3,
    odd_images={
        **dict.fromkeys(("Abyssinian_34", *(f"Egyptian_Mau_{n}" for n in (139, 145, 167, 177, 191))), _GIF),
        **dict.fromkeys(("Egyptian_Mau_129", "staffordshire_bull_terrier_2", "staffordshire_bull_terrier_22"), _GRAY),
        **dict.fromkeys(("Egyptian_Mau_14", "Egyptian_Mau_186", "Abyssinian_5"), _PNG_WITH_ALPHA),
        "Egyptian_Mau_156": _PNG,
        "beagle_116": OddImage("jpeg", frozenset({"kept-damaged"}), "truncated"),
        "chihuahua_121": OddImage("jpeg", frozenset({"jpeg-warning"})),
    },
    without_box=frozenset(
        {
            "Abyssinian_104",
            "Bengal_111",
            "Bengal_175",
            "Egyptian_Mau_14",
            "Egyptian_Mau_156",
            "Egyptian_Mau_186",
            "Ragdoll_199",
            "saint_bernard_15",
            "samoyed_10",
        }
    ),
    empty_trimaps=frozenset(
        {
            "Egyptian_Mau_162",
            "Egyptian_Mau_165",
            "Egyptian_Mau_196",
            "leonberger_18",
            "miniature_pinscher_14",
            "saint_bernard_15",
            "saint_bernard_108",
        }
    ),
)


def known_facts(images_sha256: str, annotations_sha256: str) -> Facts | None:
    """The facts that must hold for these archives; None for any but the originals."""
    return ORIGINAL if (images_sha256, annotations_sha256) == (IMAGES_SHA256, ANNOTATIONS_SHA256) else None


def check_facts(facts: Facts, observed: Observed) -> list[Check]:
    """Compare what was found with what is published."""
    return [
        _counts(facts, observed),
        _classes(facts, observed),
        _odd_images(facts, observed),
        _missing_boxes(facts, observed),
        _empty_trimaps(facts, observed),
    ]


def _counts(facts: Facts, observed: Observed) -> Check:
    index = observed.index
    splits = Counter(row["split"] for row in index.values())
    boxes = Counter(row["split"] for row in index.values() if row["head_box"] is not None)
    species = Counter({row["class_name"]: row["species"] for row in index.values() if row["split"]}.values())
    pairs = {
        "images": (facts.images, len(index)),
        **{f"in {split}": (count, splits[split]) for split, count in facts.splits.items()},
        "in no split": (facts.unlisted, splits[None]),
        **{f"{kind} classes": (count, species[kind]) for kind, count in facts.species.items()},
        **{f"boxes in {split or 'no split'}": (count, boxes[split]) for split, count in facts.head_boxes.items()},
        "trimaps": (facts.trimaps, observed.members.get("trimap", 0)),
        "stray members": (facts.stray_members, observed.members.get("not-an-image", 0)),
    }
    expected = ", ".join(f"{wanted} {name}" for name, (wanted, _) in pairs.items())
    return _check(
        "published-counts", expected, [f"{found} {name}" for name, (want, found) in pairs.items() if want != found]
    )


def _classes(facts: Facts, observed: Observed) -> Check:
    found = Counter((row["split"], row["class_name"]) for row in observed.index.values() if row["split"])
    names = {row["class_name"] for row in observed.index.values() if row["split"]}
    problems = []
    for split in facts.splits:
        for name in sorted(names | facts.fewer[split].keys()):
            wanted = facts.fewer[split].get(name, _USUAL_IMAGES_OF_A_CLASS)
            if found[split, name] != wanted:
                problems.append(f"{found[split, name]} of {name} in {split}, not {wanted}")
    return _check("published-classes", "the published number of images of each class in each split", problems)


def _odd_images(facts: Facts, observed: Observed) -> Check:
    """Each odd image that was to become a row, as what it is known for."""
    problems = []
    for image_id, odd in facts.odd_images.items():
        if image_id in observed.rejects:
            if observed.rejects[image_id] != odd.reject:
                problems.append(f"{image_id} rejected as {observed.rejects[image_id]}")
        elif image_id in observed.rows:
            source_format, repairs = observed.rows[image_id]
            if source_format != odd.source_format or not odd.repairs <= set(repairs):
                problems.append(f"{image_id}: {source_format}, {', '.join(repairs) or 'not repaired'}")
        elif image_id not in observed.index:
            problems.append(f"{image_id} is missing")
    return _check("published-odd-images", f"{len(facts.odd_images)} odd images, each as it is known", problems)


def _missing_boxes(facts: Facts, observed: Observed) -> Check:
    found = {
        image_id for image_id, row in observed.index.items() if row["split"] == "trainval" and row["head_box"] is None
    }
    expected = f"{len(facts.without_box)} images of trainval without a head box, those that are known"
    return _check("published-missing-boxes", expected, sorted(found ^ facts.without_box))


def _empty_trimaps(facts: Facts, observed: Observed) -> Check:
    """A crop may leave other trimaps empty, too: those that are known must be among them."""
    problems = sorted((facts.empty_trimaps & observed.rows.keys()) - observed.empty_trimaps)
    problems += sorted(facts.empty_trimaps - observed.index.keys())
    return _check("published-empty-trimaps", f"{len(facts.empty_trimaps)} trimaps of background alone", problems)


def _check(name: str, expected: str, problems: Sequence[str]) -> Check:
    found = f"{len(problems)} otherwise" if problems else "as expected"
    return Check(name, not problems, expected, found, tuple(problems[:_EXAMPLES]))
