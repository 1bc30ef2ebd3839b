"""client.responses: the newer API, without stored state."""

import pytest
from openai import APIStatusError, BadRequestError, OpenAI
from pydantic import BaseModel

import schemas
from conversations import ANSWER, ASKED

QUESTION = ASKED[0]["content"]
WEATHER = {"type": "function", "name": "get_weather", "parameters": schemas.WEATHER, "strict": True}
TICKET = {"type": "function", "name": "open_ticket", "parameters": schemas.TICKET, "strict": False}
PARAMETERS = {"get_weather": schemas.WEATHER, "open_ticket": schemas.TICKET}


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(**settings):
        defaults = {"model": model, "input": QUESTION, "temperature": 0, "max_output_tokens": 1500, "store": False}
        return client.responses.create(**defaults | settings)

    return ask


def test_an_answer_has_what_was_asked_for(ask, model: str):
    response = ask()
    assert response.object == "response"
    assert response.model == model
    assert response.status == "completed"
    assert response.error is None and response.incomplete_details is None
    [message] = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert ANSWER in response.output_text
    assert response.usage.input_tokens > 20
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_it_is_the_answer_of_a_chat(ask, client: OpenAI, model: str):
    instructions = "Answer from the text."
    system = {"role": "system", "content": instructions}
    chat = client.chat.completions.create(model=model, messages=[system, *ASKED], temperature=0)
    response = ask(instructions=instructions)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_turns_are_read(ask):
    turns = [
        {"role": "developer", "content": "Answer from the text."},
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        {"role": "assistant", "content": "The secret code for river is 4821."},
        {"role": "user", "content": "What is the secret code for brave lion?"},
    ]
    assert "307" in ask(input=turns).output_text
    # What the client got is what it sends back.
    first = ask()
    again = ask(input=[*ASKED, *first.output, turns[-1]])
    assert "307" in again.output_text


def test_an_answer_cut_off_is_incomplete(ask):
    response = ask(max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 2


def test_a_streamed_answer_is_the_whole_one(ask):
    whole = ask()
    events = list(ask(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    before = ["created", "in_progress", "output_item.added", "content_part.added"]
    after = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[:4] == [f"response.{kind}" for kind in before]
    assert kinds[-4:] == [f"response.{kind}" for kind in after]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event.delta for event in events[4:-4]) == whole.output_text
    assert events[-4].text == whole.output_text
    final = events[-1].response
    assert final.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.id == events[0].response.id
    assert events[0].response.status == "in_progress"


def test_the_stream_helper_puts_the_same_answer_together(client: OpenAI, model: str, ask):
    with client.responses.stream(model=model, input=QUESTION, temperature=0, store=False) as stream:
        final = stream.get_final_response()
    assert final.output_text == ask().output_text


@pytest.mark.parametrize("name", schemas.ALL)
def test_answers_follow_a_schema(ask, name: str):
    text = {"format": {"type": "json_schema", "name": name, "schema": schemas.ALL[name], "strict": True}}
    for _ in range(3):
        response = ask(text=text, temperature=1)
        assert response.status == "completed", response.output_text
        schemas.parsed(response.output_text, schemas.ALL[name])


def test_the_client_parses_into_a_class(client: OpenAI, model: str):
    class Switch(BaseModel):
        on: bool

    response = client.responses.parse(model=model, input=QUESTION, text_format=Switch, max_output_tokens=100)
    assert isinstance(response.output_parsed, Switch)


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "open_ticket"}])
def test_functions_are_called(ask, tool_choice):
    response = ask(tools=[WEATHER, TICKET], tool_choice=tool_choice, temperature=1)
    assert response.status == "completed"
    assert response.output
    for call in response.output:
        assert call.type == "function_call"
        assert call.call_id and call.status == "completed"
        schemas.parsed(call.arguments, PARAMETERS[call.name])
        if tool_choice != "required":
            assert call.name == "open_ticket"


def test_streamed_calls_put_themselves_together(ask):
    events = list(ask(tools=[WEATHER], tool_choice="required", temperature=1, stream=True))
    added = [event for event in events if event.type == "response.output_item.added"]
    assert added
    final = events[-1].response
    assert [event.item.call_id for event in added] == [call.call_id for call in final.output]
    for event in added:
        own = [other for other in events if getattr(other, "item_id", None) == event.item.id]
        deltas = "".join(other.delta for other in own if other.type == "response.function_call_arguments.delta")
        [done] = [other for other in own if other.type == "response.function_call_arguments.done"]
        assert event.item.name == "get_weather"
        assert deltas == done.arguments == final.output[event.output_index].arguments
        schemas.parsed(deltas, schemas.WEATHER)


def test_results_are_sent_back(ask):
    called = ask(tools=[WEATHER], tool_choice="required", temperature=1)
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 21}'} for call in called.output
    ]
    response = ask(input=[*ASKED, *called.output, *results], tools=[WEATHER], max_output_tokens=20)
    assert response.status in ("completed", "incomplete")
    assert response.output[0].type == "message"


def test_what_cannot_be_is_refused(ask):
    with pytest.raises(BadRequestError) as refused:
        ask(temperature=-1)
    assert refused.value.param == "temperature"
    # Nothing is stored, so that there is nothing to go on from.
    with pytest.raises(APIStatusError) as refused:
        ask(previous_response_id="resp_123")
    assert refused.value.status_code in (400, 404)
    assert refused.value.param == "previous_response_id"
