"""What is put in front of the replicas, with the settings in deploy/."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Kind:
    """A balancer: its settings, the command that reads them from FILE, and what it can do."""

    settings: str
    program: str
    command: tuple[str, ...]
    # The header by which requests of a session go to one replica; without one, the router looks at prompts itself.
    session: str | None = None
    # A field of the body by which they do.
    session_field: str | None = None
    # Fields that the published APIs do not have are passed on.
    all_fields: bool = True


HAPROXY = ("haproxy", "-db", "-f", "FILE")
NGINX = ("nginx", "-e", "stderr", "-p", "FOLDER", "-c", "FILE", "-g", "daemon off; pid nginx.pid;")
ENVOY = ("envoy", "-c", "FILE", "--log-level", "warning", "--base-id", "7")
LITELLM = ("litellm", "--config", "FILE", "--host", "127.0.0.1", "--port", "PORT", "--telemetry", "False")
ROUTER = ("sh", "FILE", "--prometheus-port", "OTHER")

KINDS = {
    "haproxy": Kind("haproxy/haproxy.cfg", "haproxy", HAPROXY, "x-session-id", "prompt_cache_key"),
    "nginx": Kind("nginx/nginx.conf", "nginx", NGINX, session="x-session-id"),
    "envoy": Kind("envoy/envoy.yaml", "envoy", ENVOY, session="x-session-id"),
    "litellm": Kind("litellm/config.yaml", "litellm", LITELLM, session="x-litellm-session-id"),
    "vllm-router": Kind("vllm-router/vllm-router.sh", "vllm-router", ROUTER),
    "sglang-router": Kind("sglang-router/sglang-router.sh", "sglang-router", ROUTER, all_fields=False),
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def installed(program: str) -> bool:
    return shutil.which(program, path=search_path()) is not None


def search_path() -> str:
    return os.pathsep.join([str(SCRIPTS), os.environ["PATH"], "/usr/sbin"])


class Balancer:
    """A balancer before the replicas at `ports`, until the `with` block ends. Ready when a list of models comes through it."""

    def __init__(self, kind: Kind, ports: list[int], key: str, folder: Path) -> None:
        self.kind = kind
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.headers = {"Authorization": f"Bearer {key}"}
        self._log = (folder / "log").open("w+b")
        settings = folder / Path(kind.settings).name
        settings.write_text(settled((DEPLOY / kind.settings).read_text(), ports, port))
        values = {"FILE": str(settings), "FOLDER": str(folder), "PORT": str(port), "OTHER": str(free_port())}
        command = [values.get(word, word) for word in kind.command]
        environment = os.environ | {
            "PATH": search_path(),
            "SPARKV_API_KEY": key,
            "LITELLM_MASTER_KEY": key,
            # Nothing is fetched.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        command[0] = shutil.which(command[0], path=search_path()) or command[0]
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def wait(self) -> None:
        for _ in range(900):
            assert self._process.poll() is None, self.log()
            try:
                if httpx.get(f"{self.url}/v1/models", headers=self.headers).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log())

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        try:
            self.wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # Those that have workers are the first of a session of their own.
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            pass
        self._process.wait()


def settled(text: str, ports: list[int], port: int) -> str:
    """The settings with the replicas' addresses and the balancer's own in the places of those in the file."""
    for number, replica in enumerate(ports, start=1):
        text = re.sub(rf"socket_address: {{address: sparkv-{number}, port_value: 8080}}",
                      f"socket_address: {{address: 127.0.0.1, port_value: {replica}}}", text)
        text = re.sub(rf"sparkv-{number}:8080", f"127.0.0.1:{replica}", text)
        assert f":{replica}" in text or f"port_value: {replica}" in text
    # In LiteLLM's case the port is an argument.
    return re.sub(r"(\bbind :|\blisten |--port |port_value: )8000\b", rf"\g<1>{port}", text)
