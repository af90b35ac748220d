"""Whether cluster and flow fit: judged in pure functions, and looked at on a real head."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.job_submission import JobDetails, JobStatus

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, ImageShardsError, TransientError
from imageshards.recipe import Augment, Recipe
from tasks import ray_versions
from tasks.ray_versions import NEEDED_PACKAGES, Installation, check_cluster, check_versions, misfits, pixel_warnings
from tests.ray_head import RayHead

HERE = Installation.here()


def with_packages(**versions: str | None) -> Installation:
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    return replace(HERE, packages={**HERE.packages, **changed})


def test_what_is_installed_here_is_all_there() -> None:
    assert HERE.python == sys.version.split()[0]
    assert None not in {*HERE.packages.values(), *HERE.formats.values()}
    assert misfits(HERE, HERE, NEEDED_PACKAGES) == []
    assert pixel_warnings(HERE, HERE) == ()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (replace(HERE, python="3.9.1"), ["it runs Python 3.9.1, this installation has"]),
        (with_packages(ray="2.0.1"), ["it runs Ray 2.0.1, this installation has"]),
        (with_packages(obstore=None), [f"it lacks obstore (pip install obstore=={HERE.packages['obstore']}"]),
        (replace(HERE, formats={"shards": 1, "job spec": None}), ["imageshards is not installed there"]),
        (replace(HERE, formats={**HERE.formats, "shards": 99}), ["has version 99 of the shards format"]),
        (
            replace(with_packages(ray="2.0.1", pyarrow=None), python="3.9.1", formats={"shards": None}),
            ["Python 3.9.1", "it lacks pyarrow", "Ray 2.0.1"],
        ),
    ],
)
def test_all_that_does_not_fit_is_said(there: Installation, said: list[str]) -> None:
    found = misfits(there, HERE, NEEDED_PACKAGES)
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_another_patch_of_python_fits_and_another_decoder_is_worth_a_warning() -> None:
    major, minor, _ = HERE.python.split(".")
    there = replace(with_packages(pillow="1.0", requests="1.0"), python=f"{major}.{minor}.99")
    assert misfits(there, HERE, NEEDED_PACKAGES) == []
    (warning,) = pixel_warnings(there, HERE)
    assert "pillow is 1.0 on the cluster" in warning


@pytest.mark.parametrize(
    ("recipe", "missing", "fits"),
    [
        (Recipe(), "torch", True),
        (Recipe(), "opencv-python-headless", True),
        (Recipe(contrast="clahe"), "opencv-python-headless", False),
        (Recipe(augment=Augment(copies=1, horizontal_flip=0.5)), "torchvision", False),
    ],
)
def test_only_a_recipe_that_needs_a_package_asks_for_it(recipe: Recipe, missing: str, fits: bool) -> None:
    there = replace(HERE, packages={**HERE.packages, missing: None})
    found = misfits(there, HERE, ray_versions._needed(recipe))
    assert bool(found) != fits
    assert fits or missing in found[0]


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"packages": {**HERE.packages, "ray": "2.0.1"}}, r"runs Ray .*, this installation has 2\.0\.1"),
        ({"python": "3.99.1"}, r"runs Python .*, this installation has 3\.99\.1"),
    ],
)
def test_the_cheap_look_finds_another_ray_or_python(
    ray_head: RayHead, monkeypatch: pytest.MonkeyPatch, here: dict[str, Any], said: str
) -> None:
    assert check_cluster(ClusterAccess(ray_head.address)) == ray.__version__
    monkeypatch.setattr(Installation, "here", lambda: replace(HERE, **here))
    with pytest.raises(ConfigError, match=f"cluster at {ray_head.address} does not fit: it {said}"):
        check_cluster(ClusterAccess(ray_head.address))


def test_the_look_runs_a_job_and_leaves_none_running(
    ray_head: RayHead, run_id: str, jobs: Callable[[], list[JobDetails]]
) -> None:
    cluster = ClusterAccess(ray_head.address, python=sys.executable)
    for _ in range(2):  # a task that is tried again looks again
        found = check_versions(cluster, run_id)
        assert (found.python, found.ray, found.warnings) == (HERE.python, ray.__version__, ())
        assert found.packages == HERE.packages
    assert [(job.submission_id, job.status) for job in jobs()] == [
        (f"imageshards-{run_id}-probe-{number}", JobStatus.SUCCEEDED) for number in (1, 2)
    ]


def test_looks_of_earlier_runs_are_cleaned_away(
    ray_head: RayHead, run_id: str, jobs: Callable[[], list[JobDetails]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = ClusterAccess(ray_head.address, python=sys.executable)
    check_versions(cluster, run_id)
    time.sleep(1.5)  # Ray still watches it for a second
    monkeypatch.setattr(ray_versions, "_LEFT_SECONDS", 0.0)
    check_versions(cluster, f"{run_id}-next")
    assert [job.submission_id for job in jobs()] == [f"imageshards-{run_id}-next-probe-1"]


OTHER_PYTHON = """
import importlib.metadata as metadata, sys
real = metadata.version
def version(name):
    if name == "obstore":
        raise metadata.PackageNotFoundError(name)
    return "1.0" if name == "pillow" else real(name)
metadata.version = version
sys.modules["obstore"] = None
"""


@pytest.fixture
def other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python without obstore and with an old Pillow; the flow's own is not on that cluster."""
    (tmp_path / "sitecustomize.py").write_text(OTHER_PYTHON)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "no-such-python")
    return str(python)


def test_the_look_finds_what_is_missing_before_any_work(ray_head: RayHead, run_id: str, other_python: str) -> None:
    with pytest.raises(ConfigError, match=r"does not fit: it lacks obstore \(pip install obstore==") as caught:
        check_versions(ClusterAccess(ray_head.address, python=other_python), run_id)
    assert "imageshards" not in caught.value.message  # that it cannot be imported is no second fault


def test_an_image_with_another_version_of_ours_is_refused(
    ray_head: RayHead, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "imageshards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "schema.py").write_text("FORMAT_VERSION = 99")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    cluster = ClusterAccess(ray_head.address, python=str(python), code="installed")
    with pytest.raises(ConfigError, match="version 99 of the shards format") as caught:
        check_versions(cluster, run_id)
    assert "its job spec format is unknown" in caught.value.message


def test_a_cluster_without_a_python_of_use_is_told_with_what_was_tried(
    ray_head: RayHead, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "no-such-python")
    with pytest.raises(ImageShardsError, match="no Python with ray on this node: tried none python3 no-such-python"):
        check_versions(ClusterAccess(ray_head.address, python="none"), run_id)


def test_a_look_that_does_not_end_is_stopped(
    ray_head: RayHead,
    run_id: str,
    tmp_path: Path,
    jobs: Callable[[], list[JobDetails]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *find_spec,*) exit 0;; esac\nsleep 60\n')
    python.chmod(0o755)
    monkeypatch.setattr(ray_versions, "PROBE_TIMEOUT_SECONDS", 3.0)
    with pytest.raises(TransientError, match="did not end in 3 s"):
        check_versions(ClusterAccess(ray_head.address, python=str(python)), run_id)
    (job,) = jobs()
    assert job.status == JobStatus.STOPPED
