"""Creates on a Prefect server what the deployments need: `python -m deploy.resources`, or `make deploy`.

Reads deploy/resources.yaml and deploy/automations.yaml. Idempotent: what is there is changed where it differs, and
nothing is removed. The blocks `pets` and `ray` are made of the environment, where that describes them (see
`blocks.from_environment`); IMAGESHARDS_NOTIFY_URL makes the block that notifications go to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks import from_environment
from blocks.dataset_store import DatasetStore
from blocks.ray_cluster import RayCluster
from imageshards.errors import ConfigError

FOLDER = Path(__file__).resolve().parent
NOTIFY_VARIABLE = "IMAGESHARDS_NOTIFY_URL"
SEND = "send-notification"

_MOST_BLOCKS = 200  # what the server gives at once


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkPool(_Strict):
    """Where flow runs are started."""

    name: str
    type: str


class ConcurrencyLimit(_Strict):
    """A global limit, which tasks take by its name."""

    name: str
    limit: int = Field(ge=1)


class Resources(_Strict):
    """deploy/resources.yaml."""

    work_pools: list[WorkPool]
    concurrency_limits: list[ConcurrencyLimit]


class Automations(_Strict):
    """deploy/automations.yaml.

    Attributes:
        notify: Name of the notification block.
        automations: Prefect's own form; an action that sends a notification needs no block, it gets that one.
    """

    notify: str
    automations: list[dict[str, Any]]


def read_resources(path: Path = FOLDER / "resources.yaml") -> Resources:
    """Read the pools and limits; raises ConfigError where a key is missing, unknown or wrong."""
    return Resources.model_validate(_read(path, Resources))


def read_automations(path: Path = FOLDER / "automations.yaml") -> Automations:
    """Read the automations; raises ConfigError where a key is missing, unknown or wrong."""
    return Automations.model_validate(_read(path, Automations))


def register_blocks() -> Iterator[str]:
    """Make the kinds of block known to the server, so that the UI has a form for each."""
    for kind in (DatasetStore, RayCluster, CustomWebhookNotificationBlock):
        kind.register_type_and_schema(_sync=True)  # type: ignore[call-arg]  # Prefect's own, on each coroutine method
        yield f"block type {kind.get_block_type_slug()}"


def create_pools(client: SyncPrefectClient, pools: list[WorkPool]) -> Iterator[str]:
    """Create the work pools that are missing; one that exists is left as it is, of whatever type."""
    for pool in pools:
        try:
            found = client.read_work_pool(pool.name)
            yield f"work pool {pool.name} ({found.type}, there already)"
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type))
            yield f"work pool {pool.name} ({pool.type})"


def create_limits(client: SyncPrefectClient, limits: list[ConcurrencyLimit]) -> Iterator[str]:
    """Create or change the global concurrency limits."""
    for limit in limits:
        client.upsert_global_concurrency_limit_by_name(limit.name, limit.limit)
        yield f"concurrency limit {limit.name} ({limit.limit})"


def create_blocks(environment: Mapping[str, str]) -> Iterator[str]:
    """Create or change the blocks that the environment describes; a block that it says nothing of stays as it is.

    Raises:
        ConfigError: It describes something impossible.
    """
    store, cluster = from_environment.store_block(environment), from_environment.cluster_block(environment)
    for block, name in ((store, "pets"), (cluster, "ray")):
        if block is not None:
            block.save(name, overwrite=True)
            yield f"block:{name} ({block.get_block_type_slug()})"


def notification_block(client: SyncPrefectClient, name: str, environment: Mapping[str, str]) -> UUID | None:
    """The id of the block that notifications go to; None where there is none and no webhook to make one of.

    A webhook in the environment replaces what the custom-webhook block of that name held. Its URL, which lets whoever
    knows it post, is kept as a secret.
    """
    url = environment.get(NOTIFY_VARIABLE)
    if url:
        block = CustomWebhookNotificationBlock(
            name=name,
            url="{{url}}",
            json_data={"text": "{{subject}}\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"},
            secrets=SecretDict({"url": url}),
        )
        saved = block.save(name, overwrite=True)
        return saved if isinstance(saved, UUID) else None
    found = [each for each in client.read_block_documents(limit=_MOST_BLOCKS) if each.name == name]
    return found[0].id if found else None


def plan_automations(wanted: Automations, notify: UUID | None) -> list[AutomationCore]:
    """The automations as Prefect takes them; without a block, those that do nothing but notify are left out.

    Raises:
        ConfigError: Prefect would not take one, or would drop a key of it.
    """
    planned = []
    for data in wanted.automations:
        sends = [action for action in data.get("actions", []) if action.get("type") == SEND]
        if sends and notify is None:
            continue
        actions = [
            {**action, "block_document_id": notify} if action in sends else action for action in data.get("actions", [])
        ]
        name = data.get("name")
        try:
            planned.append(AutomationCore.model_validate({**data, "actions": actions}))
        except ValidationError as error:
            raise ConfigError(f"the automation {name!r} cannot be used: {error}") from error
    return planned


def create_automations(client: SyncPrefectClient, automations: list[AutomationCore]) -> Iterator[str]:
    """Create or change the automations, each found by its name."""
    for automation in automations:
        found = client.read_automations_by_name(automation.name)
        if found:
            client.update_automation(found[0].id, automation)
        else:
            client.create_automation(automation)
        yield f"automation {automation.name}"


def create_all(environment: Mapping[str, str]) -> Iterator[str]:
    """Create everything; tells each thing as it is done."""
    resources, automations = read_resources(), read_automations()
    with get_client(sync_client=True) as client:
        yield from register_blocks()
        yield from create_pools(client, resources.work_pools)
        yield from create_limits(client, resources.concurrency_limits)
        yield from create_blocks(environment)
        notify = notification_block(client, automations.notify, environment)
        planned = plan_automations(automations, notify)
        yield from create_automations(client, planned)
        if len(planned) < len(automations.automations):
            yield (
                f"no notifications: there is no block named {automations.notify!r}. Create one in the UI (Blocks: "
                f"Slack, e-mail, custom webhook, …), or set {NOTIFY_VARIABLE}, and run this again"
            )


def main() -> int:
    """Create what the files name on the server of PREFECT_API_URL; exit status 2 when something is wrong with them."""
    try:
        for line in create_all(os.environ):
            sys.stdout.write(f"{line}\n")
    except ConfigError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    return 0


def _read(path: Path, kind: type[BaseModel]) -> BaseModel:
    try:
        return kind.model_validate(yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
