"""Clients of ollama's API: the official one, LangChain's, and the program llm, whose plugin speaks nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import ollama
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_ollama import ChatOllama

import schemas
from conversations import ANSWER, ASKED, FACTS

QUESTION = ASKED[0]["content"]
GREEDY = {"temperature": 0}
# The client keeps types and enumerations of what it is given, and drops bounds.
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Lima", "Oslo"]}, "metric": {"type": "boolean"}},
    "required": ["city", "metric"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a place", "parameters": PLACE},
}


@pytest.fixture(scope="module")
def served(url: str, key: str):
    with ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def called(served: ollama.Client, model: str) -> ollama.ChatResponse:
    """An answer that calls. Beside a format, the model calls or its answer has the format: chance says which."""
    for seed in range(200):
        options = {"temperature": 2, "top_k": 0, "top_p": 1, "seed": seed, "num_predict": 1500}
        answer = served.chat(model, ASKED, tools=[WEATHER], format=schemas.CHOICE, options=options)
        if answer.message.tool_calls:
            return answer
        schemas.parsed(answer.message.content, schemas.CHOICE)
    raise AssertionError("no call in so many answers")


def test_a_chat_is_answered_and_measured(served: ollama.Client, model: str):
    answer = served.chat(model, ASKED, options=GREEDY)
    assert ANSWER in answer.message.content
    assert (answer.model, answer.message.role, answer.done, answer.done_reason) == (model, "assistant", True, "stop")
    assert answer.prompt_eval_count > 20 and answer.eval_count > 0
    parts = answer.load_duration + answer.prompt_eval_duration + answer.eval_duration
    assert answer.total_duration >= parts > 0


def test_it_is_the_answer_of_other_apis(served: ollama.Client, client, model: str):
    chat = client.chat.completions.create(model=model, messages=ASKED, temperature=0)
    answer = served.chat(model, ASKED, options=GREEDY)
    assert answer.message.content == chat.choices[0].message.content
    assert (answer.prompt_eval_count, answer.eval_count) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)


def test_a_stream_says_the_same(served: ollama.Client, model: str):
    whole = served.chat(model, ASKED, options=GREEDY)
    parts = list(served.chat(model, ASKED, options=GREEDY, stream=True))
    assert len(parts) > 2
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


def test_generate_takes_a_prompt(served: ollama.Client, model: str):
    whole = served.generate(model, QUESTION, system="Answer from the text.", options=GREEDY)
    assert ANSWER in whole.response
    parts = list(served.generate(model, QUESTION, system="Answer from the text.", options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    raw = served.generate(model, "It rained all night, but", raw=True, options=GREEDY | {"num_predict": 4})
    assert (raw.eval_count, raw.done_reason) == (4, "length")
    assert raw.prompt_eval_count < whole.prompt_eval_count


def test_options_are_honoured(served: ollama.Client, model: str):
    text = served.chat(model, ASKED, options=GREEDY).message.content
    stopped = served.chat(model, ASKED, options=ollama.Options(temperature=0, stop=[" is"], num_ctx=4096))
    assert stopped.message.content == text[: text.index(" is")]
    drawn = [
        served.chat(model, ASKED, options={"temperature": 3, "top_k": 0, "top_p": 1, "num_predict": 16, "seed": seed})
        for seed in (1, 1, 2)
    ]
    texts = [answer.message.content for answer in drawn]
    assert texts[0] == texts[1] != texts[2]


def test_log_probabilities(served: ollama.Client, model: str):
    answer = served.chat(model, ASKED, options=GREEDY, logprobs=True, top_logprobs=2)
    said = [token for token in answer.logprobs if token.token]
    assert "".join(token.token for token in said).strip() == answer.message.content.strip()
    for token in said:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2


@pytest.mark.parametrize("name", ["weather", "ticket", "nested"])
def test_an_answer_follows_a_schema(served: ollama.Client, model: str, name: str):
    options = {"temperature": 1, "seed": 5, "num_predict": 1500}
    answer = served.chat(model, ASKED, format=schemas.ALL[name], options=options)
    schemas.parsed(answer.message.content, schemas.ALL[name])
    generated = served.generate(model, QUESTION, format=schemas.ALL[name], options=options)
    assert generated.response == answer.message.content


def test_tools_are_called_and_answered(served: ollama.Client, model: str, called: ollama.ChatResponse):
    for call in called.message.tool_calls:
        assert call.function.name == "get_weather"
        schemas.parsed(json.dumps(dict(call.function.arguments)), PLACE)
    # As the client's documentation does it: the message itself goes back.
    results = [{"role": "tool", "tool_name": "get_weather", "content": "21"} for _ in called.message.tool_calls]
    after = served.chat(model, [*ASKED, called.message, *results], tools=[WEATHER], options={"num_predict": 8})
    assert after.eval_count > 0
    assert after.prompt_eval_count > called.prompt_eval_count


def test_a_function_is_a_tool(served: ollama.Client, model: str):
    def add(a: int, b: int) -> int:
        """Adds.

        Args:
          a: The first number
          b: The second number
        """
        return a + b

    bare = served.chat(model, ASKED, options=GREEDY)
    answer = served.chat(model, ASKED, tools=[add], options=GREEDY)
    assert answer.prompt_eval_count > bare.prompt_eval_count
    assert answer.message.content or answer.message.tool_calls


def test_the_model_is_listed_and_described(served: ollama.Client, model: str):
    [listed] = served.list().models
    assert listed.model == f"{model}:latest"
    assert listed.size > 0 and listed.modified_at is not None
    [running] = served.ps().models
    assert (running.model, running.digest, running.size) == (listed.model, listed.digest, listed.size)
    described = served.show(listed.model)
    family = described.modelinfo["general.architecture"]
    assert family == listed.details.family
    assert described.modelinfo[f"{family}.context_length"] == running.context_length
    assert "completion" in described.capabilities
    assert ANSWER in served.chat(listed.model, ASKED, options=GREEDY).message.content


def test_asking_for_nothing_loads_the_model(served: ollama.Client, model: str):
    assert served.generate(model, keep_alive="10m").done_reason == "load"
    assert served.chat(model, keep_alive=-1).done_reason == "load"


def test_a_cache_that_costs_less(http: httpx.Client, model: str):
    """The client sends no fields of others' own, so this is what it would send and one field more."""
    body = {"model": model, "messages": ASKED, "options": GREEDY, "stream": False, "kv_cache": {"preset": "balanced"}}
    answer = http.post("/api/chat", json=body).raise_for_status().json()
    assert ANSWER in answer["message"]["content"]
    assert answer["kv_cache"]["preset"] == "balanced"


