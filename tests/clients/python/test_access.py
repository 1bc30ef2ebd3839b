"""Logged in as nobody: with an API key set, only the probes answer without one."""

import re

import httpx
import pytest

OPEN = {"/health", "/ready", "/ping", "/version"}
# Not all of them need be described.
OTHERS = [("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/no-such-route"), ("POST", "/v1/chat/completions")]


@pytest.fixture
def described(http: httpx.Client) -> list[tuple[str, str]]:
    """Every operation of the server's own description, with something in place of parameters."""
    paths = http.get("/openapi.json").raise_for_status().json()["paths"]
    methods = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
    return [
        (method.upper(), re.sub(r"{[^}]*}", "x", path))
        for path, operations in paths.items()
        for method in operations.keys() & methods
    ]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}])
def test_no_route_but_the_probes_answers(url: str, described, headers: dict):
    assert len(described) > 5
    for method, path in described + OTHERS:
        answer = httpx.request(method, url + path, headers=headers)
        if path in OPEN:
            assert answer.status_code == 200, path
        else:
            assert answer.status_code == 401, f"{method} {path}"
            # /v1/messages has its own shape around it, and ollama's errors are no more than a message.
            error = answer.json()["error"]
            assert error if path.startswith("/api/") else error["message"]


def test_the_probes_answer(url: str):
    for path in OPEN:
        assert httpx.get(url + path).status_code == 200


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_without_a_key_nothing_is_told(url: str, method: str, path: str):
    answer = httpx.request(method, url + path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_key_opens_what_is_there(http: httpx.Client):
    assert http.get("/v1/models").status_code == 200
    assert http.get("/metrics").status_code == 200
    assert http.get("/no-such-route").status_code == 404
