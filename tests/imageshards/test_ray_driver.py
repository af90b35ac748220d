"""The driver on a real Ray: a poison image, and the program as it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from imageshards.job import parse_driver_line

PROGRAM = Path(__file__).with_name("poison_program.py")


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


def test_augmented_shards_do_not_depend_on_the_number_of_workers_or_the_order_of_units(tmp_path: Path) -> None:
    found = []
    for name, arguments in (("one", ["1"]), ("two", ["2", "reversed"])):
        folder = tmp_path / name
        folder.mkdir()
        finished = subprocess.run(
            [sys.executable, str(PROGRAM.with_name("workers_program.py")), str(folder), *arguments],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        shards = sorted((folder / "store" / "shards").rglob("*.parquet"))
        found.append({path.name + path.parent.name: path.read_bytes() for path in shards})
    assert len(found[0]) == 2 * 3
    assert found[0] == found[1]
