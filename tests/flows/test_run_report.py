"""The artifacts of a run: of one that built, one that found nothing new, one that failed half-way."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import flow

from blocks.dataset_store import DatasetStore
from flows.run_report import run_report
from flows.summary import Outcome
from imageshards.changes import compare_versions
from imageshards.contact_sheet import PREVIEW_BYTES
from imageshards.errors import StoreError
from imageshards.manifest import publish_manifest
from imageshards.report import write_report
from tasks.stages import stage
from tests.flows.runs import last_run
from tests.imageshards.built_version import build_version, uploaded_sample

BLOCK = "run-report-store"


@pytest.fixture(scope="module")
def built(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A published version, its store a block with an address for browsers."""
    version = build_version(*uploaded_sample(tmp_path_factory.mktemp("version")))
    write_report(version.manifest, raw_store=version.store, store=version.store)
    publish_manifest(version.store, version.manifest)
    DatasetStore(url=version.store.url, public_url="https://data.example.org").save(BLOCK, overwrite=True)
    changes = compare_versions(None, version.manifest, raw_store=version.store, store=version.store)
    return Outcome(version.manifest, "built", 1.0, changes)


@flow
def reporting(outcomes: Sequence[Any], error: BaseException | None = None, store: str = f"block:{BLOCK}") -> None:
    """A flow that does nothing but report."""
    with run_report("pets", store) as report:
        with stage("upload") as upload:
            upload.count(images=3)
        for outcome in outcomes:
            report.add(outcome)
        if error is not None:
            with stage("publish"):
                raise error


def test_a_run_that_built_leaves_what_changed_a_picture_a_link_and_where_the_time_went(built: Outcome) -> None:
    reporting([built])

    artifacts = last_run().artifacts()
    assert set(artifacts) == {
        "summary",
        "changes",
        "contact-sheet",
        "rows-by-class",
        "report",
        "where-the-time-went",
    }
    assert artifacts["summary"].data.startswith("# pets: built")
    assert artifacts["summary"].description == "first version: 77 images, 73 rows, 1 reject"
    assert artifacts["changes"].data.startswith("## 64 px\n\nFirst version")
    manifest = built.manifest
    link = f"https://data.example.org/shards/{manifest.dataset}/64/{manifest.fingerprint}/report.html"
    assert artifacts["report"].data == f"[Report at 64 px]({link})"
    assert [row["stage"] for row in json.loads(artifacts["where-the-time-went"].data)] == ["whole run", "upload"]


def test_the_picture_is_within_the_artifact_and_small(built: Outcome) -> None:
    reporting([built])

    text = last_run().artifacts()["contact-sheet"].data
    found = re.fullmatch(r"!\[oxford-iiit-pet at 64 px\]\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)\n", text)
    assert found
    data = base64.b64decode(found[1])
    assert len(data) <= PREVIEW_BYTES
    assert Image.open(io.BytesIO(data)).width > 400


def test_a_run_that_found_nothing_new_leaves_its_summary_alone(built: Outcome) -> None:
    reporting([Outcome(built.manifest, "unchanged", 1.0)])

    artifacts = last_run().artifacts()
    assert set(artifacts) == {"summary"}
    assert "unchanged since" in artifacts["summary"].data
    assert artifacts["summary"].description == "nothing new"


def test_a_run_that_failed_says_so_and_shows_what_it_published_before(built: Outcome) -> None:
    with pytest.raises(StoreError, match="denied"):
        reporting([built], StoreError("denied"))

    artifacts = last_run().artifacts()
    assert {"summary", "where-the-time-went", "contact-sheet", "changes"} <= set(artifacts)
    assert "# pets: failed" in artifacts["summary"].data
    assert "in stage **publish**" in artifacts["summary"].data
    assert "published 64 px before that" in artifacts["summary"].data


def test_a_store_that_cannot_be_opened_does_not_hide_why_the_run_failed(built: Outcome) -> None:
    with pytest.raises(StoreError, match="denied") as caught:
        reporting([built], StoreError("denied"), store="block:none")
    assert "report could not be left" in str(getattr(caught.value, "__notes__", ""))
    assert set(last_run().artifacts()) >= {"summary", "where-the-time-went"}


def test_a_report_that_cannot_be_left_fails_no_run_that_did_its_work(built: Outcome, tmp_path: Path) -> None:
    reporting([built], store=str(tmp_path))  # a store without the contact sheet

    run = last_run()
    assert run.run.state is not None
    assert run.run.state.is_completed()
    assert {"summary", "where-the-time-went"} <= set(run.artifacts())
    assert any("could not be left: ObjectMissingError" in message for message in run.messages())


def test_without_an_address_for_browsers_there_is_no_link(built: Outcome, tmp_path: Path) -> None:
    store = DatasetStore.load(BLOCK).url
    reporting([built], store=store)
    artifacts = last_run().artifacts()
    assert "report" not in artifacts
    assert "report.html`" in artifacts["summary"].data
