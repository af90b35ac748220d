"""What a run says of itself: first what a tired person reads; it stands for itself whatever names and errors hold."""

from __future__ import annotations

import json

import pytest

from flows.summary import Outcome, Place, class_table, failure_page, result_of, summary_page, time_table
from imageshards.changes import compare_versions
from imageshards.errors import Check, ConfigError, SourceError, StoreError, TransientError, ValidationError
from imageshards.manifest import Manifest
from imageshards.store import Store
from tasks.stages import Stage
from tests.imageshards.built_version import plain_manifest

STAGES = [
    Stage("download", "done", 1.0, {"what": "images", "bytes": 50_000_000}),
    Stage("preprocess", "failed", 1.0, {"error": "TransientError"}),
    Stage("preprocess", "done", 4.0, {"images": 400, "shards": 32, "reused": 31, "bytes": 8_000_000}),
    Stage("validate", "done", 0.5, {"resolution": 64, "images": 73}),
]


@pytest.fixture
def built(folder_store: Store) -> Outcome:
    """A first version: 12 images, 9 rows."""
    manifest = plain_manifest(resolution=64)
    return Outcome(
        manifest, "built", 6.254, compare_versions(None, manifest, raw_store=folder_store, store=folder_store)
    )


def page(*outcomes: Outcome, link: str | None = None) -> str:
    places = {each.manifest.resolution: Place("s3://bucket/report.html", link) for each in outcomes}
    return summary_page("pets", outcomes, places, STAGES, 10.0)


def with_resolution(manifest: Manifest, resolution: int) -> Manifest:
    return manifest.model_copy(update={"resolution": resolution})


def test_the_gist_comes_first_then_every_resolution_then_where_it_is(built: Outcome) -> None:
    text = page(built, Outcome(with_resolution(built.manifest, 224), "unchanged", 1.0))

    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "# pets: built"
    assert lines[1] == "**64 px**: first version: 12 images, 9 rows, 1 reject."
    assert "12 images in the archive" in lines[2]
    assert lines[3] == ("Preprocessing took 4 s of 10 s, 100 images/s; 31 of 32 shards reused from the version before.")
    assert "| 64 | built | 9 | 1 | 2 | 1 | 2026-01-02 03:04 UTC | 6.25 |" in lines
    assert "| 224 | unchanged | 9 | 1 | 2 | 1 | 2026-01-02 03:04 UTC | 1.00 |" in lines
    assert "| rejected: truncated | 1 |" in lines
    assert "- 64 px: `s3://bucket/report.html`" in lines


def test_resolutions_that_changed_alike_are_told_once(built: Outcome) -> None:
    other = Outcome(with_resolution(built.manifest, 224), "built", 7.0, built.changes)
    assert "**64, 224 px**: first version" in page(built, other)


def test_a_report_that_a_browser_reaches_is_a_link(built: Outcome) -> None:
    link = "https://data.example.org/report.html"
    assert f"- 64 px: [report]({link}), `s3://bucket/report.html`" in page(built, link=link)


def test_nothing_new_says_since_when(built: Outcome) -> None:
    text = page(Outcome(built.manifest, "unchanged", 0.9))
    assert text.startswith(
        "# pets: unchanged\n\nNothing new: unchanged since 2026-01-02 03:04 UTC. Looking took 10 s.\n"
    )
    assert "Preprocessing" not in text


def test_a_version_that_is_current_again_is_news_and_says_of_when_it_is(built: Outcome) -> None:
    unchanged = Outcome(with_resolution(built.manifest, 224), "unchanged", 1.0)
    lines = page(Outcome(built.manifest, "restored", 1.0, built.changes), unchanged).splitlines()

    assert lines[0] == "# pets: restored"
    assert lines[2].startswith("**64 px**: the version of 2026-01-02 03:04 UTC is current again: first version")
    assert any(line.startswith("| 64 | restored |") for line in lines)


