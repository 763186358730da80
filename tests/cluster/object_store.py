"""A simulated S3 (moto's server) on loopback, with one bucket, as a place for runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

SECRET = "wJalrXUtnFEMI"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "ledex"


@dataclass(frozen=True)
class S3:
    """`url` names the folder of runs, `client` is boto3's."""

    url: str
    client: Any


@contextmanager
def simulated_s3() -> Iterator[S3]:
    """The server, in this process; this process and its children have credentials for it. Skipped without moto."""
    moto_server = pytest.importorskip("moto.server", reason="moto is in the extra `dev`")
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        with patch.dict(os.environ, CREDENTIALS):
            client = boto3.client("s3", region_name="us-east-1", endpoint_url=f"http://127.0.0.1:{port}")
            client.create_bucket(Bucket=BUCKET)
            yield S3(f"s3://{BUCKET}/runs?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}", client)
    finally:
        server.stop()
