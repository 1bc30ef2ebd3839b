"""Two servers of the demo model, which can be ended and started again at their ports."""

import re
import signal
import time

import httpx

from serving import KEY, Server

# How a replica of a fleet is started (docs/fleet.md): once told to end, it answers on until nobody sends it anything more.
ARGUMENTS = ("--drain-delay-seconds", "3", "--drain-seconds", "30")


class Replica:
    def __init__(self) -> None:
        self._server = Server(*ARGUMENTS)
        self.port = self._server.port
        self.url = self._server.url

    def metric(self, name: str) -> float:
        """A metric's value; where it has labels, their sum."""
        answer = httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).raise_for_status()
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.e+-]+)$", answer.text, re.MULTILINE)
        return sum(map(float, values))

    def busy(self) -> None:
        """Waits until it is answering somebody."""
        for _ in range(500):
            if self.metric("sparkv_requests_running") > 0:
                return
            time.sleep(0.01)
        raise AssertionError("no request came to this replica")

    def drain(self) -> None:
        self._server.process.send_signal(signal.SIGTERM)

    def gone(self) -> bool:
        return self._server.process.poll() is not None

    def code(self) -> int | None:
        """What it exited with."""
        return self._server.process.poll()

    def kill(self) -> None:
        self._server.process.kill()
        self._server.process.wait()

    def log(self) -> str:
        return self._server.log()

    def start_again(self) -> None:
        self.close()
        self._server = Server(*ARGUMENTS, port=self.port)

    def close(self) -> None:
        self._server.__exit__(None, None, None)
