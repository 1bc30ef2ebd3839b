"""What tests share: where the server is. These packages have an OpenAI client of their own, older than that in `python`."""

import os

# Nothing here may look for models or data sets elsewhere. Read when they are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import httpx
import pytest


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["CLIENTS_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    return os.environ["CLIENTS_KEY"]


@pytest.fixture(scope="session")
def model(url: str, key: str) -> str:
    models = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).raise_for_status().json()
    return models["data"][0]["id"]
