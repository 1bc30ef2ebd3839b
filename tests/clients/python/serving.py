"""Servers of the binary under test, for tests that end them."""

import os
import re
import subprocess
import tempfile
from types import TracebackType
from typing import Self

from openai import OpenAI

KEY = "a-key-of-its-own"


class Server:
    """`sparkv serve` with the demo model, until the `with` block ends."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        command = [os.environ["CLIENTS_BINARY"], "serve", "--offline", "--port", str(port), *arguments]
        self._log = tempfile.TemporaryFile()
        environment = os.environ | {"SPARKV_API_KEY": KEY}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout
        greeting = self.process.stdout.readline()
        address = re.search(r"http://[0-9.]+:(\d+)", greeting)
        assert address, f"not ready: {greeting} {self.log()}"
        self.url = address[0]
        self.port = int(address[1])

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self._log.close()
