"""LangChain's ChatOpenAI."""

from typing import Annotated, Literal

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field

from conversations import ANSWER, ASKED

QUESTION = ASKED[0]["content"]


class Forecast(BaseModel):
    """The weather of a place."""

    # Else its schema allows fields without end.
    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lima", "Oslo"]
    days: Annotated[int, Field(ge=1, le=14)]
    metric: bool


@pytest.fixture
def chat(url: str, key: str, model: str) -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=f"{url}/v1", api_key=key, temperature=0, max_retries=0, max_completion_tokens=300
    )


def test_invoke_answers_and_counts(chat: ChatOpenAI):
    message = chat.invoke(QUESTION)
    assert ANSWER in message.content
    assert message.usage_metadata["total_tokens"] > message.usage_metadata["input_tokens"] > 20


def test_stream_says_the_same(chat: ChatOpenAI):
    chunks = list(chat.stream(QUESTION, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke(QUESTION).content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_batch_answers_in_order(chat: ChatOpenAI):
    other = QUESTION.replace("for river?", "for brave lion?")
    first, second = chat.batch([QUESTION, other])
    assert ANSWER in first.content
    assert "307" in second.content


@pytest.mark.parametrize("tool_choice", ["any", "Forecast"])
def test_tools_are_called_and_answered(chat: ChatOpenAI, tool_choice: str):
    bound = chat.bind_tools([Forecast], tool_choice=tool_choice, parallel_tool_calls=False)
    asked = HumanMessage(QUESTION)
    message = bound.invoke([asked])
    assert message.tool_calls and not message.invalid_tool_calls
    for call in message.tool_calls:
        assert call["name"] == "Forecast"
        Forecast.model_validate(call["args"])
    results = [ToolMessage("21 degrees", tool_call_id=call["id"]) for call in message.tool_calls]
    assert isinstance(chat.invoke([asked, message, *results]).content, str)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: ChatOpenAI, method: str):
    assert isinstance(chat.with_structured_output(Forecast, method=method).invoke(QUESTION), Forecast)


def test_the_responses_api_says_the_same(chat: ChatOpenAI):
    responses = chat.model_copy(update={"use_responses_api": True})
    assert responses.invoke(QUESTION).text == chat.invoke(QUESTION).content


def test_fields_of_our_own_are_sent(chat: ChatOpenAI):
    message = chat.invoke(QUESTION, extra_body={"kv_cache": {"preset": "balanced"}})
    assert message.response_metadata["token_usage"]["kv_cache"]["preset"] == "balanced"
