"""client.chat.completions: function calls."""

import pytest
from openai import BadRequestError, OpenAI

import schemas
from conversations import ASKED

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of the next days",
        "parameters": schemas.WEATHER,
        "strict": True,
    },
}
TICKET = {"type": "function", "function": {"name": "open_ticket", "parameters": schemas.TICKET}}
PARAMETERS = {"get_weather": schemas.WEATHER, "open_ticket": schemas.TICKET}
NAMED = {"type": "function", "function": {"name": "open_ticket"}}


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(**settings):
        # Enough for many calls: nothing but chance ends them.
        defaults = {"model": model, "messages": ASKED, "tools": [WEATHER, TICKET], "max_tokens": 1500}
        return client.chat.completions.create(**defaults | settings)

    return ask


def check(calls) -> None:
    """Calls of functions that there are, with arguments that these take."""
    assert calls
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.id and call.type == "function"
        schemas.parsed(call.function.arguments, PARAMETERS[call.function.name])


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_made(ask, seed: int):
    [choice] = ask(tool_choice="required", temperature=1, seed=seed).choices
    assert choice.finish_reason == "tool_calls"
    check(choice.message.tool_calls)
    assert not choice.message.content


@pytest.mark.parametrize("seed", range(5))
def test_the_function_that_is_named_is_called(ask, seed: int):
    [choice] = ask(tool_choice=NAMED, temperature=1, seed=seed).choices
    assert choice.finish_reason in ("tool_calls", "stop")
    check(choice.message.tool_calls)
    assert [call.function.name for call in choice.message.tool_calls] == ["open_ticket"]


@pytest.mark.parametrize("tool_choice", ["required", NAMED])
def test_streamed_calls_are_the_whole_ones(ask, tool_choice):
    settings = {"tool_choice": tool_choice, "temperature": 1, "seed": 3}
    [choice] = ask(**settings).choices
    whole = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    streamed: dict[int, dict] = {}
    ends = []
    for chunk in ask(**settings, stream=True):
        for part in chunk.choices:
            ends.append(part.finish_reason)
            for delta in part.delta.tool_calls or []:
                if delta.index not in streamed:
                    # The first piece says what is called; the others have arguments only.
                    assert delta.id and delta.type == "function" and delta.function.name
                    streamed[delta.index] = {"name": delta.function.name, "arguments": ""}
                else:
                    assert not delta.id and not delta.function.name
                streamed[delta.index]["arguments"] += delta.function.arguments or ""
    assert [(call["name"], call["arguments"]) for _, call in sorted(streamed.items())] == whole
    assert sorted(streamed) == list(range(len(whole)))
    assert ends[-1] == choice.finish_reason
    assert set(ends[:-1]) == {None}


def test_one_call_at_a_time_if_asked(ask):
    for seed in range(5):
        [choice] = ask(tool_choice="required", parallel_tool_calls=False, temperature=1, seed=seed).choices
        assert len(choice.message.tool_calls) == 1


@pytest.mark.parametrize("limit", [4, 12, 24])
def test_a_call_cut_off_is_no_text(ask, limit: int):
    """What there is of it may be told as a call, but never as something that the model says."""
    settings = {"tool_choice": "required", "temperature": 0, "max_tokens": limit}
    [choice] = ask(**settings).choices
    assert choice.finish_reason == "length"
    assert not choice.message.content
    chunks = list(ask(**settings, stream=True))
    assert not any(part.delta.content for chunk in chunks for part in chunk.choices)


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_calls_are_left_to_the_model_or_forbidden(ask, tool_choice: str):
    """The model has never seen a tool; it answers in words."""
    [choice] = ask(tool_choice=tool_choice, temperature=0).choices
    assert not choice.message.tool_calls
    assert choice.message.content
    assert choice.finish_reason == "stop"


def test_results_are_sent_back(ask):
    [choice] = ask(tool_choice="required", temperature=1, seed=4).choices
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'} for call in choice.message.tool_calls
    ]
    # As the client's documentation does it: the message itself goes back.
    [after] = ask(messages=[*ASKED, choice.message, *results], temperature=0, max_tokens=20).choices
    assert after.message.content is not None
    assert after.finish_reason in ("stop", "length")


def test_results_count_as_part_of_the_prompt(ask):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    short, long = (
        ask(messages=[*ASKED, turn, {"role": "tool", "tool_call_id": "call_1", "content": text}], max_tokens=1)
        for text in ("sunny", "sunny " * 20)
    )
    assert long.usage.prompt_tokens > short.usage.prompt_tokens + 19


@pytest.mark.parametrize(
    "settings",
    [
        {"tool_choice": {"type": "function", "function": {"name": "no_such_function"}}},
        {"tool_choice": "no such choice"},
        {"tools": [], "tool_choice": "required"},
    ],
)
def test_a_choice_that_cannot_be_is_refused(ask, settings: dict):
    with pytest.raises(BadRequestError) as refused:
        ask(**settings)
    assert refused.value.param.startswith("tool")
