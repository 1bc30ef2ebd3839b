"""What tests share: where the server is. The packages here have an OpenAI client older than that in `python`."""

import os
from pathlib import Path

# Nothing here may look for models or data sets elsewhere. Read when they are imported.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import httpx
import pytest

from serving import Server

pytest_plugins = ["places"]


@pytest.fixture(scope="session")
def model(url: str, key: str) -> str:
    models = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).raise_for_status().json()
    return models["data"][0]["id"]


@pytest.fixture(scope="session")
def real():
    """A server of SmolLM2-135M-Instruct in f32 throughout, for what the demo model is too small for."""
    root = Path(__file__).parents[3]
    path = Path(os.environ.get("CLIENTS_MODEL", root / "models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf"))
    if not path.is_file():
        pytest.skip(f"{path} is not there: scripts/models/fetch brings it, or CLIENTS_MODEL says where it is")
    with Server("--model", str(path), "--weights", "f32", "--kv", '{"precision": "f32"}') as server:
        yield server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
