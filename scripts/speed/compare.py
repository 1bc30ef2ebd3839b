"""Speed of sparkv beside llama.cpp's, in turn, with the same file; prints a table, and JSON where that is asked.

usage: python compare.py SPARKV LLAMA_CPP_BIN MODEL.gguf... [--device cpu] [--rounds 5] [--threads 2] [--prompt 512]
                         [--generate 64] [--only bench,neighbour,http] [--clients 16] [--json FILE]

SPARKV is a release binary, LLAMA_CPP_BIN the folder with llama-bench and llama-server, built for the machine: with a GPU
(`--device cuda` or metal), both with its feature or backend; llama.cpp then has all layers there. Nothing but Python's standard
library is needed. Rounds alternate between the two, so that ratios hold on a noisy machine; medians are
given, with the slowest and the fastest.

- bench: a prompt, and generation from an empty cache, by `sparkv bench` and `llama-bench` (the better of flash attention on and
  off, found in the first round).
- neighbour: generation beside one process that is always busy.
- http: completions of `--generate` tokens each over HTTP, one at a time and `--clients` at once, by `sparkv serve` and
  `llama-server`.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("sparkv")
    parser.add_argument("llama")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--only", default="bench,neighbour,http")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json")
    return parser.parse_args()


def output(command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sparkv_bench(args, model, prompt, generate):
    """Tokens a second of a prompt and of generation, None for what was not asked."""
    command = [args.sparkv, "bench", "--model", model, "--threads", str(args.threads), "--runs", "1", "--kv", "exact"]
    command += ["--prompt", str(prompt), "--depth", "0", "--generate", str(generate), "--json", "--device", args.device]
    report = json.loads(output(command))
    speeds = [rows[0]["tokens_per_second"] if rows else None for rows in (report["prefill"], report["decode"])]
    return tuple(speeds)


def llama_layers(args):
    """How many layers llama.cpp has on the GPU: none, or all."""
    return ["-ngl", "0" if args.device == "cpu" else "99"]


def llama_bench(args, model, prompt, generate, flash):
    command = [os.path.join(args.llama, "llama-bench"), "-m", model, "-t", str(args.threads), "-r", "1", "-o", "json"]
    command += ["-p", str(prompt), "-n", str(generate), "-fa", flash] + llama_layers(args)
    rows = json.loads(output(command))
    speed = {bool(row["n_prompt"]): row["avg_ts"] for row in rows}
    return speed.get(True), speed.get(False)


class Neighbour:
    """A process that is always busy."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(0.2)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    def __init__(self, command, port):
        self.base = f"http://127.0.0.1:{port}"
        quiet = subprocess.DEVNULL
        start = time.monotonic()
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        while True:
            try:
                urllib.request.urlopen(self.base + "/health", timeout=5).read()
                models = json.load(urllib.request.urlopen(self.base + "/v1/models", timeout=5))
                self.model = models["data"][0]["id"]
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() - start > 300:
                    raise
                time.sleep(0.02)
        self.ready_seconds = time.monotonic() - start

    def complete(self, number, tokens):
        body = {"model": self.model, "prompt": f"Tell me a long story about number {number} and the sea."}
        body |= {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            self.base + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request, timeout=600))["usage"]["completion_tokens"]

    def at_once(self, clients, tokens):
        """Tokens a second of all clients."""
        counts = [0] * clients

        def client(index):
            counts[index] = self.complete(index, tokens)

        threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.monotonic() - start)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def measure_bench(args, model, add):
    flash = max("01", key=lambda flash: llama_bench(args, model, args.prompt, args.generate, flash)[1])
    for _ in range(args.rounds):
        for name, speeds in [
            ("sparkv", sparkv_bench(args, model, args.prompt, args.generate)),
            ("llama.cpp", llama_bench(args, model, args.prompt, args.generate, flash)),
        ]:
            add(f"prompt of {args.prompt}", name, speeds[0])
            add("generation", name, speeds[1])


def measure_neighbour(args, model, add):
    for _ in range(args.rounds):
        for name, run in [("sparkv", sparkv_bench), ("llama.cpp", lambda *rest: llama_bench(*rest, "1"))]:
            add("generation, quiet", name, run(args, model, 0, args.generate)[1])
            with Neighbour():
                add("generation beside a busy process", name, run(args, model, 0, args.generate)[1])


def measure_http(args, model, add):
    ports = [free_port(), free_port()]
    llama = [os.path.join(args.llama, "llama-server"), "-m", model, "--port", str(ports[1]), "-t", str(args.threads)]
    llama += ["-np", str(args.clients), "-c", str(512 * args.clients), "-fa", "on"] + llama_layers(args)
    sparkv = [args.sparkv, "serve", "--model", model, "--port", str(ports[0]), "--threads", str(args.threads)]
    servers = {
        "sparkv": Server(sparkv + ["--device", args.device], ports[0]),
        "llama.cpp": Server(llama, ports[1]),
    }
    for server in servers.values():
        server.at_once(args.clients, 8)
    for _ in range(args.rounds):
        for clients in [1, args.clients]:
            for name, server in servers.items():
                add(f"{clients} at once over HTTP", name, server.at_once(clients, args.generate))
    for server in servers.values():
        server.stop()


def main():
    args = arguments()
    parts = {"bench": measure_bench, "neighbour": measure_neighbour, "http": measure_http}
    report = []
    print("| model | | sparkv | llama.cpp | ratio |\n|---|---|---:|---:|---:|")
    for model in args.models:
        for part in args.only.split(","):
            found = {}

            def add(what, name, speed):
                if speed is not None:
                    found.setdefault(what, {}).setdefault(name, []).append(speed)

            parts[part](args, model, add)
            for what, speeds in found.items():
                middle = {name: statistics.median(values) for name, values in speeds.items()}
                cells = [f"{middle[name]:.1f} ({min(values):.1f} to {max(values):.1f})" for name, values in speeds.items()]
                ratio = middle["sparkv"] / middle["llama.cpp"]
                print(f"| {os.path.basename(model)} | {what} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)
                report.append({"model": os.path.basename(model), "what": what, "tokens_per_second": speeds, "ratio": ratio})
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
