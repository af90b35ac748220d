"""The command line of a stack, without starting one: tests/e2e/test_stack.py does."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from deploy import postgres
from deploy.installation import PREFECT_SECRET, STORE_FOLDER, StackSpec, down, spec_from_environment, up
from deploy.processes import MARK, Service, processes_of, start
from deploy.services import free_ports
from deploy.stack import describe, main
from deploy.state import STATE_FILE, StackState, make_secret, read_secret, read_state, write_state
from imageshards.errors import ConfigError


@pytest.fixture
def state() -> StackState:
    scratch = Path(tempfile.mkdtemp(prefix="imageshards-test-"))
    return StackState(id=uuid.uuid4().hex, scratch=scratch, store_url="data", ports=free_ports())


def test_the_state_can_be_read_back(state: StackState, tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    state.scratch.rmdir()


def test_a_file_that_is_no_state_is_told(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="is not a stack's state"):
        read_state(tmp_path)


def test_secrets_are_for_their_user_alone(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("old, and for everybody")
    secret = make_secret(tmp_path, "secret")
    assert read_secret(tmp_path, "secret") == secret
    assert len(secret) > 40
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert make_secret(tmp_path, "secret") != secret


def test_ports_are_all_different() -> None:
    ports = free_ports()
    assert len(set(ports.values())) == len(ports) > 10


def test_a_folder_is_the_store_unless_the_environment_names_one(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert spec_from_environment(tmp_path, keys) == StackSpec(tmp_path, str(tmp_path / STORE_FOLDER))
    named = spec_from_environment(tmp_path, {**keys, "IMAGESHARDS_STORE_URL": "s3://bucket/prefix"})
    assert (named.store_url, dict(named.store_environment)) == ("s3://bucket/prefix", keys)
    server = spec_from_environment(tmp_path, {**keys, "IMAGESHARDS_STACK_S3": "http://127.0.0.1:9"})
    assert server.store_url == "s3://imageshards/stack"
    assert server.store_environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert "secret" not in repr(server)


def test_what_is_printed_names_the_files_of_secrets_and_no_secret(state: StackState, tmp_path: Path) -> None:
    secret = make_secret(tmp_path, PREFECT_SECRET)
    text = describe(state, tmp_path)
    assert state.ui_url in text
    assert state.ray_address in text
    assert str(tmp_path / PREFECT_SECRET) in text
    assert secret not in text
    state.scratch.rmdir()


def test_no_second_stack_is_started_in_a_folder(state: StackState, tmp_path: Path) -> None:
    write_state(tmp_path, state)
    with pytest.raises(ConfigError, match=r"started in .* already"):
        up(StackSpec(tmp_path, "data"))
    assert read_state(tmp_path) == state
    state.scratch.rmdir()


def test_a_half_dead_stack_is_told_and_cleaned_up(
    state: StackState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    service = Service("ray", sleep, {**os.environ, MARK: state.id}, tmp_path)
    pids = {"ray": start(service, tmp_path / "ray.log"), "worker": start(service, tmp_path / "worker.log")}
    write_state(tmp_path, state.model_copy(update={"pids": pids, "ready": True}))
    make_secret(tmp_path, PREFECT_SECRET)
    (tmp_path / STORE_FOLDER).mkdir()
    (tmp_path / STORE_FOLDER / "data").write_text("kept")
    os.kill(pids["worker"], signal.SIGKILL)
    os.waitpid(pids["worker"], 0)

    assert main(["status", "--folder", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "worker          HAS ENDED" in told
    assert "ray             runs" in told

    assert main(["up", "--folder", str(tmp_path)]) == 2
    assert "make stack-down" in capsys.readouterr().err

    assert main(["down", "--folder", str(tmp_path)]) == 0
    assert processes_of(state.id) == set()
    assert [path.name for path in tmp_path.iterdir()] == [STORE_FOLDER]
    assert (tmp_path / STORE_FOLDER / "data").read_text() == "kept"
    assert not state.scratch.exists()


def test_there_may_be_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert down(tmp_path) is False
    assert main(["status", "--folder", str(tmp_path)]) == 1
    assert main(["down", "--folder", str(tmp_path)]) == 0
    assert "there is no stack" in capsys.readouterr().out


def test_a_folder_without_postgresql_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"IMAGESHARDS_POSTGRES_BIN names .*initdb, postgres, pg_isready"):
        postgres.find_programs({postgres.BIN_VARIABLE: str(tmp_path)})


def test_the_package_brings_postgresql() -> None:
    programs = postgres.find_programs({})
    assert (programs / "postgres").exists()
    assert list(programs.parent.rglob("pg_trgm.control"))  # which Prefect needs
