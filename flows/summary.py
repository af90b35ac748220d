"""What a run says of itself, as text and tables; pure, `flows.run_report` brings it to where it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from imageshards.changes import Changes
from imageshards.data_card import escape_markdown
from imageshards.errors import (
    ConfigError,
    ImageShardsError,
    SourceError,
    StoreError,
    TransientError,
    ValidationError,
)
from imageshards.manifest import Manifest
from imageshards.report_view import readable_size
from imageshards.store import Store
from tasks.progress_artifact import readable_seconds
from tasks.stages import DONE, Stage

Status = Literal["built", "restored", "unchanged"]
"""The most important first."""

_BYTES_PER_MB = 1e6

_ADVICE: Mapping[type[ImageShardsError], str] = {
    ValidationError: "The artifact `checks-…` has every check, those that failed first; `rejects` has the images.",
    TransientError: "Run it again: what is done stays done, and only the rest is made up for.",
    SourceError: "Get the right archive, or its right digest; running it again alone will not help.",
    StoreError: "Look at the store that the message names: what is there, and who may write.",
    ConfigError: "Correct the parameter, recipe or block that the message names.",
}
"""What to do, by the kind of error; the message itself says more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one resolution.

    Attributes:
        manifest: Of the version that is current now.
        status: `built` by this run; `restored`: published before, and made the current version again by this run; or
            `unchanged`: current before.
        seconds: From the start of the run until it was published or found.
        changes: Against the version that was current before; None where that is this one.
    """

    manifest: Manifest
    status: Status
    seconds: float
    changes: Changes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version is to be found.

    Attributes:
        report: Address of its report in the store; the manifest and all else lie beside it.
        report_link: Address of the report for a browser; None where the store has none.
    """

    report: str
    report_link: str | None = None


def result_of(outcome: Outcome, store: Store) -> dict[str, Any]:
    """One resolution's part of the flow's return value."""
    manifest = outcome.manifest
    return {
        "resolution": manifest.resolution,
        "manifest": store.uri(manifest.key),
        "rows": manifest.rows,
        "splits": dict(manifest.splits),
        "rejects": dict(manifest.rejects),
        "left_out": dict(manifest.left_out),
        "repairs": dict(manifest.repairs),
        "status": outcome.status,
        "published_at": manifest.created_at,
        "changes": outcome.changes.to_dict() if outcome.changes else None,
        "seconds": round(outcome.seconds, 2),
    }


def summary_page(
    dataset: str,
    outcomes: Sequence[Outcome],
    places: Mapping[int, Place],
    stages: Sequence[Stage],
    seconds: float,
    *,
    problems: Sequence[str] = (),
) -> str:
    """The page of a run that succeeded: what a person reads first in the morning.

    Args:
        dataset: Name of the dataset.
        outcomes: One for each resolution.
        places: Where each is, by resolution.
        stages: What the run did.
        seconds: How long it took.
        problems: What went wrong and did not fail the run.
    """
    news = [outcome for outcome in outcomes if outcome.status != "unchanged"]
    head = next(status for status in get_args(Status) if status in {outcome.status for outcome in outcomes})
    return "\n\n".join(
        [
            f"# {escape_markdown(dataset)}: {head}",
            *(f"**Not cleaned**: {escape_markdown(problem)}" for problem in problems),
            *(_news(news, stages, seconds) if news else _no_news(outcomes, seconds)),
            _results(outcomes),
            _places(outcomes, places),
            *_irregularities(outcomes[0].manifest),
        ]
    )


def failure_page(
    dataset: str, error: BaseException, outcomes: Sequence[Outcome], stages: Sequence[Stage], seconds: float
) -> str:
    """The page of a run that failed: what, where, what to do, and what readers get meanwhile.

    Args:
        dataset: Name of the dataset.
        error: What ended the run.
        outcomes: What was published before that.
        stages: What the run did.
        seconds: How long it took.
    """
    failed = next((stage for stage in reversed(stages) if stage.outcome != DONE), None)
    where = f" in stage **{_label(failed)}**" if failed else ""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    news = [str(outcome.manifest.resolution) for outcome in outcomes if outcome.status != "unchanged"]
    published = f"published {', '.join(news)} px before that" if news else "published nothing"
    return "\n\n".join(
        [
            f"# {escape_markdown(dataset)}: failed",
            f"`{type(error).__name__}`{where}, after {readable_seconds(seconds)}:",
            "\n".join(_message(error)),
            *([advice] if advice else []),
            f"This run {published}. Whatever else was published before is what readers still get.",
        ]
    )


