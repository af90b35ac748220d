"""The dataset-store block: where raw or finished data lies, and the keys to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field

from blocks.references import load_block
from imageshards.store import Credentials, Store, StoreSpec, open_store


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """A store and the credentials to it; the credentials stay in this process.

    Attributes:
        spec: The store, without any secret.
        credentials: Keys; None where the process's environment or role has them.
    """

    spec: StoreSpec
    credentials: Credentials | None = None

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.spec, credentials=self.credentials)

    def environment(self, prefix: str) -> Mapping[str, str]:
        """Environment variables that hand the credentials to a child process, see `StoreSpec.credentials_env`."""
        if self.credentials is None:
            return {}
        names = {
            "AWS_ACCESS_KEY_ID": self.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
            "AWS_SESSION_TOKEN": self.credentials.session_token,
        }
        return {prefix + name: value for name, value in names.items() if value}


class DatasetStore(Block):
    """A folder or S3 prefix that holds raw images or finished shards.

    A flow parameter names it as `block:NAME`. For any but AWS, set the endpoint.
    """

    _block_type_name = "Dataset Store"
    _block_type_slug = "dataset-store"
    _description = "A folder or S3 prefix that holds raw images or finished shards."

    url: str = Field(title="URL", description="A folder, file:///path or s3://bucket/prefix.")
    credentials: AwsCredentials | MinIOCredentials | None = Field(
        default=None, description="Keys to the bucket; empty where environment or role give them."
    )
    endpoint_url: str | None = Field(default=None, title="Endpoint URL", description="S3 server, unless it is AWS.")
    region: str | None = Field(default=None, description="Region of the bucket.")

    def access(self) -> StoreAccess:
        """The store and its credentials as the core takes them.

        Raises:
            ConfigError: URL, endpoint or region cannot be right.
        """
        held = self.credentials
        spec = StoreSpec(
            url=self.url,
            endpoint_url=self.endpoint_url or (held.aws_client_parameters.endpoint_url if held else None),
            region=self.region or (held.region_name if held else None),
        )
        return StoreAccess(spec, _credentials(held))


def store_access(reference: str) -> StoreAccess:
    """The store that a flow parameter means: a folder, a URL, or `block:NAME`.

    Raises:
        ConfigError: No such block, or no possible store.
    """
    block = load_block(DatasetStore, reference)
    return block.access() if block else StoreAccess(StoreSpec(url=reference))


def _credentials(held: AwsCredentials | MinIOCredentials | None) -> Credentials | None:
    if isinstance(held, MinIOCredentials):
        return Credentials(held.minio_root_user, held.minio_root_password.get_secret_value())
    if held is None:
        return None
    if held.aws_access_key_id and held.aws_secret_access_key:
        return Credentials(
            held.aws_access_key_id, held.aws_secret_access_key.get_secret_value(), held.aws_session_token or None
        )
    if held.profile_name:
        found = held.get_boto3_session().get_credentials()
        if found is not None:
            keys = found.get_frozen_credentials()
            return Credentials(keys.access_key, keys.secret_key, keys.token)
    return None
