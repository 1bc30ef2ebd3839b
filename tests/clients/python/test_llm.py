"""llm, the command line program, with the server among its extra-openai-models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import schemas
from conversations import ANSWER, ASKED, FACTS

QUESTION = ASKED[0]["content"]


@pytest.fixture
def llm(tmp_path: Path, url: str, key: str, model: str):
    """Runs the program, with models `chat` and `text` that are the server's."""
    place = {"model_name": model, "api_base": f"{url}/v1", "api_key_name": "server"}
    models = [
        place | {"model_id": "chat", "supports_schema": True, "supports_tools": True},
        place | {"model_id": "text", "completion": True},
    ]
    # JSON is YAML.
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    (tmp_path / "keys.json").write_text(json.dumps({"server": key}))

    def llm(*arguments: str) -> str:
        command = [sys.executable, "-m", "llm", *arguments]
        done = subprocess.run(
            command, env=os.environ | {"LLM_USER_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return llm


def test_an_answer_is_streamed_or_not(llm):
    settings = ["-m", "chat", "-o", "temperature", "0", "-o", "max_tokens", "60", "-s", "Answer from the text."]
    assert ANSWER in llm(*settings, QUESTION)
    assert llm(*settings, "--no-stream", QUESTION) == llm(*settings, QUESTION)
    [logged] = json.loads(llm("logs", "-n", "1", "--json"))
    assert logged["output_tokens"] > 0


def test_a_conversation_goes_on(llm):
    llm("-m", "chat", "-o", "temperature", "0", QUESTION)
    assert "307" in llm("-c", "-o", "temperature", "0", FACTS + "What is the secret code for brave lion?")


def test_an_answer_follows_a_schema(llm):
    answer = llm("-m", "chat", "--schema", json.dumps(schemas.WEATHER), QUESTION)
    schemas.parsed(answer, schemas.WEATHER)


def test_tools_may_be_called(llm):
    """Calling is left to the model, which has never seen a tool, and talks."""
    assert ANSWER in llm("-m", "chat", "-T", "llm_version", "-o", "temperature", "0", QUESTION)


def test_text_goes_on(llm):
    assert llm("-m", "text", "-o", "max_tokens", "8", "It rained all night, but").strip()
