"""client.chat.completions: text, whole and streamed."""

import pytest
from openai import OpenAI

from conversations import ANSWER, ASKED, ENDLESS, FACTS


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_models_are_listed_and_found(client: OpenAI, model: str):
    assert client.models.retrieve(model).id == model


def test_an_answer_has_what_was_asked_for(client: OpenAI, model: str):
    answer = client.chat.completions.create(model=model, messages=ASKED, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == model
    [choice] = answer.choices
    assert choice.index == 0
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert ANSWER in choice.message.content


@pytest.mark.parametrize("temperature", [0, 1])
def test_streamed_text_is_the_whole_text(client: OpenAI, model: str, temperature: float):
    settings = {"model": model, "messages": ASKED, "temperature": temperature, "seed": 5, "max_tokens": 30}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert ends[-1] == whole.choices[0].finish_reason
    assert set(ends[:-1]) == {None}


def test_the_stream_helper_puts_the_same_answer_together(client: OpenAI, model: str):
    settings = {"model": model, "messages": ASKED, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    with client.chat.completions.stream(**settings) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_usage_adds_up(client: OpenAI, model: str):
    answer = client.chat.completions.create(
        model=model, messages=ASKED, temperature=0, max_tokens=7, extra_body=ENDLESS
    )
    assert answer.usage.completion_tokens == 7
    assert answer.usage.prompt_tokens > 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_has_its_usage_in_the_last_chunk_if_asked(client: OpenAI, model: str):
    settings = {"model": model, "messages": ASKED, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**settings, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**settings, stream=True))


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_answer_ends_at_its_limit(client: OpenAI, model: str, limit: str):
    answer = client.chat.completions.create(model=model, messages=ASKED, temperature=0, **{limit: 2})
    assert answer.usage.completion_tokens == 2
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_answer_before_them(client: OpenAI, model: str, stream: bool):
    settings = {"model": model, "messages": ASKED, "temperature": 0}
    text = client.chat.completions.create(**settings).choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    settings["stop"] = ["never said", stop]
    if stream:
        chunks = list(client.chat.completions.create(**settings, stream=True))
        stopped, end = text_of(chunks), chunks[-1].choices[0].finish_reason
    else:
        [choice] = client.chat.completions.create(**settings).choices
        stopped, end = choice.message.content, choice.finish_reason
    assert stopped == text[: text.index(stop)]
    assert end == "stop"


def test_parts_roles_and_turns_are_read(client: OpenAI, model: str):
    answer = client.chat.completions.create(
        model=model,
        temperature=0,
        messages=[
            {"role": "developer", "content": "Answer from the text."},
            {"role": "user", "content": [{"type": "text", "text": FACTS}]},
            {"role": "assistant", "content": "I will remember that."},
            {"role": "user", "content": "What is the secret code for brave lion?"},
        ],
    )
    assert "307" in answer.choices[0].message.content
