"""What may go and what may not: laws of the plan, and each rule by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageshards.errors import ConfigError
from imageshards.retention import (
    Condition,
    Kind,
    Leftover,
    RetentionPlan,
    RetentionPolicy,
    VersionState,
    plan_retention,
)

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
ONE = RetentionPolicy(keep_versions=1)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def published(name: str, days: float, **fields: Any) -> VersionState:
    state = VersionState("pets", 224, name, Condition.PUBLISHED, days_ago(days), 3, 300, created_at=days_ago(days))
    return replace(state, **fields)


def unpublished(name: str, days: float, **fields: Any) -> VersionState:
    return replace(VersionState("pets", 224, name, Condition.UNPUBLISHED, days_ago(days)), **fields)


def gone(plan: RetentionPlan) -> set[str]:
    return {
        verdict.subject.fingerprint if isinstance(verdict.subject, VersionState) else verdict.subject.name
        for verdict in plan.deletions
    }


ages = st.floats(-3, 40)


@st.composite
def states(draw: st.DrawFn) -> list[VersionState]:
    found = []
    for resolution in (224, 384):
        names = [f"{resolution}-{number}" for number in range(draw(st.integers(0, 6)))]
        latest = draw(st.sampled_from([None, *names]))
        for name in names:
            condition = draw(st.sampled_from(Condition))
            age, left = draw(ages), draw(st.none() | ages)
            refers_to = draw(st.lists(st.sampled_from(names), max_size=2))
            is_published = condition == Condition.PUBLISHED
            found.append(
                VersionState(
                    "pets",
                    resolution,
                    name,
                    condition,
                    days_ago(draw(ages)),
                    created_at=days_ago(age) if is_published else None,
                    left_at=None if left is None else days_ago(left),
                    is_latest=name == latest,
                    refers_to=frozenset(f"shards/pets/{resolution}/{other}/" for other in refers_to)
                    if is_published
                    else frozenset(),
                )
            )
    return draw(st.permutations(found))


policies = st.builds(
    RetentionPolicy,
    keep_versions=st.none() | st.integers(1, 4),
    grace_days=st.sampled_from([0, 0.5, 7, 30]),
    abandoned_days=st.sampled_from([0, 1, 7]),
)


@given(states(), policies)
def test_the_plan_keeps_its_promises(versions: list[VersionState], policy: RetentionPolicy) -> None:
    plan = plan_retention(versions, policy, NOW)
    deleted = [verdict.subject for verdict in plan.deletions]
    kept = plan.kept_versions
    assert len(plan.verdicts) == len(versions)
    assert {each.prefix for each in (*kept, *deleted)} == {each.prefix for each in versions}  # type: ignore[union-attr]
    in_use = {prefix for version in kept for prefix in version.refers_to}
    for version in deleted:
        assert isinstance(version, VersionState)
        assert not version.is_latest
        assert version.condition != Condition.DAMAGED
        assert version.prefix not in in_use
        if version.condition == Condition.UNPUBLISHED:
            assert version.touched_at < NOW - timedelta(days=policy.abandoned_days)
    for resolution in (224, 384):
        had = [each for each in versions if each.resolution == resolution and each.condition == Condition.PUBLISHED]
        has = [each for each in kept if each.resolution == resolution and each.condition == Condition.PUBLISHED]
        assert len(has) >= min(policy.keep_versions or len(had), len(had))
        for version in set(had) - set(has):
            newer = sorted(each.created_at for each in had if each.created_at > version.created_at)  # type: ignore[operator, type-var]
            limit = NOW - timedelta(days=policy.grace_days)
            assert newer[0] < limit if newer else True  # type: ignore[operator]
            assert version.left_at is None or version.left_at < limit


@given(states(), policies)
def test_a_second_plan_after_the_first_is_empty(versions: list[VersionState], policy: RetentionPolicy) -> None:
    left = plan_retention(versions, policy, NOW).kept_versions
    assert plan_retention(left, policy, NOW).deletions == ()


@given(states(), policies, st.randoms())
def test_the_order_in_which_versions_are_found_does_not_matter(
    versions: list[VersionState], policy: Any, rnd: Any
) -> None:
    before = gone(plan_retention(versions, policy, NOW))
    rnd.shuffle(versions)
    assert gone(plan_retention(versions, policy, NOW)) == before


def test_a_version_goes_when_it_was_replaced_before_the_grace_period_however_old_it_is() -> None:
    versions = [published("c", 5, is_latest=True), published("b", 8), published("a", 60)]
    assert gone(plan_retention(versions, ONE, NOW)) == {"a"}  # b was replaced 5 days ago
    assert gone(plan_retention(versions, RetentionPolicy(keep_versions=1, grace_days=4), NOW)) == {"a", "b"}
    assert gone(plan_retention(versions, RetentionPolicy(keep_versions=2), NOW)) == {"a"}
    assert gone(plan_retention(versions, RetentionPolicy(keep_versions=3), NOW)) == set()


def test_without_a_number_every_published_version_stays() -> None:
    versions = [published("b", 30, is_latest=True), published("a", 60), unpublished("x", 60)]
    assert gone(plan_retention(versions, RetentionPolicy(), NOW)) == {"x"}


def test_the_current_version_stays_when_newer_ones_were_published() -> None:
    versions = [published("c", 30), published("b", 40), published("a", 60, is_latest=True)]
    assert gone(plan_retention(versions, ONE, NOW)) == {"b"}


def test_the_grace_of_a_version_that_was_current_again_begins_when_it_was_left() -> None:
    newer = [published("c", 1, is_latest=True), published("b", 40)]
    assert gone(plan_retention([*newer, published("a", 60)], ONE, NOW)) == {"a"}
    assert gone(plan_retention([*newer, published("a", 60, left_at=days_ago(1))], ONE, NOW)) == set()


def test_each_resolution_counts_for_itself() -> None:
    versions = [published("b", 30), published("a", 60, resolution=384)]
    assert gone(plan_retention(versions, ONE, NOW)) == set()


def test_a_damaged_manifest_keeps_its_version_and_does_not_count() -> None:
    damaged = replace(published("z", 50), condition=Condition.DAMAGED, created_at=None)
    plan = plan_retention([damaged, published("b", 30), published("a", 60)], ONE, NOW)
    assert gone(plan) == {"a"}
    assert "cannot be read" in next(each.reason for each in plan.verdicts if each.subject == damaged)


def test_a_folder_without_a_manifest_goes_when_nobody_wrote_to_it_for_a_while() -> None:
    versions = [
        unpublished("young", 0.9),
        unpublished("old", 1.1),
        unpublished("current", 50, is_latest=True),
    ]
    assert gone(plan_retention(versions, ONE, NOW)) == {"old"}


def test_what_a_kept_version_refers_to_stays_and_what_that_refers_to_in_turn() -> None:
    chain = [
        published("d", 10, is_latest=True, refers_to=frozenset({"shards/pets/224/b/"})),
        published("c", 20),
        published("b", 30, refers_to=frozenset({"shards/pets/224/a/"})),
        published("a", 40),
    ]
    assert gone(plan_retention(chain, ONE, NOW)) == {"c"}


def test_leftovers_go_by_their_age() -> None:
    leftovers = [
        Leftover(Kind.RUN, "runs/old/", days_ago(1.1)),
        Leftover(Kind.RUN, "runs/young/", days_ago(0.9)),
        Leftover(Kind.UNFINISHED, "upload", days_ago(2)),
    ]
    assert gone(plan_retention([], ONE, NOW, leftovers=leftovers)) == {"runs/old/", "upload"}


@pytest.mark.parametrize(
    ("name", "number"),
    [("keep_versions", 0), ("keep_versions", -1), ("grace_days", -0.1), ("abandoned_days", float("nan"))],
)
def test_a_policy_out_of_range_is_refused(name: str, number: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        RetentionPolicy(**{name: number})


def test_reasons_are_for_people() -> None:
    versions = [published("c", 3, is_latest=True), published("b", 30), published("a", 60), unpublished("x", 0.5)]
    reasons = {each.subject.fingerprint: each.reason for each in plan_retention(versions, ONE, NOW).verdicts}  # type: ignore[union-attr]
    assert reasons == {
        "c": "latest.json points at it, or cannot be read",
        "b": "replaced 3.0 days ago: within 7 days of grace",
        "a": "replaced 30.0 days ago; newer versions kept: 1",
        "x": "no manifest, last written to 12.0 hours ago",
    }
