"""Creates the two blocks from environment variables: `python -m blocks.from_environment`.

    IMAGESHARDS_STORE_URL      a folder or s3://bucket/prefix    → dataset-store block
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION: its keys and server
    IMAGESHARDS_RAY_ADDRESS    `local` or http(s)://head:8265    → ray-cluster block
    RAY_AUTH_TOKEN             its token
    IMAGESHARDS_RAY_CODE       `travels` (the default) or `installed`: how the cluster gets the code

Idempotent: a block of the same name is overwritten. Secrets are read from the environment and never printed. Keys that
expire (AWS_SESSION_TOKEN) are refused: the nightly run would outlive them, and Prefect shows their token in clear.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import cast, get_args

from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr

from blocks.dataset_store import DatasetStore
from blocks.ray_cluster import Code, RayCluster
from imageshards.errors import ConfigError


def store_block(environment: Mapping[str, str]) -> DatasetStore | None:
    """The dataset-store block that the environment describes; None where it names no store.

    Raises:
        ConfigError: The URL is no possible store, or the keys are incomplete or expire.
    """
    url = environment.get("IMAGESHARDS_STORE_URL")
    if not url:
        return None
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    credentials = None
    key_id, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key_id or secret:
        if environment.get("AWS_SESSION_TOKEN"):
            raise ConfigError(
                "AWS_SESSION_TOKEN is set: keys that expire do not belong into a block; use lasting keys, or unset "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and let environment or role of each machine give them"
            )
        credentials = AwsCredentials(
            aws_access_key_id=key_id,
            aws_secret_access_key=SecretStr(secret) if secret else None,
            region_name=region,
            aws_client_parameters=AwsClientParameters(endpoint_url=endpoint),
        )
    block = DatasetStore(url=url, credentials=credentials, endpoint_url=endpoint, region=region)
    block.access()
    return block


def cluster_block(environment: Mapping[str, str]) -> RayCluster | None:
    """The ray-cluster block that the environment describes; None where it names no cluster.

    Raises:
        ConfigError: The address is none of the Jobs API, or the code can come in no such way.
    """
    address = environment.get("IMAGESHARDS_RAY_ADDRESS")
    if not address:
        return None
    token = environment.get("RAY_AUTH_TOKEN")
    code = environment.get("IMAGESHARDS_RAY_CODE") or "travels"
    if code not in get_args(Code):
        raise ConfigError(f"IMAGESHARDS_RAY_CODE is one of {', '.join(get_args(Code))}, found {code!r}")
    block = RayCluster(address=address, token=SecretStr(token) if token else None, code=cast("Code", code))
    block.access()
    return block


def main(arguments: Sequence[str] | None = None) -> int:
    """Create what the environment describes; exit status 2 when it describes nothing, or nothing possible."""
    parser = argparse.ArgumentParser(prog="python -m blocks.from_environment", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--store-block", default="pets", help="name of the dataset-store block (default: pets)")
    parser.add_argument("--ray-block", default="ray", help="name of the ray-cluster block (default: ray)")
    options = parser.parse_args(arguments)
    try:
        store, cluster = store_block(os.environ), cluster_block(os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if store is None and cluster is None:
        sys.stderr.write("set IMAGESHARDS_STORE_URL, IMAGESHARDS_RAY_ADDRESS or both; see --help\n")
        return 2
    for block, name in ((store, options.store_block), (cluster, options.ray_block)):
        if block is not None:
            block.save(name, overwrite=True)
            sys.stdout.write(f"block:{name} ({block.get_block_type_slug()})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
