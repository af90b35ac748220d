"""What the tests of the blocks share: a secret that can be searched for, names of blocks, what the server shows."""

from __future__ import annotations

import uuid
from typing import Any

from prefect.client.orchestration import get_client

SECRET = "a-secret-nobody-may-see"


def new_name() -> str:
    """A name that no block has yet."""
    return f"b-{uuid.uuid4().hex[:12]}"


def what_the_server_shows() -> str:
    """Every block document as the API gives it to the UI."""
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/block_documents/filter", json={"include_secrets": False})
    return answer.text


def overwrite_data(document_id: Any, data: dict[str, Any]) -> None:
    """Put other data into a saved block, as an older version of the block would have."""
    with get_client(sync_client=True) as client:
        client.request(
            "PATCH", f"/block_documents/{document_id}", json={"data": data, "merge_existing_data": False}
        ).raise_for_status()
