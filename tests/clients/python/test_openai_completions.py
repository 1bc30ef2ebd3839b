"""client.completions: text without a conversation."""

import math

import pytest
from openai import OpenAI

from conversations import ENDLESS, FACTS

PROMPT = FACTS + "What is the secret code for river?"


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(prompt=PROMPT, **settings):
        defaults = {"model": model, "temperature": 0, "max_tokens": 8, "extra_body": ENDLESS}
        return client.completions.create(**defaults | settings, prompt=prompt)

    return ask


@pytest.fixture
def stream(url: str, key: str, model: str):
    """The streamed text. Types of the client want every chunk to have a finish_reason, which the API leaves null."""

    def stream(**settings):
        defaults = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 8, "extra_body": ENDLESS}
        with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            chunks = list(client.completions.create(**defaults | settings, stream=True))
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
        return "".join(choice.text for chunk in chunks for choice in chunk.choices)

    return stream


def text_of(answer) -> str:
    return answer.choices[0].text


def test_streamed_text_is_the_whole_text(ask, stream):
    whole = ask()
    assert whole.object == "text_completion"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 8
    assert stream() == text_of(whole)


def test_echo_repeats_the_prompt(ask, stream):
    assert text_of(ask(echo=True)) == PROMPT + text_of(ask())
    assert stream(echo=True) == text_of(ask(echo=True))


def test_several_prompts_have_a_choice_each(ask):
    prompts = [PROMPT, "The lazy dog"]
    answer = ask(prompts)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.text for choice in answer.choices] == [text_of(ask(prompt)) for prompt in prompts]
    assert answer.usage.completion_tokens == 16


def test_several_choices_of_several_prompts(ask):
    answer = ask(["The lazy dog", PROMPT], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text
    assert answer.choices[2].text == answer.choices[3].text == text_of(ask())


def test_token_ids_are_a_prompt(ask, http, model: str):
    tokens = http.post("/tokenize", json={"model": model, "prompt": PROMPT}).raise_for_status().json()["tokens"]
    from_text = ask()
    assert from_text.usage.prompt_tokens == len(tokens)
    from_tokens = ask(tokens)
    assert text_of(from_tokens) == text_of(from_text)
    assert from_tokens.usage.prompt_tokens == len(tokens)
    both = ask([tokens, tokens[:5]])
    assert [choice.text for choice in both.choices] == [text_of(from_text), text_of(ask(tokens[:5]))]


def test_tokens_and_text_are_turned_into_each_other(http, model: str):
    body = {"model": model, "prompt": PROMPT, "add_special_tokens": False}
    tokens = http.post("/tokenize", json=body).raise_for_status().json()
    assert tokens["count"] == len(tokens["tokens"])
    text = http.post("/detokenize", json={"model": model, "tokens": tokens["tokens"]}).raise_for_status().json()
    assert text["prompt"] == PROMPT


def test_logprobs_belong_to_the_text(ask):
    # Which goes on in words: special tokens are no text.
    answer = ask("It rained all night, but", logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == text_of(answer)
    starts = [sum(map(len, logprobs.tokens[:place])) for place in range(8)]
    assert [offset - logprobs.text_offset[0] for offset in logprobs.text_offset] == starts
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        # Greedy: the token is the likeliest.
        assert top[token] == max(top.values()) == pytest.approx(logprob)
        assert sum(map(math.exp, top.values())) <= 1 + 1e-4


def test_prompts_are_scored_as_evaluations_ask_for_it(http, model: str):
    """As lm-evaluation-harness's local-completions asks how likely a continuation is, and reads the answer: without the
    official client, whose types know nothing of the null that stands for the first token."""

    def choice(**settings) -> dict:
        body = {"model": model, "temperature": 0, "echo": True, "logprobs": 1, "seed": 1234} | settings
        return http.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]

    tokens = http.post("/tokenize", json={"model": model, "prompt": PROMPT}).raise_for_status().json()["tokens"]
    context = len(tokens) - 3
    logprobs = choice(prompt=[tokens], max_tokens=1)["logprobs"]
    scores = logprobs["token_logprobs"][context:-1]
    assert len(scores) == 3 and all(score < 0 for score in scores)
    pairs = zip(logprobs["tokens"][context:-1], logprobs["top_logprobs"][context:-1], strict=True)
    assert all(token in top for token, top in pairs)
    assert logprobs["token_logprobs"][0] is None
    # Nothing but the scores, and of a text.
    alone = choice(prompt=PROMPT, max_tokens=0)
    assert alone["text"] == PROMPT and alone["finish_reason"] == "length"
    assert alone["logprobs"]["token_logprobs"][context:] == pytest.approx(scores, abs=1e-3)
    assert alone["logprobs"]["text_offset"][-1] < len(PROMPT)


def test_stop_strings_end_the_text(ask):
    text = text_of(ask())
    stop = text[3:6]
    answer = ask(stop=stop)
    assert text_of(answer) == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
