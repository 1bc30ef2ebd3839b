"""litellm, as libraries on top of it and its proxy reach a server like this one."""

import litellm
import pytest

import schemas
from conversations import ANSWER, ASKED

litellm.suppress_debug_info = True

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": schemas.WEATHER}}


@pytest.fixture
def place(url: str, key: str, model: str) -> dict:
    return {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key, "max_retries": 0}


@pytest.fixture
def ask(place: dict):
    def ask(**settings):
        return litellm.completion(**place | {"messages": ASKED, "temperature": 0, "max_tokens": 300} | settings)

    return ask


def test_streamed_text_is_the_whole_text(ask):
    whole = ask()
    assert ANSWER in whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_tools_are_called(ask):
    answer = ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, temperature=1)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls:
        schemas.parsed(call.function.arguments, schemas.WEATHER)


def test_answers_follow_a_schema(ask):
    schema = {"name": "ticket", "schema": schemas.TICKET, "strict": True}
    answer = ask(response_format={"type": "json_schema", "json_schema": schema}, temperature=1)
    schemas.parsed(answer.choices[0].message.content, schemas.TICKET)


def test_text_completion(place: dict):
    settings = place | {"model": place["model"].replace("openai/", "text-completion-openai/")}
    answer = litellm.text_completion(**settings, prompt="The lazy dog", max_tokens=5, temperature=0)
    assert answer.choices[0].text


def test_fields_of_our_own_are_sent(ask):
    answer = ask(extra_body={"kv_cache": {"preset": "balanced"}})
    assert answer.usage.kv_cache["preset"] == "balanced"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"model": "openai/no-such-model"}, litellm.NotFoundError),
        ({"api_key": "wrong"}, litellm.AuthenticationError),
        ({"top_p": 7}, litellm.BadRequestError),
        # Which a router answers by asking a model with a longer context.
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, litellm.ContextWindowExceededError),
    ],
)
def test_errors_are_told_apart(ask, settings: dict, error: type[Exception]):
    with pytest.raises(error):
        ask(**settings)
