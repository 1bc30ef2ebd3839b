"""LlamaIndex's OpenAILike: its class for servers like this one."""

from typing import Annotated, Literal

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, ConfigDict, Field

from conversations import ANSWER, ASKED, FACTS

QUESTION = ASKED[0]["content"]
ASK = ChatMessage(role="user", content=QUESTION)


class Forecast(BaseModel):
    """The weather of a place."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lima", "Oslo"]
    days: Annotated[int, Field(ge=1, le=14)]


def weather(city: str, days: int) -> str:
    return f"21 degrees in {city}, for {days} days"


WEATHER = FunctionTool.from_defaults(weather, name="get_weather", description="The weather", fn_schema=Forecast)


@pytest.fixture
def llm(url: str, key: str, model: str):
    def llm(**settings) -> OpenAILike:
        defaults = {"is_chat_model": True, "is_function_calling_model": True, "temperature": 0, "max_tokens": 400}
        place = {"model": model, "api_base": f"{url}/v1", "api_key": key, "max_retries": 0}
        return OpenAILike(**place | defaults | settings)

    return llm


def test_streamed_text_is_the_whole_text(llm):
    whole = llm().chat([ASK])
    assert ANSWER in whole.message.content
    parts = list(llm().stream_chat([ASK]))
    assert "".join(part.delta for part in parts) == parts[-1].message.content == whole.message.content


def test_a_conversation_goes_on(llm):
    """The message of the answer is sent back."""
    other = ChatMessage(role="user", content=FACTS + "What is the secret code for brave lion?")
    assert "307" in llm().chat([ASK, llm().chat([ASK]).message, other]).message.content


def test_a_text_goes_on(llm):
    text = llm(is_chat_model=False, max_tokens=8)
    prompt = "It rained all night, but"
    whole = text.complete(prompt).text
    assert whole and list(text.stream_complete(prompt))[-1].text == whole


def test_logprobs_belong_to_the_answer(llm):
    answer = llm(logprobs=True, top_logprobs=2).chat([ASK])
    # For each token its alternatives, and that which is in the answer is the likeliest.
    assert "".join(top[0].token for top in answer.logprobs) == answer.message.content
    assert all(top[0].logprob >= top[1].logprob for top in answer.logprobs)


def test_a_function_is_called_and_its_result_sent_back(llm):
    called = llm().chat_with_tools([WEATHER], user_msg=ASK, tool_required=True)
    calls = llm().get_tool_calls_from_response(called)
    results = [
        ChatMessage(
            role="tool",
            content=str(WEATHER(**Forecast.model_validate(call.tool_kwargs).model_dump())),
            additional_kwargs={"tool_call_id": call.tool_id},
        )
        for call in calls
    ]
    assert calls and all(call.tool_name == "get_weather" for call in calls)
    after = llm().chat([ASK, called.message, *results])
    assert after.message.content and not after.message.additional_kwargs.get("tool_calls")


def test_a_function_is_called_in_a_stream(llm):
    parts = list(llm().stream_chat_with_tools([WEATHER], user_msg=ASK, tool_required=True))
    [call, *_] = llm().get_tool_calls_from_response(parts[-1])
    Forecast.model_validate(call.tool_kwargs)


@pytest.mark.parametrize("by_schema", [False, True], ids=["call", "schema"])
def test_answers_are_of_a_class(llm, by_schema: bool):
    structured = llm(should_use_structured_outputs=by_schema).as_structured_llm(Forecast)
    assert isinstance(structured.complete(QUESTION).raw, Forecast)


def test_a_streamed_answer_becomes_the_whole_one(llm):
    """By the schema: in streams, it leaves calls to the model, which has never seen a tool."""
    structured = llm(should_use_structured_outputs=True).as_structured_llm(Forecast)
    assert list(structured.stream_chat([ASK]))[-1].raw == structured.chat([ASK]).raw


@pytest.mark.anyio
@pytest.mark.parametrize("output", [None, Forecast], ids=["words", "class"])
async def test_an_agent_calls_a_function_and_answers(llm, output: type | None):
    settings = {"initial_tool_choice": "get_weather", "output_cls": output, "system_prompt": "Answer from the text."}
    answer = await FunctionAgent(tools=[WEATHER], llm=llm(), **settings).run(QUESTION)
    assert [call.tool_name for call in answer.tool_calls] == ["get_weather"]
    assert answer.response.content
    assert output is None or Forecast.model_validate(answer.structured_response)
