"""An S3-compatible object store on loopback, as a cluster's pods and a laptop's uploads see it."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import boto3
import requests
from moto.server import ThreadedMotoServer

BUCKET = "flyte-data"
_KEY = "rehearsal"


class Store:
    """moto's server with one bucket. A context manager: it stops when its block ends."""

    _num_open = 0

    def __enter__(self) -> Store:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        # port 0: any that is free
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, port = self._server.get_host_and_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        if not Store._num_open:
            # all of moto's servers in a process share their objects, those of servers that have stopped too
            requests.post(f"{self.endpoint}/moto-api/reset", timeout=30).raise_for_status()
        Store._num_open += 1
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=_KEY,
            aws_secret_access_key=_KEY,
        )
        self.client.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Store._num_open -= 1
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """What Flyte's propeller puts into every pod for a store such as MinIO."""
        return {
            "FLYTE_AWS_ENDPOINT": self.endpoint,
            "FLYTE_AWS_ACCESS_KEY_ID": _KEY,
            "FLYTE_AWS_SECRET_ACCESS_KEY": _KEY,
        }

    def uri(self, key: str) -> str:
        """Return the address of an object of the bucket."""
        return f"s3://{BUCKET}/{key}"

    def write(self, uri: str, content: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=BUCKET, Key=_key(uri), Body=content)

    def read(self, uri: str) -> bytes | None:
        """Return an object's content, or None where there is none."""
        try:
            return self.client.get_object(Bucket=BUCKET, Key=_key(uri))["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects that begin with `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def upload_address(self, key: str, seconds: int = 600) -> str:
        """Return a signed address to which one HTTP PUT may write the object."""
        parameters = {"Bucket": BUCKET, "Key": key}
        return str(self.client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds))


def _key(uri: str) -> str:
    return uri.removeprefix(f"s3://{BUCKET}/")
