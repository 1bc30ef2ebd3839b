"""Where the server is, for the tests of all folders."""

import os

import pytest


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["CLIENTS_URL"]


@pytest.fixture(scope="session")
def key() -> str:
    return os.environ["CLIENTS_KEY"]
