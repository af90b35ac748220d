"""A deployment that pulls its code from git: the run uses the clone, although the package is installed as well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from imageshards.dataset import open_dataset
from imageshards.sample import SampleArchives
from tests.e2e.conftest import ROOT
from tests.e2e.stack import Stack

COMMAND_SECONDS = 120
PACKAGES = ("flows", "tasks", "blocks", "imageshards")
TELL = """

@pets.on_completion
def tell_where_the_code_lies(flow, flow_run, state):
    from prefect.logging.loggers import flow_run_logger

    import imageshards

    flow_run_logger(flow_run, flow).info("flow from %s, package from %s", __file__, imageshards.__file__)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A git repository of the working tree's packages, with a flow that tells where it lies."""
    folder = tmp_path_factory.mktemp("repository")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    flow = folder / "flows" / "pets.py"
    flow.write_text(flow.read_text() + TELL)
    somebody = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        [*somebody, "commit", "--quiet", "--message=all"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True, timeout=COMMAND_SECONDS)
    return f"file://{folder}"


@pytest.fixture(scope="module")
def deployment(stack: Stack, repository: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`manual` of prefect.yaml with its pull steps for git; the worker's environment names the repository."""
    data = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    [manual] = [each for each in data["deployments"] if each["name"] == "manual"]
    manual |= {"name": "from-git"}
    manual["work_pool"] |= {"job_variables": {"env": {"IMAGESHARDS_REPOSITORY": repository}}}
    file = tmp_path_factory.mktemp("deploy") / "prefect.yaml"
    file.write_text(yaml.safe_dump({**data, "pull": data["definitions"]["git"], "deployments": [manual]}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        cwd=ROOT,
        env={**kept, **stack.environment},
        stdout=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS,
        check=True,
    )
    return "pets/from-git"


def test_a_run_uses_the_clone(stack: Stack, deployment: str, drawn_sample: SampleArchives) -> None:
    store = stack.create_store_block("from-git")
    run = stack.finish(
        deployment,
        {
            "images": str(drawn_sample.images),
            "annotations": str(drawn_sample.annotations),
            "store": "block:from-git",
        },
    )
    assert stack.logged(run, "flow from ")
    [line] = [line for line in stack.logs(run) if line.startswith("flow from ")]
    assert str(ROOT) not in line
    assert "/flows/pets.py, package from " in line
    assert open_dataset(store, resolution=224).manifest.rows == 74
