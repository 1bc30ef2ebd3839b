"""Clients send back what they got: messages as they are, with all the fields that the client's classes have."""

import json
from typing import Literal

import litellm
import pytest
from langchain_core.load import dumpd, load
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, ConfigDict

from conversations import ASKED, FACTS

OTHER = {"role": "user", "content": FACTS + "What is the secret code for brave lion?"}
SETTINGS = {"temperature": 0, "max_tokens": 300}


class Forecast(BaseModel):
    """The weather of a place."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lima", "Oslo"]
    metric: bool


TOOL = pydantic_function_tool(Forecast)
FUNCTION = {"type": "function", "name": "Forecast", "parameters": TOOL["function"]["parameters"], "strict": True}


@pytest.fixture
def ask(client: OpenAI, model: str):
    """The text that the other question is answered with, after these messages."""

    def ask(*messages) -> str:
        answer = client.chat.completions.create(model=model, messages=[*ASKED, *messages, OTHER], **SETTINGS)
        return answer.choices[0].message.content

    return ask


@pytest.fixture
def respond(client: OpenAI, model: str):
    def respond(*items) -> str:
        settings = {"temperature": 0, "max_output_tokens": 300}
        return client.responses.create(model=model, input=[*ASKED, *items, OTHER], **settings).output_text

    return respond


@pytest.fixture(params=["object", "dump", "json"])
def back(request: pytest.FixtureRequest):
    """What a program sends back: the object, its fields, or what it had written down."""
    return {
        "object": lambda sent: sent,
        "dump": lambda sent: sent.model_dump(by_alias=True),
        "json": lambda sent: json.loads(sent.model_dump_json(exclude_unset=True)),
    }[request.param]


def test_a_message(client: OpenAI, model: str, ask, back):
    [choice] = client.chat.completions.create(model=model, messages=ASKED, **SETTINGS).choices
    assert "307" in ask(back(choice.message))


def test_a_message_put_together_of_a_stream(client: OpenAI, model: str, ask, back):
    with client.chat.completions.stream(model=model, messages=ASKED, **SETTINGS) as stream:
        message = stream.get_final_completion().choices[0].message
    assert "307" in ask(back(message))


def test_a_message_that_was_parsed(client: OpenAI, model: str, ask, back):
    answer = client.chat.completions.parse(model=model, messages=ASKED, response_format=Forecast, **SETTINGS)
    assert answer.choices[0].message.parsed
    assert ask(back(answer.choices[0].message))


def test_a_call_that_was_parsed(client: OpenAI, model: str, ask, back):
    settings = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    message = client.chat.completions.parse(model=model, messages=ASKED, **settings, **SETTINGS).choices[0].message
    [call] = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Forecast)
    assert ask(back(message), {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"})


def cut_off(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except ValueError:
        return arguments != ""
    return False


def test_a_call_that_was_cut_off(client: OpenAI, model: str, ask, back):
    """Its arguments are the beginning of JSON; the program says that it made nothing of them."""
    settings = {"model": model, "messages": ASKED, "tools": [TOOL], "tool_choice": "required", "temperature": 0}
    answers = (client.chat.completions.create(**settings, max_tokens=limit) for limit in range(20, 100))
    messages = (answer.choices[0].message for answer in answers if answer.choices[0].message.tool_calls)
    message = next(message for message in messages if cut_off(message.tool_calls[0].function.arguments))
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "these arguments are no JSON"}
    assert ask(back(message), result)


def test_an_item(client: OpenAI, model: str, respond, back):
    [item] = client.responses.create(model=model, input=ASKED, temperature=0).output
    assert "307" in respond(back(item))


def test_an_item_that_was_parsed(client: OpenAI, model: str, respond, back):
    settings = {"model": model, "input": ASKED, "temperature": 0, "text_format": Forecast}
    [item] = client.responses.parse(**settings).output
    assert item.content[0].parsed
    assert respond(back(item))


def test_a_call_item_that_was_parsed(client: OpenAI, model: str, respond, back):
    settings = {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False, "temperature": 0}
    [item] = client.responses.parse(model=model, input=ASKED, **settings).output
    assert respond(back(item), {"type": "function_call_output", "call_id": item.call_id, "output": "21 degrees"})


def test_a_call_item_that_was_cut_off(client: OpenAI, model: str, respond, back):
    settings = {"model": model, "input": ASKED, "tools": [FUNCTION], "tool_choice": "required", "temperature": 0}
    answers = (client.responses.create(**settings, max_output_tokens=limit) for limit in range(20, 100))
    items = (item for answer in answers for item in answer.output if item.type == "function_call")
    item = next(item for item in items if cut_off(item.arguments))
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "these arguments are no JSON"}
    assert respond(back(item), result)


def test_litellms_message(url: str, key: str, model: str, back):
    place = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key, "max_retries": 0, **SETTINGS}
    message = litellm.completion(**place, messages=ASKED).choices[0].message
    after = litellm.completion(**place, messages=[*ASKED, back(message), OTHER])
    assert "307" in after.choices[0].message.content


def test_litellms_call(url: str, key: str, model: str, back):
    place = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key, "max_retries": 0, **SETTINGS}
    message = litellm.completion(**place, messages=ASKED, tools=[TOOL], tool_choice="required").choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees"} for call in message.tool_calls]
    assert litellm.completion(**place, messages=[*ASKED, back(message), *results]).choices[0].message.content


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_langchains_messages(url: str, key: str, model: str, responses: bool):
    """Also after they were written down and read again."""
    settings = {"temperature": 0, "max_retries": 0, "max_completion_tokens": 300, "use_responses_api": responses}
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=key, **settings)
    asked, other = HumanMessage(ASKED[0]["content"]), HumanMessage(OTHER["content"])
    message = chat.invoke([asked])
    assert "307" in chat.invoke([asked, load(dumpd(message)), other]).text
    called = chat.bind_tools([Forecast], tool_choice="any").invoke([asked])
    results = [ToolMessage("21 degrees", tool_call_id=call["id"]) for call in called.tool_calls]
    assert chat.invoke([asked, load(dumpd(called)), *results, other]).text
