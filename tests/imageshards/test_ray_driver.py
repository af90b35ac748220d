"""The driver on a real Ray: a poison image, and the program as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from imageshards.errors import StoreError
from imageshards.job import JobSpec, parse_driver_line
from imageshards.recipe import Recipe
from imageshards.run_job import run_job
from imageshards.store import StoreSpec, open_store
from tests.imageshards.in_process import InProcess
from tests.imageshards.small_dataset import Drawn

PROGRAM = Path(__file__).with_name("poison_program.py")
ROOT = Path(__file__).resolve().parents[2]


def environment(folder: Path) -> dict[str, str]:
    """Ray with a token of its own, so that nothing is written into the user's home."""
    token = folder / "token"
    token.write_text("0" * 64)
    return {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}


def test_an_image_that_kills_its_worker_is_found_and_rejected_and_the_others_become_rows(tmp_path: Path) -> None:
    poison = ["Abyssinian_97", "pug_96"]
    finished = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), *poison],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told["rejects"] == {"Abyssinian_97": "worker-crash", "pug_96": "worker-crash", "beagle_96": "truncated"}
    assert told["rows"] == 74 - 3
    assert any("lost its worker" in line for line in told["log"])
    assert told["again"] == {"beagle_96": "truncated"}, "a restart must give images another chance"


def test_the_program_says_on_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "imageshards.ray_driver",
            "--spec",
            str(tmp_path / "spec.json"),
            "--ray-address",
            "local",
        ],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 1
    said = [parse_driver_line(line) for line in finished.stdout.splitlines()]
    errors = [line["error"] for line in said if line and line["kind"] == "error"]
    assert [error["type"] for error in errors] == ["ObjectMissingError"]
    assert "spec.json" in errors[0]["message"]


def test_augmented_shards_do_not_depend_on_the_number_of_nodes_or_the_order_of_units(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, str(PROGRAM.with_name("nodes_program.py")), str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    one, two = json.loads(finished.stdout.splitlines()[-1])
    assert (len(one), len(two)) == (1, 2), "some node built nothing"
    found = [
        {str(path.relative_to(tmp_path / nodes)): path.read_bytes() for path in (tmp_path / nodes).rglob("*.parquet")}
        for nodes in ("1", "2")
    ]
    assert sum(one) == sum(two) == len(found[0]) >= 2 * 3
    assert found[0] == found[1]


def test_shards_that_did_not_change_are_reused(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.imageshards.reuse_program", str(tmp_path), "pug_96"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    told = json.loads(finished.stdout.splitlines()[-1])
    assert told == {"shards": 20, "reused": 18, "built": [[16, ANY], [32, ANY]], "same": True}


class OtherDisk(InProcess):
    """Runs tasks as a node does whose folder of the same name is another one."""

    def __init__(self, disk: StoreSpec) -> None:
        super().__init__()
        self.disk = disk

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        build, unit, raw_store, _, published = arguments
        return super().submit(function, build, unit, raw_store, self.disk, published)


def test_a_node_that_writes_into_a_folder_of_its_own_is_found_out_at_its_first_shard(
    drawn: Drawn, tmp_path: Path
) -> None:
    spec = JobSpec(
        dataset=drawn.info.dataset,
        index_key=drawn.info.key,
        raw_store=drawn.store.spec,
        store=open_store(str(tmp_path / "store")).spec,
        resolutions=(32,),
        recipe=Recipe(),
        result_key="result.json",
    )
    backend = OtherDisk(open_store(str(tmp_path / "other")).spec)
    with pytest.raises(StoreError, match=r"parquet was written on another node.*all nodes of the Ray cluster share"):
        run_job(spec, backend)
    assert len(list((tmp_path / "other").rglob("*.parquet"))) == 1
    assert backend.tasks == {}