@pytest.mark.parametrize(
    ("ask", "status", "told"),
    [
        (lambda served, _: served.chat("llama3", ASKED), 404, "model 'llama3' not found"),
        (lambda served, _: served.show("llama3"), 404, "model 'llama3' not found"),
        (lambda served, model: served.chat(model, ASKED, options={"temprature": 1}), 400, "options.temprature"),
        (lambda served, model: served.generate(model, "hi", suffix="there"), 400, "suffix"),
        (lambda served, model: served.generate(model, "hi", images=["aGk="]), 400, "images"),
        (lambda served, model: list(served.chat(model, ASKED, options={"mirostat": 1}, stream=True)), 400, "mirostat"),
        (lambda served, _: served.pull("llama3"), 404, "started with"),
        (lambda served, model: served.delete(model), 404, "started with"),
        (lambda served, model: served.create("mine", from_=model), 404, "started with"),
        (lambda served, model: served.embed(model, "hi"), 404, "no embeddings"),
    ],
)
def test_errors_are_messages(served: ollama.Client, model: str, ask, status: int, told: str):
    with pytest.raises(ollama.ResponseError) as refused:
        ask(served, model)
    assert refused.value.status_code == status
    assert told in refused.value.error
    assert not refused.value.error.startswith("{")


def test_without_a_key_nothing_is_answered(url: str, model: str):
    with ollama.Client(host=url) as client, pytest.raises(ollama.ResponseError) as refused:
        client.chat(model, ASKED)
    assert refused.value.status_code == 401
    assert "API key" in refused.value.error


