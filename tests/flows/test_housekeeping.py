"""The flow that keeps house, on a Prefect server, and its command line."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.utilities.callables import parameter_schema

from flows.housekeeping import housekeeping
from flows.housekeeping_command import main, parse
from imageshards.errors import StoreError
from imageshards.oxford_pets import DATASET
from imageshards.store import Store, open_store
from tests.flows.runs import last_run
from tests.flows.test_command import HEAVY
from tests.imageshards.built_version import BuiltVersion, build_version, uploaded_sample
from tests.imageshards.published_versions import age_folder, contents, prefix_of, publish_copies, rows_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltVersion:
    return build_version(*uploaded_sample(tmp_path_factory.mktemp("built")))


@pytest.fixture
def nights(built: BuiltVersion, folder_store: Store) -> Store:
    """A store with three versions, published long ago, an abandoned one and a raw image of unknown origin."""
    publish_copies(built, folder_store, [0, 10, 20])
    folder_store.put(f"{prefix_of(9)}trainval-00000.parquet", b"x")
    folder_store.put(f"raw/{DATASET}/images/unknown.jpg", b"x")
    age_folder(folder_store, 50)
    return folder_store


def test_it_deletes_nothing_unless_told_so(prefect_api: str, nights: Store) -> None:
    before = contents(nights)
    summary = housekeeping(nights.url, keep_versions=1, delete_raw=True)
    assert contents(nights) == before
    assert summary["dry_run"] is True
    [dataset] = summary["datasets"]
    assert len(dataset["removals"]) == 4
    assert f"housekeeping-{DATASET}" in last_run().artifacts()


def test_it_deletes_what_it_may_and_leaves_the_lock_tidy(prefect_api: str, nights: Store) -> None:
    summary = housekeeping(nights.url, keep_versions=2, dry_run=False)
    [dataset] = summary["datasets"]
    assert {each["name"] for each in dataset["removals"]} == {prefix_of(0), prefix_of(9)}
    assert (summary["objects"], summary["size_bytes"]) == (dataset["objects"], dataset["size_bytes"])
    left = {info.key.split("/")[3] for info in nights.list("shards") if info.key.count("/") > 3}
    assert left == {prefix_of(number).split("/")[3] for number in (1, 2)}
    assert rows_of(nights).num_rows > 0
    assert nights.exists(f"raw/{DATASET}/images/unknown.jpg")
    again = housekeeping(nights.url, keep_versions=2, dry_run=False)
    assert again["objects"] == 0


def test_raw_images_go_from_their_own_store(
    prefect_api: str, nights: Store, built: BuiltVersion, tmp_path: Path
) -> None:
    raw = open_store(str(tmp_path / "raw"))
    for info in nights.list("raw"):
        raw.put(info.key, nights.get(info.key))
    age_folder(raw, 50)
    before = contents(nights)
    summary = housekeeping(nights.url, raw.url, keep_versions=3, delete_raw=True, dry_run=False)
    assert [each["kind"] for each in summary["datasets"][0]["removals"]] == ["abandoned version", "raw objects"]
    assert not raw.exists(f"raw/{DATASET}/images/unknown.jpg")
    assert {key for key in contents(nights) if key.startswith("raw/")} == {
        key for key in before if key.startswith("raw/")
    }


def test_a_problem_fails_the_run_after_all_else_is_done(prefect_api: str, nights: Store) -> None:
    nights.put(f"{prefix_of(0)}manifest.json", b"{")
    with pytest.raises(StoreError, match="1 problems, and did all the rest"):
        housekeeping(nights.url, keep_versions=1, dry_run=False)
    assert not list(nights.list(prefix_of(1)))
    assert list(nights.list(prefix_of(0)))
    assert f"housekeeping-{DATASET}" in last_run().artifacts()


def test_the_command_line_has_the_flows_parameters_with_their_defaults() -> None:
    parameters = inspect.signature(housekeeping.fn).parameters
    assert vars(parse([])) == {name: parameter.default for name, parameter in parameters.items()}
    assert parse(["--delete"]).dry_run is False


def test_each_parameter_is_explained_in_the_form() -> None:
    properties = parameter_schema(housekeeping).properties
    assert set(properties) == set(inspect.signature(housekeeping.fn).parameters)
    assert all(each.get("description") for each in properties.values())


def test_the_command_prints_its_summary_last(
    prefect_api: str, nights: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--store", nights.url, "--keep-versions", "1", "--delete"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["dry_run"] is False
    assert len(summary["datasets"][0]["removals"]) == 3


@pytest.mark.parametrize(
    "options",
    [["--keep-versions", "0"], ["--grace-days", "-1"], ["--grace-days", "nan"], ["--store", "gs://x"]],
    ids=" ".join,
)
def test_options_out_of_range_are_wrong_usage(
    prefect_api: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert "error: " in capsys.readouterr().err


def test_a_store_that_cannot_be_used_fails(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert main(["--store", str(tmp_path / "file")]) == 1


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flows.housekeeping", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "flows.housekeeping_command" in imported
    assert not imported & set(HEAVY)
