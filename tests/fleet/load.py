"""Many requests at once, and what became of each."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable

import httpx

TOKENS = 250


@dataclass
class Outcome:
    """What became of a request: `lost` says why it has no whole answer."""

    number: int
    streamed: bool
    began: float
    ended: float
    lost: str | None


# Where a load waits for something, it gives up after so many requests.
MOST = 3000


class Load:
    """Chats, `at_once` at a time, every other one streamed; each has to come to its last token."""

    def __init__(self, url: str, headers: dict[str, str], model: str, at_once: int = 12) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._headers = headers
        self._model = model
        self._at_once = at_once
        self._lock = threading.Lock()
        self._sent = 0
        self._outcomes: list[Outcome] = []

    def run(self, disturb: Callable[[], None], over: Callable[[], bool], least: int = 120) -> list[Outcome]:
        """Disturbs when a quarter of the `least` requests are through, and goes on until that is over, too."""
        with (
            httpx.Client(headers=self._headers, timeout=120, limits=httpx.Limits(max_connections=None)) as client,
            ThreadPoolExecutor(self._at_once) as threads,
        ):

            def send() -> None:
                while (number := self._next()) < least or (not over() and number < MOST):
                    outcome = self._ask(client, number)
                    with self._lock:
                        self._outcomes.append(outcome)

            senders = [threads.submit(send) for _ in range(self._at_once)]
            while len(self._outcomes) < least // 4:
                time.sleep(0.005)
            disturb()
            for sender in senders:
                sender.result()
        return self._outcomes

    def _next(self) -> int:
        with self._lock:
            self._sent += 1
            return self._sent - 1

    def _ask(self, client: httpx.Client, number: int) -> Outcome:
        streamed = number % 2 == 0
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": f"{number} is the secret code for river {number}. What is it?"}],
            "max_tokens": TOKENS,
            "temperature": 0,
            # An answer that is cut off must not look like one that is through.
            "ignore_eos": True,
            "stream": streamed,
        }
        if streamed:
            body["stream_options"] = {"include_usage": True}
        began = time.monotonic()
        try:
            lost = (self._stream if streamed else self._whole)(client, body)
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, IndexError) as error:
            lost = repr(error)
        return Outcome(number, streamed, began, time.monotonic(), lost)

    def _whole(self, client: httpx.Client, body: dict) -> str | None:
        answer = client.post(self._url, json=body)
        if not answer.is_success:
            return f"{answer.status_code} {answer.text[:300]}"
        tokens = answer.json()["usage"]["completion_tokens"]
        return None if tokens == TOKENS else f"{tokens} tokens"

    def _stream(self, client: httpx.Client, body: dict) -> str | None:
        tokens, done, last = 0, False, ""
        with client.stream("POST", self._url, json=body) as answer:
            if not answer.is_success:
                return f"{answer.status_code} {answer.read().decode()[:300]}"
            for line in answer.iter_lines():
                if not line.startswith("data:"):
                    continue
                last = line.removeprefix("data:").strip()
                if last == "[DONE]":
                    done = True
                    continue
                tokens = (json.loads(last).get("usage") or {}).get("completion_tokens", tokens)
        return None if done and tokens == TOKENS else f"{tokens} tokens, done: {done}, last: {last[:300]}"


def lost(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.lost is not None]