@pytest.mark.anyio
async def test_the_asynchronous_client(url: str, key: str, model: str):
    async with ollama.AsyncClient(host=url, headers={"Authorization": f"Bearer {key}"}) as client:
        whole = await client.chat(model, ASKED, options=GREEDY)
        assert ANSWER in whole.message.content
        parts = [part async for part in await client.chat(model, ASKED, options=GREEDY, stream=True)]
        assert "".join(part.message.content for part in parts) == whole.message.content


@pytest.fixture
def langchain(url: str, key: str, model: str) -> ChatOllama:
    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    return ChatOllama(
        model=model, base_url=url, client_kwargs=headers, temperature=0, num_ctx=4096, validate_model_on_init=True
    )


def test_langchain_answers_streams_and_counts(langchain: ChatOllama):
    message = langchain.invoke(QUESTION)
    assert ANSWER in message.content
    assert message.usage_metadata["total_tokens"] > message.usage_metadata["input_tokens"] > 20
    assert "".join(chunk.content for chunk in langchain.stream(QUESTION)) == message.content


def test_langchain_is_given_structured_output(langchain: ChatOllama):
    answer = langchain.with_structured_output(schemas.WEATHER, method="json_schema").invoke(QUESTION)
    schemas.parsed(json.dumps(answer), schemas.WEATHER)


def test_langchain_sends_calls_and_results_back(langchain: ChatOllama):
    asked = HumanMessage(QUESTION)
    bound = langchain.bind_tools([WEATHER])
    drawing = {"temperature": 2, "top_k": 0, "top_p": 1, "num_predict": 1500}
    drawn = (bound.invoke([asked], format=schemas.CHOICE, options=drawing | {"seed": seed}) for seed in range(200))
    message = next(message for message in drawn if message.tool_calls)
    results = [ToolMessage("21 degrees", tool_call_id=call["id"]) for call in message.tool_calls]
    assert isinstance(bound.invoke([asked, message, *results]).content, str)


@pytest.fixture
def llm(tmp_path: Path, url: str, key: str):
    """Runs the program, whose plugin finds the models by itself."""
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OLLAMA_HOST": url, "OLLAMA_API_KEY": key}

    def llm(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return llm


def test_llm_finds_the_model(llm, model: str):
    listed = llm("ollama", "models")
    assert f"{model}:latest" in listed and "completion" in listed
    assert f"ollama/{model}:latest" in llm("models")


def test_llm_answers_goes_on_and_counts(llm, model: str):
    settings = ["-m", f"ollama/{model}", "-o", "temperature", "0", "-s", "Answer from the text."]
    assert ANSWER in llm(*settings, QUESTION)
    assert llm(*settings, "--no-stream", QUESTION) == llm(*settings, QUESTION)
    [logged] = json.loads(llm("logs", "-n", "1", "--json"))
    assert logged["output_tokens"] > 0
    assert "307" in llm("-c", "-o", "temperature", "0", FACTS + "What is the secret code for brave lion?")


def test_llm_follows_a_schema_and_offers_tools(llm, model: str):
    answer = llm("-m", f"ollama/{model}", "--schema", json.dumps(schemas.WEATHER), QUESTION)
    schemas.parsed(answer, schemas.WEATHER)
    assert ANSWER in llm("-m", f"ollama/{model}", "-T", "llm_version", "-o", "temperature", "0", QUESTION)
