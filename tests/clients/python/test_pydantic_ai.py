"""pydantic-ai: agents whose answers and calls are classes, over both APIs."""

from typing import Annotated, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelSettings, NativeOutput, ToolOutput
from pydantic_ai.capabilities import PrepareOutputTools, PrepareTools
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessagesTypeAdapter, ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from conversations import ANSWER, ASKED, FACTS

QUESTION = ASKED[0]["content"]
OTHER = "What is the secret code for brave lion?"
SETTINGS = ModelSettings(temperature=0, max_tokens=500)
pytestmark = pytest.mark.anyio


class Forecast(BaseModel):
    """The weather of a place."""

    city: Literal["Paris", "Lima", "Oslo"]
    days: Annotated[int, Field(ge=1, le=14)]
    metric: bool


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
async def served(request: pytest.FixtureRequest, url: str, key: str, model: str):
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield request.param(model, provider=OpenAIProvider(openai_client=client))


@pytest.fixture
def weather(served):
    """An agent that has to call a function before it may end: the model is too small to decide that by itself."""

    def weather(output):
        cities: list[str] = []

        async def before(_, tools):
            return [] if cities else tools

        async def after(_, tools):
            return tools if cities else []

        agent = Agent(
            served,
            output_type=output,
            model_settings=SETTINGS,
            capabilities=[PrepareTools(before), PrepareOutputTools(after)],
        )

        @agent.tool_plain
        def get_weather(city: Literal["Paris", "Lima", "Oslo"]) -> dict:
            """The weather of a city."""
            cities.append(city)
            return {"degrees": 21}

        return agent, cities

    return weather


async def test_an_agent_answers_and_counts(served):
    result = await Agent(served, instructions="Answer from the text.", model_settings=SETTINGS).run(QUESTION)
    assert ANSWER in result.output
    assert result.usage.input_tokens > 20 and result.usage.output_tokens > 0


async def test_a_conversation_goes_on(served):
    """What was said is sent back, also after it was stored as JSON."""
    agent = Agent(served, model_settings=SETTINGS)
    first = await agent.run(QUESTION)
    history = ModelMessagesTypeAdapter.validate_json(first.all_messages_json())
    second = await agent.run(FACTS + OTHER, message_history=history)
    assert "307" in second.output
    assert second.usage.input_tokens > first.usage.input_tokens + 20


async def streamed(agent: Agent, prompt: str, **settings) -> tuple[list, object]:
    async with agent.run_stream(prompt, **settings) as run:
        parts = [part async for part in run.stream_output(debounce_by=None)]
        return parts, await run.get_output()


async def test_a_stream_says_the_same(served):
    agent = Agent(served, model_settings=SETTINGS)
    parts, text = await streamed(agent, QUESTION)
    assert len(parts) > 2 and parts[-1] == text
    assert text == (await agent.run(QUESTION)).output


@pytest.mark.parametrize("output", [ToolOutput(Forecast), NativeOutput(Forecast)], ids=["tool", "native"])
async def test_answers_are_of_a_class(served, output):
    agent = Agent(served, output_type=output, model_settings=SETTINGS)
    whole = (await agent.run(QUESTION)).output
    assert isinstance(whole, Forecast)
    assert (await streamed(agent, QUESTION))[1] == whole


async def test_a_class_or_words(served):
    """Calling is left to the model, which has never seen a tool, and talks."""
    result = await Agent(served, output_type=[Forecast, str], model_settings=SETTINGS).run(QUESTION)
    assert isinstance(result.output, str)


async def test_a_function_is_called_before_the_answer(weather):
    agent, cities = weather(ToolOutput(Forecast))
    result = await agent.run(QUESTION)
    assert isinstance(result.output, Forecast)
    assert len(cities) == result.usage.tool_calls > 0
    parts = [part for message in result.all_messages() for part in message.parts]
    called = [part.tool_call_id for part in parts if isinstance(part, ToolCallPart)]
    returned = [part.tool_call_id for part in parts if isinstance(part, ToolReturnPart)]
    assert called == returned and len(set(called)) == len(called)
    # All of it is sent back, with a further question.
    after = await Agent(agent.model, model_settings=SETTINGS).run(OTHER, message_history=result.all_messages())
    assert after.output


async def test_tools_and_a_format_at_once(weather):
    """What the model may call, and how it has to answer if it does not, are both said in one request."""
    agent, _ = weather(NativeOutput(Forecast))
    assert isinstance((await agent.run(QUESTION)).output, Forecast)


async def test_what_cannot_be_is_an_error_with_its_status(served):
    with pytest.raises(ModelHTTPError) as refused:
        await Agent(served, model_settings=ModelSettings(top_p=7)).run(QUESTION)
    assert refused.value.status_code == 400
