"""The field of our own: what a request's KV cache may cost, sent as extra_body, and what it did cost."""

import pytest
from openai import OpenAI

from conversations import ANSWER, FACTS

FILLER = "It rained all night, but the morning was clear. " * 60
LONG = [{"role": "user", "content": FACTS + FILLER + "\nWhat is the secret code for river?"}]


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(kv_cache: dict | None = None, **settings):
        body = {} if kv_cache is None else {"kv_cache": kv_cache}
        defaults = {"model": model, "messages": LONG, "temperature": 0, "max_tokens": 20}
        return client.chat.completions.create(**defaults | settings, extra_body=body)

    return ask


def test_nothing_is_compressed_unasked(ask):
    usage = ask().usage
    assert usage.kv_cache["preset"] == "exact"
    assert usage.kv_cache["prompt_tokens"] == usage.prompt_tokens
    assert usage.kv_cache["bytes"] >= usage.kv_cache["dense_bytes"] > 0


def test_presets_cost_less_and_less(ask):
    answers = [ask({"preset": preset}) for preset in ("exact", "quality", "balanced", "aggressive")]
    costs = [answer.usage.kv_cache["bytes"] for answer in answers]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 4
    assert ANSWER in answers[2].choices[0].message.content


def test_a_budget_holds(ask):
    usage = ask({"budget": "60%"}).usage.kv_cache
    assert usage["bytes"] <= 0.6 * usage["dense_bytes"]


def test_all_the_bytes_are_the_same_as_no_setting(ask):
    settings = {"temperature": 1, "seed": 3}
    budget, none = ask({"budget": "100%"}, **settings), ask(**settings)
    assert budget.choices[0].message.content == none.choices[0].message.content
    assert budget.usage.kv_cache["bytes"] == none.usage.kv_cache["bytes"]


def test_settings_spelled_out_are_taken(ask):
    eviction = {"policy": "snapkv", "max_tokens": 256}
    usage = ask({"eviction": eviction, "pruning": {"key_ratio": 0.5, "value_ratio": 0.5}, "precision": "int8"}).usage
    assert usage.kv_cache["preset"] == "custom"
    assert usage.kv_cache["kept_tokens"] < usage.kv_cache["prompt_tokens"]


def test_streams_tell_it_too(ask):
    *_, last = ask({"preset": "balanced"}, stream=True, stream_options={"include_usage": True})
    assert last.usage.kv_cache == ask({"preset": "balanced"}).usage.kv_cache


def test_completions_take_it(client: OpenAI, model: str):
    body = {"kv_cache": {"preset": "balanced"}}
    answer = client.completions.create(model=model, prompt=LONG[0]["content"], max_tokens=3, extra_body=body)
    assert answer.usage.kv_cache["preset"] == "balanced"


def test_responses_take_it(client: OpenAI, model: str):
    body = {"kv_cache": {"preset": "balanced"}}
    answer = client.responses.create(model=model, input=LONG, max_output_tokens=3, extra_body=body)
    assert answer.usage.kv_cache["preset"] == "balanced"
