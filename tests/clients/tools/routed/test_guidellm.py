"""guidellm, a load generator: short benchmarks, in which every request has to succeed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STANDINS = Path(__file__).parent / "standins"
REQUESTS = 6


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_every_request_succeeds(tmp_path: Path, url: str, key: str, model: str, route: str, streamed: bool):
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"Tell me about number {i}", "output_tokens_count": 5}) for i in range(REQUESTS)]
    prompts.write_text("\n".join(lines))
    report = tmp_path / "report.json"
    backend = {"kind": "openai_http", "target": url, "model": model, "api_key": key}
    settings = {
        "--backend": json.dumps(backend | {"request_format": route, "stream": streamed}),
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--data": f"kind=json_file,path={prompts}",
        "--output": f"kind=json,path={report}",
    }
    command: list = [Path(sys.executable).parent / "guidellm", "run", "--disable-console"]
    for name, value in settings.items():
        command += [name, value]
    # Nothing comes from elsewhere, and what there is of data sets goes with the test.
    environment = os.environ | {"PYTHONPATH": str(STANDINS), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (REQUESTS, 0)
    assert benchmark["metrics"]["output_token_count"]["successful"]["mean"] == 5
