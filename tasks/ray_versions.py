"""Whether cluster and flow fit together: found out before any work, and said in one message.

Two looks: `check_cluster` is one or two requests, and knows what the head was started with. `check_versions` runs a job
of a second or two that looks where the driver will run; the flow asks for it only when there is something to build.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocks.ray_cluster import ClusterAccess
from imageshards.errors import ConfigError, ImageShardsError, TransientError
from imageshards.recipe import Recipe
from tasks import cluster_probe
from tasks.ray_api import DRIVER_MODULES, LIVE, connect, entrypoint, job_status, ray_errors, runtime_env, stop_jobs
from tasks.ray_job import PROBE_ID

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PROBE_TIMEOUT_SECONDS = 120.0
"""For upload, start of a process on a busy head, and the look itself, which took 2 to 4 s on an idle one."""

PROBE_POLL_SECONDS = 0.25

_LEFT_SECONDS = 60.0
"""How old an ended probe must be to be deleted. Ray watches a job for a second after its end, and brings one that was
deleted within it back as failed."""

PIXEL_PACKAGES = (
    *("cykooz-resizer", "kornia-rs", "numpy", "opencv-python-headless"),
    *("pillow", "pyarrow", "simplejpeg"),
)
"""What makes the bytes of a shard: another version may decode a pixel a level off, or lay Parquet out differently."""

NEEDED_PACKAGES = (
    *("cykooz-resizer", "kornia-rs", "numpy", "obstore", "pillow"),
    *("pyarrow", "pydantic", "pyyaml", "ray", "simplejpeg"),
)
FILTER_PACKAGES = ("opencv-python-headless",)
AUGMENT_PACKAGES = ("torch", "torchvision")


@dataclass(frozen=True, slots=True)
class Installation:
    """What is installed somewhere.

    Attributes:
        python: Version, e.g. `3.11.9`.
        packages: Version of each package of `tasks.cluster_probe.PACKAGES`; None where it is missing.
        formats: Version of each of our formats; None where imageshards cannot be imported.
    """

    python: str
    packages: Mapping[str, str | None]
    formats: Mapping[str, int | None]

    @classmethod
    def here(cls) -> Installation:
        """That of this process."""
        return cls(**cluster_probe.installation())


@dataclass(frozen=True, slots=True)
class ClusterVersions:
    """What the cluster has; it fits.

    Attributes:
        python: Version of the Python that runs the driver.
        ray: Version of Ray.
        packages: Version of each package that is there.
        warnings: A sentence for each package whose version differs and may change bytes.
    """

    python: str
    ray: str
    packages: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def check_cluster(cluster: ClusterAccess) -> str:
    """Ask the cluster for its versions of Ray and Python, which must be ours; returns that of Ray.

    Raises:
        TransientError: Nothing answers.
        StoreError: The cluster refuses.
        ConfigError: It runs another version.
    """
    client = connect(cluster)
    with ray_errors(cluster):
        found = str(client._do_request("GET", "/api/version").json()["ray_version"])
        answer = client._do_request("GET", "/api/v0/cluster_metadata")
    here = Installation.here()
    problems = [_differs("Ray", found, here.packages["ray"])] if found != here.packages["ray"] else []
    if answer.ok:  # an endpoint of the dashboard's own, which no one promises
        python = str(answer.json().get("data", {}).get("pythonVersion") or "")
        if python and _minor(python) != _minor(here.python):
            problems.append(_differs("Python", python, here.python))
    _refuse(cluster, problems)
    return found


def check_versions(cluster: ClusterAccess, run_id: str, recipe: Recipe | None = None) -> ClusterVersions:
    """Look where the driver will run at what is installed there, by a small job of its own.

    Args:
        cluster: The cluster.
        run_id: Id of the flow run; the job's id follows from it, so that the run's hooks find it to stop it.
        recipe: Where given, what it needs beyond the usual must be there, too.

    Raises:
        ConfigError: Something is missing or does not fit; the message names all of it.
        TransientError: The cluster is out of reach, or the job did not end in time.
        ImageShardsError: The job failed.
    """
    there = _probe(connect(cluster), cluster, run_id)
    here = Installation.here()
    _refuse(cluster, misfits(there, here, _needed(recipe)))
    packages = {name: version for name, version in there.packages.items() if version}
    return ClusterVersions(there.python, packages["ray"], packages, pixel_warnings(there, here))


def misfits(there: Installation, here: Installation, needed: Sequence[str]) -> list[str]:
    """Why the driver could not do its work there: one sentence for each reason."""
    found = [_differs("Python", there.python, here.python)] if _minor(there.python) != _minor(here.python) else []
    if missing := [name for name in needed if there.packages.get(name) is None]:
        pins = " ".join(f"{name}=={here.packages[name]}" for name in missing)
        found.append(f"it lacks {', '.join(missing)} (pip install {pins}, on every node)")
    if there.packages.get("ray") not in (None, here.packages["ray"]):
        found.append(_differs("Ray", there.packages["ray"], here.packages["ray"]))
    if not missing:  # else imageshards could not be imported for that very reason
        found += [
            f"imageshards is not installed there, or not to be imported (its {name} format is unknown): "
            "let the block's code be `travels`, or build the image anew"
            if there.formats.get(name) is None
            else f"its imageshards has version {there.formats[name]} of the {name} format, the flow version {version}: "
            "build the image from the flow's own version, or let the block's code be `travels`"
            for name, version in here.formats.items()
            if there.formats.get(name) != version
        ]
    return found


def pixel_warnings(there: Installation, here: Installation) -> tuple[str, ...]:
    """One sentence for each package that makes bytes and has another version there."""
    return tuple(
        f"{name} is {there.packages[name]} on the cluster and {here.packages[name]} here: "
        "shards built there may differ in bytes from shards built here"
        for name in PIXEL_PACKAGES
        if there.packages.get(name) and there.packages[name] != here.packages[name]
    )


def _needed(recipe: Recipe | None) -> tuple[str, ...]:
    if recipe is None:
        return NEEDED_PACKAGES
    return (
        *NEEDED_PACKAGES,
        *(FILTER_PACKAGES if recipe.filters else ()),
        *(AUGMENT_PACKAGES if recipe.augments else ()),
    )


def _differs(what: str, there: str | None, here: str | None) -> str:
    return f"it runs {what} {there}, this installation has {here}: install the same version on both sides"


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _refuse(cluster: ClusterAccess, problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError(f"the Ray cluster at {cluster.address} does not fit: {'; '.join(problems)}")


def _probe(client: JobSubmissionClient, cluster: ClusterAccess, run_id: str) -> Installation:
    """Run the probe with the runtime environment of the real job, and stop it where its answer does not come.

    An ended one is not asked again: what it found may have been mended since.
    """
    with ray_errors(cluster):
        numbers = [int(found["number"]) for found in _known_probes(client) if found["run"] == run_id]
        job_id = f"imageshards-{run_id}-probe-{max(numbers, default=0) + 1}"
        _submit_probe(client, cluster, job_id)
    try:
        return _answer(client, cluster, job_id)
    except BaseException:
        with suppress(ImageShardsError):  # what happened first is what counts
            stop_jobs(client, cluster, [job_id])
        raise


def _known_probes(client: JobSubmissionClient) -> list[re.Match[str]]:
    """The ids of all probes that the cluster knows, taken apart; those that ended long ago are deleted."""
    found = []
    for job in client.list_jobs():
        probe = PROBE_ID.fullmatch(job.submission_id or "")
        if probe is None:
            continue
        found.append(probe)
        if job.status.is_terminal() and time.time() - (job.end_time or 0) / 1000 > _LEFT_SECONDS:
            with suppress(RuntimeError):  # another run was faster
                client.delete_job(probe.group())
    return found


def _submit_probe(client: JobSubmissionClient, cluster: ClusterAccess, job_id: str) -> None:
    # A Python that has Ray alone may run it as well: it then tells what else is missing there. It asks for no
    # resources, so that it runs on the head at once, where a driver that does might wait for a node.
    client.submit_job(
        submission_id=job_id,
        entrypoint=entrypoint(
            cluster, ["-c", Path(cluster_probe.__file__).read_text()], modules=[DRIVER_MODULES, ["ray"]]
        ),
        runtime_env=runtime_env(cluster),
    )


def _answer(client: JobSubmissionClient, cluster: ClusterAccess, job_id: str) -> Installation:
    deadline = time.monotonic() + PROBE_TIMEOUT_SECONDS
    while True:
        with ray_errors(cluster):
            status = job_status(client, job_id)
            logs = client.get_job_logs(job_id) if status not in (*LIVE, None) else ""
        for line in logs.splitlines():
            if line.startswith(cluster_probe.LINE_PREFIX):
                answer: dict[str, Any] = json.loads(line.removeprefix(cluster_probe.LINE_PREFIX))
                return Installation(**answer)
        if status not in LIVE:
            said = logs.strip()[-2000:] or "nothing"
            raise ImageShardsError(
                f"the look at the Ray cluster at {cluster.address} ended as {status}: it said {said}"
            )
        if time.monotonic() > deadline:
            raise TransientError(
                f"the look at the Ray cluster at {cluster.address} did not end in {PROBE_TIMEOUT_SECONDS:.0f} s "
                f"(job {job_id} is {status}): its head is busy, or cannot start a process"
            )
        time.sleep(PROBE_POLL_SECONDS)
