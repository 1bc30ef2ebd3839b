"""What tests share: where the server is, and clients of it."""

import os

# Read when litellm is imported: it would fetch a list of prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import httpx
import pytest
from openai import OpenAI

pytest_plugins = ["places"]


@pytest.fixture(scope="session")
def client(url: str, key: str):
    """Fails on answers that are not of the types of the published API, and tries nothing twice."""
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest.fixture(scope="session")
def http(url: str, key: str):
    """Routes that the official clients do not have."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def model(client: OpenAI) -> str:
    [model] = client.models.list()
    return model.id


@pytest.fixture(scope="session")
def tokenize(http: httpx.Client, model: str):
    """Token ids of a text, without those that a tokenizer adds by itself."""

    def tokenize(text: str) -> list[int]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return http.post("/tokenize", json=body).raise_for_status().json()["tokens"]

    return tokenize


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
