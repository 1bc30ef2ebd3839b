"""What tests share: two replicas, and a balancer before them."""

from dataclasses import dataclass

import httpx
import pytest
from openai import OpenAI

from balancers import KINDS, Balancer, installed
from replicas import Replica
from serving import KEY


@dataclass
class Fleet:
    balancer: Balancer
    replicas: list[Replica]
    client: OpenAI
    model: str

    def chat(self, content: str, **settings):
        """An answer of a few tokens."""
        messages = [{"role": "user", "content": content}]
        defaults = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 8}
        return self.client.chat.completions.create(**defaults | settings)


@pytest.fixture(scope="module", params=KINDS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    kind = KINDS[request.param]
    if not installed(kind.program):
        pytest.skip(f"{kind.program} is not installed")
    replicas = [Replica(), Replica()]
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        models = httpx.get(f"{replicas[0].url}/v1/models", headers=headers).raise_for_status().json()
        ports = [replica.port for replica in replicas]
        with Balancer(kind, ports, KEY, tmp_path_factory.mktemp(request.param)) as balancer:
            with OpenAI(base_url=f"{balancer.url}/v1", api_key=KEY, max_retries=0) as client:
                yield Fleet(balancer, replicas, client, models["data"][0]["id"])
            # Shown by pytest where a test failed.
            print(balancer.log()[-4000:])
    finally:
        for replica in replicas:
            replica.close()
