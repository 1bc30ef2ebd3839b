"""What happens to the process: clients that go away, and signals."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from openai import OpenAI

from conversations import ANSWER, ASKED, ENDLESS
from serving import Server

FILLER = {"role": "user", "content": "It rained all night, but the morning was clear. " * 150}


def endless(client: OpenAI, tokens: int, messages=ASKED):
    """A stream of just so many tokens."""
    return client.chat.completions.create(
        model="sparkv-demo",
        messages=messages,
        max_tokens=tokens,
        temperature=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=ENDLESS,
    )


def leave(client: OpenAI, after: float, messages: list) -> None:
    """Closes the connection at some moment: in line, within the prompt, or within the answer."""
    until = time.monotonic() + after
    try:
        with endless(client.with_options(timeout=after), 900, messages) as stream:
            for _ in stream:
                if time.monotonic() > until:
                    return
    except (openai.APITimeoutError, httpx2.ReadTimeout):
        return
    raise AssertionError("the answer was over before")


def test_clients_that_go_away_leave_nothing_behind():
    draw = random.Random(20)
    with Server() as server, server.client() as client, ThreadPoolExecutor(8) as threads:
        moments = [(draw.uniform(0.01, 0.3), draw.choice([ASKED, [FILLER]])) for _ in range(200)]
        for left in [threads.submit(leave, client, *moment) for moment in moments]:
            left.result()
        start = time.monotonic()
        answer = client.chat.completions.create(model="sparkv-demo", messages=ASKED, max_tokens=12, temperature=0)
        assert time.monotonic() - start < 1
        assert ANSWER in answer.choices[0].message.content
        assert server.process.poll() is None


def test_sigterm_lets_streams_end():
    with Server() as server, server.client() as client, ThreadPoolExecutor(4) as threads:
        streams = [endless(client, 400) for _ in range(4)]
        for stream in streams:
            next(stream)
        server.process.send_signal(signal.SIGTERM)
        for chunks in threads.map(list, streams):
            *_, end, usage = chunks
            assert end.choices[0].finish_reason == "length"
            assert usage.usage.completion_tokens == 400
        assert server.process.wait(10) == 0


def test_sigterm_turns_new_requests_away():
    with Server() as server, server.client() as client:
        stream = endless(client, 1500)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        # Until the signal has arrived, the request is one like any other.
        for _ in range(100):
            try:
                client.chat.completions.create(model="sparkv-demo", messages=ASKED, max_tokens=1)
            except (openai.InternalServerError, openai.APIConnectionError) as refused:
                assert getattr(refused, "status_code", 503) == 503
                break
        else:
            raise AssertionError("requests are still taken")
        assert list(stream)[-1].usage.completion_tokens == 1500
        assert server.process.wait(10) == 0


def test_after_kill_another_serves_at_once_on_the_same_port():
    with Server() as killed, killed.client() as client:
        stream = endless(client, 3000)
        next(stream)
        killed.process.kill()
        killed.process.wait()
        with pytest.raises((openai.APIError, httpx2.TransportError)):
            list(stream)
        with Server(port=killed.port) as server:
            assert server.port == killed.port
            answer = client.chat.completions.create(model="sparkv-demo", messages=ASKED, temperature=0)
            assert ANSWER in answer.choices[0].message.content
