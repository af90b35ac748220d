"""The dataset-store block: where raw or finished data lies, and the keys to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError
from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field, field_validator

from blocks.references import load_block
from imageshards.errors import ConfigError
from imageshards.store import Credentials, Store, StoreSpec, open_store


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """A store and the credentials to it; the credentials stay in this process.

    Attributes:
        spec: The store, without any secret.
        credentials: Keys; None where the process's environment or role has them.
        public_url: Where people reach the store in a browser; None where they do not.
    """

    spec: StoreSpec
    credentials: Credentials | None = None
    public_url: str | None = None

    def open(self) -> Store:
        """Open the store."""
        return open_store(self.spec, credentials=self.credentials)

    def link(self, key: str) -> str | None:
        """The address of an object for a browser; None where there is none."""
        return f"{self.public_url.rstrip('/')}/{quote(key)}" if self.public_url else None

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
        default=None,
        description="Keys to the bucket; empty where environment or role give them.",
        repr=False,  # AwsCredentials shows its session token
    )
    endpoint_url: str | None = Field(default=None, title="Endpoint URL", description="S3 server, unless it is AWS.")
    region: str | None = Field(default=None, description="Region of the bucket.")
    public_url: str | None = Field(
        default=None,
        title="Public URL",
        description="Where people reach this place in a browser, for links to reports: a static site, a proxy. It is "
        "shown to everybody who sees a run, so nothing signed and no password.",
    )

    @field_validator("credentials", mode="before")
    @classmethod
    def _keep_the_class(cls, data: Any) -> Any:
        """A saved MinIO block comes back as plain data, which AwsCredentials takes, too: it needs no field."""
        if isinstance(data, Mapping) and "minio_root_user" in data:
            return MinIOCredentials.model_validate(dict(data))
        return data

    def access(self) -> StoreAccess:
        """The store and its credentials as the core takes them.

        Raises:
            ConfigError: A URL, endpoint or region cannot be right, or the credentials are incomplete.
        """
        held = self.credentials
        spec = StoreSpec(
            url=self.url,
            endpoint_url=self.endpoint_url or (held.aws_client_parameters.endpoint_url if held else None) or None,
            region=self.region or (held.region_name if held else None) or None,
        )
        return StoreAccess(spec, _credentials(held), _public_url(self.public_url))


def store_access(reference: str) -> StoreAccess:
    """The store that a flow parameter means: a folder, a URL, or `block:NAME`.

    Raises:
        ConfigError: No such block, or no possible store.
    """
    block = load_block(DatasetStore, reference)
    return block.access() if block else StoreAccess(StoreSpec(url=reference))


def _public_url(url: str | None) -> str | None:
    """The address as it may be shown. One with a query is refused, for that is where signatures are."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError("the public URL of a dataset-store block starts with http:// or https:// and a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "the public URL of a dataset-store block holds a user, a query or a fragment, and would be shown in links: "
            "give the plain address that everybody may see"
        )
    return url


def _credentials(held: AwsCredentials | MinIOCredentials | None) -> Credentials | None:
    """The keys of a credentials block; None where it holds none, only a region or an endpoint."""
    if held is None:
        return None
    if isinstance(held, MinIOCredentials):
        key_id, secret, token = held.minio_root_user, held.minio_root_password.get_secret_value(), None
    elif held.profile_name:
        return _of_profile(held, held.profile_name)
    else:
        hidden = held.aws_secret_access_key
        key_id, secret, token = (
            held.aws_access_key_id,
            hidden.get_secret_value() if hidden else "",
            held.aws_session_token,
        )
    if key_id and secret:
        return Credentials(key_id, secret, token or None)
    if key_id or secret:  # and never what else the environment may hold: that is someone else
        raise ConfigError("the credentials block holds half a key pair: give access key and secret key, or neither")
    return None


def _of_profile(held: AwsCredentials, profile: str) -> Credentials:
    try:
        found = held.get_boto3_session().get_credentials()
        keys = found.get_frozen_credentials() if found else None
    except BotoCoreError as error:
        raise ConfigError(f"the AWS profile {profile!r} of the credentials block cannot be used: {error}") from error
    if keys is None or not keys.access_key or not keys.secret_key:
        raise ConfigError(f"the AWS profile {profile!r} of the credentials block holds no keys")
    return Credentials(keys.access_key, keys.secret_key, keys.token)
