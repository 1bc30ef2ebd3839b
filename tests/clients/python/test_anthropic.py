"""The Anthropic client on /v1/messages."""

import anthropic
import pytest
from anthropic import Anthropic

import schemas
from conversations import ANSWER, ASKED

WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": schemas.WEATHER}
TICKET = {"name": "open_ticket", "input_schema": schemas.TICKET}
PARAMETERS = {"get_weather": schemas.WEATHER, "open_ticket": schemas.TICKET}


@pytest.fixture(scope="module")
def messages(url: str, key: str):
    with Anthropic(base_url=url, api_key=key, max_retries=0, _strict_response_validation=True) as client:
        yield client.messages


@pytest.fixture
def ask(messages, model: str):
    """No temperature: newer models of the client's own API have none, and so has it. It is 1 unless sent along."""

    def ask(temperature: float = 0, **settings):
        defaults = {"model": model, "max_tokens": 1500, "messages": ASKED}
        return messages.create(**defaults | settings, extra_body={"temperature": temperature})

    return ask


def prompt_tokens(usage) -> int:
    """All of the prompt: `input_tokens` are those that no cache had."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def test_an_answer_has_what_was_asked_for(ask, model: str):
    message = ask()
    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert message.stop_reason == "end_turn"
    assert message.stop_sequence is None
    [block] = message.content
    assert block.type == "text"
    assert ANSWER in block.text
    assert prompt_tokens(message.usage) > 20
    assert message.usage.output_tokens > 0


def test_it_is_the_answer_of_a_chat(ask, client, model: str):
    system = "Answer from the text."
    turns = [{"role": "system", "content": system}, *ASKED]
    chat = client.chat.completions.create(model=model, messages=turns, temperature=0)
    assert ask(system=system).content[0].text == chat.choices[0].message.content
    blocks = [{"type": "text", "text": system}]
    assert prompt_tokens(ask(system=blocks).usage) == chat.usage.prompt_tokens


def test_turns_and_blocks_are_read(ask):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": ASKED[0]["content"]}]},
        {"role": "assistant", "content": ask().content},
        {"role": "user", "content": "What is the secret code for brave lion?"},
    ]
    assert "307" in ask(messages=turns).content[0].text


def test_the_answer_ends_at_its_limit_or_at_a_stop_sequence(ask):
    cut = ask(max_tokens=2)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)
    text = ask().content[0].text
    stopped = ask(stop_sequences=["never said", " is"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", " is")
    assert stopped.content[0].text == text[: text.index(" is")]


def test_streamed_text_is_the_whole_text(ask, messages, model: str):
    whole = ask()
    events = list(ask(stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert prompt_tokens(events[0].message.usage) == prompt_tokens(whole.usage)
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    [end] = [event for event in events if event.type == "message_delta"]
    assert end.delta.stop_reason == "end_turn"
    assert end.usage.output_tokens == whole.usage.output_tokens
    settings = {"model": model, "max_tokens": 400, "messages": ASKED, "extra_body": {"temperature": 0}}
    with messages.stream(**settings) as stream:
        assert stream.get_final_text() == text


@pytest.mark.parametrize("tool_choice", [{"type": "any"}, {"type": "tool", "name": "open_ticket"}])
def test_tools_are_used(ask, tool_choice: dict):
    for _ in range(3):
        message = ask(tools=[WEATHER, TICKET], tool_choice=tool_choice, temperature=1)
        assert message.stop_reason == "tool_use"
        assert message.content
        for block in message.content:
            assert block.type == "tool_use" and block.id
            schemas.jsonschema.validate(block.input, PARAMETERS[block.name])
            assert block.name == tool_choice.get("name", block.name)


def test_streamed_tool_use_puts_itself_together(ask):
    events = list(ask(tools=[WEATHER], tool_choice={"type": "any"}, temperature=1, stream=True))
    starts = [event for event in events if event.type == "content_block_start"]
    assert starts
    for start in starts:
        assert start.content_block.type == "tool_use"
        deltas = [event.delta for event in events if event.type == "content_block_delta" and event.index == start.index]
        schemas.parsed("".join(delta.partial_json for delta in deltas), schemas.WEATHER)


def test_results_are_sent_back(ask):
    called = ask(tools=[WEATHER], tool_choice={"type": "any"}, temperature=1)
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "21 degrees"} for block in called.content]
    turns = [*ASKED, {"role": "assistant", "content": called.content}, {"role": "user", "content": results}]
    message = ask(messages=turns, tools=[WEATHER], tool_choice={"type": "none"}, max_tokens=20)
    assert all(block.type == "text" for block in message.content)


@pytest.fixture
def refused(messages, model: str):
    """The error's type and message, which has a shape of its own here."""

    def refused(kind: type[anthropic.APIStatusError], messages=messages, **settings) -> tuple[str, str]:
        with pytest.raises(kind) as refused:
            messages.create(**{"model": model, "max_tokens": 5, "messages": ASKED} | settings)
        assert refused.value.body["type"] == "error"
        error = refused.value.body["error"]
        return error["type"], error["message"]

    return refused


def test_a_model_that_is_not_served_is_not_found(refused):
    kind, message = refused(anthropic.NotFoundError, model="no-such-model")
    assert kind == "not_found_error"
    assert "no-such-model" in message


def test_a_value_that_cannot_be_is_named(refused):
    kind, message = refused(anthropic.BadRequestError, max_tokens=-1)
    assert kind == "invalid_request_error"
    assert "max_tokens" in message


def test_nobody_gets_an_answer(refused, url: str):
    with Anthropic(base_url=url, api_key="wrong", max_retries=0) as nobody:
        kind, _ = refused(anthropic.AuthenticationError, nobody.messages)
    assert kind == "authentication_error"
