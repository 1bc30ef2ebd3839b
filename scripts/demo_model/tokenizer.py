"""Trains the byte-level BPE tokenizer of the demo model.

Every listed word becomes one token and digits come in groups of up to three, so
that a value is one or two tokens. Any other UTF-8 text falls back to bytes.

usage: python tokenizer.py OUT/tokenizer.json
"""

import json
import re
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from data import TASKS_PATH

SPECIAL_TOKENS = ["<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
VOCABULARY = 3328
# Llama 3's pattern; GGUF files name it "llama-bpe".
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def strings(value):
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def corpus():
    """Text in which every listed word and every three-digit group is frequent."""
    spec = json.loads(TASKS_PATH.read_text())
    spec["tasks"] = [task["templates"] for task in spec["tasks"]]
    lists = spec.pop("lists")
    for _ in range(20):
        for text in strings(spec):
            yield re.sub(r"\{\w+\}", "", text)
    words = [word for name, listed in lists.items() if name != "syllable" for word in listed]
    for _ in range(20):
        yield " " + " ".join(words)
        yield " ".join(f"{number:03}" for number in range(1000))
        yield " ".join(f"{number:02}" for number in range(100))
    for _ in range(3):
        for first in lists["syllable"]:
            yield "".join(f" {first}{second}" for second in lists["syllable"][:5]) + f" {first}"
        # Names and words that open a sentence may stand without a space before them.
        yield from lists["name"]
        for text in strings(spec):
            if text[:1].isalpha():
                yield text.split()[0]


def build():
    """The trained tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<|bos|> $A",
            pair="<|bos|> $A <|bos|> $B",
            special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))],
        ),
    ])
    return tokenizer


if __name__ == "__main__":
    out = Path(sys.argv[1])
    trained = build()
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.save(str(out))
    print(f"{out}: {trained.get_vocab_size()} tokens")
