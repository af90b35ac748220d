"""How long a run waits for a source that is down: long where nobody sits before it."""

from __future__ import annotations

import uuid

import pytest

from tasks.download import PATIENT_PAUSES_SECONDS, download, patient_download
from tasks.policies import is_transient


def test_a_run_of_a_deployment_waits_for_a_source_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(uuid.uuid4()))
    patient = patient_download()
    assert patient.retries == len(PATIENT_PAUSES_SECONDS)
    assert patient.retry_delay_seconds == list(PATIENT_PAUSES_SECONDS)
    assert patient.retry_condition_fn is is_transient
    assert patient.name == download.name


def test_a_run_at_a_terminal_fails_soon() -> None:
    assert patient_download() is download
