"""Errors as the client raises them."""

import pytest
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

from conversations import ASKED


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(**settings):
        return client.chat.completions.create(**{"model": model, "messages": ASKED, "max_tokens": 5} | settings)

    return ask


def test_a_model_that_is_not_served_is_not_found(ask, client: OpenAI):
    with pytest.raises(NotFoundError) as refused:
        ask(model="no-such-model")
    assert refused.value.code == "model_not_found"
    assert "no-such-model" in refused.value.message
    with pytest.raises(NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "hello"}]}, "messages[0].role"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"extra_body": {"kv_cache": {"preset": "no-such-preset"}}}, "kv_cache.preset"),
        ({"extra_body": {"kv_cache": {"pruning": {"key_ratio": 1}}}}, "kv_cache.pruning.key_ratio"),
    ],
)
def test_a_value_that_cannot_be_is_named(ask, settings: dict, param: str):
    with pytest.raises(BadRequestError) as refused:
        ask(**settings)
    # Either the field itself, or the place in it.
    assert refused.value.param.startswith(param)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_too_long_says_so(ask, stream: bool):
    with pytest.raises(BadRequestError) as refused:
        ask(messages=[{"role": "user", "content": "word " * 9000}], stream=stream)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"
    assert "4096" in refused.value.message.replace(",", "")


@pytest.mark.parametrize("headers", [{}, {"Authorization": ""}, {"Authorization": "Bearer two words"}])
def test_nobody_gets_an_answer(url: str, model: str, headers: dict):
    with OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as nobody:
        with pytest.raises(AuthenticationError) as refused:
            nobody.chat.completions.create(model=model, messages=ASKED, extra_headers=headers)
    assert refused.value.type == "invalid_request_error"
    assert refused.value.code == "invalid_api_key"


def test_embeddings_are_not_made(client: OpenAI, model: str):
    with pytest.raises(NotFoundError) as refused:
        client.embeddings.create(model=model, input="hello")
    assert refused.value.code == "not_supported"
    assert "no embeddings" in refused.value.message
