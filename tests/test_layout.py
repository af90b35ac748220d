"""The repository's shape: nothing at the top but what belongs there; a domain that imports neither Prefect nor Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TOP_LEVEL = {
    *("README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "prefect.yaml"),
    *("flows", "tasks", "blocks", "imageshards", "deploy", "tests", "benchmarks", "docs"),
}
"""DESIGN.md, section 1; names with a dot before them are tools' and .ci."""

DRIVER = "imageshards.ray_driver"
ON_DEMAND = ("imageshards.augment", "imageshards.filters")
"""They exist for torch and OpenCV, and are imported only for a recipe that asks for them."""

HEAVY = ("prefect", "prefect_aws", "ray", "torch", "torchvision", "cv2", "boto3")

IMPORT_ONE_AFTER_ANOTHER = """
import importlib, json, sys

names, heavy = json.loads(sys.argv[1])
brought = {}
for name in names:
    before = {each for each in heavy if each in sys.modules}
    importlib.import_module(name)
    brought[name] = sorted({each for each in heavy if each in sys.modules} - before)
print(json.dumps(brought))
"""


def module_names(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.endswith("__main__")]


def imported(names: list[str]) -> dict[str, list[str]]:
    """What each module brings into one fresh process that the ones before it did not."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ONE_AFTER_ANOTHER, json.dumps([names, HEAVY])],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_only_the_driver_brings_in_ray_and_nothing_brings_in_prefect_or_torch():
    """One process is enough: what none of them has brought in, none of them brings in alone."""
    names = [name for name in module_names("imageshards") if name not in {DRIVER, *ON_DEMAND}]
    assert len(names) > 40
    brought = imported([*names, DRIVER])
    assert brought.pop(DRIVER) == ["ray"]
    assert {name: found for name, found in brought.items() if found} == {}


def test_a_worker_needs_neither_boto3_nor_anything_heavier():
    assert imported(["imageshards.worker", "imageshards.executor", "imageshards.validate"]) == {
        "imageshards.worker": [],
        "imageshards.executor": [],
        "imageshards.validate": [],
    }


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("imageshards", ("blocks", "tasks", "flows")),
        ("blocks", ("tasks", "flows")),
        ("tasks", ("flows",)),
    ],
)
def test_imports_run_one_way(package, above):
    for path in sorted((ROOT / package).rglob("*.py")):
        lines = path.read_text().splitlines()
        wrong = [
            line
            for line in lines
            if line.strip().startswith(tuple(f"{how} {each}" for how in ("from", "import") for each in above))
        ]
        assert wrong == [], path


def tracked() -> list[str] | None:
    """Files that git knows; None outside of a clone."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.splitlines() if done.returncode == 0 else None


def test_nothing_lies_at_the_top_that_does_not_belong_there():
    files = tracked()
    if not files:
        pytest.skip("not a git clone")
    top = {name.partition("/")[0] for name in files}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_what_belongs_at_the_top_is_there():
    assert {name for name in TOP_LEVEL if not (ROOT / name).exists()} == set()
    assert (ROOT / ".ci" / "run").exists()


def test_every_module_has_a_docstring_and_every_tests_folder_is_a_package():
    for package in ("imageshards", "blocks", "tasks", "flows"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.read_text().lstrip().startswith('"""'), path
    for folder in (ROOT / "tests").rglob("*/"):
        if list(folder.glob("*.py")):
            assert (folder / "__init__.py").exists(), folder
