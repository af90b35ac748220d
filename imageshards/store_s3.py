"""How the S3 client is set up: endpoint, region, credentials, timeouts and retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from obstore.store import S3Store

from imageshards.errors import ConfigError
from imageshards.store_spec import StoreSpec, check_endpoint

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3CredentialProvider

DEFAULT_REGION = "us-east-1"

CONNECT_TIMEOUT = timedelta(seconds=5)
RESPONSE_TIMEOUT = timedelta(seconds=30)
"""Silence after a request, its body's upload included, and between two pieces of an answer."""
TOTAL_TIMEOUT = timedelta(hours=1)
"""One request with its whole answer, of which silence is no part. obstore's default of 30 s cuts off large shards."""
BULK_TIMEOUT = timedelta(minutes=15)
"""One upload in a single request, where the response timeout cannot apply: 5 GiB, S3's limit, at 6 MB/s."""

BOTO3_TTL = timedelta(minutes=9)
"""What botocore hands out is good for 10 minutes at least; obstore asks again 5 minutes before the end."""

MAX_RETRIES = 4
RETRY_TIMEOUT = timedelta(seconds=30)
"""With the connect timeout: a host that swallows packets is reported within 30 s, a refused port within 3 s."""

_RETRY: RetryConfig = {
    "max_retries": MAX_RETRIES,
    "retry_timeout": RETRY_TIMEOUT,
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """S3 keys. They live in one process: neither repr nor pickle gives them away."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "credentials are not pickled: send the StoreSpec, and let the other process take credentials from its "
            "environment or role"
        )


@dataclass(frozen=True, slots=True)
class S3Access:
    """Everything a client for one bucket needs."""

    bucket: str
    endpoint: str | None
    region: str
    provider: S3CredentialProvider = field(repr=False)

    @classmethod
    def of(cls, spec: StoreSpec, bucket: str, credentials: Credentials | None) -> S3Access:
        """Find endpoint, region and credentials; nothing is sent, unless boto3 has to ask a role for credentials.

        Raises:
            ConfigError: No credentials, incomplete ones, or an impossible endpoint.
        """
        endpoint = spec.endpoint_url or _endpoint_of(os.environ)
        keys = credentials or _keys_of(os.environ, spec.credentials_env or "") or _keys_of(os.environ, "")
        provider, profile_region = (_fixed(keys), None) if keys else _boto3_chain()
        named = spec.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return cls(bucket, endpoint, named or profile_region or DEFAULT_REGION, provider)

    def client(self, *, bulk: bool = False) -> S3Store:
        """A client; with `bulk`, one whose single requests may upload for minutes.

        Settings of obstore that are not named here come from the environment as obstore documents them
        (AWS_SERVER_SIDE_ENCRYPTION and the like).
        """
        options: ClientConfig = {
            "allow_http": self.endpoint is not None and self.endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": BULK_TIMEOUT if bulk else TOTAL_TIMEOUT,
        }
        if not bulk:
            options["read_timeout"] = RESPONSE_TIMEOUT
        return S3Store(
            self.bucket,
            # The service's own setting, not `endpoint`, which AWS_ENDPOINT_URL_S3 in the environment would override.
            config={"aws_endpoint_url_s3": self.endpoint} if self.endpoint else None,
            region=self.region,
            # One DELETE for one key: every server has it, and its errors come with a status.
            disable_bulk_delete=True,
            client_options=options,
            retry_config=_RETRY,
            # Not access_key_id=…: beside it obstore would take a foreign AWS_SESSION_TOKEN from the environment.
            credential_provider=self.provider,
        )

    def control_client(self) -> S3Client:
        """A client of boto3, for the few requests that obstore does not know; each takes the credentials of the moment.

        Raises:
            TypeError: The credentials come from an asynchronous provider.
        """
        import boto3  # noqa: PLC0415 - 0.3 s and 14 MB that most users of a store spare
        from botocore.config import Config  # noqa: PLC0415

        held = self.provider()
        if not isinstance(held, dict):
            raise TypeError("the credentials of a store come from a plain function")
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=held["access_key_id"],
            aws_secret_access_key=held["secret_access_key"],
            aws_session_token=held.get("token"),
            config=Config(
                connect_timeout=CONNECT_TIMEOUT.total_seconds(),
                read_timeout=RESPONSE_TIMEOUT.total_seconds(),
                retries={"total_max_attempts": MAX_RETRIES + 1, "mode": "standard"},
                request_checksum_calculation="when_required",  # some servers refuse boto3's default
                s3={"addressing_style": "path"} if self.endpoint else None,
            ),
        )


def _endpoint_of(environment: Mapping[str, str]) -> str | None:
    # The last one is obstore's own; it would take it behind our back.
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if found := environment.get(name):
            return check_endpoint(found)
    return None


def _keys_of(environment: Mapping[str, str], prefix: str) -> Credentials | None:
    key_id = environment.get(f"{prefix}AWS_ACCESS_KEY_ID")
    secret = environment.get(f"{prefix}AWS_SECRET_ACCESS_KEY")
    if not key_id and not secret:
        return None
    if not key_id or not secret:
        missing = f"{prefix}AWS_SECRET_ACCESS_KEY" if key_id else f"{prefix}AWS_ACCESS_KEY_ID"
        raise ConfigError(f"S3 credentials in the environment are incomplete: {missing} is not set")
    return Credentials(key_id, secret, environment.get(f"{prefix}AWS_SESSION_TOKEN") or None)


def _fixed(keys: Credentials) -> S3CredentialProvider:
    def provide() -> S3Credential:
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": None,  # obstore asks once
        }

    return provide


def _boto3_chain() -> tuple[S3CredentialProvider, str | None]:
    """Profiles, SSO, web identity, container and instance roles, as boto3 finds them; renewed while the store lives."""
    import boto3  # noqa: PLC0415 - 0.3 s and 14 MB that keys in the environment spare
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

    try:
        session = boto3.Session()
        return Boto3CredentialProvider(session, ttl=BOTO3_TTL), session.region_name
    except BotoCoreError as error:
        raise ConfigError(f"the AWS configuration cannot be used: {error}") from error
    except ValueError:
        raise ConfigError(
            "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an AWS profile or role, or use a "
            "dataset-store block"
        ) from None
