"""What users of the Python client rely on, and its own tests do not try."""

import os
import uuid

import pytest
from durable_streams import DurableStream, StreamNotFoundError


def fresh_url() -> str:
    return f"{os.environ['SERVER_URL']}/python-{uuid.uuid4()}"


def test_a_read_without_live_returns_4_mb_whole():
    sent = bytes(range(250)) * 4_000
    with DurableStream.create(fresh_url(), content_type="application/octet-stream") as stream:
        for _ in range(4):
            stream.append(sent)
        with stream.stream(live=False) as response:
            assert response.read_bytes() == sent * 4


def test_a_read_without_live_returns_every_message():
    sent = [{"number": number, "filling": "x" * 100_000} for number in range(30)]
    with DurableStream.create(fresh_url(), content_type="application/json") as stream:
        for message in sent:
            stream.append(message)
        with stream.stream(live=False) as response:
            assert response.read_json() == sent


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_a_live_read_follows_the_stream_to_its_end(live):
    with DurableStream.create(fresh_url(), content_type="application/json") as stream:
        for number in range(20):
            stream.append({"number": number})
        with stream.stream(offset="-1", live=live) as response:
            messages = response.iter_json()
            seen = [next(messages)["number"] for _ in range(20)]
            for number in range(20, 40):
                stream.append({"number": number})
                seen.append(next(messages)["number"])
            assert seen == list(range(40))


def test_a_refusal_is_told_as_the_client_names_it():
    stream = DurableStream(fresh_url(), content_type="text/plain")
    with stream, pytest.raises(StreamNotFoundError):
        stream.append(b"x")
