"""openai-agents, over both APIs: agents that call functions, hand over, and answer by a class."""

from typing import Annotated, Literal

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    ToolCallItem,
    ToolCallOutputItem,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from conversations import ANSWER, ASKED, FACTS

set_tracing_disabled(True)
pytestmark = pytest.mark.anyio

QUESTION = ASKED[0]["content"]
OTHER = {"role": "user", "content": FACTS + "What is the secret code for brave lion?"}


class Forecast(BaseModel):
    """The weather of a place."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lima", "Oslo"]
    days: Annotated[int, Field(ge=1, le=14)]


@pytest.fixture(params=[OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def served(request: pytest.FixtureRequest, url: str, key: str, model: str):
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield request.param(model=model, openai_client=client)


@pytest.fixture
def agent(served):
    def agent(*, name: str = "agent", settings: dict | None = None, **rest) -> Agent:
        rest["model_settings"] = ModelSettings(**{"temperature": 0, "max_tokens": 500} | (settings or {}))
        return Agent(name=name, instructions="Answer from the text.", model=served, **rest)

    return agent


@pytest.fixture
def weather():
    """A function, and the cities it was asked for. It can be called in one turn only, so that every run ends."""
    cities: list[str] = []

    @function_tool(is_enabled=lambda *_: not cities)
    def get_weather(city: Literal["Paris", "Lima", "Oslo"]) -> str:
        """The weather of a city."""
        cities.append(city)
        return "21 degrees"

    return get_weather, cities


async def test_an_agent_answers_and_counts(agent):
    result = await Runner.run(agent(), QUESTION)
    assert ANSWER in result.final_output
    assert result.context_wrapper.usage.output_tokens > 0


async def test_nothing_has_to_be_set(served):
    assert isinstance((await Runner.run(Agent(name="agent", model=served), QUESTION)).final_output, str)


async def test_a_stream_says_the_same(agent):
    run = Runner.run_streamed(agent(settings={"include_usage": True}), QUESTION)
    deltas = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == run.final_output == (await Runner.run(agent(), QUESTION)).final_output
    assert run.context_wrapper.usage.output_tokens > 0


async def test_a_conversation_goes_on(agent):
    """The items of the answer are sent back."""
    first = await Runner.run(agent(), QUESTION)
    second = await Runner.run(agent(), [*first.to_input_list(), OTHER])
    assert "307" in second.final_output


async def test_a_session_remembers(agent):
    session = SQLiteSession("session")
    await Runner.run(agent(), QUESTION, session=session)
    assert "307" in (await Runner.run(agent(), OTHER["content"], session=session)).final_output
    assert len(await session.get_items()) == 4


async def test_an_answer_is_of_a_class(agent):
    assert isinstance((await Runner.run(agent(output_type=Forecast), QUESTION)).final_output, Forecast)


@pytest.mark.parametrize("tool_choice", ["required", "get_weather"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_function_is_called_and_its_result_sent_back(agent, weather, tool_choice: str, streamed: bool):
    function, cities = weather
    asked = agent(tools=[function], settings={"tool_choice": tool_choice})
    if streamed:
        result = Runner.run_streamed(asked, QUESTION)
        async for _ in result.stream_events():
            pass
    else:
        result = await Runner.run(asked, QUESTION)
    assert cities and isinstance(result.final_output, str)
    called = [item for item in result.new_items if isinstance(item, ToolCallItem)]
    returned = [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert len(called) == len(returned) == len(cities)
    # All of it is sent back, with a further question.
    after = await Runner.run(agent(), [*result.to_input_list(), OTHER])
    assert isinstance(after.final_output, str)


@pytest.mark.parametrize("tool_choice", ["required", "auto", None])
async def test_a_function_is_called_before_an_answer_of_a_class(agent, weather, tool_choice: str | None):
    """What the model may call, and how it has to answer if it does not, are both said in one request."""
    function, cities = weather
    asked = agent(tools=[function], output_type=Forecast, settings={"tool_choice": tool_choice})
    result = await Runner.run(asked, QUESTION)
    assert isinstance(result.final_output, Forecast)
    assert cities or tool_choice != "required"


async def test_an_agent_hands_over(agent):
    other = agent(name="other")
    result = await Runner.run(agent(handoffs=[other], settings={"tool_choice": "required"}), QUESTION)
    assert result.last_agent is other
    assert isinstance(result.final_output, str)
