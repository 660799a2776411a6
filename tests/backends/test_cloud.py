"""S3 and DynamoDB, as moto imitates them within the process. Skipped by name without it (group ``test-cloud``)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from asyncresult.codec import Codec
from asyncresult.integrations.celery.config import make_backend
from asyncresult.integrations.celery.readers import reader_for
from asyncresult.integrations.celery.readers.keyvalue import DynamoDBReader, KeyValueReader

from . import stores

moto = pytest.importorskip("moto")

# botocore's own affairs.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.allow_leaks("threads", "sockets")]


@pytest.fixture(params=["s3", "dynamodb"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with moto.mock_aws():
        if request.param == "dynamodb":
            yield stores.app_storing_in("dynamodb://x:x@eu-west-1/results")
        else:
            import boto3

            bucket = f"b-{uuid.uuid4()}"
            boto3.client("s3").create_bucket(
                Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
            )
            settings: Any = {"s3_bucket": bucket, "s3_region": "eu-west-1"}
            settings.update(s3_access_key_id="x", s3_secret_access_key="x")
            yield stores.app_storing_in("s3://", **settings)


async def test_results_that_come_one_after_the_other(app: Celery) -> None:
    reader = await asyncio.to_thread(reader_for, app.backend, Codec())
    assert isinstance(reader, DynamoDBReader if "dynamodb" in str(app.conf.result_backend) else KeyValueReader)
    async with make_backend(app, readers=4, share=0.5) as backend:
        ids = [str(uuid.uuid4()) for _ in range(30)]
        waiting = asyncio.ensure_future(backend.results(ids).get(timeout=60))
        for number, id in enumerate(ids):
            if number % 2:
                await backend.mark_as_done(id, number)
            else:  # as a worker does
                await asyncio.to_thread(app.backend.store_result, id, number, "SUCCESS")
        assert await waiting == list(range(30))
        assert await backend.forget(ids[0]) == 1
        assert await backend.result(ids[0]).state() == "PENDING"
        with pytest.raises(KeyError):
            await backend.mark_as_failure("failed", KeyError("k"))
            await backend.result("failed").get(timeout=20)
