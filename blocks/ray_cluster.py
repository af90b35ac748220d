"""The ray-cluster block: where the heavy step runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from blocks.references import load_block
from imageshards.errors import ConfigError

LOCAL = "local"

Code = Literal["travels", "installed"]
"""How the cluster gets the package imageshards: with each job, or out of its own image."""

OUTAGE_SECONDS = 120.0
"""How long a cluster may be out of reach, unless told otherwise: a head's pod that is replaced is back within it."""


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """A Ray cluster, or this machine.

    Attributes:
        address: `local`, or the http(s) address of the cluster's Jobs API.
        token: Ray's authentication token; None where the cluster asks for none.
        driver_cpus: CPUs that the driver program takes; 0 leaves them to the work.
        driver_memory_bytes: Memory that the driver asks for; None asks for none.
        python: Command that starts Python on the cluster's head.
        code: Whether the package imageshards is sent with each job, or lies in the cluster's image.
        outage_seconds: How long the cluster may be out of reach before waiting for its job is given up.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    driver_cpus: float = 0
    driver_memory_bytes: int | None = None
    python: str = "python"
    code: Code = "travels"
    outage_seconds: float = OUTAGE_SECONDS

    @property
    def is_local(self) -> bool:
        """Whether Ray is to be started on this machine for this run alone."""
        return self.address == LOCAL


class RayCluster(Block):
    """A Ray cluster, addressed over its Jobs API. A flow parameter names it as `block:NAME`."""

    _block_type_name = "Ray Cluster"
    _block_type_slug = "ray-cluster"
    _description = "A Ray cluster, addressed over its Jobs API."

    address: str = Field(
        title="Address", description="http(s)://head:8265, or `local` to start Ray on the machine of the flow."
    )
    token: SecretStr | None = Field(
        default=None, title="Token", description="Ray's authentication token, where the cluster asks for one."
    )
    code: Code = Field(
        default="travels",
        title="Code",
        description="travels: the package imageshards is sent with each job (0.8 MB). "
        "installed: nothing is sent, the cluster's image has it, of the flow's own version.",
    )
    python: str = Field(
        default="python", title="Python", description="Command that starts Python on the cluster's head."
    )
    driver_cpus: float = Field(
        default=0,
        ge=0,
        title="Driver CPUs",
        description="CPUs that the driver program takes. 0: it runs on the head and leaves all CPUs to the work.",
    )
    driver_memory_bytes: int | None = Field(
        default=None,
        ge=0,
        title="Driver memory (bytes)",
        description="Memory that the driver program asks for; it may then run on any node. Empty: it asks for none.",
    )
    outage_seconds: float = Field(
        default=OUTAGE_SECONDS,
        ge=0,
        le=3600,
        title="Outage (seconds)",
        description="How long a run waits for a cluster that stopped answering, before it tries again and then fails.",
    )

    def access(self) -> ClusterAccess:
        """The cluster as the preprocess task takes it.

        Raises:
            ConfigError: The address is none of the Jobs API.
        """
        token = self.token.get_secret_value() if self.token else None
        return ClusterAccess(
            check_address(self.address),
            token,
            self.driver_cpus,
            self.driver_memory_bytes,
            self.python,
            self.code,
            self.outage_seconds,
        )


def cluster_access(reference: str) -> ClusterAccess:
    """The cluster that a flow parameter means: `local`, an address, or `block:NAME`.

    An address without a block takes its token from RAY_AUTH_TOKEN, where that is set.

    Raises:
        ConfigError: No such block, or no possible address.
    """
    block = load_block(RayCluster, reference)
    if block:
        return block.access()
    return ClusterAccess(check_address(reference), os.environ.get("RAY_AUTH_TOKEN"))


def check_address(address: str) -> str:
    """Return the address without a slash at its end.

    Raises:
        ConfigError: Neither `local` nor an http(s) address.
    """
    if address == LOCAL:
        return address
    try:
        parts = urlsplit(address)
        possible = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        raise _no_address(address) from None
    if parts.username or parts.password:
        raise ConfigError("a Ray address must not carry credentials: put the token into a ray-cluster block")
    if not possible or parts.query or parts.fragment:
        raise _no_address(address)
    return address.rstrip("/")


def _no_address(address: str) -> ConfigError:
    hint = "; the ray:// protocol is not used, name the Jobs API" if address.startswith("ray:") else ""
    shown = "what was given" if "@" in address or "?" in address else repr(address)  # it may hold a secret
    return ConfigError(f"{shown} is no Ray address: expected `local`, http(s)://head:8265 or block:NAME{hint}")
