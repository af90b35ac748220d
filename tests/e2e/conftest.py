"""What the end-to-end tests share: the command line as a user calls it, and archives to call it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imageshards.sample import SampleArchives, SampleSpec, write_sample
from tests.e2e.stack import Stack, running_stack

ROOT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT_SECONDS = 240
DRAWN = SampleSpec(per_class=4, median_long_side_px=120)


@dataclass(frozen=True)
class CliRun:
    """One call of `python -m flows.pets`."""

    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of stdout."""
        assert self.status == 0, self.stderr[-3000:]
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> str:
        """The last line on stderr that tells of an error."""
        lines = [line for line in self.stderr.splitlines() if "error: " in line]
        return lines[-1] if lines else ""


Pets = Callable[..., CliRun]


@pytest.fixture(scope="session")
def cli_environment(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who has a Prefect server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "PREFECT_"))}
    folder = tmp_path_factory.mktemp("home")
    return {
        **kept,
        "PREFECT_API_URL": prefect_api,
        "PREFECT_HOME": str(folder / "prefect"),
        "IMAGESHARDS_CACHE": str(folder / "cache"),
    }


@pytest.fixture(scope="session")
def pets(cli_environment: dict[str, str]) -> Pets:
    """Calls `python -m flows.pets`."""

    def call(*arguments: str, env: Mapping[str, str] | None = None) -> CliRun:
        finished = subprocess.run(
            [sys.executable, "-m", "flows.pets", *arguments],
            cwd=ROOT,
            env={**cli_environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_SECONDS,
            check=False,
        )
        return CliRun(finished.returncode, finished.stdout, finished.stderr)

    return call


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SampleArchives:
    """A drawn archive with every kind of fault; two images of each class in each split, for one cannot be used."""
    return write_sample(tmp_path_factory.mktemp("drawn"), DRAWN)


@pytest.fixture(scope="session")
def finished(pets: Pets, drawn: SampleArchives, tmp_path_factory: pytest.TempPathFactory) -> tuple[CliRun, Path]:
    """One run of the drawn archive into a folder, and the folder; not to be changed."""
    store = tmp_path_factory.mktemp("finished")
    return pets(*archives(drawn), "--store", str(store)), store


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole installation, with its store on Ceph where that can be had, else on moto."""
    try:
        server = request.getfixturevalue("ceph")
    except pytest.skip.Exception:
        server = request.getfixturevalue("moto")
    with running_stack(tmp_path_factory.mktemp("stack"), server) as running:
        yield running


def archives(sample: SampleArchives) -> list[str]:
    """The options that name a drawn sample."""
    named = ["--images", str(sample.images), "--annotations", str(sample.annotations)]
    return [*named, "--max-reject-fraction", "0.05"]
