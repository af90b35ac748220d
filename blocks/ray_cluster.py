"""The ray-cluster block: where the heavy step runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from blocks.references import load_block
from imageshards.errors import ConfigError

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """A Ray cluster, or this machine.

    Attributes:
        address: `local`, or the http(s) address of the cluster's Jobs API.
        token: Ray's authentication token; None where the cluster asks for none.
        driver_cpus: CPUs that the driver program takes; 0 leaves them to the work.
        driver_memory_bytes: Memory that the driver asks for; None asks for none.
        python: Command that starts Python on the cluster's head.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    driver_cpus: float = 0
    driver_memory_bytes: int | None = None
    python: str = "python"

    @property
    def is_local(self) -> bool:
        """Whether Ray is to be started on this machine for this run alone."""
        return self.address == LOCAL


class RayCluster(Block):
    """A Ray cluster, addressed over its Jobs API. A flow parameter names it as `block:NAME`."""

    _block_type_name = "Ray Cluster"
    _block_type_slug = "ray-cluster"
    _description = "A Ray cluster, addressed over its Jobs API."

    address: str = Field(description="http(s)://head:8265, or `local` to start Ray on the machine of the flow.")
    token: SecretStr | None = Field(default=None, description="Authentication token, where the cluster asks for one.")
    driver_cpus: float = Field(default=0, ge=0, title="Driver CPUs", description="CPUs that the driver program takes.")
    driver_memory_bytes: int | None = Field(default=None, ge=0, description="Memory that the driver program asks for.")
    python: str = Field(default="python", description="Command that starts Python on the cluster's head.")

    def access(self) -> ClusterAccess:
        """The cluster as the preprocess task takes it.

        Raises:
            ConfigError: The address is none of the Jobs API.
        """
        token = self.token.get_secret_value() if self.token else None
        return ClusterAccess(
            check_address(self.address), token, self.driver_cpus, self.driver_memory_bytes, self.python
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
