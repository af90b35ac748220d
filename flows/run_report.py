"""What a run leaves for whoever looks in the morning: artifacts, of a run that failed, too."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from blocks.dataset_store import StoreAccess, store_access
from flows.summary import (
    Outcome,
    Place,
    class_table,
    failure_page,
    summary_page,
    time_table,
)
from imageshards.contact_sheet import preview
from imageshards.manifest import Manifest
from imageshards.plan import version_prefix
from imageshards.report import CONTACT_SHEET_NAME, REPORT_NAME
from tasks.artifacts import artifact_or_warning
from tasks.stages import Stage, collect_stages


@dataclass(slots=True)
class RunReport:
    """What a run has done so far.

    Attributes:
        stages: Those that ended.
        outcomes: The resolutions that are published, by this run or before.
        problems: What went wrong and did not fail the run, in sentences.
    """

    stages: list[Stage]
    outcomes: list[Outcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    def add(self, outcome: Outcome) -> None:
        """Note what became of a resolution, as soon as it is known: a run that fails later tells of it, too."""
        self.outcomes.append(outcome)

    def by_resolution(self) -> list[Outcome]:
        """The outcomes, the smallest resolution first."""
        return sorted(self.outcomes, key=lambda outcome: outcome.manifest.resolution)


@contextmanager
def run_report(dataset: str, store: str) -> Iterator[RunReport]:
    """Collect what a run does, and leave its artifacts when it ends. A run that is cancelled leaves none.

    Args:
        dataset: Name of the dataset.
        store: Folder, URL or `block:NAME` of the finished data.
    """
    with collect_stages() as stages:
        report = RunReport(stages)
        try:
            yield report
        except Exception as error:
            with _noted_on(error):
                _leave_failure(dataset, store, report, error)
            raise
        with artifact_or_warning("the report of this run, which did its work,"):
            _leave_success(dataset, store, report)


@contextmanager
def _noted_on(error: Exception) -> Iterator[None]:
    """What goes wrong here is only noted: what happened first is what counts."""
    try:
        yield
    except Exception as second:  # noqa: BLE001 (the first one is raised)
        error.add_note(f"the run's report could not be left: {type(second).__name__}: {second}")


def _leave_success(dataset: str, store: str, report: RunReport) -> None:
    access = store_access(store)
    outcomes = report.by_resolution()
    places = {outcome.manifest.resolution: _place(access, outcome.manifest) for outcome in outcomes}
    page = summary_page(dataset, outcomes, places, report.stages, report.seconds, problems=report.problems)
    news = [outcome for outcome in outcomes if outcome.status != "unchanged"]
    gists = {outcome.changes.gist() for outcome in news if outcome.changes}
    create_markdown_artifact(page, key="summary", description="; ".join(sorted(gists)) or "nothing new")
    if news:
        _leave_time(report)
        _leave_news(access, news, places)


def _leave_failure(dataset: str, store: str, report: RunReport, error: Exception) -> None:
    page = failure_page(dataset, error, report.outcomes, report.stages, report.seconds)
    create_markdown_artifact(page, key="summary", description=f"failed: {type(error).__name__}")
    _leave_time(report)
    news = [outcome for outcome in report.by_resolution() if outcome.status != "unchanged"]
    if news:
        access = store_access(store)
        places = {outcome.manifest.resolution: _place(access, outcome.manifest) for outcome in news}
        _leave_news(access, news, places)


def _leave_time(report: RunReport) -> None:
    create_table_artifact(
        time_table(report.stages, report.seconds),
        key="where-the-time-went",
        description="The longest first; some stages run at the same time",
    )


def _leave_news(access: StoreAccess, news: Sequence[Outcome], places: dict[int, Place]) -> None:
    """What is worth a look in new versions; of several, the picture and the classes are those of the smallest."""
    first = news[0].manifest
    changes = [outcome.changes for outcome in news if outcome.changes]
    if changes:
        pages = [f"## {each.resolution} px\n\n{each.to_markdown()}" for each in changes]
        create_markdown_artifact(
            "\n".join(pages), key="changes", description="Against the version that was current before"
        )
    create_markdown_artifact(
        _picture(access, first),
        key="contact-sheet",
        description=f"Some images as they are stored, {first.resolution} px",
    )
    create_table_artifact(
        class_table(first), key="rows-by-class", description=f"Rows by split and class at {first.resolution} px"
    )
    link = places[first.resolution].report_link
    if link:
        create_link_artifact(
            link, link_text=f"Report at {first.resolution} px", key="report", description="The report of the version"
        )


def _picture(access: StoreAccess, manifest: Manifest) -> str:
    """A page with the contact sheet in it.

    Not an image artifact: Prefect's page of one writes its whole URL below the picture, here 200,000 characters.
    """
    sheet = access.open().get(_prefix(manifest) + CONTACT_SHEET_NAME)
    data = base64.b64encode(preview(sheet)).decode()
    return f"![{manifest.dataset} at {manifest.resolution} px](data:image/webp;base64,{data})\n"


def _place(access: StoreAccess, manifest: Manifest) -> Place:
    report = _prefix(manifest) + REPORT_NAME
    return Place(access.open().uri(report), access.link(report))


def _prefix(manifest: Manifest) -> str:
    return version_prefix(manifest.dataset, manifest.resolution, manifest.fingerprint)
