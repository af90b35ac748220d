"""What `make deploy` creates before the deployments: as the files say, and again without doing it twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from deploy.resources import Automations, create_all, plan_automations, read_automations, read_resources
from imageshards.errors import ConfigError
from tasks.writer import LIMIT

HOOK = "http://127.0.0.1:9/secret-path"
ENVIRONMENT = {"IMAGESHARDS_NOTIFY_URL": HOOK}
TELL = ["imageshards-failed", "imageshards-late"]
NAMES = [*TELL, "imageshards-zombie", "imageshards-cancelling", "imageshards-not-started"]


def known_keys(given: Any, kept: Any) -> bool:
    """Whether all keys that are given were kept, at any depth: Prefect drops what it does not know."""
    if isinstance(given, dict):
        return all(key in kept and known_keys(value, kept[key]) for key, value in given.items())
    if isinstance(given, list) and isinstance(kept, list):
        return len(given) == len(kept) and all(known_keys(*pair) for pair in zip(given, kept, strict=True))
    return True


def test_prefect_keeps_every_key_of_every_automation() -> None:
    given = read_automations()
    planned = plan_automations(given, uuid4())
    assert [automation.name for automation in planned] == NAMES
    for data, automation in zip(given.automations, planned, strict=True):
        assert known_keys(data, automation.model_dump()), automation.name
        assert automation.description


def test_a_misspelt_key_would_be_found() -> None:
    data = {**read_automations().automations[0]}
    [automation] = plan_automations(Automations(notify="x", automations=[{**data, "enable": False}]), uuid4())
    assert not known_keys({**data, "enable": False}, automation.model_dump())


def test_without_a_block_only_what_notifies_is_left_out() -> None:
    assert [automation.name for automation in plan_automations(read_automations(), None)] == NAMES[len(TELL) :]


def test_an_automation_that_prefect_refuses_is_named() -> None:
    wrong = Automations(
        notify="x", automations=[{"name": "broken", "trigger": {"type": "event", "within": "soon"}, "actions": []}]
    )
    with pytest.raises(ConfigError, match="'broken'"):
        plan_automations(wrong, None)


def test_a_misspelt_key_of_a_resource_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resources.yaml"
    path.write_text("work_pools: []\nconcurrency_limit: []\n")
    with pytest.raises(ConfigError, match="concurrency_limit"):
        read_resources(path)


def test_the_limit_is_the_one_that_writers_take() -> None:
    assert [limit.name for limit in read_resources().concurrency_limits] == [LIMIT]


@pytest.fixture(scope="module")
def created(prefect_api: str) -> Iterator[list[list[str]]]:
    """What is told of two rounds."""
    yield [list(create_all(ENVIRONMENT)) for _ in range(2)]
    with get_client(sync_client=True) as client:  # this server frees no slot of a run that another test kills
        client.delete_global_concurrency_limit_by_name(LIMIT)


def test_it_tells_what_it_created(created: list[list[str]]) -> None:
    first, second = created
    assert first[:3] == ["block type dataset-store", "block type ray-cluster", "block type custom-webhook"]
    assert [line for line in first if line.startswith("automation")] == [f"automation {name}" for name in NAMES]
    assert "work pool imageshards (process, there already)" in second
    assert not [line for line in (*first, *second) if HOOK in line]


def test_a_second_round_makes_nothing_twice(created: list[list[str]]) -> None:
    with get_client(sync_client=True) as client:
        found = client.read_automations()
        assert sorted(each.name for each in found if each.name in NAMES) == sorted(NAMES)
        assert client.read_work_pool("imageshards").type == "process"
        limit = client.read_global_concurrency_limit_by_name(LIMIT)
    assert limit.limit == 1
    assert limit.active


def test_the_server_keeps_the_automations_as_they_are(created: list[list[str]]) -> None:
    with get_client(sync_client=True) as client:
        for wanted in plan_automations(read_automations(), None):
            [kept] = client.read_automations_by_name(wanted.name)
            assert AutomationCore.model_validate(kept.model_dump(exclude={"id"})) == wanted
            assert isinstance(kept.trigger, EventTrigger)


def test_the_webhook_is_kept_as_a_secret(created: list[list[str]]) -> None:
    block = CustomWebhookNotificationBlock.load("imageshards-alerts", _sync=True)
    assert HOOK not in repr(block)
    assert block.url == "{{url}}"
    assert block._build_request_args("a body", "a subject")["url"] == HOOK


def test_without_a_webhook_the_block_that_is_there_is_used(created: list[list[str]]) -> None:
    assert "automation imageshards-failed" in list(create_all({}))
    block = CustomWebhookNotificationBlock.load("imageshards-alerts", _sync=True)
    assert block._build_request_args("a body", None)["url"] == HOOK