def time_table(stages: Sequence[Stage], seconds: float) -> list[dict[str, Any]]:
    """Where the time of a run went: the whole, and a row for each stage, the longest first.

    Args:
        stages: What the run did; some may have run at the same time.
        seconds: How long the run took.
    """
    rows = [
        {
            "stage": _label(stage),
            "outcome": stage.outcome,
            "seconds": round(stage.seconds, 2),
            "share": f"{stage.seconds / seconds:.0%}" if seconds else "",
            "images": _thousands(stage.number("images")),
            "images/s": _rate(stage.number("images"), stage.seconds),
            "bytes": _size(stage.number("bytes")),
            "MB/s": _rate(stage.number("bytes"), stage.seconds, _BYTES_PER_MB),
        }
        for stage in sorted(stages, key=lambda stage: -stage.seconds)
    ]
    whole = {"stage": "whole run", "outcome": "", "seconds": round(seconds, 2), "share": "100%"}
    return [{**whole, "images": "", "images/s": "", "bytes": "", "MB/s": ""}, *rows]


def class_table(manifest: Manifest) -> list[dict[str, Any]]:
    """Rows of each class in each split."""
    return [
        {"class": name, **{split: counts.get(name, 0) for split, counts in manifest.classes.items()}}
        for name in manifest.class_names
    ]


def _news(news: Sequence[Outcome], stages: Sequence[Stage], seconds: float) -> Iterator[str]:
    """What is new, and how fast it was made."""
    resolutions: dict[str, list[str]] = {}
    for outcome in news:
        if outcome.changes:
            since = f"the version of {_minute(outcome.manifest.created_at)} is current again: "
            said = (since if outcome.status == "restored" else "") + outcome.changes.gist()
            resolutions.setdefault(said, []).append(str(outcome.manifest.resolution))
    for gist, those in resolutions.items():
        yield f"**{', '.join(those)} px**: {escape_markdown(gist)}."
    images = news[0].manifest.images
    yield f"{images:,} images in the archive. Every one of them is a row, a reject, or left out by a rule."
    done = next((stage for stage in reversed(stages) if stage.name == "preprocess" and stage.outcome == DONE), None)
    if done is None:
        return
    speed = _rate(done.number("images"), done.seconds)
    reused, shards = done.number("reused"), done.number("shards")
    yield (
        f"Preprocessing took {readable_seconds(done.seconds)} of {readable_seconds(seconds)}, {speed} images/s; "
        f"{reused or 'none'} of {shards:,} shards reused from the version before."
    )


def _no_news(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    since = max(outcome.manifest.created_at for outcome in outcomes)
    yield f"Nothing new: unchanged since {_minute(since)}. Looking took {readable_seconds(seconds)}."


def _message(error: BaseException) -> Iterator[str]:
    """What went wrong, a line for each check that did not pass where these are the reason."""
    if isinstance(error, ValidationError) and error.checks:
        yield from (f"- {escape_markdown(check.sentence())}" for check in error.checks if not check.passed)
        return
    message = error.message if isinstance(error, ImageShardsError) else str(error)
    yield from (f"> {escape_markdown(line)}" for line in message.splitlines() or ["no message"])


def _results(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| resolution | status | rows | rejects | left out | repaired | published | seconds |",
        "| ---: | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for outcome in outcomes:
        manifest = outcome.manifest
        sums = (sum(counts.values()) for counts in (manifest.rejects, manifest.left_out, manifest.repairs))
        numbers = " | ".join(f"{count:,}" for count in (manifest.rows, *sums))
        ends = f"{_minute(manifest.created_at)} | {outcome.seconds:.2f}"
        lines.append(f"| {manifest.resolution} | {outcome.status} | {numbers} | {ends} |")
    return "\n".join(lines)


def _irregularities(manifest: Manifest) -> Iterator[str]:
    """Repairs, rejects and what was left out; nothing where all images were as they should be."""
    sorts = {"repaired": manifest.repairs, "rejected": manifest.rejects, "left out": manifest.left_out}
    lines = [
        f"| {sort}: {escape_markdown(name)} | {count:,} |"
        for sort, counts in sorts.items()
        for name, count in counts.items()
    ]
    if lines:
        yield "\n".join([f"| at {manifest.resolution} px | images |", "| --- | ---: |", *lines])


def _places(outcomes: Sequence[Outcome], places: Mapping[int, Place]) -> str:
    lines = []
    for resolution in (outcome.manifest.resolution for outcome in outcomes):
        place = places[resolution]
        link = f"[report]({place.report_link}), " if place.report_link else ""
        lines.append(f"- {resolution} px: {link}{_code(place.report)}")
    return "\n".join(lines)


def _label(stage: Stage) -> str:
    """`validate 224`, `download images`."""
    known = (stage.facts.get(name) for name in ("what", "resolution"))
    return " ".join([stage.name, *(str(fact) for fact in known if fact is not None)])


def _rate(count: int | None, seconds: float, unit: float = 1) -> str:
    if not count or not seconds:
        return ""
    rate = count / unit / seconds
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _thousands(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else readable_size(size_bytes)


def _minute(moment: str) -> str:
    """`2026-11-23 02:04 UTC` out of ISO 8601 in UTC."""
    return f"{moment[:16].replace('T', ' ')} UTC"


def _code(text: str) -> str:
    return f"`{text.replace('`', '%60')}`"
