"""vLLM's and SGLang's routers in front of the server. They read requests into types of their own, and pass on what these
say, with many of the fields that the client left out."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from openai import BadRequestError, OpenAI

import schemas
from conversations import ANSWER, ASKED, FACTS

COMMANDS = {"vllm-router": ["vllm-router"], "sglang-router": ["sglang-router", "launch"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": schemas.WEATHER, "strict": True}}
OTHER = {"role": "user", "content": FACTS + "What is the secret code for brave lion?"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session", params=COMMANDS)
def router(request: pytest.FixtureRequest, url: str, key: str, tmp_path_factory: pytest.TempPathFactory):
    """A client of the router, which is ready when a list of models comes through it."""
    port = free_port()
    name, *rest = COMMANDS[request.param]
    command = [Path(sys.executable).parent / name, *rest, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(free_port()), "--worker-urls", url, "--disable-retries"]
    log = tmp_path_factory.mktemp(name) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
        for _ in range(300):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{client.base_url}models", headers=client.auth_headers).is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
        yield client
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ask(router: OpenAI, model: str):
    def ask(**settings):
        defaults = {"model": model, "messages": ASKED, "temperature": 0, "max_tokens": 400}
        return router.chat.completions.create(**defaults | settings)

    return ask


def test_a_chat_is_answered(ask):
    answer = ask()
    assert ANSWER in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_a_streamed_chat_says_the_same(ask):
    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_conversation_goes_on(ask):
    """The message itself goes back."""
    assert "307" in ask(messages=[*ASKED, ask().choices[0].message, OTHER]).choices[0].message.content


def test_all_that_can_be_said_of_sampling_comes_through(ask):
    settings = {"temperature": 0.7, "top_p": 0.9, "seed": 3, "presence_penalty": 0.1, "frequency_penalty": 0.1, "n": 2}
    of_tokens = {"logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "stop": ["."], "user": "me"}
    choices = ask(**settings, **of_tokens).choices
    assert len(choices) == 2
    assert all(len(token.top_logprobs) == 2 for choice in choices for token in choice.logprobs.content)


def test_a_tool_is_called_and_its_result_sent_back(ask):
    message = ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False).choices[0].message
    [call] = message.tool_calls
    schemas.parsed(call.function.arguments, schemas.WEATHER)
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    assert ask(messages=[*ASKED, message, result], tools=[WEATHER]).choices[0].message.content


def test_an_answer_follows_a_schema(ask):
    schema = {"name": "weather", "strict": True, "schema": schemas.WEATHER}
    answer = ask(response_format={"type": "json_schema", "json_schema": schema})
    schemas.parsed(answer.choices[0].message.content, schemas.WEATHER)


@pytest.mark.parametrize("prompt", [FACTS, [FACTS, "The lazy dog"]], ids=["text", "texts"])
def test_a_text_goes_on(router: OpenAI, model: str, prompt):
    settings = {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8}
    whole = router.completions.create(**settings)
    assert [choice.index for choice in whole.choices] == list(range(1 if prompt == FACTS else 2))
    texts = [""] * len(whole.choices)
    for chunk in router.completions.create(**settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


def test_a_response_is_given(router: OpenAI, model: str, request: pytest.FixtureRequest):
    if "vllm-router" in request.node.name:
        pytest.skip("vllm-router does not pass the API key on")
    response = router.responses.create(model=model, input=ASKED, temperature=0, store=False)
    assert ANSWER in response.output_text


def test_what_cannot_be_is_refused_with_the_reason(ask):
    with pytest.raises(BadRequestError) as refused:
        ask(messages=[{"role": "user", "content": "word " * 9000}])
    assert refused.value.code == "context_length_exceeded"
