"""What validation is about: a version that was built, and what it must agree with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from imageshards.errors import Check
from imageshards.index import IndexInfo
from imageshards.job import VersionResult
from imageshards.oxford_facts import Facts
from imageshards.recipe import Recipe

MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Subject:
    """What is validated, and against what.

    Attributes:
        dataset: Name of the dataset.
        info: The index.
        recipe: What was to be done to pixels.
        version: What the driver says it built.
        keep_unlisted: Whether images in no split were to become rows.
        max_reject_fraction: Highest share of rejects among samples and rejects, 0 to 1.
        max_leaks: Most pairs of duplicates across splits; None for any number, reported all the same.
        facts: Published facts of the archives, where there are any.
    """

    dataset: str
    info: IndexInfo
    recipe: Recipe
    version: VersionResult
    keep_unlisted: bool = False
    max_reject_fraction: float = 1.0
    max_leaks: int | None = None
    facts: Facts | None = None


@dataclass(slots=True)
class Offenders:
    """How many there are of something that must not be, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, names: Sequence[str], count: int | None = None) -> None:
        """Note more; `count` where only the first are named."""
        self.count += len(names) if count is None else count
        self.examples += names[: MAX_EXAMPLES - len(self.examples)]


def offenders(names: Iterable[str]) -> Offenders:
    """All of these."""
    found = Offenders()
    found.add(list(names))
    return found


def summarize(name: str, expected: str, problems: Offenders, found: str | None = None) -> Check:
    """The check that holds where there are no problems; the first few are its examples."""
    described = found if found is not None else f"{problems.count} otherwise" if problems.count else "as expected"
    return Check(name, not problems.count, expected, described, tuple(problems.examples))