def test_what_went_wrong_after_publishing_comes_first(built: Outcome) -> None:
    places = {64: Place("s3://bucket/report.html")}
    text = summary_page("pets", [built], places, STAGES, 10.0, problems=["bucket <b> denied"])
    assert text.split("\n\n")[1] == "**Not cleaned**: bucket &lt;b\\> denied"


def test_a_failed_run_says_what_where_and_what_to_do_and_that_readers_keep_theirs(built: Outcome) -> None:
    text = failure_page("pets", TransientError("the store\n<b>is</b> out of reach"), [], STAGES[:2], 2.0)

    assert text.splitlines()[0] == "# pets: failed"
    assert "`TransientError` in stage **preprocess**, after 2 s:" in text
    assert "> the store\n> &lt;b" in text
    assert "Run it again" in text
    assert "This run published nothing." in text
    assert "This run published 64 px before that." in failure_page("pets", StoreError("no"), [built], STAGES, 2.0)


def test_a_run_that_fails_validation_names_the_checks_that_did_not_pass() -> None:
    checks = [Check("rows", True, "1", "1"), Check("reject-fraction", False, "at most 1%", "2%", ("a|b", "<i>"))]
    text = failure_page("pets", ValidationError.of("pets at 64 px", checks), [], STAGES[-1:], 2.0)

    [line] = [line for line in text.splitlines() if line.startswith("- ")]
    assert line.replace("\\", "") == "- reject-fraction: expected at most 1%, found 2% (a|b, &lt;i>)"
    assert "a|b" not in line
    assert "`checks-…`" in text


@pytest.mark.parametrize("error", [ConfigError("x"), SourceError("x"), StoreError("x"), TransientError("x")])
def test_each_kind_of_error_comes_with_advice(error: Exception) -> None:
    assert len(failure_page("pets", error, [], [], 1.0).split("\n\n")) == 5


def test_an_error_that_is_not_ours_is_told_without_advice() -> None:
    assert len(failure_page("pets", KeyError("what"), [], [], 1.0).split("\n\n")) == 4
    assert "no message" in failure_page("pets", KeyError(), [], [], 1.0)


def test_the_time_went_where_the_table_says_the_longest_first() -> None:
    whole, first, *rest = time_table(STAGES, 10.0)

    assert (whole["stage"], whole["seconds"]) == ("whole run", 10.0)
    assert first == {
        "stage": "preprocess",
        "outcome": "done",
        "seconds": 4.0,
        "share": "40%",
        "images": "400",
        "images/s": "100",
        "bytes": "8.0 MB",
        "MB/s": "2.0",
    }
    assert [(row["stage"], row["outcome"], row["MB/s"]) for row in rest] == [
        ("download images", "done", "50"),
        ("preprocess", "failed", ""),
        ("validate 64", "done", ""),
    ]
    assert time_table([Stage("check", "done", 0.0, {})], 0.0)[1]["share"] == ""


def test_every_class_is_in_the_table_also_one_without_rows() -> None:
    manifest = plain_manifest(class_names=("Abyssinian", "pug"), classes={"test": {"pug": 2}, "trainval": {"pug": 4}})
    assert class_table(manifest) == [
        {"class": "Abyssinian", "test": 0, "trainval": 0},
        {"class": "pug", "test": 2, "trainval": 4},
    ]


def test_a_result_is_json_ready_and_holds_what_changed(built: Outcome, folder_store: Store) -> None:
    result = json.loads(json.dumps(result_of(built, folder_store)))
    assert (result["status"], result["rows"], result["seconds"]) == ("built", 9, 6.25)
    assert result["changes"]["gist"].startswith("first version")
    assert result["published_at"] == built.manifest.created_at
    assert result["manifest"] == folder_store.uri(built.manifest.key)
    assert result_of(Outcome(built.manifest, "unchanged", 1), folder_store)["changes"] is None
