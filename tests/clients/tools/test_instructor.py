"""instructor: answers that are classes, in the modes that servers like this one have."""

from collections.abc import Iterable
from typing import Annotated, Literal

import instructor
import pytest
from instructor import Mode
from instructor.core.exceptions import IncompleteOutputException, InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field, field_validator

from conversations import ASKED

# In the others, the model has to know how to write JSON by a schema that it is told.
HELD = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS]
TOLD = [Mode.JSON, Mode.MD_JSON]


class Forecast(BaseModel):
    """The weather of a place."""

    # Else its schema allows fields without end.
    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Lima", "Oslo"]
    days: Annotated[int, Field(ge=1, le=14)]


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    on: bool


class Several(BaseModel):
    model_config = ConfigDict(extra="forbid")
    forecasts: Annotated[list[Forecast], Field(min_length=2, max_length=2)]


@pytest.fixture
def ask(url: str, key: str, model: str):
    def ask(mode: Mode, how: str = "create", **settings):
        with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            create = getattr(instructor.from_openai(client, mode=mode).chat.completions, how)
            defaults = {"model": model, "messages": ASKED, "temperature": 0, "max_tokens": 400, "max_retries": 1}
            answer = create(**defaults | {"response_model": Forecast} | settings)
            return list(answer) if how != "create" else answer

    return ask


@pytest.mark.parametrize("mode", HELD)
def test_an_answer_is_of_a_class(ask, mode: Mode):
    assert isinstance(ask(mode), Forecast)


@pytest.mark.parametrize("mode", HELD)
def test_a_streamed_answer_becomes_the_whole_one(ask, mode: Mode):
    parts = ask(mode, "create_partial")
    assert len(parts) > 1
    # (In some modes, pieces are asked for in other words than wholes.)
    assert Forecast.model_validate(parts[-1].model_dump())


@pytest.mark.parametrize("mode", HELD)
def test_classes_in_classes(ask, mode: Mode):
    assert len(ask(mode, response_model=Several).forecasts) == 2


@pytest.mark.parametrize("mode", HELD)
def test_what_is_not_valid_is_sent_back_with_what_is_wrong(ask, mode: Mode):
    """Two turns: the answer goes back as a message, with a complaint about it, until there is one that is valid."""

    class Picky(Forecast):
        @field_validator("city")
        @classmethod
        def not_the_first(cls, city: str) -> str:
            refused.append(city)
            if len(refused) == 1:
                raise ValueError("some other answer")
            return city

    refused: list[str] = []
    assert isinstance(ask(mode, response_model=Picky, max_retries=3), Picky)
    assert len(refused) == 2


@pytest.mark.parametrize("mode", TOLD)
def test_an_answer_that_the_model_cannot_give_is_what_fails(ask, mode: Mode):
    """It knows nothing of JSON, and goes on without end. The server has taken the request."""
    with pytest.raises(IncompleteOutputException) as cut:
        ask(mode, max_tokens=40)
    assert cut.value.last_completion.usage.completion_tokens == 40


def test_parallel_calls_are_left_to_the_model(ask):
    """It has never seen a tool, and talks."""
    with pytest.raises(InstructorRetryException, match="No tool calls"):
        ask(Mode.PARALLEL_TOOLS, response_model=Iterable[Forecast | Switch])
