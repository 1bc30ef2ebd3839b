"""lm-evaluation-harness: tasks through its local-completions and local-chat-completions."""

import json
import logging
from pathlib import Path

import httpx
import lm_eval
import pytest
from datasets import Dataset
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from lm_eval.tasks import TaskManager

import serving
from conversations import FACTS

HERE = Path(__file__).parent
QUESTIONS = json.loads((HERE / "questions.json").read_text())
GOLDEN = json.loads((HERE / "golden.json").read_text())

# What the demo model is good for.
CODES = [
    {"question": FACTS + "The secret code for river is", "choices": ["4821", "307", "5555"], "answer": 0},
    {"question": FACTS + "The secret code for brave lion is", "choices": ["4821", "307", "5555"], "answer": 1},
]
SAY = {"until": ["."], "max_gen_toks": 8}

logging.getLogger("lm_eval").setLevel(logging.ERROR)


class Tokenizer:
    """The server's, by its routes."""

    eos_token = bos_token = pad_token = None

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"})

    def encode(self, text: str, **_) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        return self._http.post("/tokenize", json=body).raise_for_status().json()["tokens"]


def local(url: str, key: str, name: str, **settings) -> LocalCompletionsAPI:
    """local-completions, as if it had found a tokenizer of the model."""
    place = {"base_url": f"{url}/v1/completions", "model": name, "header": {"Authorization": f"Bearer {key}"}}
    lm = LocalCompletionsAPI(**place, tokenizer_backend=None, max_retries=1, **settings)
    lm.tokenizer, lm.tokenizer_backend, lm.tokenized_requests = Tokenizer(url, key), "remote", True
    return lm


def evaluate(lm, docs: list[dict], kind: str, **rest) -> tuple[dict, list]:
    """The task's metrics, and for each of the documents what the model gave."""
    metric = {"multiple_choice": "acc", "generate_until": "exact_match"}[kind]
    task = {
        "task": "generated",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer" if kind == "multiple_choice" else "{{choices[answer]}}",
        "metric_list": [{"metric": metric}],
    }
    if kind == "multiple_choice":
        task["doc_to_choice"] = "choices"
    else:
        task["generation_kwargs"] = SAY
    # Else it reads the thousands of tasks that it comes with.
    rest |= {"task_manager": TaskManager(include_defaults=False)}
    found = lm_eval.simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0, log_samples=True, **rest)
    return found["results"]["generated"], [sample["filtered_resps"] for sample in found["samples"]["generated"]]


@pytest.mark.parametrize("settings", [{}, {"num_concurrent": 4}, {"batch_size": 4}], ids=str)
def test_the_likelier_choice_is_the_right_one(url: str, key: str, model: str, settings: dict):
    results, answers = evaluate(local(url, key, model, **settings), CODES, "multiple_choice")
    assert results["acc,none"] == 1
    # The second is sure of itself, so that greedy choice says the same.
    assert answers[1][1][0] == pytest.approx(0, abs=0.1)
    assert [greedy for _, greedy in answers[1]] == [False, True, False]


def test_choices_are_as_likely_as_the_model_says(real: serving.Server):
    name = real.client().models.list().data[0].id
    results, answers = evaluate(local(real.url, serving.KEY, name), QUESTIONS, "multiple_choice")
    right = [scores.index(max(scores)) == asked["answer"] for scores, asked in zip(GOLDEN, QUESTIONS, strict=True)]
    assert results["acc,none"] == sum(right) / len(right)
    for found, golden in zip(answers, GOLDEN, strict=True):
        assert [score for score, _ in found] == pytest.approx([score for score, _ in golden], abs=0.001, rel=0.0001)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in golden]


def test_an_answer_goes_on_until_it_is_told_to_stop(url: str, key: str, model: str):
    _, answers = evaluate(local(url, key, model), CODES, "generate_until")
    assert [answer.strip() for [answer] in answers] == ["4821", "307"]


def test_chats_are_asked(url: str, key: str, model: str):
    place = {"base_url": f"{url}/v1/chat/completions", "header": {"Authorization": f"Bearer {key}"}}
    docs = [{"question": FACTS + "What is the secret code for river?", "choices": ["4821"], "answer": 0}]
    lm = LocalChatCompletion(**place, model=model, max_retries=1)
    _, [[answer]] = evaluate(lm, docs, "generate_until", apply_chat_template=True, system_instruction="Be short.")
    assert "The secret code" in answer


def test_the_tokenizer_of_the_server_is_found(url: str, key: str, model: str):
    """Without a word about tokenizers: local-completions asks whether the server has vLLM's /tokenizer_info."""
    place = {"base_url": f"{url}/v1/completions", "header": {"Authorization": f"Bearer {key}"}, "auth_token": key}
    lm = LocalCompletionsAPI(**place, model=model, max_retries=1)
    assert lm.tokenizer_backend == "remote"
    results, _ = evaluate(lm, CODES, "multiple_choice")
    assert results["acc,none"] == 1
