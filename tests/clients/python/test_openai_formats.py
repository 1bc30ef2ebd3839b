"""client.chat.completions: answers in JSON. The model knows nothing of JSON, so that only the server makes it valid."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import jiter
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel, ConfigDict, Field

import schemas
from conversations import ASKED

SEEDS = 25


def response_format(name: str) -> dict:
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schemas.ALL[name]}}


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(**settings):
        return client.chat.completions.create(**{"model": model, "messages": ASKED, "max_tokens": 400} | settings)

    return ask


@pytest.mark.parametrize("name", schemas.ALL)
def test_every_answer_follows_its_schema(ask, name: str):
    def choice(seed: int):
        return ask(temperature=1, seed=seed, response_format=response_format(name)).choices[0]

    with ThreadPoolExecutor(4) as threads:
        choices = list(threads.map(choice, range(SEEDS)))
    for answer in choices:
        assert answer.finish_reason == "stop", answer.message.content
        schemas.parsed(answer.message.content, schemas.ALL[name])
    assert len({answer.message.content for answer in choices}) > 1


def test_a_streamed_answer_follows_its_schema_and_is_the_whole_one(ask):
    settings = {"temperature": 1, "seed": 2, "response_format": response_format("ticket")}
    whole = ask(**settings).choices[0].message.content
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(**settings, stream=True) if chunk.choices)
    assert streamed == whole
    schemas.parsed(streamed, schemas.TICKET)


def test_several_choices_each_follow_the_schema(ask):
    answer = ask(n=3, temperature=1, seed=1, response_format=response_format("weather"))
    assert len(answer.choices) == 3
    for choice in answer.choices:
        schemas.parsed(choice.message.content, schemas.WEATHER)


def test_json_object_is_an_object_as_far_as_it_goes(ask):
    """Nothing bounds such an answer; where the model does not come to an end, it must be the beginning of one."""
    ended = 0
    for seed in range(20):
        [choice] = ask(temperature=1, seed=seed, response_format={"type": "json_object"}).choices
        if choice.finish_reason == "stop":
            ended += 1
            assert isinstance(json.loads(choice.message.content), dict)
        else:
            assert choice.finish_reason == "length"
            assert isinstance(jiter.from_json(choice.message.content.encode(), partial_mode="trailing-strings"), dict)
    assert ended > 0


def test_the_client_parses_into_a_class(client: OpenAI, model: str):
    class Forecast(BaseModel):
        model_config = ConfigDict(extra="forbid")
        city: Literal["Paris", "Lima"]
        degrees: Annotated[int, Field(ge=-50, le=50)]
        sunny: bool

    answer = client.chat.completions.parse(
        model=model, messages=ASKED, response_format=Forecast, temperature=1, seed=1, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Forecast)


def test_an_answer_cut_off_is_reported_as_such(ask):
    [choice] = ask(temperature=0, max_tokens=3, response_format=response_format("weather")).choices
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}},
        {"type": "no such format"},
    ],
)
def test_a_format_that_cannot_be_is_refused(ask, broken: dict):
    with pytest.raises(BadRequestError) as refused:
        ask(response_format=broken)
    assert refused.value.param.startswith("response_format")
