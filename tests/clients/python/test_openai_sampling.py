"""client.chat.completions: how tokens are drawn, and what is told about them."""

import math
from collections import Counter

import pytest
from openai import OpenAI

from conversations import ENDLESS, OPEN


@pytest.fixture
def ask(client: OpenAI, model: str):
    def ask(**settings):
        return client.chat.completions.create(**{"model": model, "messages": OPEN, "max_tokens": 12} | settings)

    return ask


def texts(answer) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def test_a_seed_makes_an_answer_repeatable(ask):
    first, again = (texts(ask(temperature=1.5, seed=7, extra_body=ENDLESS)) for _ in range(2))
    assert first == again
    others = {texts(ask(temperature=1.5, seed=seed, extra_body=ENDLESS))[0] for seed in range(6)}
    assert len(others) > 1


def test_several_choices_are_told_apart(ask):
    answer = ask(n=3, temperature=1.5, seed=7, extra_body=ENDLESS)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]
    assert len(set(texts(answer))) > 1
    assert answer.usage.completion_tokens == 3 * 12
    assert answer.usage.prompt_tokens == ask().usage.prompt_tokens
    assert len(set(texts(ask(n=3, temperature=0)))) == 1


def test_several_choices_stream_side_by_side(ask):
    settings = {"n": 3, "temperature": 1.5, "seed": 7, "extra_body": ENDLESS}
    whole = {choice.index: choice.message.content for choice in ask(**settings).choices}
    streamed = dict.fromkeys(range(3), "")
    ends = []
    for chunk in ask(**settings, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends.append(choice.index)
    assert streamed == whole
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("temperature", [0, 1])
def test_logprobs_belong_to_the_tokens_of_the_answer(ask, temperature: float):
    [choice] = ask(temperature=temperature, seed=3, logprobs=True, top_logprobs=5).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        top = token.top_logprobs
        assert len(top) == 5
        assert sum(math.exp(other.logprob) for other in top) <= 1 + 1e-4
        assert [other.logprob for other in top] == sorted((other.logprob for other in top), reverse=True)
        same = [other for other in top if other.bytes == token.bytes]
        assert all(other.logprob == pytest.approx(token.logprob) for other in same)
        # Whoever is not among the likeliest is no likelier than any of them.
        assert same or token.logprob <= top[-1].logprob
        if temperature == 0:
            assert top[0].bytes == token.bytes


def test_logprobs_are_streamed_too(ask):
    settings = {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    whole = ask(**settings).choices[0].logprobs.content
    streamed = [
        token
        for chunk in ask(**settings, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in whole]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in whole])
    assert all(len(token.top_logprobs) == 2 for token in streamed)


def test_logprobs_without_alternatives_and_none_unasked(ask):
    [choice] = ask(temperature=0, logprobs=True).choices
    assert choice.logprobs.content
    assert all(token.top_logprobs == [] for token in choice.logprobs.content)
    assert ask(temperature=0).choices[0].logprobs is None


def test_logit_bias_forbids_and_forces(ask, tokenize):
    settings = {"temperature": 0, "logprobs": True, "extra_body": ENDLESS}
    first = ask(**settings).choices[0].logprobs.content[0].token
    [forbidden] = tokenize(first)
    tokens = ask(**settings, logit_bias={str(forbidden): -100}).choices[0].logprobs.content
    assert first not in [token.token for token in tokens]
    [forced] = tokenize("a")
    assert texts(ask(**settings, logit_bias={str(forced): 100})) == ["a" * 12]


def drawn(ask, tokenize, words: str, **penalty: float) -> list[str]:
    """The tokens of an answer that may only have single letters of `words`."""
    bias = {str(token): 100 for letter in words for token in tokenize(letter)}
    [text] = texts(ask(temperature=0, max_tokens=48, logit_bias=bias, extra_body=ENDLESS, **penalty))
    assert set(text) <= set(words)
    return list(text)


def test_a_frequency_penalty_makes_repetition_rarer_and_a_negative_one_commoner(ask, tokenize):
    rare = drawn(ask, tokenize, "abcdefgh", frequency_penalty=2)
    common = drawn(ask, tokenize, "abcdefgh", frequency_penalty=-2)
    assert max(Counter(rare).values()) < max(Counter(common).values())
    assert len(set(common[-16:])) == 1


def test_a_presence_penalty_brings_new_tokens_and_a_negative_one_fewer(ask, tokenize):
    letters = "abcdefghijklmnopqrstuvwxyz"
    many = set(drawn(ask, tokenize, letters, presence_penalty=2))
    few = set(drawn(ask, tokenize, letters, presence_penalty=-2))
    assert len(many) > len(few)
